//! What clients of the catalog rely on.

mod ram;

use ram::{Bench, RamDisk};
use volume::{Access, Span, VolumeError, Volumes, check_name, check_size};
use world::Buf;

const MIB: u64 = 1 << 20;

fn volumes(bench: &Bench) -> Volumes<RamDisk> {
    Volumes::new(bench.store())
}

#[test]
fn names_and_sizes() {
    for good in ["a", "0", "db.2024_x-y", &"a".repeat(63)] {
        assert_eq!(check_name(good), Ok(()), "{good}");
    }
    for bad in [
        "",
        ".a",
        "-a",
        "_a",
        "A",
        "a b",
        "a/b",
        "a@b",
        "ä",
        &"a".repeat(64),
    ] {
        assert_eq!(check_name(bad), Err(VolumeError::BadName), "{bad}");
    }
    for good in [4096, 4608, MIB, 128 << 40] {
        assert_eq!(check_size(good), Ok(()), "{good}");
    }
    for bad in [0, 512, 4097, (128 << 40) + 512, u64::MAX] {
        assert_eq!(check_size(bad), Err(VolumeError::BadSize), "{bad}");
    }
}

#[test]
fn the_empty_name_means_demo_or_the_only_volume() {
    let bench = Bench::new();
    let volumes = volumes(&bench);
    assert_eq!(volumes.resolve(""), Err(VolumeError::NoDefault));
    bench.run(async move {
        volumes.create("a", MIB).await.unwrap();
        assert_eq!(volumes.resolve("").unwrap().name, "a");
        volumes.create("b", MIB).await.unwrap();
        assert_eq!(volumes.resolve(""), Err(VolumeError::NoDefault));
        volumes.create("demo", MIB).await.unwrap();
        assert_eq!(volumes.resolve("").unwrap().name, "demo");
        assert_eq!(volumes.resolve("c"), Err(VolumeError::NoVolume));
    });
}

#[test]
fn a_volume_with_clients_is_deleted_only_by_force() {
    let bench = Bench::new();
    let volumes = volumes(&bench);
    bench.run(async move {
        volumes.create("v", MIB).await.unwrap();
        let first = volumes.attach("v", Access::ReadWrite).unwrap();
        let second = volumes.attach("v", Access::ReadOnly).unwrap();
        assert_eq!(volumes.clients(volumes.get("v").unwrap().id), 2);
        assert_eq!(
            volumes.delete("v", false).await,
            Err(VolumeError::Attached(2))
        );
        drop(second);
        assert_eq!(
            volumes.delete("v", false).await,
            Err(VolumeError::Attached(1))
        );
        volumes.delete("v", true).await.unwrap();
        let span = Span {
            offset: 0,
            len: 4096,
        };
        assert_eq!(
            first.write(span, Buf::from_heap(1)).await,
            Err(VolumeError::Deleted)
        );
        assert_eq!(
            first.read(span, Buf::from_heap(1)).await.1,
            Err(VolumeError::Deleted)
        );
        assert_eq!(first.flush().await, Err(VolumeError::Deleted));
        assert_eq!(volumes.get("v"), Err(VolumeError::NoVolume));

        // A namesake is another volume: the old attachment does not reach it, and does not count.
        let again = volumes.create("v", MIB).await.unwrap();
        assert_eq!(first.discard(0, 4096).await, Err(VolumeError::Deleted));
        assert_eq!(volumes.clients(again.id), 0);
        volumes.delete("v", false).await.unwrap();
    });
}

#[test]
fn requests_are_checked_before_the_store_sees_them() {
    let bench = Bench::new();
    let volumes = volumes(&bench);
    bench.run(async move {
        volumes.create("v", MIB).await.unwrap();
        let volume = volumes.attach("v", Access::ReadWrite).unwrap();
        let check = |offset, len| volume.check(Access::ReadWrite, offset, len);
        assert_eq!(check(0, MIB), Ok(()));
        assert_eq!(check(MIB, 0), Ok(()));
        assert_eq!(check(MIB - 512, 1024), Err(VolumeError::OutOfRange));
        assert_eq!(check(u64::MAX - 511, 512), Err(VolumeError::OutOfRange));
        assert_eq!(check(1, 512), Err(VolumeError::Unaligned));
        assert_eq!(check(0, 513), Err(VolumeError::Unaligned));

        let reader = volumes.attach("v", Access::ReadOnly).unwrap();
        let span = Span {
            offset: 0,
            len: 512,
        };
        assert_eq!(
            reader.write(span, Buf::from_heap(1)).await,
            Err(VolumeError::ReadOnly)
        );
        assert_eq!(reader.discard(0, 512).await, Err(VolumeError::ReadOnly));
        assert_eq!(
            reader.read(span, Buf::from_heap(1)).await.1.map(|_| ()),
            Ok(())
        );
    });
}

#[test]
fn a_volume_grows_under_its_clients_and_never_shrinks() {
    let bench = Bench::new();
    let volumes = volumes(&bench);
    bench.run(async move {
        volumes.create("v", MIB).await.unwrap();
        let volume = volumes.attach("v", Access::ReadWrite).unwrap();
        assert_eq!(
            volumes.grow("v", 2 * MIB).await.unwrap().size_bytes,
            2 * MIB
        );
        assert_eq!(volume.size_bytes(), 2 * MIB);
        let span = Span {
            offset: 2 * MIB - 512,
            len: 512,
        };
        volume.write(span, Buf::from_heap(1)).await.unwrap();
        assert_eq!(
            volumes.grow("v", MIB).await,
            Err(VolumeError::Shrinks(2 * MIB))
        );
        assert_eq!(
            volumes.grow("v", 2 * MIB + 1).await,
            Err(VolumeError::BadSize)
        );
        assert_eq!(volumes.create("v", MIB).await, Err(VolumeError::NameTaken));
    });
}
