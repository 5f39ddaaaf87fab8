//! A BLOCK_STATUS under way: what a server says about a range, as extents of it.

use alloc::vec::Vec;
use core::ops::Range;

use volume::{OriginError, OriginExtent};
use wire::nbd::{Descriptor, Errno, NBD_STATE_ZERO};

/// Extents of one answer that are kept; further ones are asked for again.
pub const EXTENTS_MAX: usize = 1024;

/// A BLOCK_STATUS under way.
pub struct Listing {
    /// First byte that was asked for.
    pub offset: u64,
    /// Bytes that were asked for.
    pub len: u64,
    /// What somebody wants to know of it.
    wanted: Range<u64>,
    extents: Vec<OriginExtent>,
    /// Where the next descriptor begins; `None` before the first.
    at: Option<u64>,
    /// There were more than are kept.
    is_full: bool,
    /// The first error that came.
    pub error: Option<Errno>,
}

impl Listing {
    /// A BLOCK_STATUS of `len` bytes at `offset` for what is `wanted` of them.
    pub fn new(offset: u64, len: u64, wanted: Range<u64>) -> Self {
        Self {
            offset,
            len,
            wanted,
            extents: Vec::new(),
            at: None,
            is_full: false,
            error: None,
        }
    }

    /// Forgets what came: the request is made again.
    pub fn start_over(&mut self) {
        self.extents.clear();
        self.at = None;
        self.is_full = false;
        self.error = None;
    }

    /// Notes that the descriptors come now.
    ///
    /// # Errors
    /// [`OriginError::Protocol`] for a second list.
    pub fn begin(&mut self) -> Result<(), OriginError> {
        if self.at.is_some() {
            return Err(OriginError::Protocol);
        }
        self.at = Some(self.offset);
        Ok(())
    }

    /// Takes the next descriptor; the last one may end behind what was asked for.
    ///
    /// # Errors
    /// [`OriginError::Protocol`] for one that begins there.
    pub fn push(&mut self, one: Descriptor) -> Result<(), OriginError> {
        let end = self.offset + self.len;
        let start = self.at.filter(|at| *at < end);
        let start = start.ok_or(OriginError::Protocol)?;
        let next = start.saturating_add(one.len);
        self.at = Some(next);
        let (from, to) = (start.max(self.wanted.start), next.min(self.wanted.end));
        if from < to {
            self.keep(OriginExtent {
                len: to - from,
                is_zero: one.flags & u64::from(NBD_STATE_ZERO) != 0,
            });
        }
        Ok(())
    }

    fn keep(&mut self, extent: OriginExtent) {
        if self.is_full {
            return;
        }
        let is_full = self.extents.len() == EXTENTS_MAX;
        match self.extents.last_mut() {
            Some(last) if last.is_zero == extent.is_zero => last.len += extent.len,
            _ if is_full => self.is_full = true,
            _ => self.extents.push(extent),
        }
    }

    /// Whether the list came.
    pub fn is_whole(&self) -> bool {
        self.at.is_some()
    }

    /// What came of what is wanted, from its beginning on.
    pub fn into_extents(self) -> Vec<OriginExtent> {
        self.extents
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZERO: u64 = 2;
    const HOLE: u64 = 1;

    fn listed(listing: &mut Listing, runs: &[(u64, u64)]) -> Result<(), OriginError> {
        listing.begin()?;
        let mut runs = runs.iter();
        runs.try_for_each(|&(len, flags)| listing.push(Descriptor { len, flags }))
    }

    fn extents(listing: Listing) -> Vec<(u64, bool)> {
        let extents = listing.into_extents().into_iter();
        extents.map(|extent| (extent.len, extent.is_zero)).collect()
    }

    #[test]
    fn neighbours_of_one_kind_are_one_and_only_zeros_are_zeros() {
        let mut listing = Listing::new(0, 8192, 0..8192);
        let runs = [
            (512, 0),
            (512, HOLE),
            (1024, ZERO),
            (1024, ZERO | HOLE),
            (4096, 4),
        ];
        assert_eq!(listed(&mut listing, &runs), Ok(()));
        assert_eq!(
            extents(listing),
            [(1024, false), (2048, true), (4096, false)]
        );
    }

    #[test]
    fn answers_are_cut_to_what_is_wanted() {
        let mut listing = Listing::new(0, 65536, 4096..12288);
        let runs = [(1024, 0), (4096, ZERO), (1 << 20, 0)];
        assert_eq!(listed(&mut listing, &runs), Ok(()));
        assert_eq!(extents(listing), [(1024, true), (7168, false)]);
        let mut listing = Listing::new(0, 65536, 4096..12288);
        assert_eq!(listed(&mut listing, &[(u64::MAX, ZERO)]), Ok(()));
        assert_eq!(extents(listing), [(8192, true)]);
    }

    #[test]
    fn second_lists_and_too_much_are_refused() {
        let wrong = Err(OriginError::Protocol);
        let mut listing = Listing::new(0, 8192, 0..8192);
        assert!(!listing.is_whole());
        assert_eq!(listed(&mut listing, &[(8192, 0), (1, 0)]), wrong);
        assert_eq!(listing.begin(), wrong);
        listing.start_over();
        assert_eq!(listed(&mut listing, &[(4096, 0)]), Ok(()));
        assert!(listing.is_whole());
        assert_eq!(extents(listing), [(4096, false)]);
    }

    #[test]
    fn a_long_list_is_cut() {
        let mut listing = Listing::new(0, 1 << 20, 0..1 << 20);
        let runs: Vec<_> = (0..2000).map(|index| (512, index % 2 * ZERO)).collect();
        assert_eq!(listed(&mut listing, &runs), Ok(()));
        let extents = extents(listing);
        assert_eq!(extents.len(), EXTENTS_MAX);
        assert!(extents.iter().all(|(len, _)| *len == 512));
    }
}
