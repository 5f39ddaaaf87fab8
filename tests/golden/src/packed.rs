//! Drive images as small files.
//!
//! An LZ4 block (with its length in front) of: blocks of the drive, blocks that are not zeros, their numbers (each a
//! little-endian u64), and their contents.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use offline::Image;
use world::BLOCK_SIZE;

/// Writes an image into a file.
///
/// # Errors
/// When the file system refuses.
pub fn save(image: &Image, path: &Path) -> Result<()> {
    let numbers: Vec<u64> = image.filled().map(|(at, _)| at).collect();
    let mut bytes = Vec::new();
    for word in [image.len_blocks(), numbers.len() as u64]
        .iter()
        .chain(&numbers)
    {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    image
        .filled()
        .for_each(|(_, block)| bytes.extend_from_slice(block));
    std::fs::write(path, lz4_flex::compress_prepend_size(&bytes))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Reads an image from a file.
///
/// # Errors
/// When it is not one.
pub fn load(path: &Path) -> Result<Image> {
    let packed = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    unpack(&packed).with_context(|| format!("{} is not an image", path.display()))
}

fn unpack(packed: &[u8]) -> Result<Image> {
    let bytes = lz4_flex::decompress_size_prepended(packed)?;
    let word = |index: u64| -> Result<u64> {
        let at = usize::try_from(index)? * 8;
        let word = bytes.get(at..at + 8).context("cut short")?;
        Ok(u64::from_le_bytes(word.try_into()?))
    };
    let (blocks, filled) = (word(0)?, word(1)?);
    ensure!(blocks < 1 << 20 && filled <= blocks, "a large drive");
    let mut image = Image::blank(blocks * BLOCK_SIZE as u64);
    let contents = usize::try_from(2 + filled)? * 8;
    for index in 0..filled {
        let at = word(2 + index)?;
        let from = contents + usize::try_from(index)? * BLOCK_SIZE;
        let block = bytes.get(from..from + BLOCK_SIZE).context("cut short")?;
        ensure!(at < blocks, "a block beyond the end");
        image.set_block(at, block.try_into()?);
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded() {
        let mut image = Image::blank(1 << 20);
        image.write(5 * 4096 + 7, &[3; 5000]);
        let path = std::env::temp_dir().join(format!("packed-{}", std::process::id()));
        save(&image, &path).unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() < 300);
        assert_eq!(load(&path).unwrap(), image);
        std::fs::remove_file(path).unwrap();
        assert!(unpack(&lz4_flex::compress_prepend_size(&[0xff; 64])).is_err());
    }
}
