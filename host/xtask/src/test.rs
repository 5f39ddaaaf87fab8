//! `test`: everything a commit must pass, step by step.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use qemu::instance::target_dir;

use crate::setup::{self, Need};
use crate::steps::{cargo, run, run_tests, seconds, step};
use crate::{console, image};

/// Crates that are only ever built by themselves, without std.
const IMAGE_CRATES: [&str; 2] = ["appliance", "boot"];

/// A dead link is an error; links to what is private are welcome, as the documents are for people who read the source.
const DOC_LINTS: &str =
    "-D warnings -A rustdoc::private_intra_doc_links -A rustdoc::redundant_explicit_links";

/// Options of `test`.
#[derive(Args)]
pub struct TestArgs {
    /// Run only this step. Repeatable
    #[arg(long, value_name = "STEP")]
    only: Vec<Step>,
    /// Leave out what boots machines or simulates at length
    #[arg(long)]
    fast: bool,
    /// For `--only` unit, sim or guest: handed to the tests, e.g. a part of their names
    #[arg(last = true)]
    filter: Vec<String>,
}

/// The steps in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Step {
    /// rustfmt has nothing to change
    Format,
    /// clippy has nothing to say, host and image
    Lint,
    /// The documentation builds without warnings
    Docs,
    /// Unit tests of all crates
    Unit,
    /// The house rules
    Tidy,
    /// Simulated appliances with power cuts
    Sim,
    /// The image and the disk image build
    Image,
    /// The image in QEMU with real clients, after it was built
    Guest,
    /// The web console in a headless browser, if there is one
    Console,
    /// An operation takes no more instructions than expected
    Instructions,
}

const QUICK: [Step; 5] = [Step::Format, Step::Lint, Step::Docs, Step::Unit, Step::Tidy];
const SLOW: [Step; 5] = [
    Step::Sim,
    Step::Image,
    Step::Guest,
    Step::Console,
    Step::Instructions,
];

/// Runs `test`.
///
/// # Errors
/// When a step fails; the later ones do not run then.
pub fn command(args: &TestArgs) -> Result<()> {
    let mut steps: Vec<Step> = QUICK.to_vec();
    if !args.fast {
        steps.extend(SLOW);
    }
    if !args.only.is_empty() {
        // An old image would be tested otherwise.
        let boots = [Step::Guest, Step::Console];
        let is_booted = boots.iter().any(|step| args.only.contains(step));
        let builds = |step: &Step| *step == Step::Image && is_booted;
        steps.retain(|step| args.only.contains(step) || builds(step));
        if steps.is_empty() {
            bail!("--fast leaves that step out");
        }
    }
    if !args.filter.is_empty() && args.only.is_empty() {
        bail!(
            "a filter needs `--only` unit, sim or guest; the other steps would not know what to do with it"
        );
    }
    if args.only.contains(&Step::Console) {
        setup::ensure(Need::Browser)?;
    }
    run_steps(&steps, &args.filter)
}

/// Runs `check`.
///
/// # Errors
/// As [`command`].
pub fn quick() -> Result<()> {
    run_steps(&QUICK, &[])
}

fn run_steps(steps: &[Step], filter: &[String]) -> Result<()> {
    if steps.iter().any(|step| SLOW.contains(step)) {
        setup::ensure(Need::Tests)?;
    }
    let start = Instant::now();
    let mut results: Vec<(Step, Duration, u64)> = Vec::new();
    for &name in steps {
        let begun = Instant::now();
        let tests = run_step(name, filter)?;
        results.push((name, begun.elapsed(), tests));
    }
    eprintln!();
    for &(name, time, tests) in &results {
        let name = format!("{name:?}").to_lowercase();
        let tests = match tests {
            0 => String::new(),
            _ => format!("  {tests} tests"),
        };
        eprintln!("{name:>8}  {:>9}{tests}", seconds(time));
    }
    let tests: u64 = results.iter().map(|(_, _, tests)| tests).sum();
    let all = steps.len() == QUICK.len() + SLOW.len();
    let what = if all {
        "all tests passed"
    } else {
        "passed what was asked for"
    };
    let tests = match tests {
        0 => String::new(),
        _ => format!(": {tests} tests"),
    };
    println!("{what} in {}{tests}", seconds(start.elapsed()));
    Ok(())
}

/// Runs a step and returns how many tests passed in it.
fn run_step(name: Step, filter: &[String]) -> Result<u64> {
    match name {
        Step::Format => step("format", || run(cargo().args(["fmt", "--all", "--check"])))
            .context("`cargo fmt --all` puts it right")
            .map(|()| 0),
        Step::Lint => step("lint", lint).map(|()| 0),
        Step::Docs => step("docs", || {
            let mut doc = cargo();
            doc.args([
                "doc",
                "--quiet",
                "--no-deps",
                "--keep-going",
                "--document-private-items",
            ]);
            run(without_image(&mut doc).env("RUSTDOCFLAGS", DOC_LINTS)).map(|()| 0)
        }),
        Step::Unit => step("unit tests", || unit(filter)),
        Step::Tidy => step("tidy", || {
            run_tests(cargo().args(["test", "--quiet", "--package", "tidy"]))
        }),
        Step::Sim => step("simulator", || {
            let mut test = cargo();
            // The dev profile, for it is built already and optimises what counts; its overflow checks are welcome.
            test.args(["test", "--package", "sim", "--", "--show-output"]);
            run_tests(test.args(filter))
        }),
        Step::Image => {
            let elf = image::build()?;
            image::build_disk(&elf, None).map(|_| 0)
        }
        Step::Guest => step("guest tests", || {
            let mut test = cargo();
            // One machine at a time: two on two cores would only measure each other's patience.
            test.args([
                "test",
                "--package",
                "guest",
                "--package",
                "crashes",
                "--",
                "--test-threads=1",
                "--show-output",
            ])
            .args(filter);
            run_tests(&mut test)
        }),
        Step::Console => {
            if let Some(packages) = setup::lacks(Need::Browser) {
                eprintln!(
                    "==> console: left out without {packages}; `cargo xtask setup` installs that"
                );
                return Ok(0);
            }
            step("console", || console::test(&image::built())).map(|()| 0)
        }
        Step::Instructions => step("instructions", || {
            run(cargo().args(["run", "--quiet", "--package", "bench", "--", "--check"]))
        })
        .map(|()| 0),
    }
}

/// Tests of all crates but those that are steps of their own.
fn unit(filter: &[String]) -> Result<u64> {
    let mut test = cargo();
    test.args(["test", "--no-fail-fast"]);
    for name in ["guest", "crashes", "sim", "tidy"] {
        test.args(["--exclude", name]);
    }
    let mut passed = run_tests(without_image(&mut test).arg("--").args(filter))?;
    // By themselves, like the image: what is pure in them is tested on the host.
    for name in IMAGE_CRATES {
        let mut test = cargo();
        test.args(["test", "--quiet", "--lib", "--package", name, "--"]);
        passed += run_tests(test.args(filter))?;
    }
    Ok(passed)
}

fn lint() -> Result<()> {
    let mut host = cargo();
    host.args(["clippy", "--quiet", "--all-targets"]);
    run(without_image(&mut host).args(["--", "-D", "warnings"]))?;
    let mut image = cargo();
    image
        .args(["clippy", "--quiet", "--target-dir"])
        .arg(target_dir().join("image"));
    for name in IMAGE_CRATES {
        image.args(["--package", name]);
    }
    run(image.args(["--", "-D", "warnings"]))
}

/// Adds the words that select all host crates.
fn without_image(command: &mut std::process::Command) -> &mut std::process::Command {
    command.arg("--workspace");
    for name in IMAGE_CRATES {
        command.args(["--exclude", name]);
    }
    command
}
