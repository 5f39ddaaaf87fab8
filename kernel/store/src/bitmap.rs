//! One bit for each block of a group; set means in use.

use alloc::boxed::Box;

use world::{BLOCK_SIZE, Page};

/// The bitmap of a group: exactly one block.
pub struct Bitmap {
    page: Box<Page>,
}

impl Bitmap {
    /// A bitmap in which only the group's own two bitmap blocks are in use.
    pub fn empty() -> Self {
        let mut page = Page::new_box();
        page.bytes[0] = 0b11;
        Self { page }
    }

    /// The bitmap in these bytes.
    pub fn from_bytes(bytes: &[u8; BLOCK_SIZE]) -> Self {
        let mut page = Page::new_box();
        page.bytes.copy_from_slice(bytes);
        Self { page }
    }

    pub fn bytes(&self) -> &[u8; BLOCK_SIZE] {
        &self.page.bytes
    }

    pub fn get(&self, block: u32) -> bool {
        self.page.bytes[block as usize / 8] >> (block % 8) & 1 != 0
    }

    pub fn set(&mut self, block: u32) {
        self.page.bytes[block as usize / 8] |= 1 << (block % 8);
    }

    pub fn clear(&mut self, block: u32) {
        self.page.bytes[block as usize / 8] &= !(1 << (block % 8));
    }

    /// Bits set among the first `blocks`.
    pub fn count(&self, blocks: u32) -> u32 {
        self.page.bytes[..blocks as usize / 8]
            .iter()
            .map(|byte| byte.count_ones())
            .sum()
    }

    /// The first free block in `from..end`.
    pub fn next_free(&self, from: u32, end: u32) -> Option<u32> {
        let mut at = from;
        while at < end {
            if at.is_multiple_of(64) && self.word(at / 64) == u64::MAX {
                at += 64;
            } else if self.get(at) {
                at += 1;
            } else {
                return Some(at);
            }
        }
        None
    }

    fn word(&self, index: u32) -> u64 {
        let at = index as usize * 8;
        self.page.bytes[at..at + 8]
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte))
    }
}

impl Clone for Bitmap {
    fn clone(&self) -> Self {
        Self::from_bytes(&self.page.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_free_blocks_between_used_ones() {
        let mut bitmap = Bitmap::empty();
        for block in 2..200 {
            bitmap.set(block);
        }
        bitmap.clear(130);
        assert_eq!(bitmap.next_free(0, 256), Some(130));
        assert_eq!(bitmap.next_free(131, 256), Some(200));
        assert_eq!(bitmap.next_free(131, 200), None);
        assert_eq!(bitmap.count(256), 199);
    }
}
