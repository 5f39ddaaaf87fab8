//! What making a snapshot costs, whatever exists.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use exec::futures_util::future::join;
use store::{Config, StoreError, VolumeId};

use crate::engine::{Client, Drive, Laboratory, memory_of, require_sound};
use crate::report::Figure;

use super::{MODEL, Row};

/// Bytes of the pool.
const POOL: u64 = 4 << 30;
/// Blocks of the volume, and how many of them are written.
const BLOCKS: u64 = 1 << 18;
const WRITTEN: u64 = 16 << 8;
/// Memory of the machine in MiB: enough for the most snapshots.
const MEMORY_MIB: usize = 384;
/// Snapshots that exist already.
const EXISTING: [u64; 4] = [0, 100, 1000, 10_000];
/// More than this takes too long when each instruction is counted.
const COUNTED_MAX: u64 = 1000;
/// Samples of each.
const SAMPLES: u64 = 5;
/// Samples under load, and the pause between two.
const LOADED_SAMPLES: u64 = 50;
const PAUSE: Duration = Duration::from_millis(10);
/// Writers of the load.
const DEPTH: u64 = 32;

/// A snapshot of an idle volume.
///
/// # Errors
/// The store's.
pub fn idle(is_counted: bool) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let most = if is_counted { COUNTED_MAX } else { u64::MAX };
    for existing in EXISTING.into_iter().filter(|existing| *existing <= most) {
        let laboratory = Laboratory::default();
        let (client, id) = prepare(&laboratory, existing)?;
        for sample in 0..SAMPLES {
            laboratory.rest(5)?;
            let store = client.store.clone();
            let section = laboratory.measure(1, async move {
                let name = format!("sample{sample}");
                store.create_snapshot(id, &name).await.map(drop)
            })?;
            let name = format!("snapshot create, {existing} existing, idle");
            rows.push(Row { name, section });
        }
        require_sound(&client)?;
    }
    Ok(rows)
}

/// Snapshots of a volume that is written at depth 32, and what its writers notice.
///
/// # Errors
/// The store's.
pub fn under_load() -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for existing in EXISTING {
        let laboratory = Laboratory::default();
        let (client, id) = prepare(&laboratory, existing)?;
        let name = format!(
            "snapshot create, {existing} existing, under 4 KiB random writes at QD {DEPTH}"
        );
        let mut figure = Figure::new(name, "µs").remark(MODEL);
        figure.samples = laboratory.run(loaded(client, id))??;
        figures.push(figure);
    }
    Ok(figures)
}

async fn loaded(client: Client<Drive>, id: VolumeId) -> Result<Vec<f64>, StoreError> {
    let (is_over, times) = (Rc::new(Cell::new(false)), RefCell::new(Vec::new()));
    let load = async {
        while !is_over.get() {
            client.random_writes(id, WRITTEN, 1000, DEPTH).await?;
        }
        Ok(())
    };
    let snapshots = async {
        for sample in 0..LOADED_SAMPLES {
            client.exec.sleep(PAUSE).await;
            let start = client.exec.now();
            let name = format!("loaded{sample}");
            let made = client.store.create_snapshot(id, &name).await;
            if made.is_err() {
                is_over.set(true);
            }
            made?;
            let time = client.exec.now().since(start);
            times.borrow_mut().push(time.as_secs_f64() * 1e6);
        }
        is_over.set(true);
        Ok(())
    };
    let results: (Result<(), StoreError>, Result<(), StoreError>) = join(load, snapshots).await;
    results.0.and(results.1)?;
    Ok(times.into_inner())
}

/// A pool with a volume that has `existing` snapshots, each with a block of its own.
fn prepare(laboratory: &Laboratory, existing: u64) -> Result<(Client<Drive>, VolumeId)> {
    let config = Config::for_memory(memory_of(MEMORY_MIB));
    let client = laboratory.new_pool(POOL, config)?;
    let user = client.clone();
    let id = laboratory.run(async move {
        let id = user.store.create_volume("v", BLOCKS * 4096).await?.id;
        user.fill(id, WRITTEN).await?;
        for number in 0..existing {
            user.store
                .create_snapshot(id, &format!("s{number}"))
                .await?;
            user.write(id, user.random.below(WRITTEN), 1).await?;
        }
        user.store.checkpoint().await?;
        Ok::<_, StoreError>(id)
    })??;
    Ok((client, id))
}
