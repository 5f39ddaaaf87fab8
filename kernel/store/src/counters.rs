//! What the store has counted, and how full its own places are.

use world::{BLOCK_SIZE, Disk};

use crate::Store;

/// Counts since the pool was opened, and how much there is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// How often a map node was looked for and was in memory.
    pub node_hits: u64,
    /// How often it was not, and had to be read.
    pub node_misses: u64,
    /// Map nodes in memory now.
    pub nodes: u64,
    /// The most map nodes in memory.
    pub nodes_max: u64,
    /// Bytes of the journal that a restart would replay now.
    pub journal_used_bytes: u64,
    /// The most bytes of the journal that may be in use; a checkpoint frees them long before.
    pub journal_size_bytes: u64,
}

impl<D: Disk + 'static> Store<D> {
    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let state = self.shared.state.borrow();
        let (nodes, nodes_max) = state.cache.filling();
        let bytes = |blocks: u64| blocks * BLOCK_SIZE as u64;
        Counters {
            node_hits: state.cache.hits,
            node_misses: state.cache.misses,
            nodes: nodes as u64,
            nodes_max: nodes_max as u64,
            journal_used_bytes: bytes(state.journal.live_blocks()),
            journal_size_bytes: bytes(state.journal.live_max),
        }
    }
}
