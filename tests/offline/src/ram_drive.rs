//! An image as a drive.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use world::{BlockAddr, Buf, Disk, DiskError, DiskInfo, Geometry};

use crate::Image;

/// A drive whose operations complete at once; clones are the same drive.
#[derive(Clone, Debug)]
pub struct RamDrive {
    image: Rc<RefCell<Image>>,
}

impl RamDrive {
    /// Plugs an image in.
    #[must_use]
    pub fn new(image: Image) -> Self {
        Self {
            image: Rc::new(RefCell::new(image)),
        }
    }

    /// What it holds now.
    #[must_use]
    pub fn image(&self) -> Image {
        self.image.borrow().clone()
    }

    fn lies_on(&self, at: BlockAddr, blocks: u64) -> bool {
        at.checked_add(blocks)
            .is_some_and(|end| end <= self.image.borrow().len_blocks())
    }
}

impl Disk for RamDrive {
    fn geometry(&self) -> Geometry {
        Geometry {
            blocks: self.image.borrow().len_blocks(),
            sector_bytes: 512,
            transfer_blocks_max: Buf::PAGES_MAX as u32,
            can_discard: true,
        }
    }

    fn info(&self) -> DiskInfo {
        DiskInfo::default()
    }

    async fn read(&self, at: BlockAddr, mut into: Buf) -> (Buf, Result<(), DiskError>) {
        if !self.lies_on(at, into.blocks() as u64) {
            return (into, Err(DiskError::OutOfRange));
        }
        let image = self.image.borrow();
        for (at, page) in (at..).zip(into.pages_mut()) {
            match image.block(at) {
                Some(block) => page.bytes.copy_from_slice(block),
                None => page.bytes.fill(0),
            }
        }
        (into, Ok(()))
    }

    async fn write(&self, at: BlockAddr, from: Buf) -> (Buf, Result<(), DiskError>) {
        if !self.lies_on(at, from.blocks() as u64) {
            return (from, Err(DiskError::OutOfRange));
        }
        let mut image = self.image.borrow_mut();
        for (at, page) in (at..).zip(from.pages()) {
            image.set_block(at, &page.bytes);
        }
        drop(image);
        (from, Ok(()))
    }

    async fn flush(&self) -> Result<(), DiskError> {
        Ok(())
    }

    async fn discard(&self, ranges: &[Range<BlockAddr>]) -> Result<(), DiskError> {
        let len = |range: &Range<BlockAddr>| range.end.saturating_sub(range.start);
        if !ranges
            .iter()
            .all(|range| self.lies_on(range.start, len(range)))
        {
            return Err(DiskError::OutOfRange);
        }
        // Contents are arbitrary from now on; these are nobody's.
        let mut image = self.image.borrow_mut();
        for at in ranges.iter().cloned().flatten() {
            image.set_block(at, &[0xdc; world::BLOCK_SIZE]);
        }
        Ok(())
    }
}
