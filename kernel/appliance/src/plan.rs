//! What becomes of the drives: which pool is opened, or whether a new one is made.
//!
//! - Exactly one pool, with all of its drives: it is opened, whichever machine it came from.
//! - No pool, and blank drives: a new pool is made on all of them.
//! - Anything else: nothing is served, and it is said why.
//!
//! A drive that holds anything but a pool or nothing is never written. Neither is a blank one beside a pool, or beside a
//! drive that cannot be read: that could be the missing part of a pool.

#[cfg(test)]
mod tests;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serve::api::DriveState;
use store::{Contents, StoreError};

/// The smallest drive that a pool can be made on, in blocks: 64 MiB.
const BLOCKS_MIN: u64 = (64 << 20) / world::BLOCK_SIZE as u64;

/// What looking at a drive gave.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// Its size.
    pub blocks: u64,
    /// What it holds, or why it cannot be read.
    pub contents: Result<Contents, StoreError>,
}

/// What to do. Drives are named by their index in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open the pool on these drives.
    Open(Vec<usize>),
    /// Make a pool on these drives and open it.
    Format(Vec<usize>),
    /// Serve no pool, for this reason.
    Nothing(String),
}

/// What a drive turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its state if the action succeeds.
    pub state: DriveState,
    /// What it holds or why it is left alone, for people.
    pub detail: Option<String>,
}

/// What to do with all drives, and what each of them is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What to do.
    pub action: Action,
    /// One for each drive, in the same order.
    pub verdicts: Vec<Verdict>,
}

/// Decides. `are_all_there` is false when a controller failed, so that its drives were not even seen.
#[must_use]
pub fn decide(drives: &[Inspected], are_all_there: bool) -> Plan {
    let action = choose(drives, are_all_there);
    let verdicts = drives
        .iter()
        .enumerate()
        .map(|(index, drive)| judge(index, drive, &action))
        .collect();
    Plan { action, verdicts }
}

fn choose(drives: &[Inspected], are_all_there: bool) -> Action {
    let pools = pools(drives);
    match pools.as_slice() {
        [] => make(drives, are_all_there),
        [pool] => pool.open(),
        several => {
            let names: Vec<String> = several.iter().map(|pool| short(&pool.uuid)).collect();
            Action::Nothing(format!(
                "drives of {} pools are here ({}): only one can be served, take the others out",
                several.len(),
                names.join(", ")
            ))
        }
    }
}

/// Without a pool: a new one on all blank drives.
fn make(drives: &[Inspected], are_all_there: bool) -> Action {
    let is_usable = |drive: &Inspected| drive.is_blank() && drive.blocks >= BLOCKS_MIN;
    let blank: Vec<usize> = (0..drives.len())
        .filter(|index| is_usable(&drives[*index]))
        .collect();
    if blank.is_empty() {
        let why = if drives.is_empty() {
            "no drive was found"
        } else {
            "no drive holds a pool, and none is blank"
        };
        return Action::Nothing(why.into());
    }
    if !are_all_there || drives.iter().any(|drive| drive.contents.is_err()) {
        return Action::Nothing(
            "a drive that cannot be read may hold a pool, so no new one is made on the blank drives"
                .into(),
        );
    }
    Action::Format(blank)
}

fn judge(index: usize, drive: &Inspected, action: &Action) -> Verdict {
    let (state, detail) = match (&drive.contents, action) {
        (Err(error), _) => (DriveState::Failed, Some(error.to_string())),
        (Ok(Contents::Foreign(what)), _) => (
            DriveState::Foreign,
            Some(format!("holds {what}; left alone")),
        ),
        (Ok(_), Action::Open(taken) | Action::Format(taken)) if taken.contains(&index) => {
            (DriveState::Serving, None)
        }
        (Ok(Contents::Blank), _) if drive.blocks < BLOCKS_MIN => (
            DriveState::Blank,
            Some("blank, and too small for a pool: 64 MiB is the least".into()),
        ),
        (Ok(Contents::Blank), _) => (DriveState::Blank, Some("blank; left alone".into())),
        (
            Ok(Contents::Member {
                pool_uuid, members, ..
            }),
            _,
        ) => (
            DriveState::Foreign,
            Some(format!(
                "one of {members} drives of pool {}; not served",
                short(pool_uuid)
            )),
        ),
    };
    Verdict { state, detail }
}

/// The drives that claim to belong to one pool.
struct Claimed {
    uuid: [u8; 16],
    /// Drives by their number in the pool.
    drives: BTreeMap<[u8; 16], Vec<usize>>,
    members: usize,
}

fn pools(drives: &[Inspected]) -> Vec<Claimed> {
    let mut pools: BTreeMap<[u8; 16], Claimed> = BTreeMap::new();
    for (index, drive) in drives.iter().enumerate() {
        if let Ok(Contents::Member {
            pool_uuid,
            device_uuid,
            members,
        }) = &drive.contents
        {
            let pool = pools.entry(*pool_uuid).or_insert_with(|| Claimed {
                uuid: *pool_uuid,
                drives: BTreeMap::new(),
                members: *members,
            });
            pool.drives.entry(*device_uuid).or_default().push(index);
        }
    }
    pools.into_values().collect()
}

impl Claimed {
    fn open(&self) -> Action {
        let name = short(&self.uuid);
        let (here, members) = (self.drives.len(), self.members);
        if let Some(twins) = self.drives.values().find(|drives| drives.len() > 1) {
            return Action::Nothing(format!(
                "{} drives claim to be the same drive of pool {name}: take the copies out",
                twins.len()
            ));
        }
        if here != members {
            return Action::Nothing(format!(
                "only {here} of {members} drives of pool {name} are here: {} missing",
                members.saturating_sub(here)
            ));
        }
        let mut taken: Vec<usize> = self.drives.values().flatten().copied().collect();
        taken.sort_unstable();
        Action::Open(taken)
    }
}

impl Inspected {
    fn is_blank(&self) -> bool {
        matches!(self.contents, Ok(Contents::Blank))
    }
}

/// The first bytes of a uuid: enough to tell pools apart.
#[must_use]
pub fn short(uuid: &[u8; 16]) -> String {
    uuid[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}
