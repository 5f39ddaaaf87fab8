//! A pool is sound at every moment of its life.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use alloc::{format, vec};

use world::{BLOCK_SIZE, Buf};

use super::lab::{BLOCKS, Event, Lab, Ram, check_disks, lines, work};
use crate::api::{Span, VolumeId};
use crate::store::Store;

/// The first block of a volume.
const FIRST: Span = Span {
    offset: 0,
    len: 4096,
};

#[test]
fn a_new_pool_is_sound() {
    for drives in [1, 3] {
        let lab = Lab::new(drives);
        lab.format();
        let summary = lab.expect_sound();
        assert_eq!(
            (summary.volumes, summary.data_blocks, summary.frames),
            (0, 0, 0)
        );
    }
}

#[test]
fn a_used_pool_is_sound_open_or_closed() {
    for drives in [1, 2] {
        let lab = Lab::new(drives);
        lab.format();
        for life in 0..3 {
            let store = lab.open();
            lab.run(work(store.clone(), life));
            let summary = lab.expect_sound();
            assert_eq!(summary.volumes, 2 * (life + 1));
            assert!(
                summary.frames > 0 && summary.journal_blocks > 0,
                "{summary:?}"
            );
            if life == 1 {
                lab.cut(store);
                lab.expect_sound();
                continue;
            }
            let closing = store.clone();
            lab.run(async move { closing.close().await }).unwrap();
            let summary = lab.expect_sound();
            assert!(summary.data_blocks > 500 && summary.verified > summary.data_blocks);
            lab.cut(store);
        }
    }
}

/// The power may go after any write: what the drives hold then is sound, too.
#[test]
fn a_pool_is_sound_after_every_write() {
    let lab = Lab::new(1);
    lab.format();
    let before = lab.disks[0].image.borrow().clone();
    lab.disks[0].logs.set(true);
    for life in 0..2 {
        let store = lab.open();
        lab.run(work(store.clone(), life));
        lab.cut(store);
    }
    lab.disks[0].logs.set(false);
    let log = lab.disks[0].log.take();
    let replayed = Ram::default();
    *replayed.image.borrow_mut() = before;
    let mut checked = 0;
    for (number, event) in log.into_iter().enumerate() {
        let Event::Write { at, block, .. } = event else {
            continue;
        };
        replayed.put(at, &block);
        // Every place is the same to the checker but those of labels and tables.
        if number % 7 != 0 && at > 200 && at < BLOCKS - 64 {
            continue;
        }
        let (summary, findings) = check_disks(vec![replayed.clone()]);
        assert_eq!(
            findings,
            [],
            "after write {number} to {at}: {}",
            lines(&findings)
        );
        summary.unwrap();
        checked += 1;
    }
    assert!(checked > 200, "{checked}");
}

/// Parts of a lost write can get to their place later, with a torn write that has them in common.
#[test]
fn a_frame_that_was_not_accepted_stays_so() {
    let lab = Lab::new(1);
    lab.format();
    let disk = &lab.disks[0];
    let put = |byte: u8| {
        move |store: Store<Ram>| async move {
            let volume = store.volumes()[0].id;
            let mut buf = Buf::from_heap(1);
            buf.block_mut(0).fill(byte);
            store.write(volume, FIRST, buf).await.unwrap();
            store.flush().await.unwrap();
        }
    };
    let get = |store: Store<Ram>| async move {
        let volume = store.volumes()[0].id;
        let (buf, result) = store.read(volume, FIRST, Buf::from_heap(1)).await;
        result.unwrap();
        buf.block(0)[0]
    };
    let store = lab.open();
    let using = store.clone();
    lab.run(async move { using.create_volume("v", 1 << 20).await })
        .unwrap();
    lab.run(put(1)(store.clone()));
    lab.run(put(2)(store.clone()));
    lab.cut(store);
    let is_second = |block: &[u8; BLOCK_SIZE]| *block == [2; BLOCK_SIZE];
    let image = disk.image.borrow().clone();
    let seconds = image.iter().filter(|(_, block)| is_second(block));
    let places: Vec<u64> = seconds.map(|(at, _)| *at).collect();
    let [place] = places[..] else {
        panic!("{places:?}")
    };
    disk.flip(place, 9);
    for _ in 0..2 {
        let store = lab.open();
        assert_eq!(lab.run(get(store.clone())), 1);
        lab.cut(store);
        disk.put(place, &[2; BLOCK_SIZE]);
    }
    lab.expect_sound();
}

/// The power goes: of what no FLUSH covers, any part may be there, whole or torn. What the drive holds then is sound, and
/// so is what recovery makes of it.
#[test]
fn a_pool_is_sound_whatever_a_power_cut_leaves() {
    for (drives, cuts) in [(1, 100), (2, 60)] {
        let lab = Lab::new(drives);
        lab.format();
        let before: Vec<_> = lab
            .disks
            .iter()
            .map(|disk| disk.image.borrow().clone())
            .collect();
        lab.disks[0].logs.set(true);
        for life in 0..2 {
            let store = lab.open();
            lab.run(work(store.clone(), life));
            lab.cut(store);
        }
        let log = lab.disks[0].log.take();
        let mut state = 11_u64;
        let mut random = move |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as usize % below
        };
        for _ in 0..cuts {
            let after = Lab::new(drives);
            for (disk, before) in after.disks.iter().zip(&before) {
                *disk.image.borrow_mut() = before.clone();
            }
            let cut = random(log.len());
            after_a_cut(&after, &log[..cut], &mut random);
            after.expect_sound();
            let store = after.open();
            after.expect_sound();
            // From now on the journal says that everything before was durable.
            let using = store.clone();
            after
                .run(async move { using.set_record("life", Some(b"2")).await })
                .unwrap();
            after.expect_sound();
            after.run(work(store.clone(), 77));
            after.expect_sound();
            let closing = store.clone();
            after.run(async move { closing.close().await }).unwrap();
            after.expect_sound();
            after.cut(store);
        }
    }
}

/// Does to the drives what `log` says; of what no FLUSH covers only parts.
pub fn after_a_cut(lab: &Lab, log: &[Event], random: &mut impl FnMut(usize) -> usize) {
    let flushes = |drive| {
        let is_flush =
            move |event: &Event| matches!(event, Event::Flush { drive: of } if *of == drive);
        log.iter().rposition(is_flush).unwrap_or(0)
    };
    let flushed: Vec<usize> = (0..lab.disks.len()).map(flushes).collect();
    for (number, event) in log.iter().enumerate() {
        let Event::Write {
            drive,
            at,
            block: new,
        } = event
        else {
            continue;
        };
        let disk = &lab.disks[*drive];
        let all = [0, 0xff, 0xff, random(256)][random(4)];
        let sectors = if number < flushed[*drive] { 0xff } else { all };
        let mut block = disk.block(*at);
        for sector in (0..8).filter(|sector| sectors >> sector & 1 == 1) {
            let range = sector * 512..(sector + 1) * 512;
            block[range.clone()].copy_from_slice(&new[range]);
        }
        disk.put(*at, &block);
    }
}

pub async fn fill(store: &Store<Ram>, volume: VolumeId, blocks: u64) {
    for index in 0..blocks / 16 {
        let span = Span {
            offset: (index * 16) << 12,
            len: 16 << 12,
        };
        store.write(volume, span, Buf::from_heap(16)).await.unwrap();
    }
}

/// More is to be reclaimed than one checkpoint does: what is left is in use, and counted.
#[test]
fn a_pool_is_sound_while_it_takes_maps_apart() {
    let lab = Lab::new(1);
    lab.format();
    let store = lab.open();
    let filling = store.clone();
    let [large, small] = lab.run(async move {
        // The two catalog entries are in different blocks, neither in that of the store's own maps.
        let mut volumes = Vec::new();
        for index in 0..20 {
            let name = format!("volume-{index}");
            volumes.push(filling.create_volume(&name, 40 << 20).await.unwrap().id);
        }
        fill(&filling, volumes[8], 8960).await;
        fill(&filling, volumes[19], 640).await;
        filling.checkpoint().await.unwrap();
        [volumes[8], volumes[19]]
    });
    assert_eq!(lab.expect_sound().data_blocks, 9600);
    for delete in [false, true] {
        let before = lab.disks[0].image.borrow().clone();
        lab.disks[0].logs.set(true);
        let (emptying, exec) = (store.clone(), lab.exec.clone());
        lab.run(async move {
            for id in [large, small] {
                if delete {
                    emptying.delete_volume(id).await.unwrap();
                } else {
                    emptying.discard(id, 0, 40 << 20).await.unwrap();
                }
            }
            emptying.checkpoint().await.unwrap();
            exec.sleep(core::time::Duration::from_secs(1)).await;
            emptying.checkpoint().await.unwrap();
        });
        lab.disks[0].logs.set(false);
        let replayed = Ram::default();
        *replayed.image.borrow_mut() = before;
        let mut left = BTreeSet::new();
        for event in lab.disks[0].log.take() {
            let Event::Write { at, block, .. } = event else {
                continue;
            };
            replayed.put(at, &block);
            if at < 64 {
                let (summary, findings) = check_disks(vec![replayed.clone()]);
                assert_eq!(findings, [], "{}", lines(&findings));
                left.insert(summary.unwrap().data_blocks);
            }
        }
        assert!(left.len() >= 2 && left.contains(&0), "{left:?}");
        if !delete {
            let refilling = store.clone();
            lab.run(async move {
                fill(&refilling, large, 8960).await;
                fill(&refilling, small, 640).await;
                refilling.checkpoint().await.unwrap();
            });
        }
    }
}
