//! What a drive holds.

use std::rc::Rc;

use world::BLOCK_SIZE;

/// One block.
pub type Block = [u8; BLOCK_SIZE];

/// The contents of a drive. Copies share their blocks until one of them is changed, so a copy is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    blocks: Vec<Option<Rc<Block>>>,
}

impl Image {
    /// A drive of `bytes` zeros.
    ///
    /// # Panics
    /// When `bytes` is not a multiple of the block, or beyond the address space.
    #[must_use]
    pub fn blank(bytes: u64) -> Self {
        let block = BLOCK_SIZE as u64;
        assert!(bytes.is_multiple_of(block), "whole blocks");
        let blocks = usize::try_from(bytes / block).expect("a drive that fits into memory");
        Self {
            blocks: vec![None; blocks],
        }
    }

    /// Size in blocks.
    #[must_use]
    pub fn len_blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// A block; `None` where only zeros are.
    ///
    /// # Panics
    /// When it is beyond the end.
    #[must_use]
    pub fn block(&self, at: u64) -> Option<&Block> {
        self.blocks[index_of(at)].as_deref()
    }

    /// Changes a block.
    ///
    /// # Panics
    /// When it is beyond the end.
    pub fn set_block(&mut self, at: u64, bytes: &Block) {
        let is_zero = bytes.iter().all(|&byte| byte == 0);
        self.blocks[index_of(at)] = (!is_zero).then(|| Rc::new(*bytes));
    }

    /// Changes bytes at any place.
    ///
    /// # Panics
    /// When they reach beyond the end.
    pub fn write(&mut self, mut offset: u64, mut bytes: &[u8]) {
        const ZEROS: Block = [0; BLOCK_SIZE];
        while !bytes.is_empty() {
            let at = offset / BLOCK_SIZE as u64;
            let within = index_of(offset % BLOCK_SIZE as u64);
            let (head, tail) = bytes.split_at(bytes.len().min(BLOCK_SIZE - within));
            let mut block = *self.block(at).unwrap_or(&ZEROS);
            block[within..within + head.len()].copy_from_slice(head);
            self.set_block(at, &block);
            offset += head.len() as u64;
            bytes = tail;
        }
    }

    /// The blocks that hold something, in order.
    pub fn filled(&self) -> impl Iterator<Item = (u64, &Block)> {
        let numbered = (0..).zip(&self.blocks);
        numbered.filter_map(|(at, block)| Some((at, block.as_deref()?)))
    }
}

fn index_of(at: u64) -> usize {
    usize::try_from(at).expect("a drive that fits into memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_what_the_original_loses() {
        let mut image = Image::blank(64 << 10);
        image.write(4090, &[7; 12]);
        let copy = image.clone();
        image.write(0, &[0; 8192]);
        assert_eq!(image, Image::blank(64 << 10));
        assert_eq!(copy.block(0).unwrap()[4089..], [0, 7, 7, 7, 7, 7, 7]);
        assert_eq!(copy.block(1).unwrap()[..7], [7, 7, 7, 7, 7, 7, 0]);
        let filled: Vec<u64> = copy.filled().map(|(at, _)| at).collect();
        assert_eq!(filled, [0, 1]);
    }
}
