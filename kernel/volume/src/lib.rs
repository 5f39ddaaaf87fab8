//! What a client sees: named volumes.
