//! `cargo xtask bring-up`: a Linux machine boots from a disk that is still elsewhere, works while the rest of it arrives, and
//! boots again when the place it came from is gone. With `--live`, the machine itself moves, and its disk with it ([`live`]).
//!
//! Pass marks are counts: bytes that came over a line where everything is counted ([`guest::wire`]), not seconds. Words: the
//! **disk** is a qcow2 image with a GiB in it ([`system`]); the **guest** is the machine that boots from it ([`machine`]).

#![forbid(unsafe_code)]

mod live;
mod machine;
mod system;

use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use guest::clients::run;
use guest::origin::Origin;
use guest::wire::Counts;
use guest::{Scratch, Station};
use serde_json::{Value, json};

use machine::Guest;
use system::{FEW_FILES, FILES, PARTITION_AT, System};

/// How this host looks from the appliance in a user-mode network.
const HOST: &str = "10.0.2.2";
const LOOPBACK: [u8; 4] = [127, 0, 0, 1];
const DRIVE_BYTES: u64 = 8 << 30;
const MIB: f64 = (1 << 20) as f64;
/// The disk must have at least this.
const ALLOCATED_MIN: u64 = 1 << 30;
/// How long what is counted in bytes may take at most.
const LIMIT: Duration = Duration::from_secs(900);
const INTERVAL: Duration = Duration::from_millis(100);
/// Bytes in a second of the job, so that the guest gets something done before it ends.
const RATE: u64 = 32 << 20;
/// Files that the guest writes and verifies before its power is cut.
const FILES_MIN: u64 = 10;

/// Boots a Linux machine from an adopted qcow2 image, before, while and after its blocks arrive.
#[derive(Parser)]
#[command(
    name = "cargo xtask bring-up",
    bin_name = "cargo xtask bring-up",
    after_help = "Fails unless the login prompt comes before a tenth of the image has moved, each block is fetched once and \
        no hole at all,\nthe snapshot of the image is bit-exact, and the guest finds everything again without the origin. \
        The image\n(4 GiB, 1 GiB of it allocated) is made once, below target/bring-up. Takes about three minutes."
)]
struct Arguments {
    /// Instead: move the running machine between QEMUs, and its disk between three appliances
    #[arg(long)]
    live: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.live {
        true => System::prepare(FEW_FILES).and_then(|system| live::run(&system)),
        false => bring_up(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bring_up() -> Result<()> {
    let system = System::prepare(FILES)?;
    let station = Station::with_drive("bring-up", DRIVE_BYTES)?;
    let appliance = station.start()?;
    println!("| | |\n| --- | ---: |");
    hurried(&station, &system)?;
    let files = arrive(&station, &system)?;
    // Nothing that was only in memory helps what comes now.
    station.power_down(appliance)?;
    let appliance = station.start()?;
    compare(&station, &system)?;
    boot_again(&station, files)?;
    examine(&station)?;
    station.power_down(appliance)?;
    station.check()?;
    say("pool, by `ferrite check`", "sound");
    Ok(())
}

/// Prints a line of the table.
fn say(what: &str, found: impl std::fmt::Display) {
    println!("| {what} | {found} |");
}

/// A volume that was just adopted, and where it comes from.
struct Adopted<'a> {
    station: &'a Station,
    name: &'static str,
    job: u64,
    origin: Origin,
}

impl<'a> Adopted<'a> {
    fn new(station: &'a Station, system: &System, name: &'static str) -> Result<Self> {
        let origin = Origin::of_image(&system.image, LOOPBACK.into())?;
        let wanted = json!({"name": name, "origin": {"nbd": origin.uri(HOST)}});
        let volume = station.api().post("/v1/volumes", &wanted)?;
        let job = volume["hydration"]["job"].as_u64();
        Ok(Self {
            station,
            name,
            job: job.with_context(|| format!("no job: {volume}"))?,
            origin,
        })
    }

    fn change_job(&self, change: &Value) -> Result<()> {
        let path = format!("/v1/jobs/{}", self.job);
        self.station.api().patch(&path, change)?;
        Ok(())
    }

    fn job(&self) -> Result<Value> {
        Ok(self.station.api().get(&format!("/v1/jobs/{}", self.job))?)
    }

    /// Bytes that were fetched for clients and in the background, as the appliance says; nothing once all is there.
    fn fetched(&self) -> Result<Option<(u64, u64)>> {
        let volume = self
            .station
            .api()
            .get(&format!("/v1/volumes/{}", self.name))?;
        let hydration = &volume["hydration"];
        Ok(hydration["on_demand"]
            .as_u64()
            .zip(hydration["background"].as_u64()))
    }

    /// Waits until everything is there, while a guest uses it.
    fn wait(&self, guest: &Guest) -> Result<()> {
        self.wait_while(|| guest.require_sound())
    }

    /// Waits until everything is there, and nobody uses it.
    fn wait_quietly(&self) -> Result<()> {
        self.wait_while(|| Ok(()))
    }

    fn wait_while(&self, is_sound: impl Fn() -> Result<()>) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let job = self.job()?;
            if job["state"] == "done" {
                return Ok(());
            }
            is_sound()?;
            ensure!(Instant::now() < deadline, "it does not arrive: {job}");
            thread::sleep(INTERVAL);
        }
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / MIB)
}

fn share(bytes: u64, of: u64) -> String {
    format!("{} ({:.1} %)", mib(bytes), bytes as f64 * 100.0 / of as f64)
}

/// The way to the prompt while the rest arrives as fast as it can: for information only.
fn hurried(station: &Station, system: &System) -> Result<()> {
    let adopted = Adopted::new(station, system, "hurried")?;
    let mut guest = Guest::start(&station.uri("hurried"))?;
    let time = guest.log_in()?;
    guest.hold()?;
    let (counts, job) = (adopted.origin.counts(), adopted.job()?);
    let moved = share(counts.received_bytes, adopted.origin.allocated());
    let found = format!(
        "{:.1} s; {moved} over the line, job {}",
        time.as_secs_f64(),
        job["state"].as_str().unwrap_or("?")
    );
    say("prompt while the rest arrives", found);
    drop(guest);
    station.api().delete("/v1/volumes/hurried")?;
    Ok(())
}

/// Boots with nothing but what is asked for, then lets the guest work while the rest arrives, then takes its power and the
/// origin away. Returns how many files the guest has to find again.
fn arrive(station: &Station, system: &System) -> Result<u64> {
    let adopted = Adopted::new(station, system, "linux")?;
    adopted.change_job(&json!({"state": "paused"}))?;
    let allocated = adopted.origin.allocated();
    ensure!(
        allocated >= ALLOCATED_MIN,
        "the disk has only {allocated} bytes"
    );
    let before = adopted.origin.counts();
    say("image: allocated", mib(allocated));
    say(
        "moved when its job was paused",
        share(before.received_bytes, allocated),
    );
    let taken = station
        .api()
        .post("/v1/volumes/linux/snapshots", &json!({"name": "adopted"}));
    taken.context("a snapshot of what is not here yet")?;

    let mut guest = Guest::start(&station.uri("linux"))?;
    let time = guest.log_in()?;
    guest.hold()?;
    let counts = adopted.origin.counts();
    let (demand, background) = adopted.fetched()?.context("nothing left to fetch")?;
    let moved = share(counts.received_bytes, allocated);
    say("prompt", format!("{:.1} s", time.as_secs_f64()));
    say("moved until then", moved.clone());
    let fetched = format!("{} for the guest, {} else", mib(demand), mib(background));
    say("as the appliance counts it", fetched);
    say("what the guest had read", mib(guest_read(station)?));
    say("reads of the origin until then", counts.reads.len());
    ensure!(
        counts.received_bytes * 10 < allocated && (demand + background) * 10 < allocated,
        "the prompt came after {moved} had moved"
    );

    guest.go_on()?;
    guest.wait("its work", LIMIT, |said| said.contains("guest: worked 1"))?;
    adopted.change_job(&json!({"state": "running", "rate": RATE}))?;
    let (rest, before) = (Instant::now(), guest.number_behind("guest: worked "));
    adopted.wait(&guest)?;
    let time = rest.elapsed().as_secs_f64();
    let during = guest.number_behind("guest: worked ");
    say("the rest, at 32 MiB/s at most", format!("{time:.1} s"));
    let rounds = during - before;
    say("files written and verified meanwhile, no error", rounds);
    ensure!(rounds > 0, "the guest did not work while the rest arrived");
    require_frugal(&adopted.origin.counts(), &adopted.origin)?;
    // Wherever it is then: its power is cut, and the origin goes for good.
    guest.wait("enough files", LIMIT, |said| {
        said.contains(&format!("guest: worked {}", FILES_MIN.max(during + 1)))
    })?;
    Ok(guest.number_behind("guest: worked "))
}

/// Bytes that the guest has read, twice if it did, as the appliance's metrics tell.
fn guest_read(station: &Station) -> Result<u64> {
    let name = r#"ferrite_volume_bytes_total{volume="linux",operation="read"} "#;
    let text = station.api().get_text("/metrics")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.with_context(|| format!("no {name}"))?
        .parse()
        .context("no number of bytes")
}

/// Each block once, and no hole.
fn require_frugal(counts: &Counts, origin: &Origin) -> Result<()> {
    let allocated = origin.allocated();
    let (read, repeated) = (counts.read_bytes(), counts.repeated_bytes());
    let holes = counts.read_bytes_outside(origin.data());
    say("moved in all", share(counts.bytes(), allocated));
    say("asked for again", mib(repeated));
    say("asked for in holes", mib(holes));
    say(
        "reads, questions about holes",
        format!("{}, {}", counts.reads.len(), counts.questions),
    );
    ensure!(!counts.is_unclear, "somebody else used the line");
    ensure!(repeated == 0, "{repeated} bytes were fetched again");
    ensure!(holes == 0, "{holes} bytes of holes were fetched");
    ensure!(
        counts.bytes() as f64 <= 1.05 * allocated as f64 && read <= allocated,
        "{} bytes moved for {allocated}",
        counts.bytes()
    );
    Ok(())
}

/// The snapshot of the image is the image.
fn compare(station: &Station, system: &System) -> Result<()> {
    let scratch = Scratch::new("bring-up-copy");
    let copy = scratch.file("disk");
    fetch(&station.uri("linux@adopted"), &copy)?;
    let hash = system::hash(&copy)?;
    ensure!(
        hash == system.hash,
        "the snapshot has {hash} instead of {}",
        system.hash
    );
    say(
        "SHA-256 of all 4 GiB, from the snapshot",
        "that of the image",
    );
    Ok(())
}

/// The guest boots without the origin and finds what it wrote, and what came with the disk.
fn boot_again(station: &Station, files: u64) -> Result<()> {
    let mut guest = Guest::start(&station.uri("linux"))?;
    let time = guest.log_in()?;
    guest.wait("its end", LIMIT, |said| {
        said.contains("guest: all is as it was")
    })?;
    let found = guest.number_behind("guest: found ");
    ensure!(
        found >= files,
        "the guest finds {found} files of {files} that it had synced"
    );
    guest.end(LIMIT)?;
    say(
        "prompt after a power cut, the origin gone",
        format!("{:.1} s", time.as_secs_f64()),
    );
    say("synced files found again", format!("{files} of {files}"));
    Ok(())
}

/// The file system that the guest left.
fn examine(station: &Station) -> Result<()> {
    let scratch = Scratch::new("bring-up-copy");
    let copy = scratch.file("disk");
    fetch(&station.uri("linux"), &copy)?;
    let mut e2fsck = Command::new("e2fsck");
    e2fsck
        .arg("-fn")
        .arg(format!("{}?offset={PARTITION_AT}", copy.display()));
    run("e2fsprogs", &mut e2fsck)?;
    say("file system, by `e2fsck -fn`", "clean");
    Ok(())
}

fn fetch(uri: &str, path: &std::path::Path) -> Result<()> {
    let file = std::fs::File::create(path)?;
    file.set_len(system::SIZE)?;
    run("libnbd-bin", Command::new("nbdcopy").arg(uri).arg(path)).map(drop)
}
