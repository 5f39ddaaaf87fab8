//! Whole stacks over a cable in memory, in one thread, under a clock that jumps from deadline to deadline.

mod addresses;
mod closing;
mod faults;
mod lab;
mod offload;
mod pipes;
mod streams;
