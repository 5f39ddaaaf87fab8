//! Snapshots of the image in QEMU, through its API.
//!
//! Rates are compared within a round, in which the variants follow each other; drive commands are those that QEMU counted.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ferrite::Client;
use guest::{Scratch, Station};
use qemu::{Appliance, ApplianceOptions, Drive, sparse_file};
use serde_json::json;

use crate::fio::{self, JOBS, Outcome};
use crate::interrupt;
use crate::report::Figure;
use crate::target::{self, Bench, EXPORT};

/// Size of the drive file; sparse.
const DRIVE_BYTES: u64 = 12 << 30;
/// Memory in MiB: enough for the most snapshots.
const MEMORY_MIB: u32 = 384;
/// Snapshots that exist already.
const EXISTING: [u32; 3] = [0, 100, 10_000];
/// Samples of a create, idle and under load.
const CREATES: u32 = 15;
/// Connections that make the many.
const MAKERS: u32 = 4;
/// Pause between two creates under load.
const PAUSE: Duration = Duration::from_millis(100);
/// MiB of the volume whose snapshot is deleted.
const BIG_MIB: u32 = 2048;
/// How long its space may take to come back.
const BACK_LIMIT: Duration = Duration::from_secs(300);
/// Space counts as back when no more than this is left of it, in bytes; what the load has pending is of that size.
const REST_BYTES: u64 = 128 << 20;

/// Everything that needs a machine.
///
/// # Errors
/// When the appliance does not start, serve, or end.
pub fn measure(bench: &Bench, figures: &mut Vec<Figure>) -> Result<()> {
    let machine = Machine::start(bench)?;
    fio::fill(&machine.uri)?;
    figures.extend(machine.writes(bench)?);
    figures.extend(machine.deletion(bench)?);
    figures.extend(machine.creates(bench)?);
    let Machine {
        station,
        mut appliance,
        ..
    } = machine;
    target::finish(&mut appliance)?;
    station.check().context("after the measurements")
}

struct Machine {
    appliance: Appliance,
    station: Station,
    uri: String,
    /// The number in the next snapshot's name.
    next: AtomicU32,
}

/// What the drive was told, by QEMU's count; its NVMe controller does not count flushes.
#[derive(Clone, Copy, Default)]
struct DriveCounts {
    reads: u64,
    writes: u64,
}

impl Machine {
    fn start(bench: &Bench) -> Result<Self> {
        let scratch = Scratch::inside(&bench.folder, "bench-snapshots");
        let mut options = ApplianceOptions::new(&bench.elf, scratch.path())?;
        options.set("pool.demo", true);
        options.machine.memory_mib = MEMORY_MIB;
        let drive = sparse_file(scratch.file("drive0.raw"), DRIVE_BYTES)?;
        options.machine.drives.push(Drive::new(drive));
        let station = Station { scratch, options };
        let appliance = station.start()?;
        let uri = station.uri(EXPORT);
        Ok(Self {
            appliance,
            station,
            uri,
            next: AtomicU32::new(0),
        })
    }

    /// Makes a snapshot; how long that took in ms.
    fn create(&self, api: &Client) -> Result<f64> {
        let name = format!("s{}", self.next.fetch_add(1, Ordering::Relaxed));
        let start = Instant::now();
        api.post(
            &format!("/v1/volumes/{EXPORT}/snapshots"),
            &json!({ "name": name }),
        )?;
        Ok(millis(start))
    }

    fn drive_counts(&self) -> Result<DriveCounts> {
        let answer = self
            .appliance
            .running
            .qmp()?
            .execute("query-blockstats", json!({}))?;
        let sum = |key: &str| -> u64 {
            let drives = answer.as_array().into_iter().flatten();
            drives
                .filter_map(|drive| drive["stats"][key].as_u64())
                .sum()
        };
        Ok(DriveCounts {
            reads: sum("rd_operations"),
            writes: sum("wr_operations"),
        })
    }

    /// Creates with more and more existing, idle and under load, and reads through them.
    fn creates(&self, bench: &Bench) -> Result<Vec<Figure>> {
        let api = self.station.api();
        let mut figures = Vec::new();
        let mut request = Figure::new("an API request that changes nothing".into(), "ms");
        for existing in EXISTING {
            interrupt::check()?;
            eprintln!("snapshots in QEMU: {existing} existing");
            self.reach(existing)?;
            interrupt::pause(Duration::from_secs(4))?;
            let name =
                |how: &str| format!("snapshot create through the API, {existing} existing{how}");
            let mut idle =
                Figure::new(name(", idle"), "ms").remark("in QEMU, with the client's connection");
            let mut commands = ["drive reads", "drive writes"].map(|what| {
                Figure::new(name(&format!(", idle: {what}")), "").remark("counted by QEMU")
            });
            for _ in 0..CREATES {
                let start = Instant::now();
                api.get("/v1/drives")?;
                request.samples.push(millis(start));
                let before = self.drive_counts()?;
                idle.samples.push(self.create(&api)?);
                let after = self.drive_counts()?;
                let each = [after.reads - before.reads, after.writes - before.writes];
                for (figure, count) in commands.iter_mut().zip(each) {
                    figure.samples.push(count as f64);
                }
                interrupt::pause(PAUSE)?;
            }
            let mut loaded = Figure::new(name(", under 4 KiB random writes at QD 32"), "ms");
            self.while_writing(bench, || {
                loaded.samples.push(self.create(&api)?);
                thread::sleep(PAUSE);
                Ok(())
            })?;
            let mut reads = Figure::new(
                format!("4 KiB random reads, QD 32, {existing} snapshots and more"),
                "IOPS",
            );
            for _ in 0..bench.runs {
                reads
                    .samples
                    .push(fio::timed(&self.uri, JOBS[1], bench.job_time)?.iops);
            }
            figures.extend([idle, loaded, reads]);
            figures.extend(commands);
        }
        figures.push(request.remark("GET /v1/drives, for comparison"));
        Ok(figures)
    }

    /// Makes snapshots until there are as many.
    fn reach(&self, wanted: u32) -> Result<()> {
        let missing = wanted.saturating_sub(self.next.load(Ordering::Relaxed));
        let make = || -> Result<()> {
            let api = self.station.api();
            for _ in 0..missing / MAKERS {
                interrupt::check()?;
                self.create(&api)?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let makers: Vec<_> = (0..MAKERS).map(|_| scope.spawn(make)).collect();
            makers.into_iter().try_for_each(joined)
        })
    }

    /// Runs `meanwhile` again and again while the volume is written.
    fn while_writing(
        &self,
        bench: &Bench,
        mut meanwhile: impl FnMut() -> Result<()>,
    ) -> Result<Outcome> {
        let (is_over, job_time) = (AtomicBool::new(false), bench.job_time);
        let (uri, over) = (&self.uri, &is_over);
        thread::scope(|scope| {
            let load = scope.spawn(move || {
                let outcome = fio::timed(uri, JOBS[3], job_time);
                over.store(true, Ordering::Relaxed);
                outcome
            });
            while !is_over.load(Ordering::Relaxed) {
                meanwhile()?;
            }
            joined(load)
        })
    }

    /// Random writes before, right after, and while a snapshot is made each second.
    fn writes(&self, bench: &Bench) -> Result<Vec<Figure>> {
        let api = self.station.api();
        let variants = [
            "no new snapshot",
            "right after a snapshot",
            "a snapshot each second",
        ];
        let figures = |what: &str, unit| {
            variants.map(|variant| {
                Figure::new(format!("4 KiB random writes, QD 32, {variant}{what}"), unit)
            })
        };
        let mut rates = figures("", "IOPS");
        let mut ratios = figures(", to none in the same round", "×");
        let mut costs = figures(": CPU of QEMU each", "µs");
        // The map's leaves and the drive file's pages are there in every round.
        fio::timed(&self.uri, JOBS[3], bench.job_time)?;
        for round in 1..=bench.runs {
            eprintln!("snapshots in QEMU: writes, round {round}");
            let mut none = f64::NAN;
            for (index, _) in variants.iter().enumerate() {
                interrupt::check()?;
                let before = self.appliance.running.cpu_time()?;
                let outcome = match index {
                    0 => fio::timed(&self.uri, JOBS[3], bench.job_time)?,
                    1 => {
                        self.create(&api)?;
                        fio::timed(&self.uri, JOBS[3], bench.job_time)?
                    }
                    _ => self.while_writing(bench, || {
                        self.create(&api)?;
                        thread::sleep(Duration::from_secs(1));
                        Ok(())
                    })?,
                };
                let used = self.appliance.running.cpu_time()?.saturating_sub(before);
                if index == 0 {
                    none = outcome.iops;
                }
                rates[index].samples.push(outcome.iops);
                ratios[index].samples.push(outcome.iops / none);
                let each = used.as_secs_f64() * 1e6 / outcome.operations.max(1) as f64;
                costs[index].samples.push(each);
            }
        }
        let [_, after, during] = ratios;
        Ok(rates
            .into_iter()
            .chain([after, during])
            .chain(costs)
            .collect())
    }

    /// Deletes the snapshot of a volume that was written anew since, while another volume is used.
    fn deletion(&self, bench: &Bench) -> Result<Vec<Figure>> {
        let api = self.station.api();
        let name = |what: &str| format!("delete of a snapshot of a rewritten 2 GiB volume, {what}");
        let mut acknowledged = Figure::new(name("acknowledged"), "ms");
        let mut back = Figure::new(name("space back under load"), "s");
        let mut rates = ["before", "meanwhile"].map(|when| {
            Figure::new(
                name(&format!("4 KiB random writes to another volume {when}")),
                "IOPS",
            )
        });
        let mut tails = ["before", "meanwhile"]
            .map(|when| Figure::new(name(&format!("p99 of these {when}")), "ms"));
        let size = u64::from(BIG_MIB) << 20;
        api.post("/v1/volumes", &json!({"name": "big", "size": size}))?;
        let big = self.station.uri("big");
        for round in 1..=bench.runs.min(3) {
            interrupt::check()?;
            eprintln!("snapshots in QEMU: delete, round {round}");
            if round == 1 {
                fio::fill_mib(&big, BIG_MIB)?;
            }
            api.post("/v1/volumes/big/snapshots", &json!({"name": "old"}))?;
            fio::fill_mib(&big, BIG_MIB)?;
            interrupt::pause(Duration::from_secs(3))?;
            let before = fio::timed(&self.uri, JOBS[3], bench.job_time)?;
            interrupt::pause(Duration::from_secs(3))?;
            let used = used_bytes(&api)?;
            let deleted = Instant::now();
            api.delete("/v1/volumes/big/snapshots/old")?;
            acknowledged.samples.push(millis(deleted));
            let mut is_back = false;
            let meanwhile = self.while_writing(bench, || {
                if !is_back && used_bytes(&api)? + size <= used + REST_BYTES {
                    is_back = true;
                    back.samples.push(deleted.elapsed().as_secs_f64());
                }
                thread::sleep(Duration::from_millis(50));
                Ok(())
            })?;
            while !is_back {
                interrupt::check()?;
                ensure!(
                    deleted.elapsed() < BACK_LIMIT,
                    "the space does not come back"
                );
                thread::sleep(Duration::from_millis(50));
                if used_bytes(&api)? + size <= used + REST_BYTES {
                    is_back = true;
                    back.samples.push(deleted.elapsed().as_secs_f64());
                }
            }
            for (index, outcome) in [before, meanwhile].iter().enumerate() {
                rates[index].samples.push(outcome.iops);
                tails[index].samples.push(outcome.p99_us / 1000.0);
            }
        }
        Ok([acknowledged, back]
            .into_iter()
            .chain(rates)
            .chain(tails)
            .collect())
    }
}

fn used_bytes(api: &Client) -> Result<u64> {
    let node = api.get("/v1/node")?;
    let used = node["pool"]["used"].as_u64();
    used.context("the pool does not say what is used")
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread
        .join()
        .map_err(|_| anyhow::anyhow!("a thread panicked"))?
}

fn millis(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}
