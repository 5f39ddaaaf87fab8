//! `--live`: the guest moves between QEMUs while its disk moves between appliances, and never notices.
//!
//! ```text
//! A ── cancelled three times, at different moments
//! A ──► B ── half of it there ──► C ── half of it there ──► A, until all of it is there and the others are gone
//! ```
//! What a hop costs is how long the guest runs nowhere, beside the same hop between two QEMUs on one disk: that is the memory's part.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guest::{READY_LIMIT, Station};
use qemu::Appliance;
use serde_json::{Value, json};

use crate::machine::Guest;
use crate::system::System;
use crate::{Adopted, DRIVE_BYTES, INTERVAL, LIMIT, boot_again, examine, mib, say, share};

const NAMES: [&str; 3] = ["live-a", "live-b", "live-c"];
const VOLUME: &str = "/v1/volumes/linux";
/// Bytes in a second in the background, so that a hop comes while half is on its way.
const RATE: u64 = 8 << 20;
/// More than this of what the disk has need not move at once: the guest writes, too.
const MOVED_MAX: f64 = 1.25;
/// Rounds of work that the guest gets done wherever it comes to.
const ROUNDS: u64 = 2;

/// How far a hop gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cancelled {
    /// The volume is not handed over.
    BeforeHandOver,
    /// It is, and whoever sees to the hop knows that the other machine is gone.
    AfterHandOver,
    /// It is, and nobody knows.
    Unnoticed,
}

/// Three appliances, and how much the disk has.
struct Lab {
    nodes: Vec<(Station, Appliance)>,
    allocated: u64,
}

/// Runs all of it.
///
/// # Errors
/// Whatever a user would not accept.
pub fn run(system: &System) -> Result<()> {
    println!("| | |\n| --- | ---: |");
    let mut lab = Lab::start(system)?;
    let mut guest = Guest::start(&lab.station(0).uri("linux"))?;
    let time = guest.log_in()?;
    say("prompt", format!("{:.1} s", time.as_secs_f64()));
    work(&mut guest)?;
    let mut memory = Duration::ZERO;
    for _ in 0..2 {
        let (there, blackout) = lab.hop_beside(guest)?;
        say("the guest ran nowhere: its memory alone", millis(blackout));
        (guest, memory) = (there, memory.max(blackout));
    }
    for moment in [
        Cancelled::BeforeHandOver,
        Cancelled::AfterHandOver,
        Cancelled::Unnoticed,
    ] {
        let cancelled = lab.cancel(&mut guest, moment);
        let cancelled = cancelled.and_then(|()| work(&mut guest));
        cancelled.with_context(|| format!("cancelled {moment:?}"))?;
    }
    say(
        "cancelled before, after, unnoticed after hand-over",
        "goes on",
    );
    let mut files = 0;
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        guest = lab.hop(guest, (from, to), memory)?;
        files = work(&mut guest)?;
        if to != 0 {
            lab.wait_half(to, &guest)?;
        }
    }
    lab.wait_all(&guest)?;
    lab.count()?;
    // From here on nobody else is needed.
    for (station, appliance) in lab.nodes.drain(1..) {
        station.power_down(appliance)?;
        station.check()?;
    }
    files = files.max(work(&mut guest)?);
    guest.require_sound()?;
    drop(guest);
    boot_again(lab.station(0), files)?;
    examine(lab.station(0))?;
    for (station, appliance) in lab.nodes {
        station.power_down(appliance)?;
        station.check()?;
    }
    say("pools, by `ferrite check`", "sound");
    Ok(())
}

fn millis(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

/// Lets the guest get something done; returns how many files it has written and verified.
fn work(guest: &mut Guest) -> Result<u64> {
    let count = |guest: &Guest| guest.number_behind("guest: worked ");
    let before = count(guest);
    // The first number that a machine says comes from the one before.
    guest.wait("its work", LIMIT, |said| said.contains("guest: worked "))?;
    let wanted = before.max(count(guest)) + ROUNDS;
    let line = format!("guest: worked {wanted}\r");
    guest.wait("more work", LIMIT, |said| said.contains(&line))?;
    Ok(wanted)
}

impl Lab {
    /// Starts them, pairs each with each, and brings the disk to the first.
    fn start(system: &System) -> Result<Self> {
        let mut nodes = Vec::new();
        for name in NAMES {
            let station = Station::for_peers(name, DRIVE_BYTES)?;
            let appliance = station.start()?;
            nodes.push((station, appliance));
        }
        let mut lab = Self {
            nodes,
            allocated: 0,
        };
        for (one, other) in [(0, 1), (1, 2), (2, 0)] {
            lab.station(one).pair_with(lab.station(other))?;
        }
        let adopted = Adopted::new(lab.station(0), system, "linux")?;
        let allocated = adopted.origin.allocated();
        adopted.wait_quietly()?;
        drop(adopted);
        say("disk: allocated", mib(allocated));
        lab.allocated = allocated;
        Ok(lab)
    }

    fn station(&self, index: usize) -> &Station {
        &self.nodes[index].0
    }

    fn volume(&self, index: usize) -> Result<Value> {
        Ok(self.station(index).api().get(VOLUME)?)
    }

    fn ask(&self, index: usize, what: &str, body: &Value) -> Result<Value> {
        let path = format!("{VOLUME}/{what}");
        Ok(self.station(index).api().post(&path, body)?)
    }

    /// The guest goes on in another QEMU, on the same disk.
    fn hop_beside(&self, guest: Guest) -> Result<(Guest, Duration)> {
        let there = Guest::awaiting(&self.station(0).uri("linux"))?;
        let blackout = guest.leave_for(&there)?.go()?;
        drop(guest);
        Ok((there, blackout))
    }

    /// Offers the disk to another appliance, and waits until that is prepared.
    fn prepare(&self, from: usize, to: usize) -> Result<()> {
        let wanted = json!({"to": NAMES[to], "hand_over": "wait", "rate": RATE});
        self.ask(from, "migrate", &wanted)?;
        self.wait_for("the other one to be prepared", from, |volume| {
            volume["move"]["confirmed"] == true
        })
    }

    /// The guest and its disk go on elsewhere.
    fn hop(&self, guest: Guest, (from, to): (usize, usize), memory: Duration) -> Result<Guest> {
        self.prepare(from, to)?;
        let there = Guest::awaiting(&self.station(to).uri("linux"))?;
        let leaving = guest.leave_for(&there)?;
        let asked = Instant::now();
        self.ask(from, "hand-over", &json!({}))?;
        let handed = asked.elapsed();
        let blackout = leaving.go()?;
        guest.require_sound()?;
        drop(guest);
        let found = format!(
            "{}; {} above the memory alone; hand-over {}",
            millis(blackout),
            millis(blackout.saturating_sub(memory)),
            millis(handed)
        );
        say(
            &format!("{} to {}: ran nowhere", NAMES[from], NAMES[to]),
            found,
        );
        Ok(there)
    }

    /// The guest stays, because the machine that awaits it ends.
    fn cancel(&self, guest: &mut Guest, moment: Cancelled) -> Result<()> {
        self.prepare(0, 1)?;
        let there = Guest::awaiting(&self.station(1).uri("linux"))?;
        let leaving = guest.leave_for(&there)?;
        if moment != Cancelled::BeforeHandOver {
            self.ask(0, "hand-over", &json!({}))?;
        }
        drop(there);
        if moment == Cancelled::Unnoticed {
            leaving.fail()?;
            self.ask(0, "take-back", &json!({}))?;
            guest.go_on()?;
        } else {
            // The disk first: the guest runs as soon as the migration is cancelled.
            self.ask(0, "take-back", &json!({}))?;
            leaving.cancel()?;
        }
        let owned = |volume: &Value| volume["move"]["state"] == "owned";
        self.wait_for("the volume to be back", 0, owned)
    }

    fn wait_for(&self, what: &str, at: usize, is_so: impl Fn(&Value) -> bool) -> Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            let volume = self.volume(at)?;
            if is_so(&volume) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "no {what}: {volume}");
            thread::sleep(INTERVAL);
        }
    }

    /// Waits until half of it is there.
    fn wait_half(&self, at: usize, guest: &Guest) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let volume = self.volume(at)?;
            let stored = volume["hydration"]["stored"].as_u64();
            let stored = stored.with_context(|| format!("all is there: {volume}"))?;
            if stored * 2 >= self.allocated {
                say(
                    &format!("at {} when it goes on", NAMES[at]),
                    share(stored, self.allocated),
                );
                return Ok(());
            }
            guest.require_sound()?;
            ensure!(Instant::now() < deadline, "it does not arrive: {volume}");
            thread::sleep(INTERVAL);
        }
    }

    /// Lets the rest come as fast as it can, while nobody is in its way; waits until all is at the first.
    fn wait_all(&self, guest: &Guest) -> Result<()> {
        let begun = Instant::now();
        guest.hold()?;
        for index in 0..NAMES.len() {
            for job in self.jobs(index)? {
                if job["state"] == "running" && job["kind"] == "migrate" {
                    let path = format!("/v1/jobs/{}", job["id"]);
                    self.station(index)
                        .api()
                        .patch(&path, &json!({"rate": 0}))?;
                }
            }
        }
        loop {
            let volume = self.volume(0)?;
            if volume["hydration"].is_null() {
                break;
            }
            guest.require_sound()?;
            ensure!(begun.elapsed() < LIMIT, "it does not arrive: {volume}");
            thread::sleep(INTERVAL);
        }
        let time = begun.elapsed().as_secs_f64();
        say("the rest, while the guest is held", format!("{time:.1} s"));
        guest.go_on()?;
        Ok(())
    }

    fn jobs(&self, index: usize) -> Result<Vec<Value>> {
        let answer = self.station(index).api().get("/v1/jobs")?;
        Ok(answer["jobs"].as_array().context("no jobs")?.clone())
    }

    /// What went over the lines, by the jobs that moved it: each block once.
    fn count(&self) -> Result<()> {
        let mut count = 0;
        for (index, name) in NAMES.iter().enumerate() {
            for job in self.jobs(index)? {
                let bytes = |what: &str| job["result"]["bytes"][what].as_u64().unwrap_or(0);
                let (demand, background) = (bytes("on_demand"), bytes("background"));
                // Nobody used what was taken back at once.
                if job["kind"] != "migrate" || demand == 0 {
                    continue;
                }
                count += 1;
                let found = format!(
                    "{} for the guest, {} else, {} about it",
                    mib(demand),
                    mib(background),
                    mib(bytes("metadata"))
                );
                let to = job["result"]["to"].as_str().unwrap_or("?");
                say(&format!("{name} to {to}: moved"), found);
                let limit = MOVED_MAX * self.allocated as f64;
                ensure!(((demand + background) as f64) < limit, "too much: {job}");
            }
        }
        ensure!(count == NAMES.len(), "{count} moves are known");
        Ok(())
    }
}
