//! What names and sizes can be, and how a name says what is meant.

use store::{is_name, is_size};

use crate::VolumeError;

/// Checks that `name` can name a volume or a snapshot ([`is_name`]).
///
/// # Errors
/// [`VolumeError::BadName`].
pub fn check_name(name: &str) -> Result<(), VolumeError> {
    if is_name(name) {
        Ok(())
    } else {
        Err(VolumeError::BadName)
    }
}

/// Checks that a volume can have `size` bytes ([`is_size`]).
///
/// # Errors
/// [`VolumeError::BadSize`].
pub fn check_size(size: u64) -> Result<(), VolumeError> {
    if is_size(size) {
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
