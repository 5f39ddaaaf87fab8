//! A pool in memory, used and damaged.

mod adopted;
mod changes;
mod crowd;
mod damage;
mod family;
mod kin;
mod lab;
mod play;
mod shares;
mod sound;
mod surgery;
