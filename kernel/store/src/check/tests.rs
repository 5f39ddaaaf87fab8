//! A pool in memory, used and damaged.

mod damage;
mod lab;
mod sound;
