//! Making, deleting and growing volumes.
//!
//! A change of the catalog is a control record in the journal, pushed in the same breath that changes the catalog in memory; only
//! the acknowledgement waits.

use alloc::string::ToString;
use alloc::vec::Vec;

use world::{BLOCK_SIZE, Disk};

use crate::api::{StoreError, VolumeId, VolumeInfo};
use crate::layout::{CatalogEntry, CatalogKind, IDS_MAX, NAME_MAX, Record};
use crate::shared::{Handle, Shared, State, Tree};

/// The largest volume: what maps of five levels can hold.
const SIZE_MAX: u64 = 128 << 40;

/// How late the simulator's deliberate bug tells the journal of a change.
const LATE: core::time::Duration = core::time::Duration::from_millis(3);

impl<D: Disk + 'static> Shared<D> {
    pub fn volumes(&self) -> Vec<VolumeInfo> {
        let state = self.state.borrow();
        let mut all: Vec<VolumeInfo> = state
            .trees
            .values()
            .filter(|tree| tree.is_volume())
            .map(info)
            .collect();
        all.sort_by_key(|volume| volume.id);
        all
    }

    pub fn find(&self, name: &str) -> Option<VolumeInfo> {
        self.state.borrow().find(name).map(info)
    }

    pub fn volume(&self, id: VolumeId) -> Option<VolumeInfo> {
        let state = self.state.borrow();
        state
            .trees
            .get(&id.0)
            .filter(|tree| tree.is_volume())
            .map(info)
    }

    pub async fn create_volume(
        self: &Handle<D>,
        name: &str,
        size_bytes: u64,
    ) -> Result<VolumeInfo, StoreError> {
        if !is_name(name) {
            return Err(StoreError::BadName);
        }
        check_size(size_bytes)?;
        let uuids = [(); 2].map(|()| self.environment.new_uuid());
        let info = {
            let state = &mut *self.state.borrow_mut();
            state.require_serving()?;
            // The name of a volume that is being deleted is taken until that is in the journal.
            let has_name = |tree: &Tree| {
                let entry = &tree.entry;
                entry.kind() == CatalogKind::Head && !tree.deleted && entry.name() == name
            };
            if state.trees.values().any(has_name) {
                return Err(StoreError::NameTaken);
            }
            if state.next_node >= IDS_MAX {
                return Err(StoreError::NoSpace);
            }
            let mut entry = CatalogEntry::new(state.next_node, CatalogKind::Head);
            entry.set_name(name);
            entry.size_bytes.set(size_bytes);
            [entry.volume_uuid, entry.lineage_uuid] = uuids;
            entry
                .created_at
                .set(self.environment.exec.clock().wall_nanos().unwrap_or(0));
            state.insert_tree(entry.clone(), None);
            state.update_node_reserve(self.deltas_max);
            let info = info(&state.trees[&entry.id.get()]);
            self.push_control(state, &entry);
            info
        };
        self.flush_now().await?;
        Ok(info)
    }

    pub async fn delete_volume(self: &Handle<D>, id: VolumeId) -> Result<(), StoreError> {
        {
            let mut state = self.state.borrow_mut();
            state.require_serving()?;
            let tree = state.trees.get_mut(&id.0).filter(|tree| tree.is_volume());
            tree.ok_or(StoreError::NoVolume)?.leaving = true;
        }
        // What was under way is done with before the volume is gone for good.
        self.in_flight.drained(id.0).await;
        {
            let state = &mut *self.state.borrow_mut();
            if let Err(error) = state.require_serving() {
                if let Some(tree) = state.trees.get_mut(&id.0) {
                    tree.leaving = false;
                }
                return Err(error);
            }
            let mut entry = CatalogEntry::new(id.0, CatalogKind::Free);
            if let Some(tree) = state.trees.get_mut(&id.0) {
                entry.lineage_uuid = tree.entry.lineage_uuid;
                // Not before: a checkpoint that drops the volume must come after its last record.
                tree.deleted = true;
            }
            state.update_node_reserve(self.deltas_max);
            self.push_control(state, &entry);
        }
        self.flush_now().await?;
        self.want_checkpoint();
        Ok(())
    }

    pub async fn grow_volume(
        self: &Handle<D>,
        id: VolumeId,
        size_bytes: u64,
    ) -> Result<VolumeInfo, StoreError> {
        check_size(size_bytes)?;
        let grown = {
            let state = &mut *self.state.borrow_mut();
            state.require_serving()?;
            let tree = state.trees.get_mut(&id.0).filter(|tree| tree.is_volume());
            let tree = tree.ok_or(StoreError::NoVolume)?;
            if size_bytes < tree.entry.size_bytes.get() {
                return Err(StoreError::BadSize);
            }
            if state.checkpoints_begun > state.checkpoints_done {
                tree.keep_entry_of_cut();
            }
            tree.entry.size_bytes.set(size_bytes);
            tree.dirty = true;
            let entry = tree.entry.clone();
            let grown = info(tree);
            state.update_node_reserve(self.deltas_max);
            self.push_control(state, &entry);
            grown
        };
        self.flush_now().await?;
        Ok(grown)
    }

    fn push_control(self: &Handle<D>, state: &mut State, entry: &CatalogEntry) {
        let now = self.environment.exec.now();
        state.dirty_since.get_or_insert(now);
        if self.config.mutants.late_control_record() {
            let (shared, entry) = (self.clone(), entry.clone());
            self.environment.exec.spawn(async move {
                shared.environment.exec.sleep(LATE).await;
                let push = |out: &mut Vec<u8>| Record::push_control(out, &entry);
                shared.state.borrow_mut().journal.push(push);
            });
        } else {
            state.journal.push(|out| Record::push_control(out, entry));
        }
    }
}

impl State {
    fn find(&self, name: &str) -> Option<&Tree> {
        self.trees
            .values()
            .find(|tree| tree.is_volume() && tree.entry.name() == name)
    }
}

fn info(tree: &Tree) -> VolumeInfo {
    let entry = &tree.entry;
    VolumeInfo {
        id: VolumeId(entry.id.get()),
        name: entry.name().to_string(),
        uuid: entry.volume_uuid,
        size_bytes: entry.size_bytes.get(),
        allocated_bytes: entry.blocks.get() * BLOCK_SIZE as u64,
        created_at_nanos: entry.created_at.get(),
    }
}

fn check_size(size_bytes: u64) -> Result<(), StoreError> {
    let sound =
        size_bytes.is_multiple_of(512) && (BLOCK_SIZE as u64..=SIZE_MAX).contains(&size_bytes);
    if sound {
        Ok(())
    } else {
        Err(StoreError::BadSize)
    }
}

fn is_name(name: &str) -> bool {
    let first = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=NAME_MAX).contains(&name.len())
        && name.bytes().next().is_some_and(first)
        && name
            .bytes()
            .all(|byte| first(byte) || matches!(byte, b'.' | b'_' | b'-'))
}
