//! Where there is data and what changed, as outside clients see it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use guest::{Station, clients};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const DEMO_BYTES: u64 = 1 << 30;

#[test]
fn maps_show_data_holes_and_changes() -> Result<()> {
    let station = Station::with_drive("status", 2 << 30)?;
    let _appliance = station.start()?;
    let demo = station.uri("demo");
    clients::qemu_io(&demo, &["write -P 1 1M 2M", "flush"])?;
    let api = station.api();
    api.post("/v1/volumes/demo/snapshots", &json!({"name": "monday"}))?;
    clients::qemu_io(&demo, &["discard 1M 1M", "write -P 2 8M 4k"])?;
    api.post("/v1/volumes/demo/snapshots", &json!({"name": "tuesday"}))?;
    clients::qemu_io(&demo, &["write -P 3 16M 64k"])?;

    let map = clients::map(&demo, "base:allocation")?;
    let allocation = [
        (0, 2 * MIB, 3),
        (2 * MIB, MIB, 0),
        (3 * MIB, 5 * MIB, 3),
        (8 * MIB, 4096, 0),
        (8 * MIB + 4096, 8 * MIB - 4096, 3),
        (16 * MIB, 65536, 0),
        (16 * MIB + 65536, DEMO_BYTES - 16 * MIB - 65536, 3),
    ];
    ensure!(map == allocation, "{map:?}");
    let changed = [
        (0, MIB, 0),
        (MIB, MIB, 3),
        (2 * MIB, 6 * MIB, 0),
        (8 * MIB, 4096, 1),
        (8 * MIB + 4096, DEMO_BYTES - 8 * MIB - 4096, 0),
    ];
    let map = clients::map(&station.uri("demo@tuesday"), "ferrite:changed:monday")?;
    ensure!(map == changed, "{map:?}");
    let map = clients::map(&demo, "ferrite:changed:tuesday")?;
    ensure!(map[1] == (16 * MIB, 65536, 1), "{map:?}");
    let info = clients::info(&demo)?;
    let contexts = json!([
        "base:allocation",
        "ferrite:changed:monday",
        "ferrite:changed:tuesday"
    ]);
    ensure!(info["contexts"] == contexts, "{info}");

    let mut qemu_img = Command::new("qemu-img");
    qemu_img.args(["map", "--output=json", "-f", "raw", &demo]);
    let text = clients::run("qemu-utils", &mut qemu_img)?;
    let parts: Vec<Value> = serde_json::from_str(&text).context("qemu-img printed no JSON")?;
    let data: Vec<_> = { parts.iter() }
        .filter(|part| part["data"] == true)
        .map(|part| (part["start"].as_u64(), part["length"].as_u64()))
        .collect();
    let expected = [(2 * MIB, MIB), (8 * MIB, 4096), (16 * MIB, 65536)];
    let expected = expected.map(|(start, length)| (Some(start), Some(length)));
    ensure!(data == expected, "{text}");

    let copy = station.scratch.file("sparse");
    let target = copy.to_str().context("a path in UTF-8")?;
    let mut nbdcopy = Command::new("nbdcopy");
    clients::run("libnbd-bin", nbdcopy.args([demo.as_str(), target]))?;
    let stored = fs::metadata(&copy)?.blocks() * 512;
    ensure!(stored < 4 * MIB, "a copy of {stored} bytes");
    Ok(())
}
