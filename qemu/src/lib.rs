//! The machine as a library: QEMU command lines, drives, ports, QMP, serial log, exit code.
//!
//! [`Machine`] describes hardware and [`Machine::start`] turns it into a [`Running`] process that ends when it is
//! dropped. [`Appliance`] is a machine that boots our image: it adds the ports, the configuration and the token, and
//! waits until both servers answer. Tests, measurements and `cargo xtask run` all start machines here and nowhere else.
//!
//! Words introduced here:
//! - **state folder**: where one appliance keeps drives, token, serial log, sockets and pid between runs
//!   ([`instance`]);
//! - **slot**: a hot-pluggable PCIe root port, numbered from 1, that takes one NVMe drive.

#![forbid(unsafe_code)]

mod accel;
mod appliance;
mod drive;
mod firmware;
pub mod instance;
mod machine;
mod network;
pub mod probe;
mod qmp;
mod running;
pub mod size;

pub use accel::Accel;
pub use appliance::{API_PORT, Appliance, ApplianceOptions, NBD_PORT};
pub use drive::{Bus, Drive, sparse_file};
pub use firmware::Firmware;
pub use machine::{Boot, Chipset, DEBUG_EXIT_PORT, Machine};
pub use network::{Forward, Network};
pub use qmp::{Event, Qmp};
pub use running::{Running, cpu_time, pid_is_alive};

/// The program that runs machines.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// Writes `text` as a value inside a QEMU option, where a comma ends the value unless it is doubled.
fn escaped(text: &str) -> String {
    text.replace(',', ",,")
}
