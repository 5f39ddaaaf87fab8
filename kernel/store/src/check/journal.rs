//! The journal behind the checkpoint: where it ends, and what it says.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::vec::Vec;

use hashbrown::{HashMap, HashSet};
use world::{BLOCK_SIZE, Buf, Disk};

use super::walk::{Data, Maps};
use super::{Checker, Finding, Owner};
use crate::layout::{
    CatalogKind, Class, FRAME_BLOCKS_MAX, FRAME_HEADER, FrameHeader, GroupEntry, JournalTail,
    Record,
};
use crate::shared::FIRST_VOLUME;

/// A whole frame.
struct Frame {
    header: FrameHeader,
    records: Vec<u8>,
    after: JournalTail,
    /// Drives that do not have it.
    missing: Vec<usize>,
}

/// What the journal changes.
struct Model {
    /// Volumes as they are after the journal.
    maps: Maps,
    deleted: BTreeSet<u64>,
    /// The newest write of each block, and whether the journal says that it was durable.
    points: HashMap<(u64, u64), (Data, bool)>,
    /// Volume, first block, end, birth.
    holes: Vec<(u64, u64, u64, u64)>,
    births: HashSet<u64>,
}

impl<D: Disk> Checker<'_, D> {
    /// Follows the journal to its end and compares what it says with the checkpoint.
    pub async fn check_journal(&mut self, maps: Maps) {
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
        let mut model = Model {
            maps,
            deleted: BTreeSet::new(),
            points: HashMap::new(),
            holes: Vec::new(),
            births: HashSet::new(),
        };
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
        let volumes = model
            .maps
            .values()
            .filter(|entry| entry.kind() == CatalogKind::Head);
        let names: Vec<&str> = volumes.map(|entry| entry.name()).collect();
        self.summary.volumes = names.len() as u64;
        if names.iter().collect::<BTreeSet<_>>().len() != names.len() {
            self.malformed("two volumes have the same name".into());
        }
        // What was not durable was found on one replica; the others get it when the pool is opened.
        let points = model.points.into_values();
        let mut current: Vec<Data> = points
            .filter_map(|(data, durable)| durable.then_some(data))
            .collect();
        current.retain(|data| {
            let covers = |(volume, start, end, birth): &(u64, u64, u64, u64)| {
                *volume == data.volume && (*start..*end).contains(&data.lba) && *birth > data.birth
            };
            !model.deleted.contains(&data.volume) && !model.holes.iter().any(covers)
        });
        self.verify(&mut current).await;
    }

    /// The frame at `tail`, if there is one on any drive.
    async fn next_frame(&mut self, tail: JournalTail) -> Option<Frame> {
        let ring = self.ring_blocks();
        let position = tail.position.get();
        let left = ring - position % ring;
        let mut places = alloc::vec![position];
        // What does not fit before the ring's end starts over at its beginning.
        if left < FRAME_BLOCKS_MAX as u64 {
            places.push(position + left);
        }
        let mut found: Option<Frame> = None;
        let mut missing = Vec::new();
        for drive in 0..self.drives.len() {
            let mut here = None;
            for place in &places {
                let frame = self.frame_at(drive, *place).await;
                here = here.or(frame.filter(|frame| {
                    frame.header.seq == tail.seq && frame.header.prev_tag == tail.prev_tag
                }));
            }
            match here {
                Some(frame) => found = found.or(Some(frame)),
                None => missing.push(drive),
            }
        }
        found.map(|frame| Frame { missing, ..frame })
    }

    fn ring_blocks(&self) -> u64 {
        let rings = self
            .drives
            .iter()
            .map(|drive| drive.header.regions.journal_blocks.get());
        rings.min().unwrap_or(1).max(1)
    }

    /// A whole frame that was written at this position, whatever comes before it.
    async fn frame_at(&self, drive: usize, position: u64) -> Option<Frame> {
        let ring = self.ring_blocks();
        let drive = &self.drives[drive];
        let within = position % ring;
        let at = drive.header.regions.journal.get() + within;
        let first = drive.read(at).await?;
        let header = FrameHeader::decode(first.block(0), self.pool_uuid)?;
        let blocks = u64::from(header.blocks.get());
        if header.position.get() != position || within + blocks > ring {
            return None;
        }
        let mut all = alloc::vec![first];
        for next in at + 1..at + blocks {
            all.push(drive.read(next).await?);
        }
        let tag = header.compute_tag(self.pool_uuid, all.iter().map(|buf| buf.block(0)));
        if tag.0 != header.tag {
            return None;
        }
        let bytes = all.iter().flat_map(|buf| buf.block(0).iter().copied());
        let records = bytes
            .skip(FRAME_HEADER)
            .take(header.record_bytes.get() as usize)
            .collect();
        let after = JournalTail {
            seq: (header.seq.get() + 1).into(),
            position: (position + blocks).into(),
            prev_tag: header.tag,
        };
        Some(Frame {
            header,
            records,
            after,
            missing: Vec::new(),
        })
    }

    /// The highest frame that any frame says was durable; frames behind the end of the chain have a say as well.
    async fn durable_frames(&mut self, frames: &[Frame], end: JournalTail) -> u64 {
        let own = frames
            .iter()
            .map(|frame| frame.header.durable_seq.get())
            .max();
        let mut durable = own.unwrap_or(0);
        let live = self.superblock.live_max.get().min(self.ring_blocks());
        let last = self.superblock.tails[0].position.get() + live;
        for drive in 0..self.drives.len() {
            for position in end.position.get()..last {
                if let Some(frame) = self.frame_at(drive, position).await
                    && frame.header.seq >= end.seq
                {
                    durable = durable.max(frame.header.durable_seq.get());
                }
            }
        }
        durable
    }

    fn decode(&mut self, frame: &Frame) -> Vec<Record> {
        let mut records = Vec::new();
        let mut rest = &frame.records[..];
        while !rest.is_empty() {
            let Some((record, len)) = Record::decode(rest) else {
                self.record(frame.header.seq.get(), "a record is malformed".into());
                break;
            };
            records.push(record);
            rest = &rest[len..];
        }
        records
    }

    fn record(&mut self, seq: u64, what: alloc::string::String) {
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
                Record::Control(entry) => {
                    lineages.insert(entry.id.get(), entry.lineage_uuid);
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
            .get(&volume)
            .map_or(self.pool_uuid, |entry| entry.lineage_uuid)
    }

    fn apply(&mut self, model: &mut Model, (seq, durable): (u64, bool), record: Record) {
        match record {
            Record::Group { .. } => {}
            Record::Control(entry) => {
                let id = entry.id.get();
                match entry.kind() {
                    CatalogKind::Free => {
                        model.maps.remove(&id);
                        model.deleted.insert(id);
                    }
                    CatalogKind::Head if id >= FIRST_VOLUME && !model.deleted.contains(&id) => {
                        model.maps.insert(id, Box::new((*entry).clone()));
                    }
                    kind => self.record(seq, format!("{kind:?} {id} cannot be")),
                }
            }
            Record::Hole {
                tree,
                lba,
                count,
                birth,
            } => {
                self.check_target(model, seq, tree, (lba, count));
                model
                    .holes
                    .push((tree, lba, lba.saturating_add(count), birth));
            }
            Record::Write {
                tree,
                lba,
                ref tags,
                ..
            } => {
                self.check_target(model, seq, tree, (lba, tags.len() as u64));
                let lineage = self.lineage(model, tree);
                let bias = model
                    .maps
                    .get(&tree)
                    .map_or(0, |entry| entry.epoch_bias.get());
                for data in blocks_of(&record, lineage) {
                    self.summary.journal_blocks += 1;
                    self.mark(data.owner(), data.addr);
                    self.check_birth(&data, bias);
                    if !model.births.insert(data.birth) {
                        let (what, birth) = (data.owner(), data.birth);
                        self.find(Finding::ImpossibleBirth { what, birth });
                    }
                    let old = model
                        .points
                        .insert((data.volume, data.lba), (data, durable));
                    if old.is_some_and(|(old, _)| old.birth > data.birth) {
                        self.record(
                            seq,
                            format!("an older write of {} comes later", data.owner()),
                        );
                    }
                }
            }
        }
    }

    /// Changes are made to volumes that exist (or did), and within their size.
    fn check_target(&mut self, model: &Model, seq: u64, id: u64, (lba, count): (u64, u64)) {
        let is_internal = id < FIRST_VOLUME;
        match model.maps.get(&id) {
            Some(entry) if !is_internal => {
                let size = entry.size_bytes.get().div_ceil(BLOCK_SIZE as u64);
                if lba.checked_add(count).is_none_or(|end| end > size) {
                    let what = Owner::Block {
                        volume: id,
                        block: lba,
                    };
                    self.record(seq, format!("{what} and {count} in all: beyond its end"));
                }
            }
            None if !is_internal && !model.deleted.contains(&id) => {
                self.record(seq, format!("volume {id} does not exist"));
            }
            _ => {}
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
