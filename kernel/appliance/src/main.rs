//! The image: wires the rooms together.
fn main() {}
