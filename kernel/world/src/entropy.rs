//! Random bytes.

/// A source of unpredictable bytes (in the simulation: of bytes that the seed decides).
pub trait Entropy {
    /// Fills all of `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}
