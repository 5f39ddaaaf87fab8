//! A drive that lost power, opened as the appliance would.

use std::sync::Arc;

use offline::{Image, RamDrive, check, read_source};
use store::{Config, Contents, Source, Store};

use crate::story::{Stamps, State, Volume, prefix, stamps_of};

/// Memory for the store's structures, as a small appliance has it.
const MEMORY: usize = 16 << 20;

/// Checks the drive, opens the pool on it, reads everything that `clients` have there, closes the pool and checks it again.
///
/// # Errors
/// What is wrong with the pool.
pub fn examine(image: Image, clients: &[u64]) -> Result<Vec<State>, String> {
    let drive = RamDrive::new(image);
    let inspected = drive.clone();
    let contents = offline::run(1, |_| async move { Store::inspect(&inspected).await });
    match contents {
        Ok(Ok(Contents::Member { .. })) => {}
        // Before the pool was made; with its very first label torn, a person has to say that the drive may be used. A client
        // that was promised anything by then misses it.
        Ok(Ok(Contents::Blank | Contents::Foreign(_))) => {
            return Ok(vec![State::default(); clients.len()]);
        }
        other => return Err(format!("the drive holds no pool: {other:?}")),
    }
    check(std::slice::from_ref(&drive))?;
    let (opened, clients) = (drive.clone(), clients.to_vec());
    let found = offline::run(2, |environment| async move {
        let config = Config::for_memory(MEMORY);
        let store = Store::open(vec![opened], environment, config).await;
        let store = store.map_err(|error| format!("the pool does not open: {error}"))?;
        let mut states = Vec::new();
        for client in clients {
            states.push(read_state(&store, client).await?);
        }
        let closed = store.close().await;
        closed.map_err(|error| format!("the pool does not close: {error}"))?;
        Ok::<_, String>(states)
    });
    let states = found.map_err(|stuck| stuck.to_string())??;
    check(&[drive]).map_err(|findings| format!("after recovery and close: {findings}"))?;
    Ok(states)
}

async fn read_state(store: &Store<RamDrive>, client: u64) -> Result<State, String> {
    let mut state = State::default();
    for info in store.volumes() {
        if !info.name.starts_with(&prefix(client)) {
            continue;
        }
        let mut volume = Volume {
            stamps: read_stamps(store, info.id.into(), info.size_bytes, client, &info.name).await?,
            ..Volume::default()
        };
        for snapshot in store.snapshots(info.id) {
            let name = format!("{}@{}", info.name, snapshot.name);
            let stamps = read_stamps(
                store,
                snapshot.id.into(),
                snapshot.size_bytes,
                client,
                &name,
            )
            .await?;
            volume.snapshots.insert(snapshot.name, stamps);
        }
        state.volumes.insert(info.name, volume);
    }
    Ok(state)
}

async fn read_stamps(
    store: &Store<RamDrive>,
    source: Source,
    size_bytes: u64,
    client: u64,
    name: &str,
) -> Result<Stamps, String> {
    let mut bytes = read_source(store, source, size_bytes)
        .await
        .map_err(|(offset, error)| format!("{name} cannot be read at {offset}: {error}"))?;
    bytes.truncate(usize::try_from(size_bytes).unwrap_or(usize::MAX));
    let stamps = stamps_of(client, &bytes).map_err(|error| format!("{name}: {error:#}"))?;
    Ok(Arc::new(stamps))
}
