//! Objects of up to 1 KiB: each frame is cut into objects of one size.
//!
//! A frame begins with a header; free objects are chained through their first bytes. Frames that have room are in the
//! list of their size; one that becomes empty goes back to the frames, unless it is the only one with room.

use core::alloc::Layout;
use core::ptr::{NonNull, null_mut};

use super::FRAME_BYTES;
use super::frames::Frames;

/// Sizes of objects in bytes.
pub const SIZES: [usize; 12] = [16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024];
/// Bytes of the header; objects follow, so they are aligned to at most this.
const HEADER_BYTES: usize = 64;

/// The size class that serves `layout`, or `None` when none does.
pub fn class(layout: Layout) -> Option<usize> {
    if layout.align() > HEADER_BYTES {
        return None;
    }
    SIZES
        .iter()
        .position(|size| *size >= layout.size() && size.is_multiple_of(layout.align()))
}

#[repr(C)]
struct Header {
    next: *mut Header,
    previous: *mut Header,
    /// First object of the chain of objects that were freed.
    freed: *mut u8,
    class: u16,
    used: u16,
    /// Objects from here on were never handed out.
    fresh: u16,
}

const _: () = assert!(size_of::<Header>() <= HEADER_BYTES);

pub struct Slabs {
    /// Frames of each class that have room.
    roomy: [*mut Header; SIZES.len()],
    frames: usize,
}

// SAFETY: the pointers lead to frames that only this structure uses.
unsafe impl Send for Slabs {}

const fn capacity(class: usize) -> u16 {
    ((FRAME_BYTES - HEADER_BYTES) / SIZES[class]) as u16
}

impl Slabs {
    pub const fn new() -> Self {
        Self {
            roomy: [null_mut(); SIZES.len()],
            frames: 0,
        }
    }

    /// Frames in use.
    pub const fn frames(&self) -> usize {
        self.frames
    }

    /// Takes an object of `SIZES[class]` bytes.
    pub fn take(&mut self, class: usize, frames: &mut Frames) -> Option<NonNull<u8>> {
        if self.roomy[class].is_null() {
            let header = frames.take(1, 1)?.as_ptr().cast::<Header>();
            self.frames += 1;
            // SAFETY: the frame is ours and large enough.
            unsafe {
                header.write(Header {
                    next: null_mut(),
                    previous: null_mut(),
                    freed: null_mut(),
                    class: class as u16,
                    used: 0,
                    fresh: 0,
                });
                self.link(header);
            }
        }
        let header = self.roomy[class];
        // SAFETY: (1) frames in the list have a header and room; (2) a freed object's first bytes are the chain.
        unsafe {
            let object = if (*header).freed.is_null() {
                let index = usize::from((*header).fresh);
                (*header).fresh += 1;
                header.cast::<u8>().add(HEADER_BYTES + index * SIZES[class])
            } else {
                let object = (*header).freed;
                (*header).freed = object.cast::<*mut u8>().read();
                object
            };
            (*header).used += 1;
            if (*header).used == capacity(class) {
                self.unlink(header);
            }
            NonNull::new(object)
        }
    }

    /// Gives an object back.
    ///
    /// # Safety
    /// It came from `take`, and nobody uses it any more.
    pub unsafe fn give(&mut self, object: NonNull<u8>, frames: &mut Frames) {
        let object = object.as_ptr();
        let header = object
            .map_addr(|address| address & !(FRAME_BYTES - 1))
            .cast::<Header>();
        // SAFETY: (1) every object lies in a frame that begins with its header; (2) the object's bytes are ours again.
        unsafe {
            let class = usize::from((*header).class);
            object.cast::<*mut u8>().write((*header).freed);
            (*header).freed = object;
            if (*header).used == capacity(class) {
                self.link(header);
            }
            (*header).used -= 1;
            let alone = self.roomy[class] == header && (*header).next.is_null();
            if (*header).used == 0 && !alone {
                self.unlink(header);
                self.frames -= 1;
                frames.give(header as usize, 1);
            }
        }
    }

    /// # Safety
    /// `header` is a header that is not in its list.
    unsafe fn link(&mut self, header: *mut Header) {
        // SAFETY: the caller's promise; the list holds headers only.
        unsafe {
            let head = &mut self.roomy[usize::from((*header).class)];
            (*header).next = *head;
            (*header).previous = null_mut();
            if !head.is_null() {
                (**head).previous = header;
            }
            *head = header;
        }
    }

    /// # Safety
    /// `header` is in its list.
    unsafe fn unlink(&mut self, header: *mut Header) {
        // SAFETY: the caller's promise; the list holds headers only.
        unsafe {
            let (next, previous) = ((*header).next, (*header).previous);
            if !next.is_null() {
                (*next).previous = previous;
            }
            if previous.is_null() {
                self.roomy[usize::from((*header).class)] = next;
            } else {
                (*previous).next = next;
            }
        }
    }
}
