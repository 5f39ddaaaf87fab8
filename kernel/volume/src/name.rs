//! What names and sizes can be, and how a name says what is meant.

use world::BLOCK_SIZE;

use crate::VolumeError;

/// The most bytes of a name.
pub const NAME_MAX: usize = 63;

/// The largest volume in bytes: 128 TiB.
pub const SIZE_MAX: u64 = 128 << 40;

/// Checks that `name` can name a volume or a snapshot: 1 to 63 of `a-z 0-9 . _ -`, beginning with a letter or digit.
///
/// # Errors
/// [`VolumeError::BadName`].
pub fn check_name(name: &str) -> Result<(), VolumeError> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let good = name.len() <= NAME_MAX
        && name.bytes().next().is_some_and(is_plain)
        && name
            .bytes()
            .all(|byte| is_plain(byte) || b"._-".contains(&byte));
    if good {
        Ok(())
    } else {
        Err(VolumeError::BadName)
    }
}

/// Checks that a volume can have `size` bytes: a multiple of 512, at least one block and at most [`SIZE_MAX`].
///
/// # Errors
/// [`VolumeError::BadSize`].
pub fn check_size(size: u64) -> Result<(), VolumeError> {
    let good = size.is_multiple_of(512) && (BLOCK_SIZE as u64..=SIZE_MAX).contains(&size);
    if good {
        Ok(())
    } else {
        Err(VolumeError::BadSize)
    }
}

/// Volume and snapshot of `VOLUME@SNAPSHOT`; a name without `@` is a volume's.
#[must_use]
pub fn split_name(name: &str) -> (&str, Option<&str>) {
    match name.split_once('@') {
        Some((volume, snapshot)) => (volume, Some(snapshot)),
        None => (name, None),
    }
}
