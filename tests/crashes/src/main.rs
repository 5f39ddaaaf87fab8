//! `cargo xtask crashes`: records the real image, replays the record to many crash points, or one again.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use crashes::{Plan, Points, Recording, record, replay};
use guest::journey::{Cut, Journey, survives_the_loss_of_its_source};
use qemu::size;

/// Between two lines about progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Records what the real image does to its drive, and cuts the power at many points of it.
#[derive(Parser)]
#[command(name = "cargo xtask crashes")]
struct Arguments {
    /// Crash points
    #[arg(long, default_value_t = 2000)]
    points: u64,
    /// Decides what clients do, where the power is cut and what is lost then
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Starts of the appliance; its power is cut between them
    #[arg(long, default_value_t = 4)]
    lives: u32,
    /// Clients at the same time
    #[arg(long, default_value_t = 3)]
    clients: u64,
    /// Requests of each client in each life
    #[arg(long, default_value_t = 600)]
    requests: u64,
    /// Size of the drive
    #[arg(long, default_value = "256MiB", value_parser = parse_size)]
    drive: u64,
    /// Leave out snapshots, clones and rollbacks
    #[arg(long)]
    without_snapshots: bool,
    /// Replay this recording instead of making one
    #[arg(long, value_name = "FOLDER")]
    replay: Option<PathBuf>,
    /// Only this crash point
    #[arg(long)]
    point: Option<u64>,
    /// Instead: move a volume between two appliances so often, which lose power at as many points of that
    #[arg(long, value_name = "CUTS")]
    moves: Option<u32>,
    /// Threads; 0 takes one for each processor
    #[arg(long, default_value_t = 0)]
    threads: u64,
}

fn parse_size(text: &str) -> Result<u64, String> {
    size::parse(text).map_err(|error| error.to_string())
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(count) = arguments.moves {
        return cut_moves(count, arguments.point).map(|()| ExitCode::SUCCESS);
    }
    let start = Instant::now();
    let (folder, recording) = match &arguments.replay {
        Some(folder) => (folder.clone(), Recording::load(folder)?),
        None => {
            let folder = qemu::instance::target_dir().join("crashes");
            let recording = new_recording(&arguments, &folder)?;
            (folder, recording)
        }
    };
    let requests: usize = recording
        .stories
        .iter()
        .map(|story| story.events.len())
        .sum();
    let operations = recording.log.entries().len();
    let recorded = start.elapsed().as_secs_f64();
    eprintln!("{requests} requests, {operations} drive operations, {recorded:.1} s");

    let processors = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let points = Points {
        count: arguments.points,
        seed: arguments.seed,
        only: arguments
            .point
            .map_or(0..arguments.points, |point| point..point + 1),
        threads: match (arguments.point, arguments.threads) {
            (Some(_), _) => 1,
            (None, 0) => processors,
            (None, threads) => threads,
        },
    };
    let said = Mutex::new(Instant::now());
    let progress = |done: u64| {
        let mut said = said.lock().expect("nobody panics with it");
        if said.elapsed() > PROGRESS_INTERVAL {
            *said = Instant::now();
            eprintln!("{done} of {} crash points", points.count);
        }
    };
    let start = Instant::now();
    match replay(&recording, &points, &progress) {
        Ok(tally) => {
            let [nothing, everything, some, torn] = tally.by_loss;
            println!(
                "{} crash points of {operations} drive operations: all sound, every durable request present \
                 ({nothing} with nothing lost, {everything} with everything unflushed, {some} with some, {torn} torn), \
                 {:.1} s",
                tally.points,
                start.elapsed().as_secs_f64()
            );
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => {
            eprintln!("{failure}");
            eprintln!(
                "cargo xtask crashes --replay {} --points {} --seed {} --point {}",
                folder.display(),
                arguments.points,
                arguments.seed,
                failure.point
            );
            Ok(ExitCode::FAILURE)
        }
    }
}

fn new_recording(arguments: &Arguments, folder: &Path) -> Result<Recording> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let plan = Plan {
        drive_bytes: arguments.drive,
        lives: arguments.lives,
        clients: arguments.clients,
        requests: arguments.requests,
        seed: arguments.seed,
        snapshots: !arguments.without_snapshots,
    };
    record(&plan, folder)
}

/// Cuts the power of appliances between which a volume goes to and fro; or only at one point.
fn cut_moves(count: u32, only: Option<u64>) -> Result<()> {
    let begun = Instant::now();
    let mut journey = Journey::begin("moves")?;
    let numbers = (0..count).filter(|number| only.is_none_or(|only| only == u64::from(*number)));
    for number in numbers {
        let cut = Cut::nth(number);
        journey
            .survive(cut)
            .with_context(|| format!("cargo xtask crashes --moves {count} --point {number}"))?;
        eprintln!("{number}: {cut:?}, {:.1} s", begun.elapsed().as_secs_f64());
    }
    journey.end()?;
    survives_the_loss_of_its_source("loss")?;
    println!(
        "{count} power cuts of moves: never two owners, all that was durable is there, {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}
