//! What clients rely on around snapshots: who may be cut off, and when.

mod ram;

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::Duration;

use ram::{Bench, RamDisk};
use volume::{Access, Limits, Settings, Span, StoreError, Volume, VolumeError, Volumes};
use world::Buf;

const MIB: u64 = 1 << 20;
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const FIRST: Span = Span {
    offset: 0,
    len: 4096,
};

/// A catalog with the volume `v`, whose first block holds ones.
fn with_volume(bench: &Bench) -> Volumes<RamDisk> {
    let volumes = Volumes::new(bench.store());
    let all = volumes.clone();
    bench.run(async move {
        all.create("v", MIB).await.unwrap();
        let volume = all.attach("v", Access::ReadWrite).unwrap();
        fill(&volume, 1).await.unwrap();
    });
    volumes
}

async fn fill(volume: &Volume<RamDisk>, byte: u8) -> Result<(), VolumeError> {
    let mut buf = Buf::from_heap(1);
    buf.block_mut(0).fill(byte);
    volume.write(FIRST, buf).await
}

async fn first(volume: &Volume<RamDisk>) -> Result<u8, VolumeError> {
    let (buf, result) = volume.read(FIRST, Buf::from_heap(1)).await;
    result.map(|_| buf.block(0)[0])
}

#[test]
fn names_lead_to_volumes_and_snapshots() {
    let bench = Bench::new();
    let volumes = with_volume(&bench);
    bench.run(async move {
        let made = volumes.create_snapshot("v", "s").await.unwrap();
        let export = volumes.resolve("v@s").unwrap();
        assert_eq!((export.source, export.size_bytes), (made.id.into(), MIB));
        assert_eq!(export.name, "v@s");
        for (name, error) in [
            ("v@", VolumeError::NoSnapshot),
            ("v@t", VolumeError::NoSnapshot),
            ("w@s", VolumeError::NoVolume),
            ("@s", VolumeError::NoVolume),
            ("@", VolumeError::NoVolume),
        ] {
            assert_eq!(volumes.resolve(name), Err(error), "{name}");
        }
        assert_eq!(volumes.exports(HERE, 10), ["v", "v@s"]);
        assert_eq!(volumes.exports(HERE, 1), ["v"]);
        let bad = volumes.create_snapshot("v", "a@b").await;
        assert_eq!(bad, Err(VolumeError::BadName));
    });
}

#[test]
fn a_snapshot_takes_no_writes_whatever_is_asked_for() {
    let bench = Bench::new();
    let volumes = with_volume(&bench);
    bench.run(async move {
        volumes.create_snapshot("v", "s").await.unwrap();
        let snapshot = volumes.attach("v@s", Access::ReadWrite).unwrap();
        assert!(snapshot.is_read_only());
        assert_eq!(fill(&snapshot, 2).await, Err(VolumeError::ReadOnly));
        assert_eq!(snapshot.discard(0, 4096).await, Err(VolumeError::ReadOnly));
        assert_eq!(snapshot.flush().await, Ok(()));
        assert_eq!(first(&snapshot).await, Ok(1));
    });
}

#[test]
fn clients_of_its_snapshots_hold_a_volume_and_not_the_other_way_round() {
    let bench = Bench::new();
    let volumes = with_volume(&bench);
    bench.run(async move {
        for name in ["a", "b"] {
            volumes.create_snapshot("v", name).await.unwrap();
        }
        let reader = volumes.attach("v@a", Access::ReadOnly).unwrap();
        let writer = volumes.attach("v", Access::ReadWrite).unwrap();
        let refused = volumes.delete("v", false).await;
        assert_eq!(refused, Err(VolumeError::Attached(2)));
        let refused = volumes.delete_snapshot("v", "a", false).await;
        assert_eq!(refused, Err(VolumeError::Attached(1)));
        volumes.delete_snapshot("v", "b", false).await.unwrap();
        let refused = volumes.rollback("v", "a", false).await;
        assert_eq!(refused, Err(VolumeError::Attached(1)));
        drop(writer);
        volumes.rollback("v", "a", false).await.unwrap();
        assert_eq!(first(&reader).await, Ok(1));
    });
}

#[test]
fn a_volume_goes_while_its_snapshot_goes() {
    let bench = Bench::new();
    let volumes = with_volume(&bench);
    let exec = bench.exec.clone();
    bench.run(async move {
        for name in ["a", "b"] {
            volumes.create_snapshot("v", name).await.unwrap();
        }
        let readers = ["v@a", "v@b"].map(|name| volumes.attach(name, Access::ReadOnly).unwrap());
        let (all, gone) = (volumes.clone(), Rc::new(Cell::new(None)));
        let told = gone.clone();
        exec.spawn(async move { told.set(Some(all.delete_snapshot("v", "a", true).await)) });
        while first(&readers[0]).await.is_ok() {
            exec.yield_now().await;
        }
        assert_eq!(gone.get(), None, "it is being deleted");
        volumes.delete("v", true).await.unwrap();
        for reader in &readers {
            assert_eq!(reader.ended().await, VolumeError::Deleted);
        }
        while gone.get().is_none() {
            exec.yield_now().await;
        }
        assert_eq!(volumes.get("v").err(), Some(VolumeError::NoVolume));
    });
}

#[test]
fn what_is_under_way_comes_before_a_rollback_and_what_is_late_is_refused() {
    let bench = Bench::new();
    let volumes = with_volume(&bench);
    let exec = bench.exec.clone();
    bench.run(async move {
        volumes.create_snapshot("v", "s").await.unwrap();
        let client = Rc::new(volumes.attach("v", Access::ReadWrite).unwrap());
        let ended = Rc::new(Cell::new(None));
        let (watched, told) = (client.clone(), ended.clone());
        exec.spawn(async move { told.set(Some(watched.ended().await)) });
        let results = Rc::new(Cell::new((0, 0)));
        for _ in 0..8 {
            let (client, results) = (client.clone(), results.clone());
            exec.spawn(async move {
                let (done, refused) = match fill(&client, 7).await {
                    Ok(()) => (1, 0),
                    Err(VolumeError::RolledBack) => (0, 1),
                    other => panic!("{other:?}"),
                };
                let (before, refused_before) = results.get();
                results.set((before + done, refused_before + refused));
            });
        }
        while volumes.operations() < 1 + 8 {
            exec.yield_now().await;
        }
        assert_eq!(
            (ended.get(), results.get()),
            (None, (0, 0)),
            "all are under way"
        );
        volumes.rollback("v", "s", true).await.unwrap();
        let (done, refused) = results.get();
        assert_eq!(
            (done, refused),
            (8, 0),
            "what was begun is neither refused nor forgotten"
        );
        assert_eq!(fill(&client, 8).await, Err(VolumeError::RolledBack));
        while ended.get().is_none() {
            exec.yield_now().await;
        }
        assert_eq!(ended.get(), Some(VolumeError::RolledBack));
        let again = volumes.attach("v", Access::ReadWrite).unwrap();
        assert_eq!(first(&again).await, Ok(1));
    });
}

#[test]
fn nobody_attaches_while_a_volume_goes() {
    let bench = Bench::new();
    let volumes = with_volume(&bench);
    let exec = bench.exec.clone();
    bench.run(async move {
        volumes.create_snapshot("v", "s").await.unwrap();
        let client = Rc::new(volumes.attach("v", Access::ReadWrite).unwrap());
        // Something under way holds the delete up.
        let writer = client.clone();
        exec.spawn(async move { fill(&writer, 2).await.unwrap() });
        exec.yield_now().await;
        let (all, deleted) = (volumes.clone(), Rc::new(Cell::new(false)));
        let done = deleted.clone();
        exec.spawn(async move {
            all.delete("v", true).await.unwrap();
            done.set(true);
        });
        while !deleted.get() {
            for name in ["v", "v@s"] {
                let error = volumes.attach(name, Access::ReadOnly).err();
                let late = [
                    VolumeError::NoVolume,
                    VolumeError::NoSnapshot,
                    VolumeError::Deleted,
                ];
                let begun = client.check(Access::ReadOnly, 0, 512).is_err();
                assert!(
                    !begun || error.is_some_and(|error| late.contains(&error)),
                    "{error:?}"
                );
            }
            exec.yield_now().await;
        }
        assert_eq!(volumes.resolve("v"), Err(VolumeError::NoVolume));
        drop(client);
    });
}

#[test]
fn when_the_store_refuses_clients_go_on() {
    let bench = Bench::new();
    let volumes = with_volume(&bench);
    bench.run(async move {
        volumes.create_snapshot("v", "s").await.unwrap();
        let client = volumes.attach("v", Access::ReadWrite).unwrap();
        volumes.store().close().await.unwrap();
        let closed = Err(VolumeError::Store(StoreError::Closed));
        assert_eq!(volumes.delete("v", true).await, closed);
        assert_eq!(volumes.delete_snapshot("v", "s", true).await, closed);
        assert_eq!(volumes.rollback("v", "s", true).await.map(drop), closed);
        assert_eq!(client.check(Access::ReadWrite, 0, 512), Ok(()));
        assert_eq!(volumes.clients(volumes.get("v").unwrap().id), 1);
        let _ = volumes.attach("v@s", Access::ReadOnly).unwrap();
    });
}

#[test]
fn a_group_names_each_volume_once() {
    let bench = Bench::new();
    let volumes = with_volume(&bench);
    bench.run(async move {
        volumes.create("w", MIB).await.unwrap();
        let twice = volumes.create_snapshots(&["v", "w", "v"], "s").await;
        assert_eq!(twice.map(drop), Err(VolumeError::NamedTwice));
        let missing = volumes.create_snapshots(&["v", "x"], "s").await;
        assert_eq!(missing.map(drop), Err(VolumeError::NoVolume));
        assert_eq!(volumes.snapshots("v", None, 9).unwrap(), []);
        let made = volumes.create_snapshots(&["w", "v"], "s").await.unwrap();
        let of: Vec<_> = made.iter().map(|info| info.volume).collect();
        assert_eq!(of, ["w", "v"].map(|name| volumes.get(name).unwrap().id));
    });
}

#[test]
fn settings_are_kept_and_go_with_their_volume() {
    let bench = Bench::new();
    let volumes = with_volume(&bench);
    let store = volumes.store().clone();
    bench.run(async move {
        volumes.create_snapshot("v", "s").await.unwrap();
        let client = volumes.attach("v", Access::ReadWrite).unwrap();
        let settings = Settings {
            read_only: true,
            allow: vec!["10.0.0.0/8".parse().unwrap()],
            limits: Limits {
                iops: Some(500),
                rate_bytes: Some(1 << 20),
            },
        };
        let id = volumes.set("v", settings.clone()).await.unwrap().id;
        assert_eq!(fill(&client, 2).await, Err(VolumeError::ReadOnly));
        // Another catalog of the same store is a restart as clients see it.
        let again = Volumes::new(store.clone());
        assert_eq!(again.load().await, [""; 0]);
        assert_eq!(again.settings(id), settings);
        let there = "10.1.1.1".parse().unwrap();
        for name in ["v", "v@s"] {
            let refused = again.attach_from(HERE, name, Access::ReadWrite).err();
            assert_eq!(refused, Some(VolumeError::NotAllowed), "{name}");
            let admitted = again.attach_from(there, name, Access::ReadWrite);
            assert!(admitted.unwrap().is_read_only());
        }
        assert_eq!(again.exports(HERE, 10), [""; 0]);
        assert_eq!(again.exports(there, 10), ["v", "v@s"]);
        again.set("v", Settings::default()).await.unwrap();
        assert!(store.record_keys().is_empty());

        // What cannot be read is for nobody, and can be set anew.
        let key = format!("volume/{}", id.0);
        store.set_record(&key, Some(b"what?")).await.unwrap();
        let third = Volumes::new(store.clone());
        assert_eq!(third.load().await, ["v"]);
        let refused = third.attach_from(HERE, "v", Access::ReadOnly).err();
        assert_eq!(refused, Some(VolumeError::NotAllowed));
        third.set("v", settings).await.unwrap();
        third.delete("v", true).await.unwrap();
        assert!(store.record_keys().is_empty());
    });
}

#[test]
fn changes_of_the_same_moment_all_count() {
    let bench = Bench::new();
    let volumes = with_volume(&bench);
    let (one, other) = (volumes.clone(), volumes.clone());
    bench.exec.spawn(async move {
        one.update("v", |now| now.read_only = true).await.unwrap();
    });
    let exec = bench.exec.clone();
    let id = bench.run(async move {
        let here = || vec!["127.0.0.0/8".parse().unwrap()];
        let info = other.update("v", |now| now.allow = here()).await.unwrap();
        exec.sleep(Duration::from_secs(1)).await;
        info.id
    });
    let settings = volumes.settings(id);
    assert!(settings.read_only);
    assert_eq!(settings.allow.len(), 1);

    let exec = bench.exec.clone();
    // Whoever is first, nothing stays of a volume that is gone.
    let (one, other) = (volumes.clone(), volumes.clone());
    bench.exec.spawn(async move {
        let _ = one.update("v", |now| now.allow.clear()).await;
    });
    bench.run(async move {
        other.delete("v", true).await.unwrap();
        exec.sleep(Duration::from_secs(1)).await;
    });
    assert_eq!(volumes.settings(id), Settings::default());
    assert!(volumes.store().record_keys().is_empty());
}

#[test]
fn a_clone_is_for_those_that_its_origin_is_for() {
    let bench = Bench::new();
    let volumes = with_volume(&bench);
    bench.run(async move {
        let settings = Settings {
            read_only: true,
            allow: vec!["10.0.0.0/8".parse().unwrap()],
            ..Settings::default()
        };
        volumes.set("v", settings).await.unwrap();
        volumes.create_snapshot("v", "s").await.unwrap();
        volumes.clone_snapshot("v", "s", "c").await.unwrap();
        let again = Volumes::new(volumes.store().clone());
        again.load().await;
        for volumes in [volumes, again] {
            let refused = volumes.attach_from(HERE, "c", Access::ReadWrite).err();
            assert_eq!(refused, Some(VolumeError::NotAllowed));
            let there = "10.1.1.1".parse().unwrap();
            let client = volumes.attach_from(there, "c", Access::ReadWrite);
            assert!(!client.unwrap().is_read_only());
        }
    });
}

#[test]
fn what_is_used_is_looked_up_again_after_a_while_and_when_snapshots_come() {
    let bench = Bench::new();
    let volumes = with_volume(&bench);
    let exec = bench.exec.clone();
    bench.run(async move {
        let id = volumes.get("v").unwrap().id;
        let used = async || {
            let usage = volumes.recent_usage(id, || exec.now()).await.unwrap();
            (usage.referenced_bytes, usage.unique_bytes)
        };
        assert_eq!(used().await, (4096, 4096));
        let client = volumes.attach("v", Access::ReadWrite).unwrap();
        client.discard(0, 4096).await.unwrap();
        assert_eq!(used().await, (4096, 4096));
        exec.sleep(Duration::from_secs(2)).await;
        assert_eq!(used().await, (0, 0));
        fill(&client, 3).await.unwrap();
        volumes.create_snapshot("v", "s").await.unwrap();
        assert_eq!(used().await, (4096, 0));
        volumes.delete_snapshot("v", "s", false).await.unwrap();
        assert_eq!(used().await, (4096, 4096));
    });
}

#[test]
fn what_a_snapshot_alone_has_counts_at_once() {
    let bench = Bench::new();
    let volumes = with_volume(&bench);
    bench.run(async move {
        let snapshot = volumes.create_snapshot("v", "s").await.unwrap();
        let unique = async || volumes.usage(snapshot.id).await.unwrap().unique_bytes;
        assert_eq!(unique().await, 0);
        let client = volumes.attach("v", Access::ReadWrite).unwrap();
        fill(&client, 3).await.unwrap();
        assert_eq!(unique().await, 4096);
    });
}
