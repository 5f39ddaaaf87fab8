//! Volumes that were adopted, and what arrives of them.

use alloc::vec;
use alloc::vec::Vec;

use world::{BLOCK_SIZE, Buf};

use super::lab::{Lab, Ram};
use super::play::{Contents, Play};
use crate::api::{BaseId, Content, Extent, Presence, Source, Span, StoreError, VolumeId};
use crate::store::Store;

const BLOCK: u64 = BLOCK_SIZE as u64;

/// Blocks of an adopted volume.
const BLOCKS: u64 = 3000;

impl Play {
    pub async fn adopt(&mut self) -> Result<(), StoreError> {
        let bases: Vec<BaseId> = self.origins.keys().copied().collect();
        if !bases.is_empty() && self.random(2) == 0 {
            let base = bases[self.random(bases.len() as u64) as usize];
            let again = self.store.adopt_again(base, &self.new_name()).await;
            let Err(StoreError::NoVolume) = again else {
                let origin = self.origins[&base].clone();
                self.contents.insert(Source::Volume(again?.id), origin);
                return Ok(());
            };
            // Nobody needs it any more.
            self.origins.remove(&base);
        }
        let made = self
            .store
            .adopt_volume(&self.new_name(), BLOCKS * BLOCK)
            .await?;
        let mut origin = vec![0; BLOCKS as usize];
        for part in origin.chunks_mut(50) {
            part.fill([0, 200 + self.random(50) as u8][self.random(2) as usize]);
        }
        self.contents
            .insert(Source::Volume(made.id), origin.clone());
        self.origins.insert(made.bases[0], origin);
        Ok(())
    }

    /// Something arrives of an origin, or all before some block has.
    pub async fn arrive(&mut self) -> Result<(), StoreError> {
        let bases: Vec<BaseId> = self.origins.keys().copied().collect();
        let base = bases[self.random(bases.len() as u64) as usize];
        let contents = self.origins[&base].clone();
        let first = self.random(BLOCKS);
        let last = (first + 1 + self.random(300)).min(BLOCKS);
        let result = match self.random(8) {
            4 => self.arrive_before(base, &contents, BLOCKS).await,
            5..7 => self.sweep(base).await,
            0 => self.zeros(base, &contents, first, last).await,
            1 => self.arrive_before(base, &contents, last).await,
            _ => fill(&self.store, base, &contents, first, last).await,
        };
        if result == Err(StoreError::NoVolume) {
            // Nobody needs it any more, and so it is.
            assert_eq!(self.store.base(base), None);
            assert!(
                self.store
                    .volumes()
                    .iter()
                    .all(|info| !info.bases.contains(&base))
            );
            self.origins.remove(&base);
            return Ok(());
        }
        result
    }

    /// Zeros of the origin become known.
    async fn zeros(
        &self,
        base: BaseId,
        contents: &Contents,
        first: u64,
        last: u64,
    ) -> Result<(), StoreError> {
        for part in (0..BLOCKS).step_by(50) {
            let (start, end) = (part.max(first), (part + 50).min(last));
            if contents[part as usize] == 0 && start < end {
                self.store
                    .fill_zeros(base, start * BLOCK, (end - start) * BLOCK)
                    .await?;
            }
        }
        Ok(())
    }

    /// What nobody needs goes, if all is here; and nobody begins as it was any more.
    async fn sweep(&self, base: BaseId) -> Result<(), StoreError> {
        let mut at = Some(0);
        while let Some(from) = at {
            at = self.store.sweep(base, from).await?.next;
        }
        Ok(())
    }

    async fn arrive_before(
        &self,
        base: BaseId,
        contents: &Contents,
        last: u64,
    ) -> Result<(), StoreError> {
        for part in (0..last).step_by(50) {
            if contents[part as usize] != 0 {
                fill(&self.store, base, contents, part, (part + 50).min(last)).await?;
            }
        }
        self.store.set_known(base, last * BLOCK)
    }

    /// What is not here was never written, and is what the origin has.
    pub async fn compare_absent(&self, source: Source, span: Span, expected: &[u8]) {
        let mut lba = span.offset / BLOCK;
        for Presence { blocks, absent } in self.store.presence(source, span).await.unwrap() {
            let at = (lba * BLOCK - span.offset) / BLOCK;
            let expected = &expected[at as usize..][..blocks];
            if let Some(base) = absent {
                let origin = &self.origins[&base][lba as usize..][..blocks];
                assert_eq!(origin, expected, "{source:?} from block {lba} on, absent");
            } else {
                assert_eq!(read(&self.store, source, lba, blocks).await, expected);
            }
            lba += blocks as u64;
        }
    }
}

/// Blocks of an origin arrive.
async fn fill(
    store: &Store<Ram>,
    base: BaseId,
    contents: &[u8],
    first: u64,
    last: u64,
) -> Result<(), StoreError> {
    for at in (first..last).step_by(Buf::PAGES_MAX) {
        let part = &contents[at as usize..last.min(at + Buf::PAGES_MAX as u64) as usize];
        let mut buf = Buf::from_heap(part.len());
        for (index, byte) in part.iter().enumerate() {
            buf.block_mut(index).fill(*byte);
        }
        store.fill(base, at * BLOCK, buf).await?;
    }
    Ok(())
}

async fn read(store: &Store<Ram>, source: Source, lba: u64, blocks: usize) -> Vec<u8> {
    let span = span(lba, blocks);
    let (buf, result) = store.read(source, span, Buf::from_heap(blocks)).await;
    result.unwrap();
    (0..blocks).map(|at| buf.block(at)[17]).collect()
}

fn span(lba: u64, blocks: usize) -> Span {
    Span {
        offset: lba * BLOCK,
        len: (blocks * BLOCK_SIZE) as u32,
    }
}

/// An adopted volume of 1000 blocks.
async fn adopt(store: &Store<Ram>) -> (VolumeId, BaseId) {
    let made = store.adopt_volume("a", 1000 * BLOCK).await.unwrap();
    (made.id, made.bases[0])
}

#[test]
fn what_is_not_here_is_told_and_what_arrived_stays() {
    let lab = Lab::new(1);
    lab.format();
    let store = lab.open();
    let origin = vec![9; 1000];
    let (volume, base) = lab.run({
        let (store, origin) = (store.clone(), origin.clone());
        async move {
            let (volume, base) = adopt(&store).await;
            let (_, result) = store.read(volume, span(0, 4), Buf::from_heap(4)).await;
            assert_eq!(result.map(drop), Err(StoreError::Absent));
            fill(&store, base, &origin, 2, 5).await.unwrap();
            let runs = store.presence(volume, span(0, 8)).await.unwrap();
            let run = |blocks, absent| Presence { blocks, absent };
            assert_eq!(runs, [run(2, Some(base)), run(3, None), run(3, Some(base))]);
            // A partial write needs what is around it; one of whole blocks, or of zeros, does not.
            let part = Span {
                offset: 512,
                len: 512,
            };
            let result = store.write(volume, part, Buf::from_heap(1)).await;
            assert_eq!(result, Err(StoreError::Absent));
            let mut ones = Buf::from_heap(1);
            ones.block_mut(0).fill(1);
            store.write(volume, span(6, 1), ones).await.unwrap();
            store.discard(volume, 7 * BLOCK, 300 * BLOCK).await.unwrap();
            // Late: the volume has something newer there, or zeros.
            fill(&store, base, &origin, 5, 8).await.unwrap();
            store.flush().await.unwrap();
            (volume, base)
        }
    });
    for _ in 0..2 {
        lab.exec.clear();
        let store = lab.open();
        lab.run(async move {
            assert_eq!(read(&store, volume.into(), 2, 6).await, [9, 9, 9, 9, 1, 0]);
            assert_eq!(store.base(base).unwrap().known_bytes, 0);
            store.checkpoint().await.unwrap();
            let runs = store.presence(volume, span(300, 8)).await.unwrap();
            assert_eq!(
                runs[0],
                Presence {
                    blocks: 7,
                    absent: None
                }
            );
            store.flush().await.unwrap();
        });
        lab.exec.clear();
        lab.expect_sound();
    }
}

#[test]
fn what_is_known_to_have_arrived_is_zeros_where_nothing_did() {
    let lab = Lab::new(1);
    lab.format();
    let store = lab.open();
    let volume = lab.run(async move {
        let (volume, base) = adopt(&store).await;
        let store = &store;
        fill(store, base, &[7; 1000], 10, 20).await.unwrap();
        store.set_known(base, 15 * BLOCK).unwrap();
        // Late: that there are zeros is known.
        fill(store, base, &[7; 1000], 0, 12).await.unwrap();
        assert_eq!(read(store, volume.into(), 0, 12).await[8..], [0, 0, 7, 7]);
        let runs = store.presence(volume, span(14, 8)).await.unwrap();
        assert_eq!(
            runs[1],
            Presence {
                blocks: 2,
                absent: Some(base)
            }
        );
        let extents = async |start: u64, len: u64| {
            let extents = store
                .extents(None, volume, start * BLOCK, len * BLOCK, 9)
                .await;
            extents
                .unwrap()
                .iter()
                .map(|Extent { len, content }| (len / BLOCK, *content))
                .collect::<Vec<_>>()
        };
        // What nobody knows may be data.
        assert_eq!(
            extents(0, 30).await,
            [(10, Content::Same), (20, Content::Data)]
        );
        store.set_known(base, 2000 * BLOCK).unwrap();
        let all = [
            (10, Content::Same),
            (10, Content::Data),
            (980, Content::Same),
        ];
        assert_eq!(extents(0, 1000).await, all);
        assert!(store.base(base).unwrap().is_complete());
        let usage = store.usage(volume.into()).await.unwrap();
        assert_eq!(
            (usage.referenced_bytes, usage.unique_bytes),
            (10 * BLOCK, 10 * BLOCK)
        );
        // What is added by growing is zeros, and nobody's.
        store.grow_volume(volume, 40_000 * BLOCK).await.unwrap();
        assert_eq!(extents(990, 30).await, [(30, Content::Same)]);
        let whole = store.diff(None, volume.into(), 0, 9).await.unwrap();
        assert_eq!(whole.ranges.last().unwrap().len, 1000 * BLOCK);
        assert_eq!(read(store, volume.into(), 998, 30).await, [0; 30]);
        let mut ones = Buf::from_heap(1);
        ones.block_mut(0).fill(1);
        store.write(volume, span(39_999, 1), ones).await.unwrap();
        store.flush().await.unwrap();
        volume
    });
    lab.exec.clear();
    let store = lab.open();
    lab.run(async move {
        store.checkpoint().await.unwrap();
        assert_eq!(read(&store, volume.into(), 9, 12).await[..3], [0, 7, 7]);
        assert_eq!(read(&store, volume.into(), 39_998, 2).await, [0, 1]);
        let usage = store.usage(volume.into()).await.unwrap();
        assert_eq!(usage.unique_bytes, 11 * BLOCK);
    });
    lab.exec.clear();
    lab.expect_sound();
}

#[test]
fn a_base_goes_with_the_last_that_needs_it() {
    let lab = Lab::new(2);
    lab.format();
    let store = lab.open();
    lab.run(async move {
        let (volume, base) = adopt(&store).await;
        let store = &store;
        let snapshot = store.create_snapshot(volume, "s").await.unwrap().id;
        let clone = store.clone_snapshot(snapshot, "c").await.unwrap();
        assert_eq!(clone.bases, [base]);
        fill(store, base, &[3; 1000], 0, 100).await.unwrap();
        store.rollback(volume, snapshot).await.unwrap();
        for source in [volume.into(), snapshot.into(), Source::from(clone.id)] {
            assert_eq!(read(store, source, 0, 8).await, [3; 8]);
        }
        let used = store.usage(clone.id.into()).await.unwrap();
        assert_eq!((used.referenced_bytes, used.unique_bytes), (100 * BLOCK, 0));
        store.delete_volume(volume).await.unwrap();
        fill(store, base, &[3; 1000], 100, 150).await.unwrap();
        assert_eq!(read(store, clone.id.into(), 98, 8).await, [3; 8]);
        let used = store.usage(clone.id.into()).await.unwrap();
        assert_eq!(used.unique_bytes, 150 * BLOCK);
        let before = store.pool().used_bytes;
        store.delete_volume(clone.id).await.unwrap();
        assert_eq!(store.base(base), None);
        assert_eq!(
            fill(store, base, &[3; 1000], 200, 201).await,
            Err(StoreError::NoVolume)
        );
        for _ in 0..3 {
            store.checkpoint().await.unwrap();
        }
        assert!(store.pool().used_bytes + 150 * BLOCK <= before);
        store.flush().await.unwrap();
    });
    lab.exec.clear();
    lab.expect_sound();
}

#[test]
fn zeros_are_known_where_they_were_found_and_nowhere_else() {
    let lab = Lab::new(1);
    lab.format();
    let store = lab.open();
    let base = lab.run(async move {
        let made = store.adopt_volume("a", 100_000 * BLOCK).await.unwrap();
        let (store, base) = (&store, made.bases[0]);
        fill(store, base, &[5; 100], 10, 12).await.unwrap();
        store.fill_zeros(base, 8 * BLOCK, 10 * BLOCK).await.unwrap();
        store
            .fill_zeros(base, 200 * BLOCK, 200 * BLOCK)
            .await
            .unwrap();
        store
            .fill_zeros(base, 50_000 * BLOCK, 20_000 * BLOCK)
            .await
            .unwrap();
        for _ in 0..2 {
            assert_eq!(
                read(store, made.id.into(), 8, 10).await[..6],
                [0, 0, 5, 5, 0, 0]
            );
            let absent = async |from: u64, to: u64| {
                let found = store
                    .first_absent(base, from * BLOCK, (to - from) * BLOCK)
                    .await
                    .unwrap();
                found.map(|found| (found.start / BLOCK, found.end / BLOCK))
            };
            assert_eq!(absent(8, 100).await, Some((18, 100)));
            assert_eq!(absent(8, 18).await, None);
            assert_eq!(absent(0, 40).await, Some((0, 8)));
            assert_eq!(absent(200, 500).await, Some((400, 500)));
            assert_eq!(absent(49_000, 51_000).await, Some((49_000, 50_000)));
            assert_eq!(absent(69_999, 99_999).await, Some((70_000, 99_999)));
            store.checkpoint().await.unwrap();
        }
        // Something arrives in what is known to be zeros: it was there first.
        fill(store, base, &[6; 300], 250, 260).await.unwrap();
        assert_eq!(read(store, made.id.into(), 250, 10).await, [0; 10]);
        store.flush().await.unwrap();
        base
    });
    lab.exec.clear();
    let store = lab.open();
    let found = lab.run(async move { store.first_absent(base, 0, 100_000 * BLOCK).await.unwrap() });
    assert_eq!(found, Some(0..8 * BLOCK));
    lab.exec.clear();
    lab.expect_sound();
}

#[test]
fn what_everybody_has_replaced_is_given_back_and_nothing_else() {
    let lab = Lab::new(1);
    lab.format();
    let store = lab.open();
    let sweep = async |store: &Store<Ram>, base| {
        let (mut at, mut freed) = (Some(0), 0);
        while let Some(from) = at {
            let step = store.sweep(base, from).await.unwrap();
            (at, freed) = (step.next, freed + step.freed_bytes);
        }
        freed / BLOCK
    };
    let (volume, base) = lab.run(async move {
        let store = &store;
        let (volume, base) = adopt(store).await;
        fill(store, base, &[3; 1000], 0, 500).await.unwrap();
        assert_eq!(sweep(store, base).await, 0, "not all is here");
        fill(store, base, &[3; 1000], 500, 1000).await.unwrap();
        store.set_known(base, 1000 * BLOCK).unwrap();
        let snapshot = store.create_snapshot(volume, "s").await.unwrap().id;
        fill_volume(store, volume, 100..400).await;
        store
            .discard(volume, 600 * BLOCK, 200 * BLOCK)
            .await
            .unwrap();
        assert_eq!(sweep(store, base).await, 0, "the snapshot has it");
        let again = store.adopt_again(base, "again").await;
        assert_eq!(again.map(drop), Err(StoreError::NoVolume));
        let clone = store.clone_snapshot(snapshot, "c").await.unwrap().id;
        fill_volume(store, clone, 0..390).await;
        store.delete_snapshot(snapshot).await.unwrap();
        assert_eq!(sweep(store, base).await, 290, "the clone needs the rest");
        store.delete_volume(clone).await.unwrap();
        let before = store.pool().used_bytes;
        assert_eq!(sweep(store, base).await, 10 + 200);
        assert_eq!(sweep(store, base).await, 0);
        for _ in 0..3 {
            store.checkpoint().await.unwrap();
        }
        assert!(store.pool().used_bytes + 210 * BLOCK <= before);
        assert_eq!(store.base(base).unwrap().stored_bytes, 500 * BLOCK);
        (volume, base)
    });
    lab.exec.clear();
    lab.expect_sound();
    let store = lab.open();
    lab.run(async move {
        let found = read(&store, volume.into(), 90, 20).await;
        assert_eq!(found, [[3; 10], [9; 10]].concat());
        let found = read(&store, volume.into(), 395, 10).await;
        assert_eq!(found, [[9; 5], [3; 5]].concat());
        let found = read(&store, volume.into(), 795, 10).await;
        assert_eq!(found, [[0; 5], [3; 5]].concat());
        let again = store.adopt_again(base, "again").await;
        assert_eq!(again.map(drop), Err(StoreError::NoVolume));
    });
}

async fn fill_volume(store: &Store<Ram>, volume: VolumeId, blocks: core::ops::Range<u64>) {
    for lba in blocks {
        let mut buf = Buf::from_heap(1);
        buf.block_mut(0).fill(9);
        store.write(volume, span(lba, 1), buf).await.unwrap();
    }
}
