//! What clients do with snapshots: take, read, compare, rename, clone, roll back to and delete them.

use std::cell::RefCell;

use store::{SnapshotId, Source, Store, StoreError};
use world::{BLOCK_SIZE, Buf};

use super::volumes::store_error;
use super::{Aim, Checked, Session, bytes_of, span};
use crate::disk::SimDisk;
use crate::model::{Member, Model};
use crate::network::Answer;
use crate::random::Random;
use crate::tally::Count;
use crate::verify;

/// A snapshot that a request goes to, as it is now.
#[derive(Clone, Debug)]
pub(super) struct SnapshotAim {
    pub(super) number: u64,
    pub(super) id: SnapshotId,
    pub(super) volume: u64,
    /// As an export.
    name: String,
    pub(super) size_bytes: u64,
}

impl Session {
    pub(super) fn aim_snapshot(&self, random: &mut Random) -> Option<SnapshotAim> {
        let model = self.model.borrow();
        let live = model.live_snapshots();
        if live.is_empty() {
            return None;
        }
        let number = random.pick(&live);
        let snapshot = model.snapshot(number)?;
        let volume = model.volume(snapshot.volume)?;
        Some(SnapshotAim {
            number,
            id: snapshot.id?,
            volume: snapshot.volume,
            name: format!("{}@{}", volume.name, snapshot.name),
            size_bytes: snapshot.size_bytes,
        })
    }

    /// Keeps one volume or several at one moment.
    pub(super) async fn snapshot(&self, aim: &Aim, random: &mut Random) -> Checked {
        if self.model.borrow().live_snapshots().len() >= self.profile.snapshots_max {
            return self.delete_snapshot(random).await;
        }
        let mut volumes = vec![(aim.number, aim.id)];
        if random.one_in(3) {
            let model = self.model.borrow();
            for number in model.live() {
                let id = model.volume(number).and_then(|volume| volume.id);
                if let Some(id) = id.filter(|id| *id != aim.id && random.one_in(2)) {
                    volumes.push((number, id));
                }
            }
        }
        if volumes
            .iter()
            .any(|(number, _)| self.is_rolled_back(*number))
        {
            return Ok(());
        }
        let names: Vec<String> = volumes
            .iter()
            .map(|_| format!("s{}", random.next()))
            .collect();
        let wanted: Vec<(u64, String)> = volumes
            .iter()
            .zip(&names)
            .map(|((number, _), name)| (*number, name.clone()))
            .collect();
        let numbers = self.model.borrow_mut().begin_snapshots(&wanted);
        self.note("> snapshot", [aim.number, numbers[0], numbers.len() as u64]);
        let ids = volumes.iter().zip(&names);
        let ids: Vec<_> = ids.map(|((_, id), name)| (*id, &**name)).collect();
        let result = self.store.create_snapshots(&ids).await;
        self.note("< snapshot", [numbers[0], u64::from(result.is_ok()), 0]);
        if result.is_ok() {
            (self.tally.borrow_mut()).add(Count::Snapshots, numbers.len() as u64);
        }
        let result = result.as_deref().map_err(|error| *error);
        self.model.borrow_mut().end_snapshots(&numbers, result)
    }

    pub(super) fn is_rolled_back(&self, number: u64) -> bool {
        let model = self.model.borrow();
        let changing = model
            .volume(number)
            .and_then(|known| known.changing.as_ref());
        changing.is_some_and(|changing| changing.parent.is_some())
    }

    /// Reads a part of a snapshot, from the store or as an export.
    pub(super) async fn read_snapshot(&self, random: &mut Random) -> Checked {
        let Some(aim) = self.aim_snapshot(random) else {
            return Ok(());
        };
        let (offset, len) = self.range((aim.volume, aim.size_bytes), random, 256);
        let span = span(offset, len);
        let (first, end) = (
            offset / BLOCK_SIZE as u64,
            (offset + len).div_ceil(BLOCK_SIZE as u64),
        );
        let unsure = {
            let model = self.model.borrow();
            model.unsure(model.lineage_of_snapshot(aim.number), first..end)
        };
        self.note("> read snapshot", [aim.number, offset, len]);
        let answer = match &self.network {
            None => {
                let buf = Buf::from_heap(span.blocks());
                let (buf, result) = self.store.read(aim.id, span, buf).await;
                Answer::Got(result.map(|_| buf))
            }
            Some(clients) => clients.read(aim.number, &aim.name, span).await,
        };
        self.note("< read snapshot", [aim.number, offset, answer.code()]);
        let mut model = self.model.borrow_mut();
        match answer {
            Answer::Lost => Ok(()),
            Answer::Got(Err(StoreError::Absent)) => {
                self.count(Count::Absences);
                model.saw_snapshot_absent(aim.number, first, &unsure)
            }
            Answer::Got(Err(error)) => model.refused_snapshot(aim.number, error),
            Answer::Got(Ok(buf)) => {
                for (block, bytes) in (first..).zip(bytes_of(&buf).chunks(BLOCK_SIZE)) {
                    let mask = crate::model::mask_of(block, offset, len);
                    model.saw_snapshot_block(aim.number, block, mask, bytes)?;
                }
                Ok(())
            }
        }
    }

    pub(super) async fn delete_snapshot(&self, random: &mut Random) -> Checked {
        let Some(aim) = self.aim_snapshot(random) else {
            return Ok(());
        };
        self.model.borrow_mut().begin_delete_snapshot(aim.number);
        self.note("> delete snapshot", [aim.number, 0, 0]);
        let result = match (&self.network, aim.name.split_once('@')) {
            (Some(_), Some((volume, name))) => {
                let deleted = self.volumes.delete_snapshot(volume, name, true).await;
                deleted.map_err(store_error)
            }
            _ => self.store.delete_snapshot(aim.id).await,
        };
        self.note(
            "< delete snapshot",
            [aim.number, u64::from(result.is_ok()), 0],
        );
        if result.is_ok() {
            self.count(Count::SnapshotsDeleted);
        }
        if let (Some(clients), Ok(())) = (&self.network, result) {
            clients.detach(aim.number);
        }
        (self.model.borrow_mut()).end_delete_snapshot(aim.number, result)
    }

    /// Makes a volume of a snapshot.
    pub(super) async fn clone_snapshot(&self, random: &mut Random) -> Checked {
        let Some(aim) = self.aim_snapshot(random) else {
            return Ok(());
        };
        if self.model.borrow().live().len() >= self.profile.volumes_max + 2 {
            return Ok(());
        }
        resolve(&self.store, &self.model, aim.number).await?;
        let name = format!("c{}", random.next());
        let Some(number) = self.model.borrow_mut().begin_clone(aim.number, &name) else {
            return Ok(());
        };
        self.note("> clone", [aim.number, number, 0]);
        let result = self.store.clone_snapshot(aim.id, &name).await;
        self.note("< clone", [number, u64::from(result.is_ok()), 0]);
        if let Ok(info) = &result {
            self.count(Count::Clones);
            if info.name != name || info.size_bytes != aim.size_bytes {
                return Err(format!("cloned {aim:?} as {name}, got {info:?}"));
            }
            self.model.borrow_mut().check_bases_of(number, info)?;
        }
        let result = result.map(|info| info.id);
        self.model.borrow_mut().end_create(number, result)
    }

    /// Makes a volume what it was at one of its snapshots.
    pub(super) async fn rollback(&self, aim: &Aim, random: &mut Random) -> Checked {
        let target = {
            let model = self.model.borrow();
            let Some(volume) = model.volume(aim.number) else {
                return Ok(());
            };
            if volume.changing.is_some() || volume.freezing > 0 {
                return Ok(());
            }
            let live = model.live_snapshots().into_iter();
            let own = |number: &u64| {
                model
                    .snapshot(*number)
                    .is_some_and(|s| s.volume == aim.number)
            };
            let own: Vec<u64> = live.filter(own).collect();
            if own.is_empty() {
                return Ok(());
            }
            let number = random.pick(&own);
            model
                .snapshot(number)
                .and_then(|known| Some((number, known.id?, known.name.clone())))
        };
        let Some((snapshot, id, name)) = target else {
            return Ok(());
        };
        let Some(_claim) = self.claim_all(aim.number) else {
            return Ok(());
        };
        resolve(&self.store, &self.model, snapshot).await?;
        {
            let mut model = self.model.borrow_mut();
            let volume = model.volume(aim.number);
            // Something may have come between.
            let is_busy = volume.is_none_or(|known| known.changing.is_some() || known.freezing > 0);
            if is_busy || model.snapshot(snapshot).is_none() {
                return Ok(());
            }
            model.begin_rollback(aim.number, snapshot);
        }
        self.note("> rollback", [aim.number, snapshot, 0]);
        let result = match &self.network {
            Some(_) => {
                self.rolled_back.borrow_mut().insert(aim.number);
                let rolled = self.volumes.rollback(&aim.name, &name, true).await;
                rolled.map_err(store_error)
            }
            None => self.store.rollback(aim.id, id).await,
        };
        self.note("< rollback", [aim.number, u64::from(result.is_ok()), 0]);
        if result.is_ok() {
            self.count(Count::Rollbacks);
        }
        if let Some(clients) = &self.network {
            clients.detach(aim.number);
        }
        let result = result.as_ref().map_err(|error| *error);
        self.model.borrow_mut().end_changing(aim.number, result)
    }

    /// Gives a volume or a snapshot another name; now and then one that another volume has, which must be refused.
    pub(super) async fn rename(&self, aim: &Aim, random: &mut Random) -> Checked {
        if self.network.is_some() {
            // Connections are made by name.
            return Ok(());
        }
        if random.one_in(2) {
            return self.rename_snapshot(random).await;
        }
        let taken = {
            let model = self.model.borrow();
            if (model.volume(aim.number)).is_none_or(|known| known.changing.is_some()) {
                return Ok(());
            }
            let mut others = model
                .live()
                .into_iter()
                .filter(|other| *other != aim.number);
            let other = others.next().and_then(|other| model.volume(other));
            other.map(|known| known.name.clone())
        };
        let name = match taken {
            Some(name) if random.one_in(4) => name,
            _ => format!("r{}", random.next()),
        };
        self.model.borrow_mut().begin_rename(aim.number, &name);
        self.note("> rename", [aim.number, 0, 0]);
        let result = self.store.rename_volume(aim.id, &name).await;
        self.note("< rename", [aim.number, u64::from(result.is_ok()), 0]);
        let result = result.as_ref().map_err(|error| *error);
        self.model.borrow_mut().end_changing(aim.number, result)
    }

    async fn rename_snapshot(&self, random: &mut Random) -> Checked {
        let Some(aim) = self.aim_snapshot(random) else {
            return Ok(());
        };
        let renaming = |known: &crate::model::Snapshot| known.renaming.is_some();
        if self
            .model
            .borrow()
            .snapshot(aim.number)
            .is_none_or(renaming)
        {
            return Ok(());
        }
        let name = format!("n{}", random.next());
        (self.model.borrow_mut()).begin_rename_snapshot(aim.number, &name);
        self.note("> rename snapshot", [aim.number, 0, 0]);
        let result = self.store.rename_snapshot(aim.id, &name).await;
        self.note(
            "< rename snapshot",
            [aim.number, u64::from(result.is_ok()), 0],
        );
        if let Ok(info) = &result
            && info.name != name
        {
            return Err(format!("renamed {aim:?} to {name}, got {info:?}"));
        }
        let result = result.map(|_| ());
        (self.model.borrow_mut()).end_rename_snapshot(aim.number, result)
    }

    /// Compares two snapshots of a family.
    pub(super) async fn diff(&self, random: &mut Random) -> Checked {
        let Some(to) = self.aim_snapshot(random) else {
            return Ok(());
        };
        let from = {
            let model = self.model.borrow();
            let lineage = model.snapshot(to.number).map(|known| known.lineage);
            let family = model.live_snapshots().into_iter();
            let family = family.filter(|number| {
                let known = model.snapshot(*number);
                *number != to.number && known.map(|known| known.lineage) == lineage
            });
            let family: Vec<u64> = family.collect();
            let from = (!family.is_empty() && !random.one_in(4)).then(|| random.pick(&family));
            from.and_then(|number| Some((number, model.snapshot(number)?.id?)))
        };
        let max = 1 + random.index(5);
        self.note(
            "> diff",
            [to.number, from.map_or(0, |(number, _)| number), max as u64],
        );
        let compared = verify::difference(
            &self.store,
            &self.model,
            from.map(|(number, id)| (Member::Snapshot(number), Source::Snapshot(id))),
            (Member::Snapshot(to.number), Source::Snapshot(to.id)),
            to.size_bytes,
            max,
        )
        .await?;
        self.note("< diff", [to.number, u64::from(compared.is_ok()), 0]);
        match compared {
            Ok(()) => {
                self.count(Count::Diffs);
                Ok(())
            }
            Err(error) => {
                let model = self.model.borrow();
                let other = from.map_or(to.number, |(number, _)| number);
                model
                    .refused_snapshot(to.number, error)
                    .or_else(|_| model.refused_snapshot(other, error))
            }
        }
    }
}

/// Reads what is still open about a snapshot, so that a clone of it is known exactly.
pub async fn resolve(store: &Store<SimDisk>, model: &RefCell<Model>, number: u64) -> Checked {
    let (open, id, size) = {
        let model = model.borrow();
        let Some(snapshot) = model.snapshot(number) else {
            return Ok(());
        };
        let Some(id) = snapshot.id else { return Ok(()) };
        (model.snapshot_blocks(number, true), id, snapshot.size_bytes)
    };
    for block in open {
        let offset = block * BLOCK_SIZE as u64;
        let len = size.saturating_sub(offset).min(BLOCK_SIZE as u64);
        if len == 0 {
            continue;
        }
        let unsure = {
            let model = model.borrow();
            model.unsure(model.lineage_of_snapshot(number), block..block + 1)
        };
        let (buf, result) = store.read(id, span(offset, len), Buf::from_heap(1)).await;
        let mut model = model.borrow_mut();
        match result {
            Ok(_) => model.saw_snapshot_block(number, block, u8::MAX, &bytes_of(&buf))?,
            Err(StoreError::Absent) => {
                model.saw_snapshot_presence(number, block, true, unsure[0])?;
            }
            Err(error) => model.refused_snapshot(number, error)?,
        }
    }
    Ok(())
}
