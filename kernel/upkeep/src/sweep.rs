//! Gives back what arrived of adopted volumes and nobody needs any more, while clients leave room for that.

use core::time::Duration;

use exec::Exec;
use volume::{BaseId, StoreError, Volumes};
use world::Disk;

use crate::pace;

/// A start has better things to do at first.
const FIRST_REST: Duration = Duration::from_secs(60);
/// The least time between two looks.
const REST: Duration = Duration::from_secs(600);
/// A look that took long is not repeated before so many times that: most of them find little.
const REST_FACTOR: u32 = 20;

/// Does it again and again; ends with the store.
pub(crate) async fn run<D: Disk + 'static>(exec: Exec, volumes: Volumes<D>) {
    let mut operations = None;
    exec.sleep(FIRST_REST).await;
    loop {
        let begun = exec.now();
        // What nobody changed has nothing to give.
        if operations.replace(volumes.operations()) != Some(volumes.operations()) {
            for base in volumes.sweepable() {
                if let Err(StoreError::Closed) = sweep(&exec, &volumes, base).await {
                    return;
                }
            }
        }
        exec.sleep(REST.max((exec.now() - begun) * REST_FACTOR))
            .await;
    }
}

async fn sweep<D: Disk + 'static>(
    exec: &Exec,
    volumes: &Volumes<D>,
    base: BaseId,
) -> Result<(), StoreError> {
    let (mut at, mut freed) = (Some(0), 0);
    let mut operations = volumes.operations();
    while let Some(from) = at {
        let is_busy = core::mem::replace(&mut operations, volumes.operations()) != operations;
        let begun = exec.now();
        let step = volumes.store().sweep(base, from).await;
        let step = step.inspect_err(|error| log::debug!("base {}: {error}", base.0))?;
        (at, freed) = (step.next, freed + step.freed_bytes);
        let rest = pace::rest(exec.now() - begun, is_busy, 0, 0);
        match rest.is_zero() {
            true => exec.yield_now().await,
            false => exec.sleep(rest).await,
        }
    }
    if freed > 0 {
        log::info!(
            "{} MiB that had arrived, and were overwritten by everybody since, are free again",
            freed >> 20
        );
    }
    Ok(())
}
