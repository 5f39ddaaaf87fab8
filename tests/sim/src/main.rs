//! `cargo xtask sim`: runs seeds, replays one, makes a failing one smaller, or tells what was run so far.

#![forbid(unsafe_code)]

mod command;

use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    command::run()
}
