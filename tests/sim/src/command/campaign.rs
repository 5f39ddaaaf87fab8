//! A long run: batches of seeds in processes of their own, so that neither a panic nor an endless loop ends it.
//!
//! Each process prints a line for each seed. One that ends early or falls silent has found something: the seed is noted
//! and another process goes on behind it. Finished batches are in the ledger, so a run can be resumed.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sim::{Count, Tally};

use super::Manner;
use super::ledger::Ledger;
use super::minimise::{replay_line, smallest};

/// Seeds of a batch.
const BATCH: u64 = 50;

/// Failing seeds after which no further batch begins.
const FAILURES_MAX: usize = 20;

/// Failing seeds that are made smaller at the end.
const MINIMISED_MAX: usize = 2;

/// What to run.
pub struct Plan {
    /// The first seed.
    pub first: u64,
    /// How many.
    pub seeds: u64,
    /// How each is run.
    pub manner: Manner,
    /// Processes at a time; 0 for one for each processor.
    pub jobs: usize,
    /// Real time that one seed may take.
    pub patience: Duration,
    /// Leaves out what the ledger has.
    pub resume: bool,
}

/// What the threads tell.
enum News {
    Seed(Tally),
    Failed(u64, String),
    Batch((u64, u64), BTreeSet<u64>, Tally),
    Broken(anyhow::Error),
}

/// Runs a plan and shows how far it is.
///
/// # Errors
/// When processes cannot be started or the ledger cannot be written.
pub fn run(plan: &Plan) -> Result<ExitCode> {
    let mut ledger = Ledger::open()?;
    let batches: Vec<(u64, u64)> = (0..plan.seeds.div_ceil(BATCH))
        .map(|index| {
            let first = plan.first.wrapping_add(index * BATCH);
            (first, BATCH.min(plan.seeds - index * BATCH))
        })
        .filter(|(first, seeds)| !plan.resume || !ledger.has(&plan.manner, *first, *seeds))
        .collect();
    let seeds: u64 = batches.iter().map(|(_, seeds)| seeds).sum();
    eprintln!(
        "{seeds} seeds; after an interruption go on with: cargo xtask sim --first-seed {:#x} --seeds {} {} --resume",
        plan.first,
        plan.seeds,
        plan.manner.options().join(" ")
    );
    let jobs = match plan.jobs {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        jobs => jobs,
    };
    let next = AtomicU64::new(0);
    let (sender, receiver) = mpsc::channel();
    let start = Instant::now();
    let mut state = State::new(seeds);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let (sender, next, batches) = (sender.clone(), &next, &batches);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let index = usize::try_from(index).unwrap_or(usize::MAX);
                    let Some(batch) = batches.get(index) else {
                        break;
                    };
                    // The receiver lives as long as this scope.
                    if let Err(error) = run_batch(plan, *batch, &sender) {
                        let _ = sender.send(News::Broken(error));
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut result = Ok(());
        for news in &receiver {
            match news {
                News::Seed(tally) => state.seed(tally, start),
                News::Failed(seed, what) => {
                    state.failed.insert(seed);
                    eprintln!("{what}");
                }
                News::Batch(batch, failing, tally) => {
                    result = result.and(ledger.add(&plan.manner, batch, &failing, tally));
                }
                News::Broken(error) => result = result.and(Err(error)),
            }
            if state.failed.len() >= FAILURES_MAX || result.is_err() {
                next.store(u64::MAX / 2, Ordering::Relaxed);
            }
        }
        result
    })?;
    println!("{}, {:.1} s", state.sum, start.elapsed().as_secs_f64());
    finish(plan, &state.failed)
}

/// Shows the failing seeds, the first few as small as they can be made.
fn finish(plan: &Plan, failed: &BTreeSet<u64>) -> Result<ExitCode> {
    for (index, seed) in failed.iter().enumerate() {
        let small = if index < MINIMISED_MAX {
            smallest(*seed, &plan.manner, plan.patience)?
        } else {
            None
        };
        let manner = small.as_ref().unwrap_or(&plan.manner);
        println!("failed: {}", replay_line(*seed, manner));
    }
    Ok(if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// How far the run is.
struct State {
    seeds: u64,
    sum: Tally,
    failed: BTreeSet<u64>,
    said: Instant,
}

impl State {
    fn new(seeds: u64) -> Self {
        Self {
            seeds,
            sum: Tally::default(),
            failed: BTreeSet::new(),
            said: Instant::now(),
        }
    }

    fn seed(&mut self, tally: Tally, start: Instant) {
        self.sum += tally;
        if self.said.elapsed().as_secs() < 10 {
            return;
        }
        self.said = Instant::now();
        let done = self.sum.get(Count::Seeds) + self.failed.len() as u64;
        let elapsed = start.elapsed().as_secs_f64();
        let left = elapsed / done as f64 * self.seeds.saturating_sub(done) as f64;
        eprintln!(
            "{done} of {} seeds, {:.1} a second, about {:.0} s left, {} failed, {} crashes, {} recoveries, {} faults of drives",
            self.seeds,
            done as f64 / elapsed,
            left,
            self.failed.len(),
            self.sum.get(Count::Crashes),
            self.sum.get(Count::Recoveries),
            self.sum.faults(),
        );
    }
}

/// Runs a batch, with another process after each failure.
fn run_batch(plan: &Plan, batch: (u64, u64), news: &mpsc::Sender<News>) -> Result<()> {
    let (first, seeds) = batch;
    let mut done = 0;
    let mut sum = Tally::default();
    let mut failing = BTreeSet::new();
    while done < seeds {
        let mut child = start(plan, first.wrapping_add(done), seeds - done)?;
        let failure = follow(&mut child, plan.patience, |tally| {
            done += 1;
            sum += tally;
            // The receiver waits for all of us.
            let _ = news.send(News::Seed(tally));
        })?;
        if let Some(what) = failure {
            let seed = first.wrapping_add(done);
            done += 1;
            failing.insert(seed);
            let line = replay_line(seed, &plan.manner);
            let _ = news.send(News::Failed(seed, what.replace(&line, "") + &line));
        }
    }
    let _ = news.send(News::Batch(batch, failing, sum));
    Ok(())
}

fn start(plan: &Plan, first: u64, seeds: u64) -> Result<Child> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(own);
    command.arg("--worker");
    command.args(["--first-seed", &first.to_string()]);
    command.args(["--seeds", &seeds.to_string()]);
    command.args(plan.manner.options());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().context("cannot start a process")
}

/// Takes the numbers of each seed from a process; returns what it said when a seed failed.
fn follow(
    child: &mut Child,
    patience: Duration,
    mut seed: impl FnMut(Tally),
) -> Result<Option<String>> {
    let stdout = child.stdout.take().context("a process without output")?;
    let stderr = child.stderr.take().context("a process without errors")?;
    let (sender, lines) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let complaint = scope.spawn(move || {
            let mut text = Vec::new();
            // As much as there is.
            let _ = BufReader::new(stderr).read_to_end(&mut text);
            String::from_utf8_lossy(&text).trim().to_string()
        });
        let mut hangs = false;
        loop {
            match lines.recv_timeout(patience) {
                Ok(line) => seed(Tally::decode(&line).context("a line that is no tally")?),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    hangs = true;
                    child.kill()?;
                    break;
                }
            }
        }
        let status = child.wait()?;
        let complaint = complaint.join().unwrap_or_default();
        Ok(if hangs {
            let seconds = patience.as_secs();
            Some(format!("{complaint}no end after {seconds} s of real time"))
        } else if status.success() {
            None
        } else {
            Some(complaint)
        })
    })
}
