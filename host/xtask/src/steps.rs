//! Named pieces of work, and the programs they start.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use qemu::instance::{target_dir, workspace_dir};

/// Runs `work` under a heading and prints how long it took.
///
/// # Errors
/// Those of `work`, with the step's name.
pub fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("==> {name}");
    let start = Instant::now();
    let result = work().with_context(|| format!("{name} failed"));
    let outcome = if result.is_ok() { "done" } else { "FAILED" };
    eprintln!("<== {name}: {outcome} in {}", seconds(start.elapsed()));
    result
}

/// A duration for people.
#[must_use]
pub fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// Cargo, in the checkout. The variables that our own `cargo run` set are taken away, or build scripts would see
/// them change between this and a direct call and run again.
#[must_use]
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    cargo.current_dir(workspace_dir());
    cargo
}

/// Runs a program to its end.
///
/// # Errors
/// When it is missing or fails; its own output has said why.
pub fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command
        .status()
        .with_context(|| format!("cannot start {name}"))?;
    if !status.success() {
        let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        bail!("`{name} {}` ended with {status}", arguments.join(" "));
    }
    Ok(())
}

/// How a host program is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Quickly built.
    Dev,
    /// Quickly running.
    Release,
}

/// Builds the host program `package` and becomes it, so that its exit code is ours.
///
/// # Errors
/// When it does not build. Otherwise this does not return.
pub fn become_program(package: &str, profile: Profile, arguments: &[String]) -> Result<()> {
    let mut build = cargo();
    build.args(["build", "--quiet", "--package", package]);
    let folder = match profile {
        Profile::Dev => "debug",
        Profile::Release => {
            build.arg("--release");
            "release"
        }
    };
    run(&mut build)?;
    let program = target_dir().join(folder).join(package);
    Err(Command::new(&program).args(arguments).exec())
        .with_context(|| format!("cannot start {}", program.display()))
}
