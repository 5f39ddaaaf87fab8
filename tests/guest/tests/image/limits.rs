//! Limits of a volume, by the clock on the wall.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guest::Station;
use guest::nbd::Nbd;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);
const TEN_SECONDS: Duration = Duration::from_secs(10);

/// Does something again and again until `end`; how often it was done.
fn often(end: Instant, mut once: impl FnMut(u64) -> Result<()>) -> Result<u64> {
    let mut done = 0;
    while Instant::now() < end {
        once(done)?;
        done += 1;
    }
    Ok(done)
}

/// What three clients of the limited volume do in the same ten seconds, and one of another volume.
fn beside_each_other(server: SocketAddr) -> Result<(Vec<u64>, u64)> {
    let limited = [(); 3].map(|()| Nbd::connect(server, "demo", LIMIT));
    let mut other = Nbd::connect(server, "other", LIMIT)?;
    let end = Instant::now() + TEN_SECONDS;
    let limited = limited.map(|nbd| {
        thread::spawn(move || {
            let (mut nbd, mut data) = (nbd?, vec![7; 4096]);
            often(end, |round| match round % 2 {
                0 => Ok(nbd.write(round * 4096, &data, 0)?),
                _ => Ok(nbd.read(round * 4096, &mut data)?),
            })
        })
    });
    let others = often(end, |round| {
        other.write(round % 1024 * 4096, &[1; 4096], 0)?;
        other.trim(round % 1024 * 4096, 4096)?;
        Ok(other.flush()?)
    })?;
    let mut all = Vec::new();
    for client in limited {
        all.push(client.join().ok().context("a client panicked")??);
    }
    Ok((all, others))
}

#[test]
fn limits_hold_for_ten_seconds_and_after_a_restart() -> Result<()> {
    const IOPS: u64 = 100;
    let station = Station::with_drive("limits", 2 << 30)?;
    let appliance = station.start()?;
    let api = station.api();
    api.post("/v1/volumes", &json!({"name": "other", "size": 64 << 20}))?;
    let limits = json!({"iops_max": IOPS, "rate_max": 10 << 20});
    api.patch("/v1/volumes/demo", &limits)?;
    station.cut_power(appliance)?;

    let appliance = station.start()?;
    let demo = api.get("/v1/volumes/demo")?;
    ensure!(
        demo["iops_max"] == IOPS && demo["rate_max"] == 10 << 20,
        "{demo}"
    );
    let server = station.options.nbd;
    // A host that is busy with other things may keep clients from asking, never let more in.
    let mut attempts = 0;
    loop {
        let (limited, others) = beside_each_other(server)?;
        let sum: u64 = limited.iter().sum();
        println!("limited to {IOPS}: {limited:?}; beside them {others} rounds");
        ensure!(sum <= 1050, "{limited:?} at {IOPS} in a second");
        // Three requests each, at a far faster pace.
        if sum >= 950 && others * 3 > 2 * sum {
            break;
        }
        attempts += 1;
        ensure!(
            attempts < 4,
            "{limited:?}, and {others} rounds, at {IOPS} in a second"
        );
    }
    let metrics = api.get_text("/metrics")?;
    let limit = format!("ferrite_volume_limit_requests_per_second{{volume=\"demo\"}} {IOPS}");
    ensure!(metrics.contains(&limit), "{metrics}");
    station.power_down(appliance)
}
