//! `test`: everything a commit must pass, step by step.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use qemu::instance::target_dir;

use crate::image;
use crate::setup::{self, Need};
use crate::steps::{cargo, run, seconds, step};

/// Crates that are only ever built by themselves, without std.
const IMAGE_CRATES: [&str; 2] = ["appliance", "boot"];

/// A dead link is an error; links to what is private are welcome, as the documents are for people who read the source.
const DOC_LINTS: &str =
    "-D warnings -A rustdoc::private_intra_doc_links -A rustdoc::redundant_explicit_links";

/// Simulated histories of every commit; always the same, so that a failure is the commit's.
const SEEDS: [&str; 4] = ["--first-seed", "1", "--seeds", "200"];

/// Options of `test`.
#[derive(Args)]
pub struct TestArgs {
    /// Run only this step. Repeatable
    #[arg(long, value_name = "STEP")]
    only: Vec<Step>,
    /// Leave out what boots machines or simulates at length
    #[arg(long)]
    fast: bool,
    /// For `--only unit` and `--only guest`: handed to the tests, e.g. a part of their names
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
    /// The image in QEMU with real clients
    Guest,
}

const QUICK: [Step; 5] = [Step::Format, Step::Lint, Step::Docs, Step::Unit, Step::Tidy];
const SLOW: [Step; 3] = [Step::Sim, Step::Image, Step::Guest];

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
        steps.retain(|step| args.only.contains(step));
        if steps.is_empty() {
            bail!("--fast leaves that step out");
        }
    }
    if !args.filter.is_empty() && args.only.is_empty() {
        bail!(
            "a filter needs `--only unit` or `--only guest`, or the other steps would not know what to do with it"
        );
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
    let mut times: Vec<(Step, Duration)> = Vec::new();
    for &name in steps {
        let begun = Instant::now();
        run_step(name, filter)?;
        times.push((name, begun.elapsed()));
    }
    eprintln!();
    for (name, time) in times {
        eprintln!(
            "{:>8}  {}",
            format!("{name:?}").to_lowercase(),
            seconds(time)
        );
    }
    let all = steps.len() == QUICK.len() + SLOW.len();
    let what = if all {
        "all tests passed"
    } else {
        "passed what was asked for"
    };
    println!("{what} in {}", seconds(start.elapsed()));
    Ok(())
}

fn run_step(name: Step, filter: &[String]) -> Result<()> {
    match name {
        Step::Format => step("format", || run(cargo().args(["fmt", "--all", "--check"])))
            .context("`cargo fmt --all` puts it right"),
        Step::Lint => step("lint", lint),
        Step::Docs => step("docs", || {
            let mut doc = cargo();
            doc.args([
                "doc",
                "--quiet",
                "--no-deps",
                "--keep-going",
                "--document-private-items",
            ]);
            run(without_image(&mut doc).env("RUSTDOCFLAGS", DOC_LINTS))
        }),
        Step::Unit => step("unit tests", || {
            let mut test = cargo();
            test.args([
                "test",
                "--no-fail-fast",
                "--exclude",
                "guest",
                "--exclude",
                "tidy",
            ]);
            run(without_image(&mut test).arg("--").args(filter))?;
            // By themselves, like the image: what is pure in them is tested on the host.
            for name in IMAGE_CRATES {
                let mut test = cargo();
                test.args(["test", "--quiet", "--lib", "--package", name, "--"]);
                run(test.args(filter))?;
            }
            Ok(())
        }),
        Step::Tidy => step("tidy", || {
            run(cargo().args(["test", "--quiet", "--package", "tidy"]))
        }),
        Step::Sim => step("simulator", || {
            let mut sim = cargo();
            sim.args(["run", "--quiet", "--release", "--package", "sim", "--"]);
            run(sim.args(SEEDS))
        }),
        Step::Image => {
            let elf = image::build()?;
            image::build_disk(&elf, None).map(drop)
        }
        Step::Guest => step("guest tests", || {
            let mut test = cargo();
            // One machine at a time: two on two cores would only measure each other's patience.
            test.args([
                "test",
                "--package",
                "guest",
                "--",
                "--test-threads=1",
                "--show-output",
            ])
            .args(filter);
            run(&mut test)
        }),
    }
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
