//! Bytes to values and back, nothing else.
