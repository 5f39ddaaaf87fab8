//! Start after a power cut at the worst moment: the image on a pool whose journal is as long as it can get.
//!
//! The pool is made in this process with the memory that the store has in the machine, and written until nothing goes on:
//! the superblock that would end a checkpoint never reaches the drive. What the drive holds then is the cut.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::future::pending;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use exec::futures_util::future::{Either, select};
use guest::clients::run;
use guest::{Scratch, Station};
use qemu::{ApplianceOptions, Drive, sparse_file};
use store::{Config, StoreError};
use world::{BLOCK_SIZE, BlockAddr, Buf, Disk, DiskError, DiskInfo, Geometry};

use crate::engine::drive::MeteredDrive;
use crate::engine::{BLOCK, Client, Laboratory, Section, instructions, memory_of};
use crate::interrupt;
use crate::report::Figure;
use crate::start::ready_in;
use crate::target::{self, Bench};

/// How a counted run is told which pool to open.
const COUNTED: &str = "open:";
/// Sizes of the drive and how people call them.
const DRIVES: [(u64, &str); 3] = [
    (64 << 30, "64 GiB"),
    (1 << 40, "1 TiB"),
    (64 << 40, "64 TiB"),
];
/// Memory of the machine in MiB.
const MEMORY_MIB: u32 = 256;
/// The volume.
const VOLUME: &str = "v";
/// Writers of the client that never flushes.
const DEPTH: u64 = 32;
/// By the drive's clock: a checkpoint comes long before this.
const LIMIT: Duration = Duration::from_secs(30);
/// How long clients go on after the lost superblock, by the drive's clock; then all memory for changes is used.
const REST: Duration = Duration::from_millis(1500);
/// Where superblocks are on a drive: the first of their two rings.
const SUPERBLOCKS: std::ops::Range<u64> = 32..64;

/// A client that leaves much to recover.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// Full frames, and all data since the last checkpoint has to be verified.
    NeverFlushes,
    /// A frame for each block.
    FlushesEach,
}

/// Every size and habit.
///
/// # Errors
/// When a pool cannot be made, the appliance does not start, or the checker finds anything.
pub fn measure(bench: &Bench, figures: &mut Vec<Figure>) -> Result<()> {
    for (bytes, size) in DRIVES {
        for (habit, who) in [
            (Habit::NeverFlushes, "never flushes"),
            (Habit::FlushesEach, "flushes each 4 KiB"),
        ] {
            eprintln!("cuts: {size}, a client that {who}");
            figures.extend(starts(
                bench,
                bytes,
                habit,
                &format!("{size}, client that {who}"),
            )?);
        }
    }
    Ok(())
}

fn starts(bench: &Bench, bytes: u64, habit: Habit, name: &str) -> Result<[Figure; 2]> {
    let scratch = Scratch::inside(&bench.folder, "bench-cut");
    let cut = sparse_file(scratch.file("cut.raw"), bytes)?;
    let written = prepare(&cut, bytes, habit)?;
    let [mut after, mut clean] = [
        "`ready in` after the worst cut",
        "the same after a shutdown",
    ]
    .map(|what| Figure::new(format!("{what}, {name}"), "ms"));
    let work = scratch.file("work.raw");
    let copy = || {
        let mut copy = Command::new("cp");
        copy.args(["--sparse=auto", "--"]).arg(&cut).arg(&work);
        run("coreutils", &mut copy)
    };
    copy()?;
    let counts = opened(&work)?;
    for _ in 0..bench.runs {
        interrupt::check()?;
        copy()?;
        let station = station(bench, &work)?;
        after.samples.push(ready(&station)?);
        clean.samples.push(ready(&station)?);
        station.check().context("after a start")?;
    }
    let remark = format!("{written} blocks since the checkpoint; opening it is {counts}");
    let checked = format!("{MEMORY_MIB} MiB; checked clean after all");
    Ok([after.remark(&remark), clean.remark(&checked)])
}

/// What opening the pool costs, counted in this process.
fn opened(path: &Path) -> Result<String> {
    let mut section = open(path)?;
    instructions::count(&format!("{COUNTED}{}", path.display()), &mut [&mut section])?;
    let counts = section.counts;
    let mut text = format!(
        "{} reads of {} MiB, {:.0} ms of a drive with reads of 80 µs",
        counts.reads,
        counts.read_blocks * BLOCK / (1 << 20),
        section.time.as_secs_f64() * 1000.0
    );
    if section.instructions > 0 {
        let millions = section.instructions / 1_000_000;
        text.push_str(&format!(" and {millions} million instructions"));
    }
    Ok(text)
}

/// Opens the pool on a drive file, and measures that.
fn open(path: &Path) -> Result<Section> {
    let laboratory = Laboratory::default();
    let drive = FileDrive::open(path, std::fs::metadata(path)?.len())?;
    let timed = MeteredDrive::new(drive, &laboratory.exec, &laboratory.meter);
    laboratory.measure_open(timed, config())
}

/// Opens the pool that `name` names and nothing else, for callgrind; `None` when it names none.
pub fn counted(name: &str) -> Option<Result<()>> {
    let path = name.strip_prefix(COUNTED)?;
    Some(open(Path::new(path)).map(drop))
}

/// The store's memory in the machine.
fn config() -> Config {
    Config::for_memory(memory_of(MEMORY_MIB as usize - 16))
}

/// Starts, waits until it serves, shuts down; what the console said.
fn ready(station: &Station) -> Result<f64> {
    let mut appliance = station.start()?;
    let millis = ready_in(&appliance.running.serial()).context("no `ready in` on the console")?;
    // An appliance without a pool is ready soon.
    let volumes = station.api().get("/v1/volumes")?;
    let has_pool = volumes.to_string().contains(&format!("\"{VOLUME}\""));
    ensure!(has_pool, "the pool was not opened: {volumes}");
    target::finish(&mut appliance)?;
    Ok(millis)
}

/// An appliance of its own on the drive file `image`.
fn station(bench: &Bench, image: &Path) -> Result<Station> {
    let scratch = Scratch::inside(&bench.folder, "bench");
    let mut options = ApplianceOptions::new(&bench.elf, scratch.path())?;
    options.machine.memory_mib = MEMORY_MIB;
    options.machine.drives.push(Drive::new(image));
    Ok(Station { scratch, options })
}

/// Makes a pool and cuts its power; says how many blocks were written since the last checkpoint.
fn prepare(path: &Path, bytes: u64, habit: Habit) -> Result<u64> {
    let laboratory = Laboratory::default();
    let drive = FileDrive::open(path, bytes)?;
    let timed = MeteredDrive::new(drive.clone(), &laboratory.exec, &laboratory.meter);
    let client = laboratory.pool_on(timed, config())?;
    let blocks = bytes / BLOCK / 2;
    let user = client.clone();
    let id = laboratory.run(async move {
        let id = user.store.create_volume(VOLUME, blocks * BLOCK).await?.id;
        user.store.checkpoint().await?;
        Ok::<_, StoreError>(id)
    })??;
    drive.is_armed.set(true);
    let written = Rc::new(Cell::new(0));
    let (count, user) = (written.clone(), client.clone());
    let work = async move {
        match habit {
            Habit::NeverFlushes => {
                let writer = || write_on(&user, id, blocks, false, &count);
                let ends = exec::join_all((0..DEPTH).map(|_| writer())).await;
                ends.into_iter().collect()
            }
            Habit::FlushesEach => write_on(&user, id, blocks, true, &count).await,
        }
    };
    let (exec, is_cut) = (laboratory.exec.clone(), drive.is_cut.clone());
    let end = async move {
        let begin = exec.now();
        while !is_cut.get() && exec.now().since(begin) < LIMIT {
            exec.sleep(REST / 10).await;
        }
        exec.sleep(REST).await;
    };
    let outcome = laboratory.run(async move {
        match select(std::pin::pin!(work), std::pin::pin!(end)).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => Ok(()),
        }
    })?;
    outcome?;
    ensure!(drive.is_cut.get(), "no checkpoint came to its superblock");
    Ok(written.get())
}

/// Writes until it is stopped.
async fn write_on(
    user: &Client<MeteredDrive<FileDrive>>,
    id: store::VolumeId,
    blocks: u64,
    flushes: bool,
    count: &Cell<u64>,
) -> Result<(), StoreError> {
    loop {
        user.write(id, user.random.below(blocks), 1).await?;
        if flushes {
            user.store.flush().await?;
        }
        count.set(count.get() + 1);
    }
}

/// A sparse file as a drive, on which superblocks get lost from some moment on. Clones are the same drive.
#[derive(Clone)]
struct FileDrive {
    file: Rc<File>,
    blocks: u64,
    /// Whether the next superblock is the one that never arrives.
    is_armed: Rc<Cell<bool>>,
    /// Whether it was sent.
    is_cut: Rc<Cell<bool>>,
}

impl FileDrive {
    fn open(path: &Path, bytes: u64) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self {
            file: Rc::new(file),
            blocks: bytes / BLOCK,
            is_armed: Rc::default(),
            is_cut: Rc::default(),
        })
    }
}

impl Disk for FileDrive {
    fn geometry(&self) -> Geometry {
        Geometry {
            blocks: self.blocks,
            sector_bytes: 512,
            transfer_blocks_max: Buf::PAGES_MAX as u32,
            can_discard: false,
        }
    }

    fn info(&self) -> DiskInfo {
        DiskInfo::default()
    }

    async fn read(&self, at: BlockAddr, mut into: Buf) -> (Buf, Result<(), DiskError>) {
        for (block, page) in (at..).zip(into.pages_mut()) {
            let place = block * BLOCK_SIZE as u64;
            if self.file.read_exact_at(&mut page.bytes, place).is_err() {
                return (into, Err(DiskError::Media));
            }
        }
        (into, Ok(()))
    }

    async fn write(&self, at: BlockAddr, from: Buf) -> (Buf, Result<(), DiskError>) {
        if self.is_armed.get() && SUPERBLOCKS.contains(&at) {
            self.is_cut.set(true);
            pending::<()>().await;
        }
        for (block, page) in (at..).zip(from.pages()) {
            let place = block * BLOCK_SIZE as u64;
            if self.file.write_all_at(&page.bytes, place).is_err() {
                return (from, Err(DiskError::Media));
            }
        }
        (from, Ok(()))
    }

    async fn flush(&self) -> Result<(), DiskError> {
        Ok(())
    }

    async fn discard(&self, _: &[Range<BlockAddr>]) -> Result<(), DiskError> {
        Ok(())
    }
}
