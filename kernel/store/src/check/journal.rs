//! The journal behind the checkpoint: where it ends, and what it says.

use alloc::format;
use alloc::vec::Vec;

use hashbrown::{HashMap, HashSet};
use world::{BLOCK_SIZE, Buf, Disk};

use super::blocks::Data;
use super::family::Maps;
use super::frames::Frame;
use super::model::Model;
use super::{Checker, Finding, Owner};
use crate::layout::{CatalogKind, Class, GroupEntry, Record};
use crate::shared::FIRST_VOLUME;

impl<D: Disk> Checker<'_, D> {
    /// Follows the journal to its end and compares what it says with the checkpoint; returns the maps as they are then.
    pub async fn check_journal(&mut self, maps: Maps) -> Maps {
        let tail = self.superblock.tails[0];
        let mut frames: Vec<Frame> = Vec::new();
        let mut end = tail;
        while let Some(frame) = self.next_frame(end).await {
            end = frame.after;
            frames.push(frame);
        }
        let durable = self.durable_frames(&frames, end).await;
        if durable >= end.seq.get() {
            self.find(Finding::JournalLost {
                seq: end.seq.get(),
                durable,
            });
        }
        let known = maps.relations(self.superblock.mount_gen.get());
        let mut model = Model::new(maps);
        let mut mount_gen = 0;
        for frame in frames {
            let seq = frame.header.seq.get();
            let records = self.decode(&frame);
            self.adopt_groups(seq, &records);
            if seq > durable && !self.data_is_there(&model, &records).await {
                break;
            }
            for drive in frame.missing.into_iter().filter(|_| seq <= durable) {
                self.find(Finding::JournalReplica { seq, drive });
            }
            let header = &frame.header;
            if header.mount_gen.get() < mount_gen
                || header.mount_gen > self.superblock.mount_gen
                || header.checkpoint > self.superblock.checkpoint
            {
                self.record(
                    seq,
                    format!("a later mount or checkpoint wrote it: {header:?}"),
                );
            }
            mount_gen = header.mount_gen.get();
            self.summary.frames += 1;
            for record in records {
                self.apply(&mut model, (seq, seq <= durable), record);
            }
        }
        let now = model.maps.relations(self.superblock.mount_gen.get());
        for (map, what) in now.difference(&known).cloned() {
            self.find(Finding::Relation { map, what });
        }
        self.summary.volumes = model.maps.count(CatalogKind::Head);
        self.summary.snapshots = model.maps.count(CatalogKind::Snapshot);
        self.summary.hidden = model.maps.count(CatalogKind::Hidden);
        // What was not durable was found on one replica; the others get it when the pool is opened.
        self.verify(&mut model.current()).await;
        model.maps
    }

    pub fn record(&mut self, seq: u64, what: alloc::string::String) {
        self.find(Finding::JournalRecord { seq, what });
    }

    /// Groups that were put to use. The checkpoint may know them already: it takes some for itself.
    fn adopt_groups(&mut self, seq: u64, records: &[Record]) {
        for record in records {
            let Record::Group { group, entry } = record else {
                continue;
            };
            let known = self.groups.get(*group as usize).copied();
            let same = |known: GroupEntry| {
                known.class() == entry.class() && known.replicas == entry.replicas
            };
            match known {
                Some(known) if known.class() == Class::Free => {
                    let others = self.groups.iter().flat_map(GroupEntry::in_sync);
                    let taken: HashSet<_> = others.map(|old| (old.device, old.chunk)).collect();
                    let is_taken = entry
                        .in_sync()
                        .any(|new| taken.contains(&(new.device, new.chunk)));
                    if is_taken || entry.class() == Class::Free {
                        self.record(
                            seq,
                            format!("group {group} gets chunks that it cannot have"),
                        );
                    } else {
                        self.groups[*group as usize] = *entry;
                    }
                }
                Some(known) if same(known) => {}
                _ => self.record(seq, format!("group {group} is put to use twice")),
            }
        }
    }

    /// Whether every block that the records describe is on a drive.
    async fn data_is_there(&self, model: &Model, records: &[Record]) -> bool {
        let mut lineages: HashMap<u64, [u8; 16]> = HashMap::new();
        for record in records {
            match record {
                Record::Control(entries) => {
                    let new = entries
                        .iter()
                        .map(|entry| (entry.id.get(), entry.lineage_uuid));
                    lineages.extend(new);
                }
                Record::Write { tree, .. } => {
                    let new = lineages.get(tree).copied();
                    let lineage = new.unwrap_or_else(|| self.lineage(model, *tree));
                    for data in blocks_of(record, lineage) {
                        if !self.is_there(&data).await {
                            return false;
                        }
                    }
                }
                Record::Hole { .. } | Record::Group { .. } => {}
            }
        }
        true
    }

    async fn is_there(&self, data: &Data) -> bool {
        for (drive, at) in self.places(data.addr) {
            let read = self.drives[drive].read_into(at, Buf::from_heap(1)).await;
            if read.is_ok_and(|buf| data.is(buf.block(0))) {
                return true;
            }
        }
        false
    }

    fn lineage(&self, model: &Model, volume: u64) -> [u8; 16] {
        model
            .maps
            .get(volume)
            .map_or(self.pool_uuid, |entry| entry.lineage_uuid)
    }

    fn apply(&mut self, model: &mut Model, (seq, durable): (u64, bool), record: Record) {
        match record {
            Record::Group { .. } => {}
            Record::Control(entries) => {
                for what in model.control(entries) {
                    self.record(seq, what);
                }
            }
            Record::Hole {
                tree,
                lba,
                count,
                birth,
            } => {
                self.check_target(model, seq, (tree, birth), (lba, count));
                model.hole(tree, (lba, lba.saturating_add(count)), birth);
            }
            Record::Write {
                tree,
                lba,
                birth,
                ref tags,
                ..
            } => {
                self.check_target(model, seq, (tree, birth), (lba, tags.len() as u64));
                let lineage = self.lineage(model, tree);
                let bias = model
                    .maps
                    .get(tree)
                    .map_or(0, |entry| entry.epoch_bias.get());
                for data in blocks_of(&record, lineage) {
                    self.summary.journal_blocks += 1;
                    self.mark(data.owner(), data.addr);
                    self.check_birth(&data, bias);
                    let entry = model.maps.get(tree);
                    let base = entry.filter(|entry| entry.kind() == CatalogKind::Base);
                    let first = base.map(|base| base.seq.get());
                    if first.is_some_and(|first| first.checked_add(data.lba) != Some(data.birth)) {
                        let (what, birth) = (data.owner(), data.birth);
                        self.find(Finding::ImpossibleBirth { what, birth });
                    }
                    model.born(tree, data.birth);
                    if !model.is_new_birth(data.birth) {
                        let (what, birth) = (data.owner(), data.birth);
                        self.find(Finding::ImpossibleBirth { what, birth });
                    }
                    if model.write(data, durable).is_some() {
                        let what = format!("an older write of {} comes later", data.owner());
                        self.record(seq, what);
                    }
                }
            }
        }
    }

    /// Changes are made to volumes that exist, within their size, after everything that they began with.
    fn check_target(
        &mut self,
        model: &mut Model,
        seq: u64,
        (id, birth): (u64, u64),
        (lba, count): (u64, u64),
    ) {
        if id < FIRST_VOLUME {
            return;
        }
        let what = Owner::Block {
            volume: id,
            block: lba,
        };
        let entry = model.maps.get(id);
        match entry.map(|entry| (entry.kind(), entry.size_bytes.get())) {
            Some((CatalogKind::Head | CatalogKind::Base, size)) => {
                let size = size.div_ceil(BLOCK_SIZE as u64);
                if lba.checked_add(count).is_none_or(|end| end > size) {
                    self.record(seq, format!("{what} and {count} in all: beyond its end"));
                }
            }
            Some(_) => {
                let label = model.maps.label(id);
                self.record(seq, format!("{label} is written, but no longer a volume"));
            }
            None => self.record(seq, format!("volume {id} does not exist")),
        }
        if !model.born(id, birth) {
            self.record(
                seq,
                format!("{what}: birth {birth:#x} is older than the volume's snapshot"),
            );
        }
    }
}

/// The blocks of a write record.
fn blocks_of(record: &Record, lineage: [u8; 16]) -> impl Iterator<Item = Data> {
    let (volume, lba, addr, birth, tags) = match record {
        Record::Write {
            tree,
            lba,
            addr,
            birth,
            tags,
        } => (*tree, *lba, *addr, *birth, &tags[..]),
        _ => (0, 0, 0, 0, &[][..]),
    };
    (0..).zip(tags).map(move |(index, tag)| Data {
        volume,
        lba: lba.wrapping_add(index),
        addr: addr.wrapping_add(index),
        birth: birth.wrapping_add(index),
        tag: *tag,
        lineage,
    })
}
