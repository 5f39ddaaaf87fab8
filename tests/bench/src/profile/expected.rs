//! `--check`: instructions of an operation must not have become many more than `tests/bench/expected.json` says.
//!
//! Instructions hardly depend on the machine or its load, so this can be a test where times cannot. The numbers are those of
//! one configuration (one CPU, 128 MiB, one NVMe drive, user-mode network, which needs no privileges) and are changed on
//! purpose only, by `--accept`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use qemu::instance::{shown, workspace_dir};

use crate::interrupt;
use crate::target::{Bench, Route};

use super::crowd;
use super::rig::Rig;
use super::{Job, Plan, title};

/// So many percent more are tolerated.
const MARGIN_PERCENT: f64 = 15.0;
/// What is counted: kind, depth, operations. Enough writes for several checkpoints, whose work is part of theirs.
const CHECKED: [(Job, u32, u64); 4] = [
    (Job::Read, 32, 16_000),
    (Job::Read, 1, 4000),
    (Job::Write, 32, 32_000),
    (Job::Flush, 1, 4000),
];
/// So many times the instructions alone may an operation take beside slow clients of the API.
const CROWDED_MAX: f64 = 1.2;
/// What to do when it is meant.
const COMMAND: &str = "cargo xtask bench --check --accept";

/// Instructions of each operation, by load.
type Numbers = BTreeMap<String, u64>;

/// Counts, and compares with what is expected or makes it the new expectation.
///
/// # Errors
/// When an operation takes many more instructions than expected; the error has old, new and the command to accept them.
pub fn check(bench: &Bench, accept: bool) -> Result<()> {
    let (found, crowded) = count(bench)?;
    let path = path();
    if accept {
        let text = serde_json::to_string_pretty(&found)?;
        fs::write(&path, text + "\n")?;
        println!("{} says now what was counted", shown(&path));
        return Ok(());
    }
    let text = fs::read_to_string(&path)
        .with_context(|| format!("no {}; `{COMMAND}` makes it", shown(&path)))?;
    let expected: Numbers =
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", shown(&path)))?;
    let (lines, is_worse) = compare(&expected, &found);
    println!("{lines}");
    println!(
        "beside {} slow clients of the API: {crowded:.2} times as many",
        crowd::CLIENTS
    );
    if crowded > CROWDED_MAX {
        bail!(
            "slow clients of the API may not make an operation take over {CROWDED_MAX} times the instructions"
        );
    }
    if is_worse {
        bail!(
            "an operation takes over {MARGIN_PERCENT} % more instructions than expected; find out why \
             (`cargo xtask bench --profile`) or, if it is meant: {COMMAND}"
        );
    }
    Ok(())
}

fn path() -> PathBuf {
    workspace_dir().join("tests/bench/expected.json")
}

/// Instructions of each load, and how many times those of the first are beside slow clients.
fn count(bench: &Bench) -> Result<(Numbers, f64)> {
    let rig = Rig::start(bench, Route::User)?;
    let mut found = Numbers::new();
    let each = |(job, depth, operations): (Job, u32, u64)| -> Result<(String, f64)> {
        interrupt::check()?;
        let plan = Plan {
            load: job.load(depth),
            connections: 1,
            operations,
            rows: 0,
        };
        let windows = rig.run(&plan)?;
        let mean = plan.mean(&windows, |counts| counts.instructions);
        Ok((title(&plan), mean))
    };
    let mut alone = None;
    for load in CHECKED {
        let (title, instructions) = each(load)?;
        alone.get_or_insert(instructions);
        found.insert(title, instructions as u64);
    }
    let crowd = rig.crowd()?;
    let (_, crowded) = each(CHECKED[0])?;
    drop(crowd);
    rig.finish()?;
    Ok((found, alone.map_or(1.0, |alone| crowded / alone)))
}

/// A line for each load, and whether one of them is over its margin or unknown.
fn compare(expected: &Numbers, found: &Numbers) -> (String, bool) {
    let mut lines = String::from("instructions of an operation:");
    let mut is_worse = false;
    for (name, &new) in found {
        let verdict = match expected.get(name) {
            None => {
                is_worse = true;
                "nothing is expected of it".to_owned()
            }
            Some(&old) => {
                let change = (new as f64 / old as f64 - 1.0) * 100.0;
                let remark = match change {
                    over if over > MARGIN_PERCENT => ": too many",
                    under if under < -MARGIN_PERCENT => ": worth to be kept",
                    _ => "",
                };
                is_worse |= change > MARGIN_PERCENT;
                format!("{old} expected, {change:+.1} %{remark}")
            }
        };
        lines.push_str(&format!("\n  {name}: {new} ({verdict})"));
    }
    (lines, is_worse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(value: u64) -> Numbers {
        [("read".to_owned(), value)].into()
    }

    #[test]
    fn only_many_more_instructions_fail() {
        let expected = numbers(1000);
        for (found, fails) in [(500, false), (1000, false), (1150, false), (1151, true)] {
            let (text, is_worse) = compare(&expected, &numbers(found));
            assert_eq!(is_worse, fails, "{text}");
            assert!(text.contains("1000 expected") && text.contains(&found.to_string()));
        }
        assert!(compare(&Numbers::new(), &expected).1);
    }
}
