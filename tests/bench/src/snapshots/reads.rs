//! What reads of a volume cost through its snapshots.

use anyhow::Result;
use store::{Config, StoreError};

use crate::engine::{Laboratory, memory_of, require_sound};

use super::Row;

/// Bytes of the pool.
const POOL: u64 = 2 << 30;
/// Blocks of the volume: 64 MiB.
const BLOCKS: u64 = 1 << 14;
/// Memory of the machine in MiB.
const MEMORY_MIB: usize = 128;
/// Blocks that are written after each snapshot.
const REWRITTEN: u64 = 8;
/// Snapshots in all, one step after the other on the same volume.
const STEPS: [u64; 5] = [0, 1, 10, 100, 1000];
/// Reads of each sample.
const READS: u64 = 3000;

/// Random reads through more and more snapshots.
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
        Ok::<_, StoreError>(id)
    })??;
    let mut rows = Vec::new();
    let mut reads = |name: String| -> Result<()> {
        let user = client.clone();
        let section =
            laboratory.measure(
                READS,
                async move { user.random_reads(id, BLOCKS, READS).await },
            )?;
        let name = format!("4 KiB random read, {name}");
        rows.push(Row { name, section });
        Ok(())
    };
    let mut existing = 0;
    for step in STEPS {
        let user = client.clone();
        let more = step - existing;
        existing = step;
        laboratory.run(async move {
            for _ in 0..more {
                let name = format!("s{}", user.random.next());
                user.store.create_snapshot(id, &name).await?;
                for _ in 0..REWRITTEN {
                    user.write(id, user.random.below(BLOCKS), 1).await?;
                }
            }
            Ok::<_, StoreError>(())
        })??;
        if step == 1 || step == 10 {
            reads(format!(
                "right after snapshot {step}, before its checkpoint"
            ))?;
        }
        let user = client.clone();
        laboratory.run(async move {
            user.store.checkpoint().await?;
            // The map's nodes are in memory for all of them.
            user.random_reads(id, BLOCKS, READS).await
        })??;
        laboratory.rest(5)?;
        reads(format!("{step} snapshots"))?;
    }
    require_sound(&client)?;
    Ok(rows)
}
