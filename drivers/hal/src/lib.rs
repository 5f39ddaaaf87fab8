//! The only door to memory, ports and instructions.
