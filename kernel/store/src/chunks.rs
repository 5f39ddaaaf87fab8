//! Which chunks of a drive are in use: a group takes one for each of its copies.

use alloc::vec;
use alloc::vec::Vec;

/// Chunks of one drive.
pub struct Chunks {
    used: Vec<bool>,
    free: u32,
    /// Chunks below are in use.
    hint: u32,
}

impl Chunks {
    /// A drive of `count` chunks, all of them free.
    pub fn new(count: u32) -> Self {
        Self {
            used: vec![false; count as usize],
            free: count,
            hint: 0,
        }
    }

    pub fn all(&self) -> u64 {
        self.used.len() as u64
    }

    pub fn free(&self) -> u32 {
        self.free
    }

    /// Whether the drive has this chunk and nobody uses it.
    pub fn is_free(&self, chunk: u32) -> bool {
        self.used.get(chunk as usize) == Some(&false)
    }

    /// The first free chunk after `skip` other free ones.
    pub fn nth_free(&self, skip: usize) -> Option<u32> {
        let rest = (self.hint..).zip(&self.used[self.hint as usize..]);
        let mut free = rest.filter(|(_, used)| !**used).map(|(chunk, _)| chunk);
        free.nth(skip)
    }

    /// Puts a chunk to use; one that is in use or not there changes nothing.
    pub fn take(&mut self, chunk: u32) {
        if let Some(used) = self.used.get_mut(chunk as usize)
            && !core::mem::replace(used, true)
        {
            self.free -= 1;
            while self.used.get(self.hint as usize) == Some(&true) {
                self.hint += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_chunk_comes_first() {
        let mut chunks = Chunks::new(4);
        assert_eq!((chunks.nth_free(0), chunks.nth_free(1)), (Some(0), Some(1)));
        for chunk in [1, 0, 0, 9] {
            chunks.take(chunk);
        }
        assert_eq!((chunks.all(), chunks.free()), (4, 2));
        assert_eq!((chunks.nth_free(0), chunks.nth_free(1)), (Some(2), Some(3)));
        assert_eq!(chunks.nth_free(2), None);
    }
}
