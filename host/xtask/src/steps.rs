//! Named pieces of work, and the programs they start.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
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
    require_success(command, status)
}

/// Runs `cargo test`, shows what it prints and returns how many tests passed.
///
/// # Errors
/// As [`run`].
pub fn run_tests(command: &mut Command) -> Result<u64> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let mut passed = 0;
    if let Some(stdout) = child.stdout.take() {
        let mut lines = BufReader::new(stdout);
        let mut line = Vec::new();
        // Bytes: what a test prints need not be text.
        while lines.read_until(b'\n', &mut line)? > 0 {
            std::io::stdout().write_all(&line)?;
            passed += passed_in(&String::from_utf8_lossy(&line));
            line.clear();
        }
    }
    let status = child.wait()?;
    require_success(command, status)?;
    Ok(passed)
}

/// The tests that a line of the test harness counts: `test result: ok. 3 passed; 0 failed; …`.
fn passed_in(line: &str) -> u64 {
    let counts = line.strip_prefix("test result: ");
    let before = counts.and_then(|counts| counts.split_once(" passed;"));
    let number = before.and_then(|(before, _)| before.rsplit(' ').next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn require_success(command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        let name = command.get_program().to_string_lossy();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_the_harness_counts() {
        let line =
            "test result: ok. 41 passed; 0 failed; 2 ignored; 0 measured; finished in 0.00s\n";
        assert_eq!(passed_in(line), 41);
        assert_eq!(passed_in("test result: FAILED. 3 passed; 1 failed;"), 3);
        assert_eq!(passed_in("it says 5 passed; really\n"), 0);
    }
}
