//! What all parts of the store share.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use exec::{Notify, Semaphore};
use hashbrown::HashMap;
use world::Pool;

use crate::api::{Config, Environment, PoolState, StoreError};
use crate::cache::NodeCache;
use crate::checkpoint::Cut;
use crate::delta::DeltaTable;
use crate::directory::Directory;
use crate::grant::Plan;
use crate::journal::Journal;
use crate::layout::{CatalogEntry, CatalogKind, Pointer, Regions, Superblock, first_birth};
use crate::map::Pointers;
use crate::mutant::Mutants;
use crate::numbers::{NumberMap, NumberSet};
use crate::overlap::InFlight;
use crate::reclaim::Reclaim;
use crate::shelf::Shelf;
use crate::space::Space;

/// The catalog's own map.
pub const CATALOG: u64 = 0;
/// The map of the reclaim queue.
pub const RECLAIM: u64 = 2;
/// The map of the records.
pub const RECORDS: u64 = 3;
/// The first number that a volume can have.
pub const FIRST_VOLUME: u64 = 16;

/// An open pool.
pub struct Shared<D> {
    pub disks: Vec<D>,
    pub regions: Vec<Regions>,
    /// The most blocks of one command of each drive.
    pub transfers_max: Vec<usize>,
    pub environment: Environment,
    pub config: Config,
    /// Points of each half of the deltas.
    pub deltas_max: usize,
    pub pool_uuid: [u8; 16],
    pub state: RefCell<State>,
    pub in_flight: InFlight,
    /// Something happened that the journal's writer waits for: a flush is wanted, records wait, room was made.
    pub writer_wanted: Notify,
    /// A frame was written or a FLUSH came back.
    pub writer_done: Notify,
    /// The checkpointer has a reason to look.
    pub checkpoint_wanted: Notify,
    /// A checkpoint was published, or the pool stopped taking writes.
    pub checkpoint_done: Notify,
    /// Drives with writes that no FLUSH covers.
    pub unflushed: Vec<Cell<bool>>,
    /// Held while drives are flushed.
    pub flushing: Semaphore,
    /// Held while a checkpoint is published: blocks that are in use stay what they are for whoever holds it.
    pub publishing: Semaphore,
    /// For what checkpoints write.
    pub meta_pages: Pool,
    /// For reads: the pointers of their blocks.
    pub pointers: Shelf<Pointers>,
    /// For writes: where their blocks go.
    pub plans: Shelf<Plan>,
    pub damaged_reads: Cell<u64>,
    pub deallocated_bytes: Cell<u64>,
}

/// State that changes in one breath, never borrowed across an await.
pub struct State {
    pub superblock: Superblock,
    /// Tags of the group table's blocks in each of the two areas.
    pub table_tags: [Vec<[u8; 16]>; 2],
    /// The next number of a map.
    pub next_node: u64,
    /// One more than the greatest number of a map that was there since the pool was opened. During a replay it is less than the next
    /// number, which the superblock keeps also of maps that are only in the journal.
    pub maps_end: u64,
    pub space: Space,
    pub journal: Journal,
    pub cache: NodeCache,
    /// Takes changes.
    pub active: DeltaTable,
    /// Is being merged by the running checkpoint.
    pub frozen: DeltaTable,
    pub trees: NumberMap<u64, Tree>,
    /// Volumes and snapshots by number and name, and catalog slots.
    pub directory: Directory,
    /// Maps without a root of their own (see [`Tree::source`]).
    pub inheriting: BTreeSet<u64>,
    /// Maps that the active and the frozen deltas have changes of.
    pub changed: [NumberSet; 2],
    /// Maps whose entries differ from the catalog's.
    pub dirty_trees: Vec<u64>,
    /// Maps whose entries of the cut are kept, and maps that got a new root, for the running checkpoint.
    pub kept_entries: Vec<u64>,
    pub merged: Vec<u64>,
    pub reclaim: Reclaim,
    /// Records: slot by key.
    pub records: HashMap<String, u64>,
    /// What checkpoints need for the maps.
    pub node_need: NodeNeed,
    /// Points of the active deltas that writes under way will need.
    pub reserved_points: usize,
    /// Those of them that the maps have room for. Writes that wait for it must not keep discards from making some.
    pub granted_points: usize,
    /// Births handed out by this mount.
    pub births: u64,
    /// The journal offset up to which a flush is wanted.
    pub flush_wanted: u64,
    /// Checkpoints wanted and published since the pool was opened.
    pub checkpoints_wanted: u64,
    pub checkpoints_begun: u64,
    pub checkpoints_done: u64,
    /// A cut that a replay made; its checkpoint is not written yet.
    pub early_cut: Option<Cut>,
    /// Progress of the running checkpoint's merge, in percent.
    pub merge_percent: usize,
    pub mode: Mode,
    /// How much was pushed when the pool was last found full: nothing changed since, nothing can have been freed.
    pub full_at: Option<u64>,
    /// A drive did not let what was deleted be taken apart.
    pub is_stalled: bool,
    /// When the oldest change that is in no checkpoint was made.
    pub dirty_since: Option<world::Instant>,
    pub mutants: Mutants,
}

/// Whether the pool works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    Serving,
    /// Reads only, and why.
    ReadOnly(String),
    /// No further requests; background work ends.
    Closing,
    Closed,
}

/// One map: of a volume, a snapshot, something deleted, or one of the store's own.
#[derive(Clone)]
pub struct Tree {
    /// Entry as clients see it; root and height are those of the last checkpoint.
    pub entry: CatalogEntry,
    /// Where the entry is in the catalog.
    pub slot: usize,
    /// The entry differs from the one in the last checkpoint's catalog.
    pub dirty: bool,
    /// The entry as it was at the cut of the running checkpoint, if it was changed since.
    pub at_cut: Option<Box<CatalogEntry>>,
    /// Root and height in the running checkpoint.
    pub merged: Option<(Pointer, u8)>,
    /// Being deleted: takes no new requests, but some may be under way.
    pub leaving: bool,
    /// The map that says what this one's own changes do not say; absent once a checkpoint gave it a root of its own.
    pub source: Option<u64>,
    /// Maps that began as this one.
    pub children: BTreeSet<u64>,
}

impl Tree {
    pub fn new(entry: CatalogEntry, slot: usize) -> Self {
        Self {
            entry,
            slot,
            dirty: false,
            at_cut: None,
            merged: None,
            leaving: false,
            source: None,
            children: BTreeSet::new(),
        }
    }

    pub fn id(&self) -> u64 {
        self.entry.id.get()
    }

    pub fn kind(&self) -> CatalogKind {
        self.entry.kind()
    }

    pub fn root(&self) -> Pointer {
        self.entry.root
    }

    pub fn height(&self) -> u8 {
        self.entry.height
    }

    /// Root and height as far as the running checkpoint has come.
    pub fn newest_root(&self) -> (Pointer, u8) {
        self.merged.unwrap_or((self.root(), self.height()))
    }

    pub fn parent(&self) -> Option<u64> {
        Some(self.entry.parent.get()).filter(|parent| *parent != 0)
    }

    /// How far a deleted map is taken apart.
    pub fn cursor(&self) -> u64 {
        match self.kind() {
            CatalogKind::Base => 0,
            _ => self.entry.collapse_cursor.get(),
        }
    }

    /// Of a base: what is absent before this block is zeros.
    pub fn known(&self) -> u64 {
        match self.kind() {
            CatalogKind::Base => self.entry.collapse_cursor.get(),
            _ => 0,
        }
    }

    /// Whether users can see it.
    pub fn is_visible(&self) -> bool {
        matches!(self.kind(), CatalogKind::Head | CatalogKind::Snapshot)
    }

    /// Whether remote pointers of it may lead to this base.
    pub fn may_lead_to(&self, base: u64) -> bool {
        self.bases().any(|other| other == base)
    }

    /// The bases that its remote pointers may lead to.
    pub fn bases(&self) -> impl Iterator<Item = u64> + '_ {
        let bases = self.entry.bases.iter().map(|base| base.get());
        bases.filter(|base| *base != 0)
    }

    /// What it was at the cut of the running checkpoint.
    pub fn kind_at_cut(&self) -> CatalogKind {
        self.at_cut.as_deref().unwrap_or(&self.entry).kind()
    }

    /// Changes the entry now and in the running checkpoint.
    pub fn change_in_checkpoint(&mut self, change: impl Fn(&mut CatalogEntry)) {
        change(&mut self.entry);
        if let Some(entry) = &mut self.at_cut {
            change(entry);
        }
    }

    /// The entry for the running checkpoint.
    pub fn entry_at_cut(&self) -> CatalogEntry {
        let mut entry = self.at_cut.as_deref().unwrap_or(&self.entry).clone();
        entry.blocks = self.entry.blocks;
        (entry.root, entry.height) = self.newest_root();
        entry
    }

    /// Size in whole blocks.
    pub fn blocks(&self) -> u64 {
        self.entry
            .size_bytes
            .get()
            .div_ceil(world::BLOCK_SIZE as u64)
    }
}

impl State {
    /// Keeps a map's entry for the running checkpoint, before its first change after the cut.
    pub fn keep_entry_of_cut(&mut self, id: u64) {
        if self.checkpoints_begun == self.checkpoints_done || self.mutants.catalog_of_now() {
            return;
        }
        if let Some(tree) = self.trees.get_mut(&id)
            && tree.at_cut.is_none()
        {
            tree.at_cut = Some(Box::new(tree.entry.clone()));
            self.kept_entries.push(id);
        }
    }

    /// Hands out `count` births for blocks of a lineage with this bias.
    pub fn next_births(&mut self, count: u64, epoch_bias: u64) -> u64 {
        let first = self.births;
        self.births += count;
        first_birth(self.journal.mount_gen + epoch_bias) + first
    }

    pub fn require_serving(&self) -> Result<(), StoreError> {
        match self.mode {
            Mode::Serving => Ok(()),
            Mode::ReadOnly(_) => Err(StoreError::ReadOnly),
            Mode::Closing | Mode::Closed => Err(StoreError::Closed),
        }
    }

    /// Whether nothing changed since a write last found no space.
    pub fn is_full(&self) -> bool {
        self.full_at == Some(self.journal.pushed)
    }

    pub fn require_open(&self) -> Result<(), StoreError> {
        match self.mode {
            Mode::Serving | Mode::ReadOnly(_) => Ok(()),
            Mode::Closing | Mode::Closed => Err(StoreError::Closed),
        }
    }

    /// The deltas, then nothing: what memory says of a block.
    pub fn find_delta(&self, key: u64) -> Option<Pointer> {
        self.active.find(key).or_else(|| self.frozen.find(key))
    }

    /// Works out again how much space the maps need; at each checkpoint, and when a volume is made or grows.
    pub fn update_node_reserve(&mut self, deltas: usize) {
        // Only heads and bases change, and what was a head when its last changes were made.
        let heads = self.directory.heads();
        let heads = heads.chain(self.directory.bases.iter().copied());
        let own = [CATALOG, RECLAIM, RECORDS];
        let snapshots = self.inheriting.iter();
        let snapshots = snapshots.filter_map(|id| self.trees.get(id)?.parent());
        let changing = { heads.chain(own).chain(snapshots) }.filter_map(|id| self.trees.get(&id));
        let blocks: Vec<u64> = changing.map(|tree| tree.blocks().max(1024)).collect();
        let nodes = |level: u32| {
            let span = 128_u64.pow(level);
            blocks.iter().map(|blocks| blocks.div_ceil(span)).sum()
        };
        self.node_need = NodeNeed {
            levels: [1, 2, 3, 4, 5].map(nodes),
            // The catalog's blocks, the reclaim queue and their paths.
            always: self.directory.slots().div_ceil(8) as u64 + 160,
        };
        self.space
            .set_node_reserve(2 * self.node_need.of(deltas as u64));
    }

    /// Whether the maps would have no room for all changes that are in memory, with `more` to come.
    pub fn is_short_of_nodes(&self, more: u64) -> bool {
        let changes =
            |deltas: &DeltaTable| (deltas.points().len() + 2 * deltas.holes().len()) as u64;
        let active = changes(&self.active) + self.granted_points as u64 + more;
        let mut need = self.node_need.of(active);
        if !self.frozen.is_empty() {
            need += self.node_need.of(changes(&self.frozen));
        }
        self.space.node_room() < need && !self.mutants.no_reserve()
    }
}

/// How many nodes a checkpoint can write at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeNeed {
    /// Nodes of each level, the lowest first, in all maps that can change.
    levels: [u64; 5],
    /// Blocks besides.
    always: u64,
}

impl NodeNeed {
    /// The need of this many changes of single blocks.
    fn of(&self, changes: u64) -> u64 {
        let nodes = self.levels.iter().map(|nodes| changes.min(*nodes));
        nodes.sum::<u64>() + self.always
    }
}

impl<D> Shared<D> {
    /// Stops taking writes, and says why.
    pub fn fail(&self, why: &str) {
        let mut state = self.state.borrow_mut();
        if matches!(state.mode, Mode::Serving | Mode::Closing) {
            log::error!("the pool is read-only from now on: {why}");
            state.mode = Mode::ReadOnly(why.into());
        }
        drop(state);
        self.writer_wanted.notify();
        self.writer_done.notify();
        self.checkpoint_wanted.notify();
        self.checkpoint_done.notify();
    }

    pub fn pool_state(&self) -> PoolState {
        match &self.state.borrow().mode {
            Mode::ReadOnly(why) => PoolState::ReadOnly(why.clone()),
            _ => PoolState::Serving,
        }
    }

    /// There is something that no checkpoint has: the checkpointer comes for it in time, if nothing else calls it.
    pub fn mark_dirty(&self, state: &mut State) {
        if state.dirty_since.is_none() {
            state.dirty_since = Some(self.environment.exec.now());
            self.checkpoint_wanted.notify();
        }
    }

    /// Asks for a checkpoint that begins after now; its number.
    pub fn want_checkpoint(&self) -> u64 {
        let mut state = self.state.borrow_mut();
        let wanted = state.checkpoints_begun + 1;
        let is_news = state.checkpoints_wanted < wanted;
        state.checkpoints_wanted = wanted;
        drop(state);
        if is_news {
            self.checkpoint_wanted.notify();
        }
        wanted
    }

    /// Waits until checkpoint `number` (of this mount) is durable, or the pool stops taking writes.
    pub async fn checkpoint_reached(&self, number: u64) -> Result<(), StoreError> {
        loop {
            {
                let state = self.state.borrow();
                if state.checkpoints_done >= number {
                    return Ok(());
                }
                match state.mode {
                    Mode::ReadOnly(_) => return Err(StoreError::ReadOnly),
                    Mode::Closed => return Err(StoreError::Closed),
                    Mode::Serving | Mode::Closing => {}
                }
            }
            self.checkpoint_done.wait().await;
        }
    }
}

/// A shared pool.
pub type Handle<D> = Rc<Shared<D>>;
