//! Who descends from whom, and what follows: who uses which space, and where two of a family differ.
//!
//! A block on the drives is named by its number and the change that wrote it, so what a volume and a snapshot share is
//! what they have of the same version. A deleted snapshot that at least two others are based on stays, hidden.

use std::collections::{BTreeMap, BTreeSet};

use store::Source;

use super::history::State;
use super::origin::{ORIGIN, untouched};
use super::{Existence, Model, Origin, RECORDS};

/// A volume or snapshot, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Member {
    Volume(u64),
    Snapshot(u64),
}

/// What two sources hold in a block.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    pub from: State,
    pub to: State,
}

/// Blocks in use, by number and version.
type Blocks = BTreeSet<(u64, u64)>;

/// Blocks that a member refers to, and those of them that nobody else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    pub referenced: u64,
    pub unique: u64,
}

impl Model {
    /// Puts a new snapshot between its volume and what that was based on; another one may have been taken meanwhile.
    pub(super) fn insert_in_chain(&mut self, number: u64) {
        let Some((id, volume)) =
            (self.snapshots.get(&number)).map(|known| (known.id, known.volume))
        else {
            return;
        };
        let mut child = Member::Volume(volume);
        let parent = loop {
            let parent = self.parent(child);
            match parent.and_then(|parent| self.snapshots.get(&parent).map(|known| (parent, known)))
            {
                Some((parent, known)) if known.id > id => child = Member::Snapshot(parent),
                _ => break parent,
            }
        };
        if let Some(snapshot) = self.snapshots.get_mut(&number) {
            snapshot.parent = parent;
        }
        self.set_parent(child, Some(number));
    }

    /// What the store calls a member.
    #[must_use]
    pub fn source(&self, member: Member) -> Option<Source> {
        match member {
            Member::Volume(number) => Some(self.volumes.get(&number)?.id?.into()),
            Member::Snapshot(number) => Some(self.snapshots.get(&number)?.id?.into()),
        }
    }

    /// All lineages.
    #[must_use]
    pub fn lineages(&self) -> BTreeSet<u64> {
        let volumes = self
            .volumes
            .iter()
            .filter(|(number, _)| **number != RECORDS);
        volumes.map(|(_, known)| known.lineage).collect()
    }

    fn parent(&self, member: Member) -> Option<u64> {
        match member {
            Member::Volume(number) => self.volumes.get(&number)?.parent,
            Member::Snapshot(number) => self.snapshots.get(&number)?.parent,
        }
    }

    fn set_parent(&mut self, member: Member, parent: Option<u64>) {
        match member {
            Member::Volume(number) => {
                if let Some(volume) = self.volumes.get_mut(&number) {
                    volume.parent = parent;
                }
            }
            Member::Snapshot(number) => {
                if let Some(snapshot) = self.snapshots.get_mut(&number) {
                    snapshot.parent = parent;
                }
            }
        }
    }

    /// All of one lineage, hidden ones too.
    fn members(&self, lineage: u64) -> Vec<Member> {
        let volumes = self
            .volumes
            .iter()
            .filter(|(_, known)| known.lineage == lineage);
        let snapshots = self
            .snapshots
            .iter()
            .filter(|(_, known)| known.lineage == lineage);
        let volumes = volumes.map(|(number, _)| Member::Volume(*number));
        volumes
            .chain(snapshots.map(|(number, _)| Member::Snapshot(*number)))
            .collect()
    }

    /// A snapshot is gone for its users.
    pub(super) fn hide_snapshot(&mut self, number: u64) {
        if let Some(snapshot) = self.snapshots.get_mut(&number) {
            snapshot.existence = Existence::Hidden;
        }
        self.prune();
    }

    /// A volume is gone, and its snapshots with it.
    pub(super) fn hide_snapshots_of(&mut self, volume: u64) {
        for snapshot in self.snapshots.values_mut() {
            if snapshot.volume == volume {
                snapshot.existence = Existence::Hidden;
            }
        }
        self.prune();
    }

    /// Hidden snapshots go when fewer than two are based on them.
    pub(super) fn prune(&mut self) {
        loop {
            let mut children: BTreeMap<u64, Vec<Member>> = BTreeMap::new();
            let volumes = self.volumes.keys().map(|number| Member::Volume(*number));
            let snapshots = self
                .snapshots
                .keys()
                .map(|number| Member::Snapshot(*number));
            for member in volumes.chain(snapshots) {
                if let Some(parent) = self.parent(member) {
                    children.entry(parent).or_default().push(member);
                }
            }
            let none = Vec::new();
            let gone = self.snapshots.iter().find(|(number, snapshot)| {
                let own = children.get(number).unwrap_or(&none);
                let is_needed = own.len() >= 2 || self.is_awaited(**number);
                snapshot.existence == Existence::Hidden && !is_needed
            });
            let Some((number, snapshot)) = gone else {
                return;
            };
            let (number, parent) = (*number, snapshot.parent);
            for child in children.remove(&number).unwrap_or_default() {
                self.set_parent(child, parent);
            }
            self.snapshots.remove(&number);
        }
    }

    /// Whether a volume may have been rolled back to this snapshot without that being answered.
    fn is_awaited(&self, number: u64) -> bool {
        self.volumes.values().any(|volume| {
            let changing = volume.changing.as_ref();
            let coming = changing.and_then(|changing| changing.parent);
            let doubtful = volume.doubt.map(|(_, snapshot)| snapshot);
            [coming, doubtful].contains(&Some(number))
        })
    }

    /// What a member holds, block by block; `None` where that is not certain.
    fn states(&self, member: Member) -> BTreeMap<u64, Option<State>> {
        match member {
            Member::Volume(number) => {
                let blocks = self.volumes.get(&number).map(|known| &known.blocks);
                let blocks = blocks.into_iter().flatten();
                blocks
                    .map(|(block, history)| (*block, history.current(&self.operations)))
                    .collect()
            }
            Member::Snapshot(number) => {
                let contents = self.snapshots.get(&number).map(|known| &known.contents);
                let contents = contents.into_iter().flatten();
                contents
                    .map(|(block, frozen)| (*block, frozen.state()))
                    .collect()
            }
        }
    }

    fn blocks(&self, member: Member) -> Option<Blocks> {
        let mut blocks = Blocks::new();
        for (block, state) in self.states(member) {
            match state?.version {
                // What is the origin's is the base's.
                0 | ORIGIN => {}
                State::AMBIGUOUS => return None,
                version => {
                    blocks.insert((block, version));
                }
            }
        }
        Some(blocks)
    }

    /// Who uses how much, as far as the versions of all blocks of a family and its ties are certain: blocks referred to, and those
    /// that deleting it would free.
    #[must_use]
    pub fn usage(&self, lineage: u64) -> Option<BTreeMap<Member, Expected>> {
        let mut volumes = self
            .volumes
            .values()
            .filter(|known| known.lineage == lineage);
        if volumes.any(|known| known.doubt.is_some()) {
            return None;
        }
        let members = self.members(lineage);
        let mut held = BTreeMap::new();
        for member in &members {
            held.insert(*member, self.blocks(*member)?);
        }
        let (base_all, base_alone) = match self.base(lineage) {
            None => (0, 0),
            Some(base) => {
                let all = base.data_blocks()?;
                let is_alone = self.users_of_base(lineage) == 1;
                (all, if is_alone { all } else { 0 })
            }
        };
        let mut usage = BTreeMap::new();
        for member in members.iter().filter(|member| !self.is_hidden(**member)) {
            let left = self.left_without(&members, *member);
            let others: BTreeSet<_> = left.iter().flat_map(|other| &held[other]).collect();
            let own = &held[member];
            let expected = Expected {
                referenced: base_all + own.len() as u64,
                unique: base_alone
                    + own.iter().filter(|block| !others.contains(block)).count() as u64,
            };
            usage.insert(*member, expected);
        }
        Some(usage)
    }

    /// Blocks of data of all volumes and snapshots together, if that is certain.
    #[must_use]
    pub fn data_blocks(&self) -> Option<u64> {
        let mut count = 0;
        for lineage in self.lineages() {
            let mut all = Blocks::new();
            for member in self.members(lineage) {
                all.extend(self.blocks(member)?);
            }
            count += all.len() as u64;
            if let Some(base) = self.base(lineage) {
                count += base.data_blocks()?;
            }
        }
        Some(count)
    }

    fn is_hidden(&self, member: Member) -> bool {
        match member {
            Member::Volume(_) => false,
            Member::Snapshot(number) => {
                let snapshot = self.snapshots.get(&number);
                snapshot.is_some_and(|known| known.existence == Existence::Hidden)
            }
        }
    }

    /// Who still holds blocks when `gone` is deleted.
    fn left_without(&self, members: &[Member], gone: Member) -> Vec<Member> {
        let mut parents: BTreeMap<Member, Option<u64>> = (members.iter())
            .map(|member| (*member, self.parent(*member)))
            .collect();
        loop {
            let children = |number| {
                let parents = parents.values();
                parents.filter(|parent| **parent == Some(number)).count()
            };
            let leaves = parents.keys().copied().find(|member| match *member {
                Member::Volume(_) => *member == gone,
                Member::Snapshot(number) => {
                    (*member == gone || self.is_hidden(*member)) && children(number) < 2
                }
            });
            let Some(member) = leaves else { break };
            let parent = parents.remove(&member).flatten();
            if let Member::Snapshot(number) = member {
                for other in parents.values_mut().filter(|other| **other == Some(number)) {
                    *other = parent;
                }
            }
        }
        parents.into_keys().collect()
    }

    /// What a member was adopted from.
    fn origin(&self, member: Member) -> Option<Origin> {
        match member {
            Member::Volume(number) => self.volumes.get(&number)?.origin,
            Member::Snapshot(number) => self.snapshots.get(&number)?.origin,
        }
    }

    /// What two of a family hold in each block that either ever had; `None` where that is not certain.
    #[must_use]
    pub fn pairs(&self, from: Option<Member>, to: Member) -> BTreeMap<u64, Option<Pair>> {
        let older = from.map(|member| self.states(member)).unwrap_or_default();
        let newer = self.states(to);
        let origin = self.origin(to);
        // Compared with nothing, all of an origin may be data.
        let adopted = origin.filter(|_| from.is_none());
        let adopted = adopted.map_or(0, |origin| origin.blocks());
        let touched = older.keys().chain(newer.keys()).copied();
        let all: BTreeSet<u64> = touched.chain(0..adopted).collect();
        let side = |member: Option<Member>, states: &BTreeMap<u64, Option<State>>, block: &u64| {
            let origin = member.and(origin);
            let same = || Some(untouched(origin, *block));
            states.get(block).copied().unwrap_or_else(same)
        };
        let pairs = all.into_iter().map(|block| {
            let sides = (side(from, &older, &block), side(Some(to), &newer, &block));
            let pair = match sides {
                (Some(from), Some(to)) => Some(Pair { from, to }),
                _ => None,
            };
            (block, pair)
        });
        pairs.collect()
    }
}
