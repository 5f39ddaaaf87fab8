//! Page frames in buddy blocks.
//!
//! A block of order *k* is 2^k frames at an address that is a multiple of its size. A free block keeps the links of its
//! list in its own first bytes. A byte per frame says whether a free block begins there, and of which order; two free
//! halves of a block always join, so free memory is in as few blocks as possible.

use core::ptr::NonNull;

use super::FRAME_BYTES;

/// Orders of blocks: the largest is 1 GiB.
const ORDERS: usize = 19;
/// Separate spans of memory; firmware maps have a handful.
const REGIONS_MAX: usize = 128;

/// Frames `first..end`, as numbers (address / 4096).
#[derive(Clone, Copy)]
struct Region {
    first: usize,
    end: usize,
    /// Address of its byte map: order + 1 of the free block that begins at a frame, else 0.
    map: usize,
}

/// Links of a free block, kept in its first bytes. Zero is no block.
#[repr(C)]
struct Links {
    next: usize,
    previous: usize,
}

pub struct Frames {
    regions: [Region; REGIONS_MAX],
    region_count: usize,
    /// First free block of each order, as a frame number; zero for none.
    heads: [usize; ORDERS],
    total: usize,
    free: usize,
    free_min: usize,
}

impl Frames {
    pub const fn new() -> Self {
        Self {
            regions: [Region {
                first: 0,
                end: 0,
                map: 0,
            }; REGIONS_MAX],
            region_count: 0,
            heads: [0; ORDERS],
            total: 0,
            free: 0,
            free_min: 0,
        }
    }

    pub const fn total(&self) -> usize {
        self.total
    }

    pub const fn free(&self) -> usize {
        self.free
    }

    pub const fn free_min(&self) -> usize {
        self.free_min
    }

    /// Adds memory; what is left of it after its own byte map becomes free.
    ///
    /// # Safety
    /// As for [`super::add`].
    pub unsafe fn add(&mut self, start: usize, len: usize) {
        let end = (start + len) / FRAME_BYTES;
        let start = start.div_ceil(FRAME_BYTES).max(1);
        let map_frames = end.saturating_sub(start).div_ceil(FRAME_BYTES + 1);
        let first = start + map_frames;
        if first >= end || self.region_count == REGIONS_MAX {
            return;
        }
        let map = start * FRAME_BYTES;
        // SAFETY: the map lies in the memory that the caller gives.
        unsafe { core::ptr::write_bytes(map as *mut u8, 0, end - first) };
        self.regions[self.region_count] = Region { first, end, map };
        self.region_count += 1;
        self.total += end - first;
        // SAFETY: the frames are the caller's and lie in the new region.
        unsafe { self.give(first * FRAME_BYTES, end - first) };
        self.free_min = self.free;
    }

    /// Takes `count` frames in a row that begin at a multiple of `align` frames (a power of two).
    pub fn take(&mut self, count: usize, align: usize) -> Option<NonNull<u8>> {
        let order = count
            .max(align)
            .checked_next_power_of_two()?
            .trailing_zeros() as usize;
        let found = (order..ORDERS).find(|order| self.heads[*order] != 0)?;
        let frame = self.heads[found];
        self.unlink(frame, found);
        self.free -= 1 << found;
        let size = 1 << found;
        if count < size {
            // SAFETY: the end of the block that was just taken.
            unsafe { self.give((frame + count) * FRAME_BYTES, size - count) };
        }
        self.free_min = self.free_min.min(self.free);
        NonNull::new((frame * FRAME_BYTES) as *mut u8)
    }

    /// Gives back `count` frames at address `start`.
    ///
    /// # Safety
    /// They came from `take` (all or a part), or from `add`, and nobody uses them.
    pub unsafe fn give(&mut self, start: usize, count: usize) {
        let (mut frame, end) = (start / FRAME_BYTES, start / FRAME_BYTES + count);
        while frame < end {
            let fits = (end - frame).ilog2().min(frame.trailing_zeros()) as usize;
            let order = fits.min(ORDERS - 1);
            self.insert(frame, order);
            frame += 1 << order;
        }
    }

    /// Makes a block free, joined with its other half as often as that is free too.
    fn insert(&mut self, mut frame: usize, mut order: usize) {
        self.free += 1 << order;
        let region = self.region(frame);
        debug_assert_eq!(Self::mark(region, frame), 0, "freed twice");
        while order + 1 < ORDERS {
            let other = frame ^ (1 << order);
            if other < region.first
                || other >= region.end
                || Self::mark(region, other) != order as u8 + 1
            {
                break;
            }
            self.unlink(other, order);
            frame = frame.min(other);
            order += 1;
        }
        let head = self.heads[order];
        if head != 0 {
            Self::links(head).previous = frame;
        }
        *Self::links(frame) = Links {
            next: head,
            previous: 0,
        };
        self.heads[order] = frame;
        Self::set_mark(region, frame, order as u8 + 1);
    }

    fn unlink(&mut self, frame: usize, order: usize) {
        let Links { next, previous } = *Self::links(frame);
        if next != 0 {
            Self::links(next).previous = previous;
        }
        if previous == 0 {
            self.heads[order] = next;
        } else {
            Self::links(previous).next = next;
        }
        Self::set_mark(self.region(frame), frame, 0);
    }

    fn region(&self, frame: usize) -> Region {
        let mut regions = self.regions[..self.region_count].iter();
        *regions
            .find(|region| (region.first..region.end).contains(&frame))
            .expect("a frame that is in no region")
    }

    /// The links of the free block at `frame`.
    fn links<'a>(frame: usize) -> &'a mut Links {
        // SAFETY: (1) only called for blocks that are free, so their bytes belong to this allocator; (2) the reference is
        // used up before the next call.
        unsafe { &mut *((frame * FRAME_BYTES) as *mut Links) }
    }

    fn mark(region: Region, frame: usize) -> u8 {
        // SAFETY: callers checked that `frame` is in `region`, whose map has a byte for it.
        unsafe { *((region.map + frame - region.first) as *const u8) }
    }

    fn set_mark(region: Region, frame: usize, mark: u8) {
        // SAFETY: as in `mark`.
        unsafe { *((region.map + frame - region.first) as *mut u8) = mark }
    }
}
