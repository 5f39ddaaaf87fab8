//! The model must see what a faulty store would do.

use store::{BaseId, BaseInfo, VolumeId, VolumeInfo};
use world::BLOCK_SIZE;

use super::*;
use crate::content::{self, SECTOR, Stamp};

struct Bench {
    model: Model,
    volume: u64,
}

const BLOCK: u64 = BLOCK_SIZE as u64;

/// What the store says of the volume.
fn info() -> VolumeInfo {
    VolumeInfo {
        id: VolumeId(20),
        name: "v".to_string(),
        uuid: [0; 16],
        size_bytes: 1 << 20,
        allocated_bytes: 0,
        created_at_nanos: 0,
        origin: None,
        bases: Vec::new(),
        snapshots: 0,
    }
}

impl Bench {
    fn new(trust: Trust) -> Self {
        let mut model = Model::new(9, trust);
        let volume = model.begin_create("v", 1 << 20);
        model.end_create(volume, Ok(VolumeId(20))).expect("create");
        Self { model, volume }
    }

    /// A write of whole blocks or sectors, acknowledged at once.
    fn write(&mut self, offset: u64, len: u64) -> u64 {
        let change = self.model.begin_change(self.volume, offset, len, true);
        self.model.end_change(&change, Ok(())).expect("write");
        change.write
    }

    fn flush(&mut self) {
        let started = self.model.begin_flush();
        self.model.end_flush(started, Ok(())).expect("flush");
    }

    /// The bytes of block `block` whose sectors were produced by these writes.
    fn block(&self, block: u64, writes: [u64; 8]) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK_SIZE];
        for (index, write) in writes.into_iter().enumerate() {
            if write > 0 {
                let stamp = Stamp {
                    volume: self.volume,
                    sector: block * 8 + index as u64,
                    write,
                };
                content::fill(9, stamp, &mut bytes[index * SECTOR..(index + 1) * SECTOR]);
            }
        }
        bytes
    }

    fn read(&mut self, block: u64, writes: [u64; 8]) -> Result<(), String> {
        let bytes = self.block(block, writes);
        let reading = self.model.begin_read(self.volume, block * BLOCK, BLOCK);
        self.model.end_read(&reading, Ok(&bytes))
    }

    /// A restart after which the blocks from 0 on hold these writes.
    fn recover(&mut self, blocks: &[u64]) -> Result<(), String> {
        self.model.restart();
        let mut verdict = Verdict::default();
        self.model.recover_volumes(&mut verdict, &[info()])?;
        for (block, write) in (0..).zip(blocks) {
            let bytes = self.block(block, [*write; 8]);
            let observed = self.model.observe(self.volume, block, u8::MAX, &bytes)?;
            self.model.recover_block(
                &mut verdict,
                self.volume,
                block,
                &Sight::Sectors(observed),
            )?;
        }
        self.model.recovered(&verdict)
    }
}

#[test]
fn a_read_must_see_the_last_acknowledged_write() {
    let mut bench = Bench::new(Trust::Full);
    let old = bench.write(0, BLOCK);
    let new = bench.write(0, BLOCK);
    assert!(bench.read(0, [new; 8]).is_ok());
    assert!(bench.read(0, [old; 8]).is_err());
    assert!(bench.read(0, [0; 8]).is_err());
}

#[test]
fn a_read_may_see_a_write_under_way_but_later_reads_must_then_too() {
    let mut bench = Bench::new(Trust::Full);
    let old = bench.write(0, BLOCK);
    let change = bench.model.begin_change(bench.volume, 0, BLOCK, true);
    assert!(bench.read(0, [old; 8]).is_ok());
    assert!(bench.read(0, [change.write; 8]).is_ok());
    assert!(bench.read(0, [old; 8]).is_err());
}

#[test]
fn sectors_of_one_block_must_not_be_lost_by_writes_of_others() {
    let mut bench = Bench::new(Trust::Full);
    let low = bench.write(0, 512);
    let high = bench.write(512, 512);
    assert!(bench.read(0, [low, high, 0, 0, 0, 0, 0, 0]).is_ok());
    assert!(bench.read(0, [0, high, 0, 0, 0, 0, 0, 0]).is_err());
}

#[test]
fn data_of_another_place_or_of_the_future_is_wrong() {
    let mut bench = Bench::new(Trust::DrivesLie);
    let write = bench.write(0, 2 * BLOCK);
    let bytes = bench.block(1, [write; 8]);
    let reading = bench.model.begin_read(bench.volume, 0, BLOCK);
    assert!(bench.model.end_read(&reading, Ok(&bytes)).is_err());
    assert!(bench.read(0, [write + 1; 8]).is_err());
}

#[test]
fn a_flushed_write_must_survive_and_an_unflushed_one_may_go() {
    for (survivor, fine) in [(0, false), (1, true), (2, true)] {
        let mut bench = Bench::new(Trust::Full);
        assert_eq!(bench.write(0, BLOCK), 1);
        bench.flush();
        assert_eq!(bench.write(0, BLOCK), 2);
        assert_eq!(bench.recover(&[survivor]).is_ok(), fine, "{survivor}");
    }
}

#[test]
fn a_later_write_without_an_earlier_one_is_no_prefix() {
    for (blocks, fine) in [
        ([1, 2], true),
        ([1, 0], true),
        ([0, 0], true),
        ([0, 2], false),
    ] {
        let mut bench = Bench::new(Trust::Full);
        bench.write(0, BLOCK);
        bench.write(BLOCK, BLOCK);
        assert_eq!(bench.recover(&blocks).is_ok(), fine, "{blocks:?}");
    }
}

#[test]
fn writes_that_overlap_in_time_have_no_order() {
    let mut bench = Bench::new(Trust::Full);
    let first = bench.model.begin_change(bench.volume, 0, BLOCK, true);
    let second = bench.model.begin_change(bench.volume, BLOCK, BLOCK, true);
    bench.model.end_change(&first, Ok(())).expect("write");
    bench.model.end_change(&second, Ok(())).expect("write");
    assert!(bench.recover(&[0, 2]).is_ok());
}

#[test]
fn a_refused_write_must_leave_no_trace() {
    let mut bench = Bench::new(Trust::Full);
    let old = bench.write(0, BLOCK);
    let change = bench.model.begin_change(bench.volume, 0, BLOCK, true);
    let refused = bench.model.end_change(&change, Err(StoreError::NoSpace));
    assert!(refused.is_ok());
    assert!(bench.read(0, [old; 8]).is_ok());
    assert!(bench.read(0, [change.write; 8]).is_err());
}

#[test]
fn an_acknowledged_volume_must_survive() {
    let mut bench = Bench::new(Trust::Full);
    bench.model.restart();
    let mut verdict = Verdict::default();
    assert!(bench.model.recover_volumes(&mut verdict, &[]).is_err());
}

#[test]
fn errors_are_excused_only_where_drives_fail() {
    for (trust, fine) in [(Trust::Full, false), (Trust::ErrorsHappen, true)] {
        let mut bench = Bench::new(trust);
        let reading = bench.model.begin_read(bench.volume, 0, BLOCK);
        let error = Err(StoreError::Damaged { block: 0 });
        assert_eq!(bench.model.end_read(&reading, error).is_ok(), fine);
    }
}

#[test]
fn a_lost_write_brings_the_doubt_before_it_back() {
    // A write that failed; one of the whole block after it, acknowledged; a power cut that takes that one.
    let tried = |flushed: bool| {
        let mut bench = Bench::new(Trust::ErrorsHappen);
        let old = bench.write(0, BLOCK);
        bench.flush();
        let change = bench.model.begin_change(bench.volume, 0, BLOCK, true);
        let failed = bench.model.end_change(&change, Err(StoreError::ReadOnly));
        failed.expect("excused");
        bench.flush();
        bench.write(0, BLOCK);
        if flushed {
            bench.flush();
        }
        bench.recover(&[old]).is_ok()
    };
    assert!(tried(false));
    assert!(!tried(true));
}

#[test]
fn a_change_in_pieces_may_be_refused_by_half() {
    let mut bench = Bench::new(Trust::Full);
    let change = bench.model.begin_change(bench.volume, 0, BLOCK, true);
    let refused = bench.model.doubt_change(&change, StoreError::NoVolume);
    assert!(refused.is_err(), "nobody deletes the volume");
    let refused = bench.model.doubt_change(&change, StoreError::NoSpace);
    assert!(refused.is_ok());
    assert!(bench.recover(&[change.write]).is_ok());
}

/// Its blocks.
const ALL: core::ops::Range<u64> = 0..256;

/// What the store says of its base.
fn base() -> BaseInfo {
    BaseInfo {
        id: BaseId(19),
        uuid: [0; 16],
        size_bytes: 1 << 20,
        stored_bytes: 0,
        known_bytes: 0,
    }
}

/// A model with an adopted volume, and a block of its origin that has data.
fn adopted() -> (Bench, u64) {
    let mut model = Model::new(9, Trust::Full);
    let volume = model.begin_adopt("v", 1 << 20);
    let found = VolumeInfo {
        bases: vec![BaseId(19)],
        ..info()
    };
    model.check_bases_of(volume, &found).expect("its base");
    model.end_create(volume, Ok(VolumeId(20))).expect("adopt");
    let origin = model.base(volume).expect("a base").origin;
    let block = (0..).find(|block| !origin.is_zero(*block)).expect("data");
    (Bench { model, volume }, block)
}

impl Bench {
    fn arrive(&mut self, block: u64) {
        let filling = self.model.begin_fill(self.volume, block..block + 1, false);
        self.model.end_fill(&filling, Ok(())).expect("fill");
    }

    fn find_absent(&mut self, block: u64) -> Result<(), String> {
        let reading = self.model.begin_read(self.volume, block * BLOCK, BLOCK);
        self.model.end_read(&reading, Err(StoreError::Absent))
    }

    /// A restart after which these blocks of the origin are absent.
    fn recover_base(&mut self, absent: &[std::ops::Range<u64>]) -> Result<(), String> {
        self.model.restart();
        let mut verdict = Verdict::default();
        let base = base();
        let found = [VolumeInfo {
            bases: vec![BaseId(19)],
            ..info()
        }];
        self.model.recover_volumes(&mut verdict, &found)?;
        self.model
            .recover_base(&mut verdict, self.volume, &base, absent)?;
        self.model.recovered(&verdict)
    }
}

#[test]
fn what_is_the_origins_may_be_absent_and_what_was_written_not() {
    let (mut bench, block) = adopted();
    assert!(bench.find_absent(block).is_ok());
    let write = bench.write(block * BLOCK, BLOCK);
    assert!(bench.find_absent(block).is_err());
    assert!(bench.read(block, [write; 8]).is_ok());
    assert!(bench.read(block, [ORIGIN; 8]).is_err());
}

#[test]
fn what_arrived_is_here_and_nothing_else_is() {
    let (mut bench, block) = adopted();
    assert!(bench.read(block, [0; 8]).is_err());
    assert!(bench.read(block, [ORIGIN; 8]).is_err(), "it never arrived");
    bench.arrive(block);
    assert!(bench.find_absent(block).is_err());
    assert!(bench.read(block, [ORIGIN; 8]).is_ok());
    assert!(bench.read(block, [0; 8]).is_err());
}

#[test]
fn what_arrived_before_a_flush_stays() {
    for flushed in [false, true] {
        let (mut bench, block) = adopted();
        bench.arrive(block);
        if flushed {
            bench.flush();
        }
        assert_eq!(
            bench.recover_base(core::slice::from_ref(&ALL)).is_ok(),
            !flushed
        );
        let (mut bench, block) = adopted();
        bench.arrive(block);
        assert!(bench.recover_base(&[0..block, block + 1..256]).is_ok());
        assert!(bench.find_absent(block).is_err());
        assert!(
            bench.recover_base(core::slice::from_ref(&ALL)).is_err(),
            "it was here"
        );
        let (mut bench, block) = adopted();
        bench.arrive(block);
        let nothing_absent = bench.recover_base(&[]);
        assert!(nothing_absent.is_err(), "most of it never arrived");
    }
}

#[test]
fn a_part_of_a_block_needs_the_rest() {
    let (mut bench, block) = adopted();
    let refused = |bench: &mut Bench, len| {
        let change = (bench.model).begin_change(bench.volume, block * BLOCK, len, true);
        bench.model.end_change(&change, Err(StoreError::Absent))
    };
    assert!(refused(&mut bench, 512).is_ok());
    assert!(refused(&mut bench, BLOCK).is_err());
    bench.arrive(block);
    assert!(refused(&mut bench, 512).is_err());
}

#[test]
fn a_base_is_there_as_long_as_it_is_needed() {
    let (mut bench, _) = adopted();
    let base = base();
    assert!(bench.model.check_bases(&[]).is_err());
    assert!(
        bench
            .model
            .check_bases(core::slice::from_ref(&base))
            .is_ok()
    );
    bench.model.begin_delete(bench.volume);
    bench
        .model
        .end_delete(bench.volume, Ok(()))
        .expect("delete");
    assert!(bench.model.check_bases(&[base]).is_err());
    let filling = bench.model.begin_fill(bench.volume, 0..1, false);
    assert!(bench.model.end_fill(&filling, Ok(())).is_err());
}
