//! All memory that is not the image: one allocator in three tiers.
//!
//! | layout | tier | cost |
//! |---|---|---|
//! | whole pages, or 16 KiB and more | [`frames`](mod@frames): buddy blocks of page frames | O(log memory) |
//! | up to 1 KiB | [`slab`]: pages cut into objects of one size | O(1) |
//! | the rest | linked_list_allocator, in chunks that grow out of frames | first fit |
//!
//! A page comes from frames, so boxes of pages never fragment anything. Memory is mapped one to one: the address of an
//! object is the address that a device uses for it.
//!
//! Trusted here: [`add`] is told the truth about memory. One processor runs, so the lock is never waited for.

mod frames;
mod slab;

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};

use spin::Mutex;

use frames::Frames;
use slab::Slabs;

/// Bytes of a page frame.
pub const FRAME_BYTES: usize = 4096;
/// Layouts from here on are whole frames even if that wastes part of the last one.
const LARGE_BYTES: usize = 16 * 1024;
/// Chunks of the first-fit tier; each is a quarter of what there was before, so this is never reached.
const CHUNKS_MAX: usize = 64;
/// Frames of its first chunk.
const CHUNK_FRAMES_MIN: usize = 16;

/// How much memory there is, in bytes unless named otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// All memory that was added, less the allocator's own map of it.
    pub total_bytes: usize,
    /// Page frames that are free now.
    pub free_frames: usize,
    /// The least that `free_frames` has ever been.
    pub free_frames_min: usize,
    /// Bytes handed out to objects smaller than frames.
    pub object_bytes: usize,
    /// Bytes of the frames that hold such objects.
    pub object_frames_bytes: usize,
}

/// The image's global allocator.
#[derive(Clone, Copy, Debug)]
pub struct Heap;

static MEMORY: Mutex<Memory> = Mutex::new(Memory::new());

/// Gives `len` bytes at `start` to the allocator. Both are rounded inward to whole frames.
///
/// # Safety
/// The memory is mapped, writable, and nobody else uses it, ever.
pub unsafe fn add(start: *mut u8, len: usize) {
    // SAFETY: the caller's promise is handed on.
    unsafe { MEMORY.lock().frames.add(start as usize, len) }
}

/// Takes `count` frames in a row, aligned to the next power of two of their size; contents are arbitrary.
#[must_use]
pub fn frames(count: usize) -> Option<NonNull<u8>> {
    MEMORY.lock().frames.take(count, count.next_power_of_two())
}

/// Gives back what [`frames`](fn@frames) returned.
///
/// # Safety
/// `start` came from `frames(count)`, and nobody uses the memory any more.
pub unsafe fn free_frames(start: NonNull<u8>, count: usize) {
    // SAFETY: the caller's promise is handed on.
    unsafe { MEMORY.lock().frames.give(start.as_ptr() as usize, count) }
}

/// How much memory there is and how much of it is free.
#[must_use]
pub fn stats() -> Stats {
    MEMORY.lock().stats()
}

struct Memory {
    frames: Frames,
    slabs: Slabs,
    chunks: [linked_list_allocator::Heap; CHUNKS_MAX],
    chunk_count: usize,
    chunk_bytes: usize,
    small_bytes: usize,
}

/// Where a layout comes from and goes back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tier {
    Frames { count: usize, align: usize },
    Slab { class: usize },
    FirstFit,
}

fn tier(layout: Layout) -> Tier {
    let size = layout.size();
    if size >= LARGE_BYTES || layout.align() >= FRAME_BYTES || size.is_multiple_of(FRAME_BYTES) {
        return Tier::Frames {
            count: size.div_ceil(FRAME_BYTES).max(1),
            align: layout.align().div_ceil(FRAME_BYTES),
        };
    }
    slab::class(layout).map_or(Tier::FirstFit, |class| Tier::Slab { class })
}

impl Memory {
    const fn new() -> Self {
        Self {
            frames: Frames::new(),
            slabs: Slabs::new(),
            chunks: [const { linked_list_allocator::Heap::empty() }; CHUNKS_MAX],
            chunk_count: 0,
            chunk_bytes: 0,
            small_bytes: 0,
        }
    }

    fn stats(&self) -> Stats {
        Stats {
            total_bytes: self.frames.total() * FRAME_BYTES,
            free_frames: self.frames.free(),
            free_frames_min: self.frames.free_min(),
            object_bytes: self.small_bytes,
            object_frames_bytes: self.slabs.frames() * FRAME_BYTES + self.chunk_bytes,
        }
    }

    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        match tier(layout) {
            Tier::Frames { count, align } => self.frames.take(count, align),
            Tier::Slab { class } => {
                let object = self.slabs.take(class, &mut self.frames)?;
                self.small_bytes += slab::SIZES[class];
                Some(object)
            }
            Tier::FirstFit => {
                let object = self.first_fit(layout)?;
                self.small_bytes += layout.size();
                Some(object)
            }
        }
    }

    /// # Safety
    /// `object` came from `allocate(layout)` and nobody uses it any more.
    unsafe fn release(&mut self, object: NonNull<u8>, layout: Layout) {
        // `tier` depends on the layout alone, so it names where the object came from.
        match tier(layout) {
            Tier::Frames { count, .. } => {
                // SAFETY: the caller's promise.
                unsafe { self.frames.give(object.as_ptr() as usize, count) }
            }
            Tier::Slab { class } => {
                self.small_bytes -= slab::SIZES[class];
                // SAFETY: the caller's promise.
                unsafe { self.slabs.give(object, &mut self.frames) }
            }
            Tier::FirstFit => {
                self.small_bytes -= layout.size();
                let home = self.chunks[..self.chunk_count]
                    .iter_mut()
                    .find(|chunk| (chunk.bottom()..chunk.top()).contains(&object.as_ptr()));
                let home = home.expect("an object that is in no chunk");
                // SAFETY: the caller's promise.
                unsafe { home.deallocate(object, layout) }
            }
        }
    }

    fn first_fit(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let chunks = &mut self.chunks[..self.chunk_count];
        // The youngest chunk is the largest.
        if let Some(object) = chunks
            .iter_mut()
            .rev()
            .find_map(|c| c.allocate_first_fit(layout).ok())
        {
            return Some(object);
        }
        if self.chunk_count == CHUNKS_MAX {
            return None;
        }
        let needed = (layout.size() + layout.align()).div_ceil(FRAME_BYTES);
        let wanted = (self.chunk_bytes / 4 / FRAME_BYTES)
            .max(CHUNK_FRAMES_MIN)
            .max(needed);
        let (memory, count) = [wanted, needed]
            .into_iter()
            .find_map(|count| Some((self.frames.take(count, 1)?, count)))?;
        let chunk = &mut self.chunks[self.chunk_count];
        // SAFETY: the frames are ours alone and never go back.
        unsafe { chunk.init(memory.as_ptr(), count * FRAME_BYTES) };
        self.chunk_count += 1;
        self.chunk_bytes += count * FRAME_BYTES;
        chunk.allocate_first_fit(layout).ok()
    }
}

// SAFETY: (1) memory comes from `add`, whose callers vouch for it; (2) tiers never hand out a byte twice; (3) a layout
// always goes back to the tier it came from.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A statement of its own, so that the lock is free again when the failure is logged.
        let object = MEMORY.lock().allocate(layout);
        object.map_or_else(
            || {
                let stats = stats();
                log::error!(
                    "out of memory: {} bytes wanted, {} frames free of {}",
                    layout.size(),
                    stats.free_frames,
                    stats.total_bytes / FRAME_BYTES
                );
                null_mut()
            },
            NonNull::as_ptr,
        )
    }

    unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
        if let Some(object) = NonNull::new(object) {
            // SAFETY: the caller's promise is handed on.
            unsafe { MEMORY.lock().release(object, layout) }
        }
    }

    unsafe fn realloc(&self, object: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller vouches for size and alignment.
        let new_layout = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        let (old, new) = (tier(layout), tier(new_layout));
        if old == new && old != Tier::FirstFit {
            return object; // the same frames or a slot of the same size
        }
        // SAFETY: (1) `new_layout` is not empty, as the caller promises; (2) both objects are as long as the copy;
        // (3) the old one is not used any more.
        unsafe {
            let moved = self.alloc(new_layout);
            if !moved.is_null() {
                core::ptr::copy_nonoverlapping(object, moved, layout.size().min(size));
                self.dealloc(object, layout);
            }
            moved
        }
    }
}

#[cfg(test)]
mod tests;
