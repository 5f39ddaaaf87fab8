//! A volume that moves while appliances lose power; `cargo xtask crashes --moves 100` does so at many more points.

use anyhow::Result;
use guest::journey::{Cut, Journey};

/// One of each stage, with each of the victims.
const NUMBERS: [u32; 4] = [12, 21, 26, 7];

#[test]
fn a_move_survives_power_cuts() -> Result<()> {
    let mut journey = Journey::begin("journey")?;
    for number in NUMBERS {
        journey.survive(Cut::nth(number))?;
    }
    journey.end()
}
