//! Linux as a client.

use anyhow::Result;
use guest::{Station, ext4};

#[test]
fn ext4_survives_the_death_of_its_client() -> Result<()> {
    let station = Station::with_drive("linux", 2 << 30)?;
    let appliance = station.start()?;
    ext4::survives_a_kill(station.options.nbd.port(), "demo", "image")?;
    station.power_down(appliance)
}
