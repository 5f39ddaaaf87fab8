//! A pool in memory, used and damaged.

mod crowd;
mod damage;
mod lab;
mod sound;
