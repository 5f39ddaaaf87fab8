//! The project's own commands: `cargo xtask help` lists them.
//!
//! Nothing here is hidden from people: continuous integration calls `cargo xtask test`, and every step of it can be
//! run alone. Words introduced here: a **step** is a named piece of work with its time printed ([`steps`]).

#![forbid(unsafe_code)]

mod console;
mod disk_image;
mod docs;
mod drives;
mod image;
mod run;
mod setup;
mod steps;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use steps::Profile;

/// Builds, boots, tests and measures Ferrite, storage-controller firmware in Rust.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install the host programs that other commands need
    Setup(setup::SetupArgs),
    /// Build the image, boot it in QEMU and serve; Ctrl-C shuts it down cleanly
    Run(run::RunArgs),
    /// End an appliance that `run --detach` started
    Stop(run::StopArgs),
    /// Build target/dist/ferrite.elf (for qemu -kernel) and target/dist/ferrite.img (flashable, BIOS + UEFI)
    Image(image::ImageArgs),
    /// Run every test a commit must pass
    Test(test::TestArgs),
    /// Run the quick part of `test`: format, lints, unit tests, house rules
    Check,
    /// Write the documents that are made of the source: docs/api.md
    Docs,
    /// Run the simulator; `cargo xtask sim --help` shows its options
    Sim(Rest),
    /// Record the real image in QEMU and cut its power at many points; `cargo xtask crashes --help` shows its options
    Crashes(Rest),
    /// Boot a Linux machine from a disk that is still elsewhere, and again when that is gone
    BringUp(Rest),
    /// Measure; `cargo xtask bench --help` shows its options
    Bench(Rest),
    /// Run the command-line tool, e.g. `cargo xtask ferrite volume list`
    Ferrite(Rest),
}

/// Arguments that belong to another program.
#[derive(Args)]
#[command(disable_help_flag = true)]
struct Rest {
    /// Handed over as they are
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

fn main() -> ExitCode {
    match run_command(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  because: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run_command(command: Command) -> Result<()> {
    match command {
        Command::Setup(args) => setup::command(&args),
        Command::Run(args) => run::command(&args),
        Command::Stop(args) => run::stop(&args),
        Command::Image(args) => image::command(&args),
        Command::Test(args) => test::command(&args),
        Command::Check => test::quick(),
        Command::Docs => docs::command(),
        Command::Sim(rest) => steps::become_program("sim", Profile::Release, &rest.arguments),
        Command::Crashes(rest) => {
            if !asks_for_help(&rest) {
                setup::ensure(setup::Need::Tests)?;
                image::build()?;
            }
            steps::become_program("crashes", Profile::Dev, &rest.arguments)
        }
        Command::BringUp(rest) => {
            if !asks_for_help(&rest) {
                setup::ensure(setup::Need::Tests)?;
                image::build()?;
            }
            steps::become_program("bringup", Profile::Dev, &rest.arguments)
        }
        Command::Bench(rest) => {
            if !asks_for_help(&rest) {
                setup::ensure(setup::Need::Tests)?;
                image::build_disk(&image::build()?, None)?;
            }
            steps::become_program("bench", Profile::Release, &rest.arguments)
        }
        Command::Ferrite(rest) => steps::become_program("ferrite", Profile::Dev, &rest.arguments),
    }
}

fn asks_for_help(rest: &Rest) -> bool {
    let is_help = |word: &String| matches!(word.as_str(), "-h" | "--help");
    rest.arguments.iter().any(is_help)
}
