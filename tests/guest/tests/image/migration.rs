//! A volume that moves between two appliances, and back, whoever loses power meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use guest::nbd::{EIO, Nbd, NbdError};
use guest::{READY_LIMIT, Station};
use serde_json::{Value, json};

use crate::snapshots::tool;

const MIB: u64 = 1 << 20;
/// Bytes of the volume; each second MiB is a hole.
const SIZE: u64 = 32 * MIB;
/// How long something may take.
const LIMIT: Duration = Duration::from_secs(90);
const BLOCK: u64 = 4096;

/// What the volume should have, by block.
struct Model(Vec<u8>);

impl Model {
    fn new() -> Self {
        let of = |block: u64| match block * BLOCK / MIB % 2 {
            0 => (block % 251) as u8 + 1,
            _ => 0,
        };
        Self((0..SIZE / BLOCK).map(of).collect())
    }

    /// Writes one block, flushed.
    fn write(&mut self, station: &Station, block: u64, byte: u8) -> Result<()> {
        let mut nbd = Nbd::connect(station.options.nbd, "db", READY_LIMIT)?;
        nbd.write(block * BLOCK, &[byte; BLOCK as usize], 0)?;
        nbd.flush()?;
        self.0[block as usize] = byte;
        Ok(())
    }

    /// Fills the volume.
    fn fill(&self, station: &Station) -> Result<()> {
        let mut nbd = Nbd::connect(station.options.nbd, "db", READY_LIMIT)?;
        let per_mib = (MIB / BLOCK) as usize;
        for (index, blocks) in self.0.chunks(per_mib).enumerate().step_by(2) {
            let bytes: Vec<u8> = blocks
                .iter()
                .flat_map(|byte| [*byte; BLOCK as usize])
                .collect();
            nbd.write(index as u64 * MIB, &bytes, 0)?;
        }
        Ok(nbd.flush()?)
    }

    /// Reads all of it.
    fn compare(&self, station: &Station) -> Result<()> {
        self.compare_with(station, "db")
    }

    fn compare_with(&self, station: &Station, export: &str) -> Result<()> {
        let mut nbd = Nbd::connect(station.options.nbd, export, READY_LIMIT)?;
        let per_mib = (MIB / BLOCK) as usize;
        let mut bytes = vec![0; MIB as usize];
        for (index, blocks) in self.0.chunks(per_mib).enumerate() {
            nbd.read(index as u64 * MIB, &mut bytes)?;
            for (block, (found, expected)) in bytes.chunks(BLOCK as usize).zip(blocks).enumerate() {
                let found = found.iter().all(|byte| byte == expected);
                ensure!(found, "MiB {index}, block {block} is not {expected}");
            }
        }
        Ok(())
    }
}

fn shown(station: &Station) -> Result<Value> {
    Ok(station.api().get("/v1/volumes/db")?)
}

/// Waits until the volume is so there.
fn wait_for(station: &Station, is_so: impl Fn(&Value) -> bool) -> Result<()> {
    let begun = Instant::now();
    let mut last = Value::Null;
    while begun.elapsed() < LIMIT {
        if let Ok(volume) = shown(station) {
            if is_so(&volume) {
                return Ok(());
            }
            last = volume;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    bail!("not so: {last}")
}

fn is(volume: &Value, state: &str) -> bool {
    volume["move"]["state"] == state
}

/// Everything is there, and who gave it knows.
fn wait_for_all(from: &Station, to: &Station) -> Result<()> {
    wait_for(to, |volume| {
        is(volume, "owned") && volume["hydration"].is_null()
    })?;
    wait_for(from, |volume| volume["move"]["job"].is_null())
}

/// Clients are refused.
fn refuses(station: &Station) -> Result<()> {
    let refused = Nbd::connect(station.options.nbd, "db", READY_LIMIT).and_then(|mut nbd| {
        let mut block = [0; BLOCK as usize];
        Ok(nbd.read(0, &mut block)?)
    });
    ensure!(refused.is_err(), "who gave it away still reads it");
    Ok(())
}

#[test]
fn a_volume_moves_and_comes_back_over_power_cuts() -> Result<()> {
    let [a, b] = ["move-a", "move-b"].map(|name| Station::for_peers(name, 256 << 20));
    let (a, b) = (a?, b?);
    let (in_a, in_b) = (a.start()?, b.start()?);
    a.pair_with(&b)?;
    let mut model = Model::new();
    a.api()
        .post("/v1/volumes", &json!({"name": "db", "size": SIZE}))?;
    model.fill(&a)?;

    // Prepared: read there, written here.
    tool(&a, "migrate db --to move-b --prepare --rate 1MiB")?;
    model.write(&a, 3, 0xa1)?;
    model.compare(&b)?;
    let mut reader = Nbd::connect(b.options.nbd, "db", READY_LIMIT)?;
    let refused = reader.write(0, &[1; BLOCK as usize], 0);
    ensure!(refused.is_err(), "who is prepared writes");
    let mut stale = Nbd::connect(a.options.nbd, "db", READY_LIMIT)?;
    tool(&a, "migrate db --hand-over")?;
    let late = stale.write(0, &[1; BLOCK as usize], 0);
    ensure!(late.is_err(), "a client that stayed writes");
    // The connection from before goes on.
    reader.write(7 * BLOCK, &[0xb2; BLOCK as usize], 0)?;
    reader.flush()?;
    model.0[7] = 0xb2;
    drop(reader);
    refuses(&a)?;
    let given = shown(&a)?;
    ensure!(given["move"]["peer"] == "move-b", "{given}");
    tool(&a, "volume list")?;

    // Both lose their power while most of it is still at A.
    a.cut_power(in_a)?;
    b.cut_power(in_b)?;
    let (in_a, in_b) = (a.start()?, b.start()?);
    refuses(&a)?;
    model.compare(&b)?;
    model.write(&b, 9, 0xb3)?;
    let job = shown(&a)?["move"]["job"].clone();
    tool(&a, &format!("jobs rate {job} 0"))?;
    wait_for_all(&a, &b)?;

    // Back, with what was written there; power goes again in the middle.
    tool(&a, "migrate db --take-back")?;
    refuses_there(&b)?;
    a.cut_power(in_a)?;
    let in_a = a.start()?;
    model.compare(&a)?;
    b.cut_power(in_b)?;
    let in_b = b.start()?;
    wait_for(&a, |volume| {
        is(volume, "owned") && volume["hydration"].is_null()
    })?;
    model.write(&a, 11, 0xa4)?;
    model.compare(&a)?;
    a.power_down(in_a)?;
    b.power_down(in_b)?;
    a.check()?;
    b.check()
}

/// Who gave it back has nothing of it that clients could use.
fn refuses_there(station: &Station) -> Result<()> {
    match shown(station) {
        Ok(volume) => ensure!(is(&volume, "given") || is(&volume, "left"), "{volume}"),
        Err(error) => ensure!(error.to_string().contains("no such volume"), "{error}"),
    }
    refuses(station)
}

#[test]
fn an_offer_is_cancelled_and_a_snapshot_is_adopted() -> Result<()> {
    let [a, b] = ["adopt-a", "adopt-b"].map(|name| Station::for_peers(name, 256 << 20));
    let (a, b) = (a?, b?);
    let (in_a, in_b) = (a.start()?, b.start()?);
    a.pair_with(&b)?;
    let mut model = Model::new();
    a.api()
        .post("/v1/volumes", &json!({"name": "db", "size": SIZE}))?;
    model.fill(&a)?;
    tool(&a, "migrate db --to adopt-b --prepare")?;
    let job = shown(&a)?["move"]["job"].clone();
    tool(&a, &format!("jobs cancel {job}"))?;
    wait_for(&a, |volume| is(volume, "owned"))?;
    model.write(&a, 3, 0xa1)?;
    a.api()
        .post("/v1/volumes/db/snapshots", &json!({"name": "monday"}))?;
    let before = Model(model.0.clone());
    model.write(&a, 3, 0xa2)?;
    tool(&b, "volume adopt db ferrite://adopt-a/db@monday --wait")?;
    a.power_down(in_a)?;
    before.compare(&b)?;
    b.power_down(in_b)?;
    b.check()
}

#[test]
fn snapshots_go_along() -> Result<()> {
    let [a, b] = ["past-a", "past-b"].map(|name| Station::for_peers(name, 256 << 20));
    let (a, b) = (a?, b?);
    let (in_a, in_b) = (a.start()?, b.start()?);
    a.pair_with(&b)?;
    let mut model = Model::new();
    a.api()
        .post("/v1/volumes", &json!({"name": "db", "size": SIZE}))?;
    model.fill(&a)?;
    let mut past = Vec::new();
    for (block, name) in [(3, "monday"), (300, "tuesday"), (4000, "wednesday")] {
        model.write(&a, block, 0xa1)?;
        a.api()
            .post("/v1/volumes/db/snapshots", &json!({"name": name}))?;
        past.push((format!("db@{name}"), Model(model.0.clone())));
        model.write(&a, block, 0xa2)?;
    }
    let times = |station: &Station| -> Result<Vec<String>> {
        let page = station.api().get("/v1/volumes/db/snapshots")?;
        let all = page["snapshots"].as_array().into_iter().flatten();
        Ok(all
            .map(|one| format!("{} {}", one["name"], one["created_at"]))
            .collect())
    };
    let before = times(&a)?;
    tool(&a, "migrate db --to past-b --with-snapshots --after free")?;
    // What is written now is in no snapshot.
    for block in [3, 300, 4000] {
        model.write(&b, block, 0xb3)?;
    }
    model.compare(&b)?;
    let after = times(&b)?;
    ensure!(before == after, "{before:?} became {after:?}");
    for (export, model) in &past {
        model.compare_with(&b, export)?;
    }
    let begun = Instant::now();
    while shown(&a).is_ok() && begun.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(200));
    }
    ensure!(shown(&a).is_err(), "the copy is not freed");
    a.power_down(in_a)?;
    b.cut_power(in_b)?;
    let in_b = b.start()?;
    model.compare(&b)?;
    for (export, model) in &past {
        model.compare_with(&b, export)?;
    }
    b.power_down(in_b)?;
    a.check()?;
    b.check()
}

/// How long a read may take that waits for two seconds, on a busy machine.
const EIO_LIMIT: Duration = Duration::from_secs(30);

/// What of the data is there, by MiB: its last block is read, and is either what it should be or refused.
fn read_what_is_there(station: &Station, model: &Model, parts: &[u64]) -> Result<Vec<bool>> {
    let mut nbd = Nbd::connect(station.options.nbd, "db", EIO_LIMIT)?;
    let mut are_there = Vec::new();
    for part in parts {
        let block = (part + 1) * MIB / BLOCK - 1;
        let mut found = [0x55; BLOCK as usize];
        match nbd.read(block * BLOCK, &mut found) {
            Ok(()) => {
                let expected = [model.0[block as usize]; BLOCK as usize];
                ensure!(found == expected, "block {block} is {}", found[0]);
                are_there.push(true);
            }
            Err(NbdError::Refused(EIO)) => are_there.push(false),
            Err(error) => bail!("block {block}: {error}"),
        }
    }
    Ok(are_there)
}

#[test]
fn who_is_lost_before_all_has_arrived_takes_nothing_else_along() -> Result<()> {
    let [a, b] = ["lost-a", "lost-b"].map(|name| Station::for_peers(name, 256 << 20));
    let (a, mut b) = (a?, b?);
    b.options.set("origin.patience", 2);
    let (in_a, in_b) = (a.start()?, b.start()?);
    a.pair_with(&b)?;
    let mut model = Model::new();
    for (station, name) in [(&a, "db"), (&b, "own")] {
        let wanted = json!({"name": name, "size": SIZE});
        station.api().post("/v1/volumes", &wanted)?;
    }
    model.fill(&a)?;
    let mut own = Nbd::connect(b.options.nbd, "own", READY_LIMIT)?;
    own.write(0, &[0x77; BLOCK as usize], 0)?;
    own.flush()?;
    // What is used most comes first, and takes a while.
    let mut nbd = Nbd::connect(a.options.nbd, "db", READY_LIMIT)?;
    let mut block = [0; BLOCK as usize];
    for _ in 0..100 {
        nbd.read(0, &mut block)?;
    }
    drop(nbd);
    tool(&a, "migrate db --to lost-b --rate 128KiB --detach")?;
    wait_for(&b, |volume| is(volume, "owned"))?;
    // Fetched because a client wants it, and written without being fetched.
    ensure!(read_what_is_there(&b, &model, &[20])? == [true]);
    model.write(&b, 22 * MIB / BLOCK, 0xb1)?;
    a.cut_power(in_a)?;

    let mut nbd = Nbd::connect(b.options.nbd, "db", EIO_LIMIT)?;
    let are_there = read_what_is_there(&b, &model, &[30, 28, 26, 20])?;
    ensure!(are_there == [false, false, false, true], "{are_there:?}");
    nbd.read(22 * MIB, &mut block)?;
    ensure!(block == [0xb1; BLOCK as usize], "what was written is gone");
    // A part of a block needs the rest of it; a whole one does not.
    let refused = nbd.write(24 * MIB, &[0xb2; 512], 0);
    ensure!(
        matches!(refused, Err(NbdError::Refused(EIO))),
        "{refused:?}"
    );
    model.write(&b, 26 * MIB / BLOCK, 0xb3)?;
    own.read(0, &mut block)?;
    ensure!(block == [0x77; BLOCK as usize], "another volume is changed");
    own.write(0, &[0x78; BLOCK as usize], 0)?;
    own.flush()?;

    // Who does not answer is said.
    wait_for(&b, |volume| {
        let hydration = &volume["hydration"];
        let from = hydration["from"].as_str().unwrap_or_default();
        let error = hydration["error"].as_str().unwrap_or_default();
        from.contains("lost-a") && error.contains("does not answer")
    })?;
    let job = shown(&b)?["hydration"]["job"].clone();
    let job = b.api().get(&format!("/v1/jobs/{job}"))?;
    let error = job["error"].as_str().unwrap_or_default();
    ensure!(
        job["state"] == "running" && error.contains("does not answer"),
        "{job}"
    );

    // It was not lost for good: everything goes on by itself.
    let in_a = a.start()?;
    let job = shown(&a)?["move"]["job"].clone();
    tool(&a, &format!("jobs rate {job} 0"))?;
    wait_for_all(&a, &b)?;
    model.compare(&b)?;
    own.read(0, &mut block)?;
    ensure!(block == [0x78; BLOCK as usize], "another volume is changed");
    a.power_down(in_a)?;
    b.power_down(in_b)?;
    a.check()?;
    b.check()
}
