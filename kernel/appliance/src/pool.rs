//! From drives to a pool that serves, or to the reason why there is none.

use alloc::string::ToString;
use alloc::vec::Vec;

use appliance::plan::{Action, Inspected, Plan, Verdict, decide, short};
use serve::api::DriveState;
use store::{Config, Environment, FormatOptions, PoolState, Store, StoreError};
use volume::{DEMO, Volumes};
use world::Disk;

use crate::drive::Drive;

/// What the demo volume has where there is room, and what it is a multiple of.
const DEMO_BYTES: u64 = 1 << 30;
const DEMO_UNIT: u64 = 1 << 20;

/// The pool, and what each drive turned out to be.
pub struct Pool {
    /// The pool, if there is one.
    pub store: Option<Store<Drive>>,
    /// One for each drive, in the same order.
    pub verdicts: Vec<Verdict>,
}

/// How a pool is brought up.
pub struct Terms {
    /// What the store runs on.
    pub environment: Environment,
    /// How much memory it takes.
    pub config: Config,
    /// Whether a new pool gets the volume `demo`.
    pub demo: bool,
    /// Whether all controllers work, so that no drive is hidden.
    pub are_all_there: bool,
}

/// Looks at all drives, decides, and does it.
pub async fn bring_up(drives: &[Drive], terms: Terms) -> Pool {
    let inspections = drives.iter().map(inspect);
    let inspected = exec::join_all(inspections).await;
    let mut plan = decide(&inspected, terms.are_all_there);
    tell(drives, &plan);
    let (taken, is_new) = match &plan.action {
        Action::Open(taken) => (taken.clone(), false),
        Action::Format(taken) => (taken.clone(), true),
        Action::Nothing(why) => {
            log::error!("no pool: {why}");
            return Pool {
                store: None,
                verdicts: plan.verdicts,
            };
        }
    };
    let chosen = taken.iter().map(|index| drives[*index].clone()).collect();
    let store = match start(chosen, is_new, terms).await {
        Ok(store) => Some(store),
        Err(error) => {
            log::error!("no pool: it cannot be opened: {error}");
            for index in taken {
                plan.verdicts[index].state = DriveState::Failed;
                plan.verdicts[index].detail = Some(error.to_string());
            }
            None
        }
    };
    Pool {
        store,
        verdicts: plan.verdicts,
    }
}

async fn inspect(drive: &Drive) -> Inspected {
    Inspected {
        blocks: drive.geometry().blocks,
        contents: Store::inspect(drive).await,
    }
}

fn tell(drives: &[Drive], plan: &Plan) {
    for (drive, verdict) in drives.iter().zip(&plan.verdicts) {
        if let Some(detail) = &verdict.detail {
            let info = drive.info();
            log::warn!("{} (serial {}): {detail}", info.id, info.serial);
        }
    }
}

async fn start(drives: Vec<Drive>, is_new: bool, terms: Terms) -> Result<Store<Drive>, StoreError> {
    let Terms {
        environment,
        config,
        demo,
        ..
    } = terms;
    let begun = environment.exec.now();
    if is_new {
        log::info!("making a pool on {} blank drives", drives.len());
        Store::format(&drives, &environment, FormatOptions::default()).await?;
    }
    let exec = environment.exec.clone();
    let store = Store::open(drives, environment, config).await?;
    let pool = store.pool();
    log::info!(
        "{} of {} MiB, {} MiB used, volumes: {}; {} in {} ms",
        short(&pool.uuid),
        pool.size_bytes >> 20,
        pool.used_bytes >> 20,
        store.volumes().len(),
        if is_new { "made" } else { "opened" },
        (exec.now() - begun).as_millis()
    );
    if let PoolState::ReadOnly(why) = &pool.state {
        log::error!("the pool takes no writes: {why}");
    }
    if is_new && demo {
        make_demo(&store).await;
    }
    Ok(store)
}

/// A volume to try things with. Without it the pool is as good.
async fn make_demo(store: &Store<Drive>) {
    let room = store.pool().free_bytes / 4 * 3;
    let size = DEMO_BYTES.min(room / DEMO_UNIT * DEMO_UNIT);
    match Volumes::new(store.clone()).create(DEMO, size).await {
        Ok(_) if size < DEMO_BYTES => {
            log::info!(
                "volume {DEMO} has only {} MiB: the pool is small",
                size >> 20
            );
        }
        Ok(_) => log::info!("volume {DEMO} of {} MiB", size >> 20),
        Err(error) => log::warn!("volume {DEMO} was not made: {error}"),
    }
}
