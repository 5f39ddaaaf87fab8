//! Instructions of measured sections, counted by valgrind's callgrind in a second run of the same scenario.
//!
//! Counts repeat to a fraction of a percent under any load of the host; they are of this program, so they have the store's
//! part and a little of the drive in memory and of the executor, but nothing of network or driver.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use guest::Scratch;

use crate::engine::Section;

/// Debian's package and the program.
const PROGRAM: &str = "valgrind";

/// Keeps the C library from string instructions, which callgrind counts once for each byte.
const NO_REP: &str = "glibc.cpu.x86_rep_movsb_threshold=1000000000:\
                      glibc.cpu.x86_rep_stosb_threshold=1000000000";
/// What callgrind calls [`section`].
const FUNCTION: &str = concat!(module_path!(), "::section");

/// The place that callgrind looks for.
#[inline(never)]
pub fn section(work: &mut dyn FnMut()) {
    work();
    // Callgrind sees where this function is left only if the call above is not a jump.
    std::hint::black_box(());
}

/// Runs this program again with `--counted NAME`, which runs the same sections in the same order, or the first of them, and
/// fills in their instructions. Without valgrind they stay unknown.
///
/// # Errors
/// When the second run fails or has no sections.
pub fn count(name: &str, sections: &mut [&mut Section]) -> Result<()> {
    let scratch = Scratch::new("bench-counts");
    let out = scratch.file("counts");
    let program = std::env::current_exe()?;
    let ran = Command::new(PROGRAM)
        .env("GLIBC_TUNABLES", NO_REP)
        .args([
            "--quiet",
            "--tool=callgrind",
            "--collect-atstart=no",
            "--combine-dumps=no",
        ])
        .arg(format!("--toggle-collect={FUNCTION}"))
        .arg(format!("--dump-after={FUNCTION}"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .args(["--counted", name])
        .stdout(Stdio::null())
        .output();
    let output = match ran {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("no valgrind (Debian package valgrind): instructions are not counted");
            return Ok(());
        }
        ran => ran.context("cannot start valgrind")?,
    };
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the counted run failed: {said}");
    for (index, section) in (1..).zip(sections.iter_mut()) {
        let Ok(text) = fs::read_to_string(scratch.file(&format!("counts.{index}"))) else {
            ensure!(index > 1, "the counted run has no sections");
            break;
        };
        section.instructions = total(&text).context("callgrind counted nothing")?;
    }
    Ok(())
}

/// The number behind `totals:` (or `summary:`) of a profile.
fn total(profile: &str) -> Option<u64> {
    let line = |word| profile.lines().find_map(|line| line.strip_prefix(word));
    let number = line("summary: ").or_else(|| line("totals: "))?;
    number.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_found() {
        assert_eq!(
            total("events: Ir\nsummary: 1234\n\ntotals: 1234\n"),
            Some(1234)
        );
        assert_eq!(total("events: Ir\ntotals: 7\n"), Some(7));
        assert_eq!(total("events: Ir\n"), None);
    }
}
