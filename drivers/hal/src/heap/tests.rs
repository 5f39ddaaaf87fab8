//! The allocator on memory borrowed from the host's.

use alloc::vec::Vec;
use core::alloc::Layout;
use core::ptr::NonNull;

use super::*;

/// A memory of its own with `frames` frames, at an odd place.
fn memory(frames: usize) -> Memory {
    let layout = Layout::from_size_align((frames + 2) * FRAME_BYTES, FRAME_BYTES).unwrap();
    // SAFETY: the layout is not empty; the memory is leaked.
    let start = unsafe { alloc::alloc::alloc(layout) };
    let mut memory = Memory::new();
    // SAFETY: the memory is leaked, so nobody else ever uses it.
    unsafe {
        memory
            .frames
            .add(start as usize + 100, (frames + 1) * FRAME_BYTES)
    };
    memory
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

/// A small generator, so that runs repeat.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

#[test]
fn pages_are_aligned_and_all_of_memory_can_be_had() {
    let mut memory = memory(100);
    let total = memory.frames.total();
    assert_eq!(memory.frames.free(), total);
    let mut pages = Vec::new();
    while let Some(page) = memory.allocate(layout(4096, 4096)) {
        assert!(page.as_ptr().addr().is_multiple_of(4096));
        pages.push(page);
    }
    assert_eq!((pages.len(), memory.frames.free()), (total, 0));
    pages.sort();
    pages.dedup();
    assert_eq!(pages.len(), total, "a page was handed out twice");
    for page in pages {
        // SAFETY: it came from `allocate` with this layout.
        unsafe { memory.release(page, layout(4096, 4096)) };
    }
    assert_eq!(memory.frames.free(), total);
    assert!(
        memory.allocate(layout(32 * 4096, 4096)).is_some(),
        "pages joined again"
    );
}

#[test]
fn odd_sizes_and_alignments_are_served_and_give_their_rest_back() {
    let mut memory = memory(300);
    let free = memory.frames.free();
    let wanted = layout(5 * 4096 - 7, 16 * 4096);
    let block = memory.allocate(wanted).unwrap();
    assert!(block.as_ptr().addr().is_multiple_of(16 * 4096));
    assert_eq!(memory.frames.free(), free - 5);
    // SAFETY: it came from `allocate` with this layout.
    unsafe { memory.release(block, wanted) };
    assert_eq!(memory.frames.free(), free);
}

#[test]
fn objects_never_overlap_and_everything_comes_back() {
    let mut memory = memory(2000);
    let mut dice = Dice(7);
    let mut live: Vec<(NonNull<u8>, Layout, u8)> = Vec::new();
    for round in 0..20_000 {
        let fill = round as u8;
        if dice.below(100) < 55 && live.len() < 1000 {
            let size = match dice.below(10) {
                0..7 => 1 + dice.below(1100),
                7..9 => 1 + dice.below(20_000),
                _ => 4096 * (1 + dice.below(4)),
            };
            let layout = layout(size, 1 << dice.below(13));
            let object = memory.allocate(layout).expect("enough memory");
            assert!(object.as_ptr().addr().is_multiple_of(layout.align()));
            // SAFETY: the object is as long as its layout.
            unsafe { object.write_bytes(fill, size) };
            live.push((object, layout, fill));
        } else if !live.is_empty() {
            let (object, layout, fill) = live.swap_remove(dice.below(live.len()));
            // SAFETY: the object is as long as its layout and still ours.
            let bytes = unsafe { core::slice::from_raw_parts(object.as_ptr(), layout.size()) };
            assert!(
                bytes.iter().all(|byte| *byte == fill),
                "an object was overwritten"
            );
            // SAFETY: it came from `allocate` with this layout.
            unsafe { memory.release(object, layout) };
        }
    }
    for (object, layout, _) in live {
        // SAFETY: it came from `allocate` with this layout.
        unsafe { memory.release(object, layout) };
    }
    let stats = memory.stats();
    assert_eq!(stats.object_bytes, 0);
    assert!(
        memory.slabs.frames() <= slab::SIZES.len(),
        "empty frames went back"
    );
    assert_eq!(
        stats.total_bytes - stats.free_frames * FRAME_BYTES,
        stats.object_frames_bytes
    );
}

#[test]
fn running_out_is_none_and_nothing_breaks() {
    let mut memory = memory(40);
    assert!(memory.allocate(layout(1 << 20, 8)).is_none());
    let mut objects = Vec::new();
    while let Some(object) = memory.allocate(layout(3000, 8)) {
        objects.push(object);
    }
    assert!(objects.len() > 20);
    for object in objects {
        // SAFETY: it came from `allocate` with this layout.
        unsafe { memory.release(object, layout(3000, 8)) };
    }
    assert!(memory.allocate(layout(3000, 8)).is_some());
}

#[test]
fn memory_too_small_for_its_map_is_ignored() {
    let mut memory = Memory::new();
    // SAFETY: too small to be touched.
    unsafe { memory.frames.add(0x1000, 4096) };
    assert_eq!(memory.frames.total(), 0);
}
