//! The golden pools of today's format.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use offline::{Image, RamDrive, check_summary, run};
use store::{Config, Environment, FormatOptions, Store, StoreError};

use crate::contents::Shadow;
use crate::manifest::{Manifest, Pool};
use crate::packed;

const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;
/// Size of every drive: the least there is.
const DRIVE_BYTES: u64 = 64 * MIB;
/// Memory for the store's structures.
const MEMORY: usize = 4 << 20;

/// Decides uuids and salts.
const SEED: u64 = 0x90_1d;
/// Blocks that one checkpoint frees of what was deleted: few, so that a pool can end in the middle of it.
const RECLAIM_BLOCKS: usize = 40;

/// How a pool comes to be.
struct Recipe {
    name: &'static str,
    about: &'static str,
    has_journal: bool,
    /// Maps of deleted volumes and snapshots in the end.
    hidden: u64,
    drives: usize,
    story: Story,
}

/// What is done to a new pool. Whatever still runs when it returns ends as in a power cut.
type Story = for<'a> fn(&'a mut Shadow) -> Boxed<'a>;
type Boxed<'a> = std::pin::Pin<Box<dyn Future<Output = Result<(), StoreError>> + 'a>>;

const RECIPES: [Recipe; 5] = [
    Recipe {
        name: "closed",
        about: "volumes that were written, discarded, grown and deleted; closed in order",
        has_journal: false,
        hidden: 0,
        drives: 1,
        story: |shadow| Box::pin(closed(shadow)),
    },
    Recipe {
        name: "cut",
        about: "a power cut: writes, holes, new and deleted volumes behind the last checkpoint",
        has_journal: true,
        hidden: 1,
        drives: 1,
        story: |shadow| Box::pin(cut(shadow)),
    },
    Recipe {
        name: "two-drives",
        about: "a pool on two drives, with a journal",
        has_journal: true,
        hidden: 0,
        drives: 2,
        story: |shadow| Box::pin(two_drives(shadow)),
    },
    Recipe {
        name: "snapshots",
        about: "snapshots, clones of clones, a rollback, a deleted snapshot that stays as the root of two clones",
        has_journal: false,
        hidden: 1,
        drives: 1,
        story: |shadow| Box::pin(snapshots(shadow)),
    },
    Recipe {
        name: "collapse",
        about: "a power cut while a deleted snapshot is half taken apart; snapshots, clones and deletes in the journal",
        has_journal: true,
        hidden: 2,
        drives: 1,
        story: |shadow| Box::pin(half_collapse(shadow)),
    },
];

/// Makes all pools and their manifest in `folder`, which is new. The same version makes the same bytes.
///
/// # Errors
/// When the folder exists, or the store fails.
pub fn make(folder: &Path) -> Result<()> {
    std::fs::create_dir(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut pools = Vec::new();
    for recipe in RECIPES {
        let (pool, images) = make_pool(&recipe).with_context(|| recipe.name.to_owned())?;
        for (file, image) in pool.drives.iter().zip(&images) {
            packed::save(image, &folder.join(file))?;
        }
        pools.push(pool);
    }
    let made_by = env!("CARGO_PKG_VERSION").into();
    Manifest { made_by, pools }.save(folder)
}

fn make_pool(recipe: &Recipe) -> Result<(Pool, Vec<Image>)> {
    let drives: Vec<RamDrive> = (0..recipe.drives)
        .map(|_| RamDrive::new(Image::blank(DRIVE_BYTES)))
        .collect();
    let (plugged, story) = (drives.clone(), recipe.story);
    let volumes = run(SEED, move |environment| async move {
        let mut shadow = begin(plugged, environment).await?;
        story(&mut shadow).await?;
        Ok::<_, StoreError>(shadow.volumes())
    })??;
    let images: Vec<Image> = drives.iter().map(RamDrive::image).collect();
    let counts = check_summary(&drives).map_err(anyhow::Error::msg)?;
    ensure!(counts.hidden == recipe.hidden, "{counts:?}");
    let files = (0..recipe.drives).map(|index| format!("{}-{index}.img", recipe.name));
    let described = Pool {
        name: recipe.name.into(),
        about: recipe.about.into(),
        has_journal: recipe.has_journal,
        hidden: recipe.hidden,
        drives: files.collect(),
        volumes,
        records: RECORDS.map(|key| (key.into(), value_of(key))).into(),
    };
    Ok((described, images))
}

async fn begin(drives: Vec<RamDrive>, environment: Environment) -> Result<Shadow, StoreError> {
    Store::format(&drives, &environment, FormatOptions::default()).await?;
    let config = Config {
        reclaim_blocks: RECLAIM_BLOCKS,
        ..Config::for_memory(MEMORY)
    };
    let store = Store::open(drives, environment, config).await?;
    for key in RECORDS {
        let value = value_of(key);
        store.set_record(key, Some(value.as_bytes())).await?;
    }
    Ok(Shadow::new(store))
}

/// Keys of the records that every pool has.
const RECORDS: [&str; 2] = ["node.name", "exports/db"];

fn value_of(key: &str) -> String {
    format!("the value of {key}")
}

/// Two volumes in several checkpoints, one of an odd size, and one that is gone.
async fn some_volumes(shadow: &mut Shadow) -> Result<(), StoreError> {
    shadow.create("db", 16 * MIB).await?;
    shadow.create("odd", 3 * MIB + 1536).await?;
    shadow.create("gone", 4 * MIB).await?;
    shadow.write("db", 0, 512 * KIB).await?;
    shadow.write("gone", 0, 256 * KIB).await?;
    shadow.scatter("db", 16 * MIB, 40, 1).await?;
    shadow.store.checkpoint().await?;
    shadow.scatter("odd", 3 * MIB + 1536, 40, 2).await?;
    shadow.discard("db", 64 * KIB, 128 * KIB).await?;
    shadow.delete("gone").await?;
    shadow.store.checkpoint().await?;
    shadow.grow("odd", 40 * MIB).await?;
    shadow.write("odd", 39 * MIB, 20 * KIB).await
}

async fn closed(shadow: &mut Shadow) -> Result<(), StoreError> {
    some_volumes(shadow).await?;
    shadow.store.close().await
}

async fn cut(shadow: &mut Shadow) -> Result<(), StoreError> {
    some_volumes(shadow).await?;
    shadow.store.checkpoint().await?;
    shadow.create("late", 2 * MIB).await?;
    shadow.create("brief", MIB).await?;
    shadow.write("brief", 0, 64 * KIB).await?;
    shadow.scatter("late", 2 * MIB, 30, 3).await?;
    shadow.store.flush().await?;
    shadow.scatter("db", MIB, 30, 4).await?;
    shadow.discard("db", 256 * KIB, 8 * MIB).await?;
    shadow.delete("brief").await?;
    shadow.grow("late", 5 * MIB).await?;
    shadow.write("late", 4 * MIB, 12 * KIB).await?;
    shadow.store.flush().await
}

async fn two_drives(shadow: &mut Shadow) -> Result<(), StoreError> {
    some_volumes(shadow).await?;
    shadow.store.checkpoint().await?;
    shadow.create("wide", 100 * MIB).await?;
    shadow.scatter("wide", 100 * MIB, 40, 5).await?;
    shadow.store.flush().await?;
    shadow.scatter("db", MIB, 20, 6).await?;
    shadow.store.flush().await
}

/// `db` with three snapshots; `test` and `copy` from the middle one, `deep` from a snapshot of `test`.
async fn family(shadow: &mut Shadow) -> Result<(), StoreError> {
    some_volumes(shadow).await?;
    shadow.snapshot(&["db"], "monday").await?;
    shadow.scatter("db", 2 * MIB, 20, 7).await?;
    shadow.snapshot(&["db", "odd"], "tuesday").await?;
    shadow.scatter("db", 2 * MIB, 20, 8).await?;
    shadow.store.checkpoint().await?;
    shadow.clone_snapshot("db", "tuesday", "test").await?;
    shadow.clone_snapshot("db", "tuesday", "copy").await?;
    shadow.scatter("test", 2 * MIB, 20, 9).await?;
    shadow.grow("test", 20 * MIB).await?;
    shadow.snapshot(&["test"], "inner").await?;
    shadow.clone_snapshot("test", "inner", "deep").await?;
    shadow.scatter("deep", 20 * MIB, 20, 10).await?;
    shadow.snapshot(&["db"], "wednesday").await?;
    shadow.discard("db", 0, MIB).await
}

async fn snapshots(shadow: &mut Shadow) -> Result<(), StoreError> {
    family(shadow).await?;
    // Branches hang on it: it stays, unseen.
    shadow.delete_snapshot("db", "tuesday").await?;
    shadow.rollback("db", "monday").await?;
    shadow.scatter("db", MIB, 10, 11).await?;
    shadow.store.checkpoint().await?;
    shadow.snapshot(&["db", "test", "deep"], "together").await?;
    shadow.scatter("db", MIB, 10, 12).await?;
    shadow.store.close().await
}

/// A snapshot with blocks here and there which the volume has no more, and which is half taken apart when the power fails.
async fn half_collapse(shadow: &mut Shadow) -> Result<(), StoreError> {
    family(shadow).await?;
    shadow.create("wide", 32 * MIB).await?;
    for place in 0..40 {
        shadow.write("wide", place * 800 * KIB, 8 * KIB).await?;
    }
    shadow.snapshot(&["wide"], "base").await?;
    for place in 0..40 {
        shadow.write("wide", place * 800 * KIB, 4 * KIB).await?;
    }
    shadow.store.checkpoint().await?;
    shadow.delete_snapshot("wide", "base").await?;
    shadow.store.checkpoint().await?;
    shadow.snapshot(&["copy", "db"], "now").await?;
    shadow.scatter("copy", MIB, 10, 13).await?;
    shadow.clone_snapshot("db", "now", "last").await?;
    shadow.write("last", 3 * MIB, 8 * KIB).await?;
    shadow.delete("deep").await?;
    shadow.store.flush().await
}
