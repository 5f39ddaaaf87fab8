//! A pool that has been full and overwritten for long: write amplification, runs of blocks, and commands per MiB.
//!
//! Small pools stand for large ones: what a write costs is decided by how many changes each leaf of a map has collected when
//! a checkpoint comes, so the memory for changes is scaled with the volume.

use anyhow::Result;
use offline::{Image, RamDrive};
use store::{Config, StoreError, VolumeId};
use world::Buf;

use crate::engine::drive::MeteredDrive;
use crate::engine::{BLOCK, Client, Drive, Laboratory, memory_of, require_sound};
use crate::interrupt;
use crate::report::Figure;

/// Bytes of the pool.
const POOL: u64 = 4 << 30;
/// How much of it is in use, in percent.
const FULL: u64 = 80;
/// How many times all of it is overwritten at random.
const ROUNDS: u64 = 5;
/// Writers.
const DEPTH: u64 = 32;
/// Blocks of a leaf of a map.
const LEAF: u64 = 128;
/// Blocks of the part whose runs are counted: 256 MiB.
const PART: u64 = 1 << 16;
/// Reads that are counted.
const READS: u64 = 20_000;

/// A hot set and memory for changes: changes that a leaf collects in one half of the table, what stands for what, and the
/// write amplification that the design's model gives.
const MEMORIES: [(f64, &str, f64); 5] = [
    (2.0, "32 GiB with 8 MiB", 1.45),
    (0.64, "100 GiB with 8 MiB", 1.76),
    (0.0625, "1 TiB with 8 MiB", 2.11),
    (16.0, "32 GiB with 64 MiB", 1.08),
    (64.0, "32 GiB with 256 MiB", 1.03),
];

/// Fills a pool, overwrites it, and counts.
///
/// # Errors
/// The store's.
pub fn measure(figures: &mut Vec<Figure>) -> Result<()> {
    eprintln!("aging: filling");
    let laboratory = Laboratory::default();
    let inner = RamDrive::new(Image::blank(POOL));
    let drive = MeteredDrive::new(inner, &laboratory.exec, &laboratory.meter);
    let client = laboratory.pool_on(drive.clone(), config(2 * (POOL / BLOCK / 64)))?;
    let blocks = client.store.pool().size_bytes / BLOCK * FULL / 100;
    let user = client.clone();
    let id = laboratory.run(async move {
        let id = user.store.create_volume("v", blocks * BLOCK).await?.id;
        user.fill(id, blocks).await?;
        user.store.checkpoint().await?;
        Ok::<_, StoreError>(id)
    })??;
    layout(&laboratory, &client, id, "fresh", figures)?;
    for round in 1..=ROUNDS {
        interrupt::check()?;
        eprintln!("aging: round {round} of {ROUNDS}");
        let amplification = overwrite(&laboratory, &client, id, blocks, blocks)?;
        let name = format!("written per byte, pool {FULL} % full, random 4 KiB, round {round}");
        figures.push(exact(
            &name,
            "",
            amplification,
            "2.6 changes for each leaf and half",
        ));
    }
    layout(&laboratory, &client, id, "aged", figures)?;
    require_sound(&client)?;
    laboratory.run(async move { client.store.close().await })??;

    for (collected, stands_for, model) in MEMORIES {
        interrupt::check()?;
        eprintln!("aging: {stands_for}");
        // The table's halves are 1/64 of the pool at most, so a hot set with much memory is a part of the volume.
        let hot = blocks.min(POOL / BLOCK / 64 * LEAF / collected.ceil() as u64);
        let half = (hot as f64 / LEAF as f64 * collected) as u64;
        let client = laboratory.open_on(drive.clone(), config(2 * half))?;
        overwrite(&laboratory, &client, id, hot, 4 * half)?;
        let count = (hot / 2).clamp(8 * half, blocks);
        let amplification = overwrite(&laboratory, &client, id, hot, count)?;
        let name = format!("written per byte, hot set of {stands_for} of changes in memory");
        let how = format!(
            "scaled to {} MiB; the model gives {model}",
            (hot * BLOCK) >> 20
        );
        figures.push(exact(&name, "", amplification, &how));
        require_sound(&client)?;
        laboratory.run(async move { client.store.close().await })??;
    }
    Ok(())
}

/// Memory enough for all nodes, so that only data is read; room for so many changes.
fn config(deltas_max: u64) -> Config {
    Config {
        deltas_max: deltas_max as usize,
        nodes_max: 32 << 10,
        ..Config::for_memory(memory_of(256))
    }
}

/// Writes `count` blocks of the first `hot` and says how many bytes the drive was told to write for each byte.
fn overwrite(
    laboratory: &Laboratory,
    client: &Client<Drive>,
    id: VolumeId,
    hot: u64,
    count: u64,
) -> Result<f64> {
    let user = client.clone();
    let section = laboratory.measure(count, async move {
        user.random_writes(id, hot, count, DEPTH).await
    })?;
    Ok(section.each(section.counts.written_blocks))
}

/// What reads and writes of a part of the volume become.
fn layout(
    laboratory: &Laboratory,
    client: &Client<Drive>,
    id: VolumeId,
    state: &str,
    figures: &mut Vec<Figure>,
) -> Result<()> {
    let mib = ((PART * BLOCK) >> 20) as f64;
    let sweep = |user: Client<Drive>| async move {
        for at in (0..PART).step_by(Buf::PAGES_MAX) {
            user.read(id, at, Buf::PAGES_MAX).await?;
        }
        Ok::<_, StoreError>(())
    };
    laboratory.rest(5)?;
    laboratory.run(sweep(client.clone()))??;
    let reads = laboratory.measure(PART, sweep(client.clone()))?;
    let user = client.clone();
    let random = laboratory.measure(
        READS,
        async move { user.random_reads(id, PART, READS).await },
    )?;
    let mut add = |name: &str, unit, value| {
        figures.push(exact(
            &format!("{name}, {state} pool"),
            unit,
            value,
            "counted in this process",
        ));
    };
    let counts = reads.counts;
    add(
        "mean run of a volume's blocks",
        "blocks",
        counts.read_blocks as f64 / counts.jumps as f64,
    );
    add(
        "sequential 128 KiB reads: commands per MiB",
        "",
        counts.reads as f64 / mib,
    );
    add(
        "random 4 KiB reads: commands each",
        "",
        random.each(random.counts.reads),
    );
    // After the reads, because it changes what they count.
    let user = client.clone();
    let writes = laboratory.measure(PART, async move { user.fill(id, PART).await })?;
    add(
        "sequential 128 KiB writes: commands per MiB",
        "",
        writes.counts.writes as f64 / mib,
    );
    add(
        "sequential 128 KiB writes: written per byte",
        "",
        writes.each(writes.counts.written_blocks),
    );
    Ok(())
}

fn exact(name: &str, unit: &'static str, value: f64, remark: &str) -> Figure {
    let mut figure = Figure::new(name.into(), unit).remark(remark);
    figure.samples.push(value);
    figure
}
