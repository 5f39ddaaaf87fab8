//! `ferrite log …`: what the appliance says, and how much.

use std::collections::VecDeque;
use std::thread;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::arguments::{LEVELS, module};
use crate::console::{Console, print};
use crate::describe::{describe, items};
use crate::output::unseen;
use crate::suggest::nearest;
use crate::{Client, Failure};

/// Lines of the log that `log -f` asks for again and again.
const FOLLOW_LINES: usize = 200;
/// How often it asks.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// What to show of the log
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Log {
    /// How many lines
    #[arg(short = 'n', long, default_value_t = 50)]
    lines: usize,
    /// Go on showing lines as they come
    #[arg(short, long)]
    follow: bool,
    #[command(subcommand)]
    what: Option<Level>,
}

#[derive(Debug, Subcommand)]
enum Level {
    /// Show how much is logged, or say so until the next start
    Level {
        /// Of all modules but those named after it
        #[arg(value_parser = LEVELS)]
        level: Option<String>,
        /// Modules with a level of their own, e.g. nvme=debug store=trace
        #[arg(value_parser = module, value_name = "MODULE=LEVEL")]
        modules: Vec<(String, String)>,
    },
}

impl Log {
    /// Does it.
    pub fn run(self, console: &Console) -> Result<(), Failure> {
        let client = console.client()?;
        match self.what {
            Some(Level::Level {
                level: Some(level),
                modules,
            }) => {
                let modules = modules.into_iter();
                let modules: Map<String, Value> = modules
                    .map(|(module, level)| (module, level.into()))
                    .collect();
                let wanted = json!({"level": level, "modules": modules});
                let set = client.put("/v1/log/levels", &wanted);
                let set = set.map_err(|failure| explain(&client, failure, &modules))?;
                console.show(&set, describe)
            }
            Some(Level::Level { level: None, .. }) => {
                console.show(&client.get("/v1/log/levels")?, describe)
            }
            None if self.follow => follow(&client, self.lines),
            None => {
                let answer = client.get(&format!("/v1/log?tail={}", self.lines))?;
                console.show(&answer, |log| as_lines(&log_lines(log)))
            }
        }
    }
}

/// Adds to the refusal of a module's name what was probably meant by it, or else all there are.
fn explain(client: &Client, failure: Failure, wanted: &Map<String, Value>) -> Failure {
    let (Failure::Refused { status: 404, .. }, Ok(known)) =
        (&failure, client.get("/v1/log/modules"))
    else {
        return failure;
    };
    let known: Vec<&str> = (items(&known, "modules").iter())
        .filter_map(Value::as_str)
        .collect();
    let unknown = wanted.keys().find(|name| !known.contains(&name.as_str()));
    let Some(name) = unknown else {
        return failure;
    };
    let meant = match nearest(name, known.iter().copied()) {
        Some(meant) => format!("; did you mean `{meant}`?"),
        None => format!("; these do: {}", known.join(", ")),
    };
    Failure::Refused {
        status: 404,
        message: format!("no module `{name}` logs anything{meant}"),
    }
}

fn log_lines(answer: &Value) -> Vec<String> {
    let line = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    items(answer, "lines").iter().map(line).collect()
}

fn as_lines(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Shows the log until the user ends it, restarts of the appliance included.
fn follow(client: &Client, first: usize) -> Result<(), Failure> {
    let mut shown = VecDeque::from(log_lines(&client.get(&format!("/v1/log?tail={first}"))?));
    print(&as_lines(shown.make_contiguous()))?;
    loop {
        thread::sleep(FOLLOW_EVERY);
        let answer = match client.get(&format!("/v1/log?tail={FOLLOW_LINES}")) {
            Err(Failure::Unreachable(_)) => continue,
            answer => answer?,
        };
        let now = log_lines(&answer);
        let new = unseen(shown.make_contiguous(), &now);
        print(&as_lines(new))?;
        shown.extend(new.iter().cloned());
        let excess = shown.len().saturating_sub(FOLLOW_LINES);
        shown.drain(..excess);
    }
}
