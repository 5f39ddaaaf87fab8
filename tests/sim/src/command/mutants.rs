//! The table of deliberate bugs: each is hunted from several first seeds, and in the systematic runs when those do not notice
//! it, in processes of their own, since a bug may also be noticed by an abort or never let go of the processor.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sim::{Mutant, Oracle, hunt_seed, hunt_systematically};

/// How bugs are hunted.
pub struct Plan {
    /// Only this one.
    pub only: Option<String>,
    pub first: u64,
    /// Hunts in the systematic runs, too, not only what seeds do not notice.
    pub systematically: bool,
    /// Hunts of each, from seeds that are far apart.
    pub starts: u64,
    /// The most seeds of a hunt.
    pub seeds: u64,
    pub operations: u64,
    pub jobs: usize,
    pub patience: Duration,
}

/// Seeds from one start to the next.
const APART: u64 = 1 << 20;

/// Between the words of a worker's line.
const TAB: char = '\t';

/// The bug with this name.
pub fn find(name: &str) -> Result<Mutant> {
    let named = |mutant: &&Mutant| format!("{mutant:?}") == name;
    let found = Mutant::ALL.iter().find(named).copied();
    found.with_context(|| format!("no deliberate bug is called {name}"))
}

/// One hunt, in this process: a line for each seed that noticed nothing, then what was noticed.
pub fn serve(name: &str, first: u64, seeds: u64, operations: u64, systematic: bool) -> Result<()> {
    let mutant = find(name)?;
    let mut out = std::io::stdout();
    let mut tell = |line: String| writeln!(out, "{line}").and_then(|()| out.flush());
    if systematic {
        if let Some((after, what)) = hunt_systematically(mutant) {
            tell(format!(
                "found{TAB}{}{TAB}{after}{TAB}{}",
                Oracle::of(&what),
                first_line(&what)
            ))?;
        }
        return Ok(());
    }
    for seed in (0..seeds).map(|index| first.wrapping_add(index)) {
        match hunt_seed(mutant, seed, operations) {
            None => tell("nothing".to_string())?,
            Some(what) => {
                tell(format!(
                    "found{TAB}{}{TAB}{TAB}{}",
                    Oracle::of(&what),
                    first_line(&what)
                ))?;
                break;
            }
        }
    }
    Ok(())
}

fn first_line(what: &str) -> String {
    what.lines()
        .take(2)
        .collect::<Vec<_>>()
        .join(" ")
        .replace(TAB, " ")
}

/// How a hunt ended.
struct Kill {
    /// Seeds that it took, the last included.
    seeds: u64,
    /// What it took in the systematic runs.
    after: String,
    oracle: String,
    what: String,
}

/// Hunts all of them and prints the table.
pub fn run(plan: &Plan) -> Result<ExitCode> {
    let wanted = |mutant: &&Mutant| match &plan.only {
        Some(name) => format!("{mutant:?}") == *name,
        None => true,
    };
    let mutants: Vec<Mutant> = Mutant::ALL.iter().filter(wanted).copied().collect();
    if mutants.is_empty() {
        bail!("no deliberate bug has that name");
    }
    let next = AtomicUsize::new(0);
    let (sender, rows) = mpsc::channel();
    println!("| bug | seeds | least – most | noticed by | systematic runs |");
    println!("|---|---|---|---|---|");
    let mut survivors = Vec::new();
    std::thread::scope(|scope| -> Result<()> {
        for _ in 0..plan.jobs.max(1) {
            let (next, mutants, sender) = (&next, &mutants, sender.clone());
            scope.spawn(move || {
                while let Some(mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if sender.send(hunt(plan, *mutant)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        for row in &rows {
            let (mutant, line, is_killed) = row?;
            println!("{line}");
            if !is_killed {
                survivors.push(mutant);
            }
        }
        Ok(())
    })?;
    println!(
        "\n{} deliberate bugs, survivors: {survivors:?}",
        mutants.len()
    );
    Ok(if survivors.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn hunt(plan: &Plan, mutant: Mutant) -> Result<(Mutant, String, bool)> {
    let starts = usize::try_from(plan.starts).unwrap_or(usize::MAX);
    let mut hunts = Vec::new();
    for start in 0..plan.starts {
        let first = plan.first.wrapping_add(start * APART);
        hunts.push(follow(spawn(plan, mutant, first, false)?, plan.patience)?);
        // The median is known.
        if hunts.iter().filter(|kill| kill.is_none()).count() > starts / 2 {
            break;
        }
    }
    let kills: Vec<&Kill> = hunts.iter().flatten().collect();
    let mut seeds: Vec<u64> = kills.iter().map(|kill| kill.seeds).collect();
    seeds.sort_unstable();
    let median = seeds.get(starts / 2);
    let mut systematic = None;
    if plan.systematically || median.is_none() {
        // One process for all of it: no line for minutes is no hang.
        systematic = follow(spawn(plan, mutant, 0, true)?, plan.patience * 10)?;
    }
    let text = |seeds: Option<&u64>| match seeds {
        Some(seeds) => seeds.to_string(),
        None => format!("> {}", plan.seeds),
    };
    let most = seeds.get(starts.saturating_sub(1));
    let mut oracles: Vec<&str> = kills.iter().map(|kill| &*kill.oracle).collect();
    oracles.sort_unstable();
    oracles.dedup();
    for kill in kills.iter().copied().chain(&systematic) {
        eprintln!("{mutant:?}: {} {}", kill.oracle, kill.what);
    }
    let line = format!(
        "| `{mutant:?}` | {} | {} – {} | {} | {} |",
        text(median),
        text(seeds.first()),
        text(most),
        oracles.join(", "),
        systematic.as_ref().map_or("", |kill| &*kill.after),
    );
    Ok((mutant, line, median.is_some() || systematic.is_some()))
}

fn spawn(plan: &Plan, mutant: Mutant, first: u64, systematic: bool) -> Result<Child> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(own);
    command.args(["--hunt", &format!("{mutant:?}")]);
    command.args(["--first-seed", &first.to_string()]);
    command.args(["--seeds", &plan.seeds.to_string()]);
    command.args(["--operations", &plan.operations.to_string()]);
    if systematic {
        command.arg("--systematic");
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().context("cannot start a process")
}

/// Waits for the end of a hunt: what was noticed, if anything.
fn follow(mut child: Child, patience: Duration) -> Result<Option<Kill>> {
    let stdout = child.stdout.take().context("a process without output")?;
    let stderr = child.stderr.take().context("a process without errors")?;
    let (sender, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let complaint = std::thread::spawn(move || {
        let mut text = Vec::new();
        // As much as there is.
        let _ = BufReader::new(stderr).read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let mut seeds = 0;
    let mut found = None;
    loop {
        match lines.recv_timeout(patience) {
            Ok(line) => {
                seeds += 1;
                let mut words = line.split(TAB);
                if words.next() == Some("found") {
                    let mut word = || words.next().unwrap_or_default().to_string();
                    found = Some(Kill {
                        seeds,
                        oracle: word(),
                        after: word(),
                        what: word(),
                    });
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                child.kill()?;
                found = Some(Kill {
                    seeds: seeds + 1,
                    oracle: Oracle::Hang.to_string(),
                    after: String::new(),
                    what: format!("no end after {} s of real time", patience.as_secs()),
                });
                break;
            }
        }
    }
    let status = child.wait()?;
    drop(lines);
    let _ = reader.join();
    let complaint = complaint.join().unwrap_or_default();
    if found.is_none() && !status.success() {
        let panicked = complaint
            .lines()
            .skip_while(|line| !line.contains("panicked at"));
        let what: Vec<&str> = panicked.take(2).collect();
        found = Some(Kill {
            seeds: seeds + 1,
            oracle: Oracle::of(&complaint).to_string(),
            after: String::new(),
            what: what.join(" "),
        });
    }
    Ok(found)
}
