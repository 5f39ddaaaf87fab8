//! Every golden pool is opened, compared, used and checked by today's code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use golden::manifest::{Contents, Volume};
use golden::{Manifest, Pool, Shadow, packed};
use offline::{RamDrive, check, check_summary, read_source, run};
use store::{Config, Source, Store};

/// Memory for the store's structures.
const MEMORY: usize = 8 << 20;
/// A packed image, at most.
const FILE_BYTES_MAX: u64 = 200 << 10;

fn folders() -> Result<Vec<PathBuf>> {
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("images");
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(images)? {
        folders.push(entry?.path());
    }
    folders.sort();
    ensure!(!folders.is_empty(), "no images");
    Ok(folders)
}

#[test]
fn pools_of_every_format_hold_what_they_held_and_can_be_used() -> Result<()> {
    for folder in folders()? {
        for pool in Manifest::load(&folder)?.pools {
            let place = || format!("{} of {}", pool.name, folder.display());
            open_and_use(&folder, &pool).with_context(place)?;
        }
    }
    Ok(())
}

fn open_and_use(folder: &Path, pool: &Pool) -> Result<()> {
    let mut drives = Vec::new();
    for file in &pool.drives {
        let path = folder.join(file);
        let bytes = std::fs::metadata(&path)?.len();
        ensure!(bytes < FILE_BYTES_MAX, "{file} has {bytes} bytes");
        drives.push(RamDrive::new(packed::load(&path)?));
    }
    let summary = check_summary(&drives).map_err(|what| anyhow!("as it was made: {what}"))?;
    ensure!((summary.frames > 0) == pool.has_journal, "{summary:?}");
    ensure!(summary.hidden == pool.hidden, "{summary:?}");
    compare(&drives, pool).context("as it was made")?;
    check(&drives).map_err(|what| anyhow!("opened and closed: {what}"))?;
    let used = use_it(&drives)?;
    check(&drives).map_err(|what| anyhow!("after use: {what}"))?;
    let mut after = pool.clone();
    after.volumes.insert("new".into(), used);
    compare(&drives, &after).context("after use")
}

/// Opens the pool, compares all of it and closes it.
fn compare(drives: &[RamDrive], pool: &Pool) -> Result<()> {
    let (plugged, records) = (drives.to_vec(), pool.records.clone());
    let (volumes, records) = run(1, move |environment| async move {
        let store = Store::open(plugged, environment, Config::for_memory(MEMORY)).await?;
        let volumes = contents(&store).await?;
        let mut found = BTreeMap::new();
        for key in records.keys() {
            let value = store.record(key).await?.context("no such record")?;
            found.insert(key.clone(), String::from_utf8(value)?);
        }
        store.close().await?;
        Ok::<_, anyhow::Error>((volumes, found))
    })??;
    ensure!(records == pool.records, "the records are {records:?}");
    let names: Vec<_> = volumes.keys().collect();
    let expected: Vec<_> = pool.volumes.keys().collect();
    ensure!(names == expected, "volumes are {names:?}, not {expected:?}");
    for (name, volume) in &pool.volumes {
        let found = &volumes[name];
        ensure!(found == volume, "{name} is {found:#?}, not {volume:#?}");
    }
    Ok(())
}

async fn contents(store: &Store<RamDrive>) -> Result<BTreeMap<String, Volume>> {
    let mut volumes = BTreeMap::new();
    for info in store.volumes() {
        let mut volume = Volume {
            contents: described(store, info.id.into(), info.uuid, info.size_bytes).await?,
            snapshots: BTreeMap::new(),
        };
        for snapshot in store.snapshots(info.id) {
            let (id, uuid) = (snapshot.id.into(), snapshot.uuid);
            let described = described(store, id, uuid, snapshot.size_bytes).await?;
            volume.snapshots.insert(snapshot.name, described);
        }
        volumes.insert(info.name, volume);
    }
    Ok(volumes)
}

async fn described(
    store: &Store<RamDrive>,
    source: Source,
    uuid: [u8; 16],
    size: u64,
) -> Result<Contents> {
    let read = read_source(store, source, size).await;
    let mut bytes = read.map_err(|(at, error)| anyhow!("{source:?} at {at}: {error}"))?;
    bytes.truncate(usize::try_from(size)?);
    Ok(Contents::of(uuid, &bytes))
}

/// Uses the pool without changing what is there: a volume more. Returns what that holds.
fn use_it(drives: &[RamDrive]) -> Result<Volume> {
    let plugged = drives.to_vec();
    let volume = run(2, move |environment| async move {
        let store = Store::open(plugged, environment, Config::for_memory(MEMORY)).await?;
        let mut shadow = Shadow::new(store);
        shadow.create("new", 8 << 20).await?;
        shadow.scatter("new", 8 << 20, 50, 1).await?;
        shadow.snapshot(&["new"], "once").await?;
        shadow.scatter("new", 8 << 20, 50, 2).await?;
        shadow.store.flush().await?;
        Ok::<_, store::StoreError>(shadow.volumes().remove("new"))
    })??;
    volume.context("the new volume")
}
