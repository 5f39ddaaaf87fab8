//! Pools with snapshots and clones are sound, whenever one looks.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use alloc::{format, vec};

use world::Buf;

use super::lab::{BLOCKS, Event, Lab, Ram, check_disks, lines, work};
use super::play::Play;
use super::sound::{after_a_cut, fill};
use crate::api::{Config, Span};
use crate::store::Store;

/// So many blocks a checkpoint frees: where it is few, deleted maps are half taken apart at most times.
const RECLAIM: [usize; 3] = [20, 150, 8192];

#[test]
fn a_pool_with_snapshots_is_sound() {
    let (mut snapshots, mut hidden) = (0, 0);
    for seed in 0..6 {
        let lab = Lab::new(1 + seed as usize % 2);
        lab.format();
        let slow = |config: &mut Config| config.reclaim_blocks = RECLAIM[seed as usize % 3];
        let mut play = Play::new(lab.open_with(slow), seed);
        for life in 0..6 {
            for _ in 0..10 {
                play = lab.run(async move {
                    play.go_on(30).await;
                    play.store.flush().await.unwrap();
                    play
                });
                let summary = lab.expect_sound();
                snapshots += summary.snapshots;
                hidden += summary.hidden;
            }
            if life % 2 == 0 {
                let closing = play.store.clone();
                lab.run(async move { closing.close().await }).unwrap();
                lab.expect_sound();
            }
            lab.exec.clear();
            play.store = lab.open_with(slow);
            play = lab.run(async move {
                play.compare().await;
                play
            });
        }
    }
    assert!(snapshots > 500 && hidden > 500, "{snapshots} {hidden}");
}

/// The power may go after any write: what the drives hold then is sound, too.
#[test]
fn a_pool_with_snapshots_is_sound_after_every_write() {
    let lab = Lab::new(1);
    lab.format();
    let before = lab.disks[0].image.borrow().clone();
    lab.disks[0].logs.set(true);
    for life in 0..2 {
        let store = lab.open_with(|config| config.reclaim_blocks = RECLAIM[life as usize]);
        let mut play = Play::new(store, 40 + life);
        lab.run(async move { play.go_on(250).await });
        lab.exec.clear();
    }
    let replayed = Ram::default();
    *replayed.image.borrow_mut() = before;
    let mut checked = 0;
    for (number, event) in lab.disks[0].log.take().into_iter().enumerate() {
        let Event::Write { at, block, .. } = event else {
            continue;
        };
        replayed.put(at, &block);
        if number % 7 != 0 && at > 200 && at < BLOCKS - 64 {
            continue;
        }
        let findings = check_disks(vec![replayed.clone()]).1;
        assert_eq!(findings, [], "after write {number}: {}", lines(&findings));
        checked += 1;
    }
    assert!(checked > 200, "{checked}");
}

#[test]
fn a_pool_with_snapshots_is_sound_whatever_a_power_cut_leaves() {
    for (drives, cuts) in [(1, 60), (2, 30)] {
        let lab = Lab::new(drives);
        lab.format();
        let disks = lab.disks.iter();
        let before: Vec<_> = disks.map(|disk| disk.image.borrow().clone()).collect();
        lab.disks[0].logs.set(true);
        for life in 0..2 {
            let store = lab.open_with(|config| config.reclaim_blocks = RECLAIM[life as usize]);
            let mut play = Play::new(store, 50 + life);
            lab.run(async move { play.go_on(300).await });
            lab.exec.clear();
        }
        let log = lab.disks[0].log.take();
        let mut state = 3_u64;
        let mut random = move |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as usize % below
        };
        for cut in 0..cuts {
            let after = Lab::new(drives);
            for (disk, before) in after.disks.iter().zip(&before) {
                *disk.image.borrow_mut() = before.clone();
            }
            after_a_cut(&after, &log[..random(log.len())], &mut random);
            after.expect_sound();
            let store = after.open();
            after.expect_sound();
            let mut play = Play::new(store.clone(), 60 + cut);
            after.run(async move { play.go_on(100).await });
            after.expect_sound();
            after.run(work(store.clone(), 77));
            let closing = store.clone();
            after.run(async move { closing.close().await }).unwrap();
            after.expect_sound();
            after.cut(store);
        }
    }
}

/// More is freed by the end of a snapshot than one checkpoint does: cursors stand in the middle of maps.
#[test]
fn a_pool_is_sound_while_a_snapshot_collapses() {
    for (survivors, first, both) in [
        (0, 0, false),
        (1, 0, false),
        (1, 2, false),
        (1, 0, true),
        (2, 0, false),
    ] {
        let lab = Lab::new(1);
        lab.format();
        let store = lab.open();
        let using = store.clone();
        lab.run(async move { collapsing(using, survivors).await });
        lab.expect_sound();
        let before = lab.disks[0].image.borrow().clone();
        lab.disks[0].logs.set(true);
        let (using, exec) = (store.clone(), lab.exec.clone());
        lab.run(async move {
            for info in using.volumes() {
                let snapshot = using.find_snapshot(info.id, "middle");
                if let Some(snapshot) = snapshot {
                    using.delete_snapshot(snapshot.id).await.unwrap();
                }
                if info.name == "base" && survivors == 0 {
                    using.delete_volume(info.id).await.unwrap();
                }
            }
            for step in 0..4 {
                using.checkpoint().await.unwrap();
                change_meanwhile(&using, (step + first) % 4).await;
                // Its parent has to wait then.
                if let Some(base) = using.find("base").filter(|_| both && step == 0) {
                    let first = using.find_snapshot(base.id, "first").unwrap();
                    using.delete_snapshot(first.id).await.unwrap();
                }
            }
            exec.sleep(core::time::Duration::from_secs(3)).await;
            using.checkpoint().await.unwrap();
        });
        lab.disks[0].logs.set(false);
        let replayed = Ram::default();
        *replayed.image.borrow_mut() = before;
        let mut hidden = BTreeSet::new();
        for event in lab.disks[0].log.take() {
            let Event::Write { at, block, .. } = event else {
                continue;
            };
            replayed.put(at, &block);
            if at < 64 {
                let (summary, findings) = check_disks(vec![replayed.clone()]);
                assert_eq!(findings, [], "{survivors}: {}", lines(&findings));
                let summary = summary.unwrap();
                hidden.insert((summary.hidden, summary.data_blocks));
            }
        }
        // Under way at one checkpoint at least, and in the end nothing is left unless two still need it.
        assert!(hidden.iter().any(|(maps, _)| *maps > 0), "{hidden:?}");
        let left = u64::from(survivors == 2);
        assert_eq!(lab.expect_sound().hidden, left);
        lab.cut(store);
        let store = lab.open();
        assert_eq!(lab.expect_sound().hidden, left);
        lab.cut(store);
    }
}

/// Changes before and behind the cursor: of what the volume wrote itself, of what it shares, and of whole subtrees.
async fn change_meanwhile(store: &Store<Ram>, step: u64) {
    let rest = store.volumes().into_iter();
    for info in rest.filter(|info| info.name != "other") {
        for block in [step * 3000, 330 + step * 10] {
            let offset = block << 12;
            let span = Span {
                offset,
                len: 3 << 12,
            };
            let written = store.write(info.id, span, Buf::from_heap(3)).await;
            written.unwrap();
        }
        let (first, blocks) = [(600, 300), (5000, 700), (0, 16_384), (0, 25_600)][step as usize];
        let discarded = store.discard(info.id, first << 12, blocks << 12).await;
        discarded.unwrap();
    }
}

/// A volume `base` with a full snapshot `middle`, mostly discarded since; clones if there are to be several survivors.
pub async fn collapsing(store: Store<Ram>, survivors: u64) {
    let base = store.create_volume("base", 100 << 20).await.unwrap().id;
    fill(&store, base, 640).await;
    let far = Span {
        offset: 20_000 << 12,
        len: 4096,
    };
    store.write(base, far, Buf::from_heap(1)).await.unwrap();
    store.create_snapshot(base, "first").await.unwrap();
    fill(&store, base, 8960).await;
    let middle = store.create_snapshot(base, "middle").await.unwrap();
    for index in 1..survivors {
        let name = format!("clone-{index}");
        let clone = store.clone_snapshot(middle.id, &name).await.unwrap();
        fill(&store, clone.id, 64).await;
    }
    // Some leaves stay as they are in the snapshot, some in part.
    store.discard(base, 400 << 12, 112 << 12).await.unwrap();
    store.discard(base, 768 << 12, 8150 << 12).await.unwrap();
    fill(&store, base, 320).await;
    store.checkpoint().await.unwrap();
}

/// A level between the old root and the new one holds nothing new, and is the map's own all the same.
#[test]
fn a_map_may_grow_by_several_levels_at_once() {
    let lab = Lab::new(1);
    lab.format();
    let store = lab.open();
    for round in 0..4_u64 {
        let using = store.clone();
        lab.run(async move {
            let name = format!("young-{round}");
            let size = 12 << 30;
            let young = using.create_volume(&name, size).await.unwrap().id;
            fill(&using, young, 16).await;
            let snapshot = using.create_snapshot(young, "s").await.unwrap();
            let name = format!("clone-{round}");
            let clone = using.clone_snapshot(snapshot.id, &name).await.unwrap().id;
            for (step, volume) in (0..).zip([young, clone, young]) {
                let block = [20_000, 2_500_000, 3_000_000][step];
                let span = Span {
                    offset: block << 12,
                    len: 4096,
                };
                let written = using.write(volume, span, Buf::from_heap(1)).await;
                written.unwrap();
                using.checkpoint().await.unwrap();
            }
        });
        lab.expect_sound();
        let using = store.clone();
        lab.run(async move {
            for info in using.volumes() {
                if info.id.0 % 2 == round % 2 {
                    using.delete_volume(info.id).await.unwrap();
                }
            }
            using.checkpoint().await.unwrap();
        });
        lab.expect_sound();
    }
    lab.cut(store);
}
