//! What deleting a snapshot of a rewritten volume costs, and what others feel meanwhile.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use anyhow::Result;
use exec::futures_util::future::join;
use store::{Config, StoreError};
use world::Instant;

use crate::engine::{BLOCK, Client, Drive, Laboratory, memory_of, require_sound};
use crate::interrupt;
use crate::report::Figure;

use super::MODEL;

/// Bytes of the pool.
const POOL: u64 = 6 << 30;
/// Blocks of the volume: 2 GiB.
const BLOCKS: u64 = 1 << 19;
/// Blocks of the volume that others use: 256 MiB.
const OTHER: u64 = 1 << 16;
/// Memory of the machine in MiB.
const MEMORY_MIB: usize = 128;
/// Operations of the others at a time.
const DEPTH: u64 = 8;
/// How long others are watched before, in nanoseconds of the drive's clock.
const BEFORE_NANOS: u64 = 500_000_000;
/// Space counts as back when no more than this is left of it.
const REST_BYTES: u64 = 4 << 20;

/// Latencies of one kind of work in one phase, in µs.
type Latencies = Rc<RefCell<[Vec<f64>; 2]>>;

/// Deletes the snapshot of a 2 GiB volume that was written anew since.
///
/// # Errors
/// The store's.
pub fn measure() -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let quiet = delete(false)?;
    let busy = delete(true)?;
    for (result, how) in [(&quiet, "idle"), (&busy, "while others read and write")] {
        let name =
            |what: &str| format!("delete of a snapshot of a rewritten 2 GiB volume, {how}: {what}");
        let mut add = |what: &str, unit, value: f64, remark: &str| {
            let mut figure = Figure::new(name(what), unit).remark(remark);
            figure.samples.push(value);
            figures.push(figure);
        };
        add("acknowledged", "µs", result.acknowledged, MODEL);
        add("space back", "ms", result.back, MODEL);
        if how == "idle" {
            let each = |count: u64| count as f64 / (BLOCKS as f64 / 1024.0);
            let remark = "counted, until the space is back";
            add(
                "drive reads for each 4 MiB",
                "",
                each(result.counts.reads),
                remark,
            );
            add(
                "drive writes for each 4 MiB",
                "",
                each(result.counts.writes),
                remark,
            );
            add(
                "deallocations for each 4 MiB",
                "",
                each(result.counts.discards),
                remark,
            );
        }
        for (kind, phases) in [("write", &result.writes), ("read", &result.reads)] {
            for (phase, times) in ["before", "meanwhile"].iter().zip(phases) {
                let Some((rate, p50, p99)) = summary(times) else {
                    continue;
                };
                let remark = format!("4 KiB random {kind}s, QD {DEPTH}, {phase}; {MODEL}");
                add(&format!("{kind}s {phase}, p50"), "µs", p50, &remark);
                add(&format!("{kind}s {phase}, p99"), "µs", p99, &remark);
                add(&format!("{kind}s {phase}, longest"), "µs", rate, &remark);
            }
        }
    }
    Ok(figures)
}

/// What one delete came to.
struct Deletion {
    acknowledged: f64,
    back: f64,
    counts: crate::engine::drive::Counts,
    writes: [Vec<f64>; 2],
    reads: [Vec<f64>; 2],
}

fn delete(is_busy: bool) -> Result<Deletion> {
    interrupt::check()?;
    let laboratory = Laboratory::default();
    let client = laboratory.new_pool(POOL, Config::for_memory(memory_of(MEMORY_MIB)))?;
    let user = client.clone();
    let (id, snapshot, other) = laboratory.run(async move {
        let id = user.store.create_volume("v", BLOCKS * BLOCK).await?.id;
        let other = user.store.create_volume("other", OTHER * BLOCK).await?.id;
        user.fill(other, OTHER).await?;
        user.fill(id, BLOCKS).await?;
        let snapshot = user.store.create_snapshot(id, "s").await?.id;
        user.fill(id, BLOCKS).await?;
        user.store.checkpoint().await?;
        Ok::<_, StoreError>((id, snapshot, other))
    })??;
    let _ = id;
    laboratory.rest(10)?;

    let (is_over, phase) = (Rc::new(Cell::new(!is_busy)), Rc::new(Cell::new(0)));
    let (writes, reads) = (Latencies::default(), Latencies::default());
    let user = client.clone();
    let (over, at, w, r) = (
        is_over.clone(),
        phase.clone(),
        writes.clone(),
        reads.clone(),
    );
    let others = async move {
        let worker = |index: u64| {
            let (user, over, at) = (&user, &over, &at);
            let times = if index.is_multiple_of(2) { &w } else { &r };
            async move {
                while !over.get() {
                    let (start, block) = (user.exec.now(), user.random.below(OTHER));
                    match index % 2 {
                        0 => user.write(other, block, 1).await?,
                        _ => user.read(other, block, 1).await?,
                    }
                    times.borrow_mut()[at.get()].push(micros(user, start));
                }
                Ok::<_, StoreError>(())
            }
        };
        let workers = (0..2 * DEPTH).map(worker);
        exec::join_all(workers)
            .await
            .into_iter()
            .collect::<Result<(), _>>()
    };
    let user = client.clone();
    let meter = laboratory.meter.clone();
    let deletion = async move {
        if is_busy {
            user.exec
                .sleep(std::time::Duration::from_nanos(BEFORE_NANOS))
                .await;
        }
        phase.set(1);
        let used = user.store.pool().used_bytes;
        meter.take();
        let start = user.exec.now();
        user.store.delete_snapshot(snapshot).await?;
        let acknowledged = micros(&user, start);
        while user.store.pool().used_bytes + BLOCKS * BLOCK > used + REST_BYTES {
            user.exec.sleep(std::time::Duration::from_millis(1)).await;
        }
        let back = micros(&user, start) / 1000.0;
        is_over.set(true);
        Ok::<_, StoreError>((acknowledged, back, meter.take()))
    };
    let (fine, deleted) = laboratory.run(async move { join(others, deletion).await })?;
    fine?;
    let (acknowledged, back, counts) = deleted?;
    require_sound(&client)?;
    Ok(Deletion {
        acknowledged,
        back,
        counts,
        writes: writes.take(),
        reads: reads.take(),
    })
}

fn micros(user: &Client<Drive>, start: Instant) -> f64 {
    user.exec.now().since(start).as_secs_f64() * 1e6
}

/// The longest, the median and the 99th percentile.
fn summary(times: &[f64]) -> Option<(f64, f64, f64)> {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |percent: usize| sorted.get(sorted.len() * percent / 100).copied();
    Some((*sorted.last()?, at(50)?, at(99)?))
}
