//! Points in time as smoltcp counts them: in microseconds.

use core::time::Duration;

use world::Instant;

pub fn to_wire(at: Instant) -> smoltcp::time::Instant {
    let micros = i64::try_from(at.as_nanos() / 1000).expect("micros of a u64 of nanos fit");
    smoltcp::time::Instant::from_micros(micros)
}

pub fn from_wire(at: smoltcp::time::Instant) -> Instant {
    let micros = u64::try_from(at.total_micros()).unwrap_or(0);
    Instant::ZERO + Duration::from_micros(micros)
}
