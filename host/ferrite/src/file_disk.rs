//! A drive image on this host as a drive.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::SystemTime;

use world::{BLOCK_SIZE, BlockAddr, Buf, Disk, DiskError, DiskInfo, Geometry};

use crate::{Failure, in_use};

/// A raw image or a block device, opened for reading only. Its futures are ready at once.
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    blocks: u64,
    name: String,
    /// When it was written last, as far as that is known.
    written_at: Option<SystemTime>,
}

impl FileDisk {
    /// Opens an image.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let failure = |error: std::io::Error| Failure::Here(format!("{name}: {error}"));
        let mut file = File::open(path).map_err(failure)?;
        let metadata = file.metadata().map_err(failure)?;
        if metadata.is_dir() {
            return Err(Failure::Here(format!(
                "{name} is a folder; a pool is checked on its drives: image files or block devices"
            )));
        }
        // Block devices have no length in their metadata, but an end.
        let bytes = file.seek(SeekFrom::End(0)).map_err(failure)?;
        Ok(Self {
            file,
            blocks: bytes / BLOCK_SIZE as u64,
            name,
            written_at: metadata.modified().ok(),
        })
    }

    /// What it was opened as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Who writes to it now, in words.
    pub fn writer(&self) -> Option<String> {
        in_use::writer(&self.file)
    }

    /// Whether it was written since it was opened.
    pub fn was_written(&self) -> bool {
        let now = self
            .file
            .metadata()
            .and_then(|metadata| metadata.modified());
        now.ok() != self.written_at
    }
}

impl Disk for FileDisk {
    fn geometry(&self) -> Geometry {
        Geometry {
            blocks: self.blocks,
            sector_bytes: 512,
            transfer_blocks_max: Buf::PAGES_MAX as u32,
            can_discard: false,
        }
    }

    fn info(&self) -> DiskInfo {
        DiskInfo {
            id: self.name.clone(),
            ..DiskInfo::default()
        }
    }

    async fn read(&self, at: BlockAddr, mut into: Buf) -> (Buf, Result<(), DiskError>) {
        if at
            .checked_add(into.blocks() as u64)
            .is_none_or(|end| end > self.blocks)
        {
            return (into, Err(DiskError::OutOfRange));
        }
        for (block, page) in (at..).zip(into.pages_mut()) {
            if self
                .file
                .read_exact_at(&mut page.bytes, block * BLOCK_SIZE as u64)
                .is_err()
            {
                return (into, Err(DiskError::Media));
            }
        }
        (into, Ok(()))
    }

    async fn write(&self, _: BlockAddr, from: Buf) -> (Buf, Result<(), DiskError>) {
        (from, Err(DiskError::ReadOnly))
    }

    async fn flush(&self) -> Result<(), DiskError> {
        Ok(())
    }

    async fn discard(&self, _: &[Range<BlockAddr>]) -> Result<(), DiskError> {
        Err(DiskError::ReadOnly)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::ready;

    #[test]
    fn reads_within_the_image_and_writes_nowhere() {
        let path = std::env::temp_dir().join(format!("file-disk-{}", std::process::id()));
        let mut bytes = vec![7; 3 * BLOCK_SIZE];
        bytes[BLOCK_SIZE..2 * BLOCK_SIZE].fill(8);
        std::fs::write(&path, &bytes).unwrap();
        let disk = FileDisk::open(&path).unwrap();
        assert_eq!(disk.geometry().blocks, 3);
        let (buf, result) = ready(disk.read(1, Buf::from_heap(2)));
        assert_eq!(result, Ok(()));
        assert_eq!((buf.block(0)[5], buf.block(1)[5]), (8, 7));
        assert_eq!(
            ready(disk.read(2, Buf::from_heap(2))).1,
            Err(DiskError::OutOfRange)
        );
        assert_eq!(
            ready(disk.write(0, Buf::from_heap(1))).1,
            Err(DiskError::ReadOnly)
        );
        std::fs::remove_file(path).unwrap();
    }
}
