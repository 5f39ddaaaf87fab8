//! The crash record: the report of the last crash, in a page of memory that survives a warm reset.
//!
//! ```text
//!  0 magic "FECRASH1"   8 length u32   12 checksum u32 (FNV-1a of the text)   16 text
//! ```
//!
//! After power-on the page holds anything, so a record counts only when magic and checksum are right. Reading takes it:
//! each crash is told once.

use alloc::string::String;
use core::sync::atomic::{AtomicPtr, Ordering};

const MAGIC: [u8; 8] = *b"FECRASH1";
const HEADER_BYTES: usize = 16;
const PAGE_BYTES: usize = 4096;

static PAGE: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());

/// Says where the record is kept.
///
/// # Safety
/// `page` is a mapped page that nobody else uses, ever.
pub unsafe fn set_page(page: *mut u8) {
    PAGE.store(page, Ordering::Release);
}

fn page() -> Option<&'static mut [u8; PAGE_BYTES]> {
    // SAFETY: (1) `set_page` was told that the page is mapped and ours; (2) it is lent out by `take_previous` while nothing
    // else runs and by `Record::begin` once, at the end of everything.
    unsafe {
        PAGE.load(Ordering::Acquire)
            .cast::<[u8; PAGE_BYTES]>()
            .as_mut()
    }
}

/// Takes the report of the crash that ended the previous run, if there was one.
#[must_use]
pub fn take_previous() -> Option<String> {
    let page = page()?;
    let text = decode(page).map(String::from);
    page[..HEADER_BYTES].fill(0);
    text
}

/// A report that is being written.
#[derive(Debug)]
pub struct Record {
    page: &'static mut [u8; PAGE_BYTES],
    len: usize,
}

impl Record {
    /// Begins a report; `None` where there is no page for it.
    #[must_use]
    pub fn begin() -> Option<Self> {
        let page = page()?;
        page[..HEADER_BYTES].fill(0);
        Some(Self { page, len: 0 })
    }

    /// Adds text; what does not fit is left out.
    pub fn push(&mut self, text: &str) {
        let room = PAGE_BYTES - HEADER_BYTES - self.len;
        let text = &text[..text.floor_char_boundary(room)];
        let at = HEADER_BYTES + self.len;
        self.page[at..at + text.len()].copy_from_slice(text.as_bytes());
        self.len += text.len();
    }

    /// Makes the report valid and shows it to `hook`.
    pub fn finish(self, hook: Option<fn(&str)>) {
        seal(self.page, self.len);
        if let (Some(hook), Some(text)) = (hook, decode(self.page)) {
            hook(text);
        }
    }
}

fn seal(page: &mut [u8; PAGE_BYTES], len: usize) {
    let sum = checksum(&page[HEADER_BYTES..HEADER_BYTES + len]);
    page[8..12].copy_from_slice(&(len as u32).to_le_bytes());
    page[12..16].copy_from_slice(&sum.to_le_bytes());
    page[..8].copy_from_slice(&MAGIC);
}

fn decode(page: &[u8; PAGE_BYTES]) -> Option<&str> {
    let word = |at: usize| {
        page[at..]
            .first_chunk()
            .map(|word| u32::from_le_bytes(*word))
    };
    let text = page[HEADER_BYTES..].get(..word(8)? as usize)?;
    (page[..8] == MAGIC && word(12)? == checksum(text)).then(|| core::str::from_utf8(text).ok())?
}

fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| {
        (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::boxed::Box;

    #[test]
    fn a_report_is_told_once_and_only_if_undamaged() {
        let page = Box::leak(Box::new([0x55_u8; PAGE_BYTES]));
        let at = page.as_mut_ptr();
        // SAFETY: the page is leaked; the other accesses below come between calls.
        unsafe { set_page(at) };
        assert_eq!(take_previous(), None, "what power-on leaves is no report");

        let mut record = Record::begin().unwrap();
        record.push("it broke: ");
        record.push(&"é".repeat(PAGE_BYTES));
        record.finish(None);
        let told = take_previous().unwrap();
        assert!(told.starts_with("it broke: éé") && told.len() > PAGE_BYTES - HEADER_BYTES - 2);
        assert_eq!(take_previous(), None);

        let mut record = Record::begin().unwrap();
        record.push("text");
        record.finish(None);
        // SAFETY: inside the leaked page.
        unsafe { *at.add(HEADER_BYTES + 1) ^= 1 };
        assert_eq!(take_previous(), None, "damaged");
    }
}
