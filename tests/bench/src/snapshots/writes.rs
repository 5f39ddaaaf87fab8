//! What 4 KiB random writes cost before, right after and while snapshots are made.

use anyhow::Result;
use exec::futures_util::future::join;
use store::{Config, StoreError};

use crate::engine::{Laboratory, memory_of, require_sound};

use super::Row;

/// Bytes of the pool.
const POOL: u64 = 4 << 30;
/// Blocks that are written: 256 MiB.
const BLOCKS: u64 = 1 << 16;
/// Memory of the machine in MiB.
const MEMORY_MIB: usize = 128;
/// Writes of each phase, and writers.
const WRITES: u64 = 20_000;
const DEPTH: u64 = 32;
/// Writes between two snapshots: about what the image does in a second in QEMU on two cores.
const PERIOD: u64 = 10_000;
/// Snapshots in the last phase.
const PERIODS: u64 = 4;

/// The phases, one after the other on the same volume.
///
/// # Errors
/// The store's.
pub fn run(_: bool) -> Result<Vec<Row>> {
    let laboratory = Laboratory::default();
    let client = laboratory.new_pool(POOL, Config::for_memory(memory_of(MEMORY_MIB)))?;
    let user = client.clone();
    let id = laboratory.run(async move {
        let id = user.store.create_volume("v", BLOCKS * 4096).await?.id;
        user.fill(id, BLOCKS).await?;
        user.random_writes(id, BLOCKS, BLOCKS, DEPTH).await?;
        user.store.checkpoint().await?;
        Ok::<_, StoreError>(id)
    })??;
    laboratory.rest(5)?;

    let mut rows = Vec::new();
    let mut phase = |name: &str, snapshots: u64, count: u64| -> Result<()> {
        let user = client.clone();
        let section = laboratory.measure(count * snapshots.max(1), async move {
            for _ in 0..snapshots {
                let name = format!("s{}", user.random.next());
                let snapshot = user.store.create_snapshot(id, &name);
                // The writers do not wait for it on purpose: only as far as the store makes them.
                let writes = user.random_writes(id, BLOCKS, count, DEPTH);
                let (made, written) = join(snapshot, writes).await;
                made?;
                written?;
            }
            if snapshots == 0 {
                user.random_writes(id, BLOCKS, count, DEPTH).await?;
            }
            // Each phase pays for its own checkpoints.
            user.store.checkpoint().await
        })?;
        let name = format!("4 KiB random write, QD {DEPTH}, {name}");
        rows.push(Row { name, section });
        laboratory.rest(5)
    };
    for _ in 0..3 {
        phase("no snapshot", 0, WRITES)?;
    }
    phase("right after a snapshot", 1, WRITES)?;
    phase(
        &format!("a snapshot every {PERIOD} writes"),
        PERIODS,
        PERIOD,
    )?;
    phase("after the last snapshot", 0, WRITES)?;
    require_sound(&client)?;
    Ok(rows)
}
