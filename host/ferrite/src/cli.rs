//! What can be typed, and what it does.

use std::collections::VecDeque;
use std::io::Write;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use serde_json::{Value, json};

use crate::check;
use crate::client::segment;
use crate::describe::{describe, items, size_of, text_of};
use crate::output::{table, unseen};
use crate::{Client, Failure};

/// Lines of the log that `log -f` asks for again and again.
const FOLLOW_LINES: usize = 200;
/// How often it asks.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// Manages a Ferrite appliance.
///
/// It finds the appliance in FERRITE_API and FERRITE_TOKEN, or takes the one that `cargo xtask run` started last.
/// Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no appliance answers, 4 `check` found damage.
#[derive(Debug, Parser)]
#[command(name = "ferrite", version)]
pub struct Arguments {
    /// Base address of the API, e.g. http://127.0.0.1:8080
    #[arg(long, global = true, env = "FERRITE_API", value_name = "URL")]
    api: Option<String>,
    /// Token of the API
    #[arg(
        long,
        global = true,
        env = "FERRITE_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    token: Option<String>,
    /// Print what the appliance answers, as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show name, version, memory, pool and drives
    Status,
    /// Work with volumes
    #[command(subcommand)]
    Volume(Volume),
    /// Look at drives
    #[command(subcommand)]
    Drive(Drive),
    /// Show the appliance's log
    Log {
        /// How many lines
        #[arg(short = 'n', long, default_value_t = 50)]
        lines: usize,
        /// Go on showing lines as they come
        #[arg(short, long)]
        follow: bool,
    },
    /// Turn the appliance off or restart it
    #[command(subcommand)]
    Node(Node),
    /// Verify a pool on drive images (raw files or block devices): all drives of it, none of them in use
    Check {
        /// The images, in any order
        #[arg(required = true)]
        images: Vec<PathBuf>,
        /// Do not read the data, only the maps
        #[arg(long)]
        fast: bool,
    },
    /// Print a completion script for a shell
    Completions {
        /// bash, zsh, fish, …
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
enum Volume {
    /// List all volumes
    List,
    /// Make a volume
    Create {
        /// 1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit
        name: String,
        /// E.g. 10GiB
        #[arg(value_parser = qemu::size::parse)]
        size: u64,
    },
    /// Show one volume
    Get {
        /// Its name
        name: String,
    },
    /// Delete a volume and everything in it
    Delete {
        /// Its name
        name: String,
        /// Even while clients are attached
        #[arg(long)]
        force: bool,
    },
    /// Make a volume larger
    Grow {
        /// Its name
        name: String,
        /// Its new size, e.g. 20GiB
        #[arg(value_parser = qemu::size::parse)]
        size: u64,
    },
}

#[derive(Debug, Subcommand)]
enum Drive {
    /// List all drives
    List,
    /// Show one drive
    Get {
        /// As `drive list` names it
        id: String,
    },
}

#[derive(Debug, Subcommand)]
enum Node {
    /// Save everything and turn off
    Shutdown,
    /// Save everything and start again
    Reboot,
}

/// Does what was typed.
///
/// # Errors
/// See [`Failure`].
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let find = || Client::find(arguments.api.as_deref(), arguments.token.as_deref());
    let show = |value: Value, text: fn(&Value) -> String| {
        let text = if arguments.json {
            format!("{value:#}\n")
        } else {
            text(&value)
        };
        print(&text)
    };
    match arguments.command {
        Command::Status => show(find()?.get("/v1/node")?, describe),
        Command::Volume(Volume::List) => show(find()?.get("/v1/volumes")?, volumes),
        Command::Volume(Volume::Create { name, size }) => show(
            find()?.post("/v1/volumes", &json!({"name": name, "size": size}))?,
            describe,
        ),
        Command::Volume(Volume::Get { name }) => show(find()?.get(&volume_path(&name))?, describe),
        Command::Volume(Volume::Delete { name, force }) => {
            let query = if force { "?force=true" } else { "" };
            find()?.delete(&format!("{}{query}", volume_path(&name)))?;
            Ok(())
        }
        Command::Volume(Volume::Grow { name, size }) => show(
            find()?.patch(&volume_path(&name), &json!({"size": size}))?,
            describe,
        ),
        Command::Drive(Drive::List) => show(find()?.get("/v1/drives")?, drives),
        Command::Drive(Drive::Get { id }) => show(
            find()?.get(&format!("/v1/drives/{}", segment(&id)))?,
            describe,
        ),
        Command::Log {
            lines,
            follow: false,
        } => show(find()?.get(&format!("/v1/log?tail={lines}"))?, |log| {
            as_lines(&log_lines(log))
        }),
        Command::Log {
            lines,
            follow: true,
        } => follow(&find()?, lines),
        Command::Node(Node::Shutdown) => find()?.post("/v1/node/shutdown", &json!({})).map(drop),
        Command::Node(Node::Reboot) => find()?.post("/v1/node/reboot", &json!({})).map(drop),
        Command::Check { images, fast } => {
            let report = check(&images, !fast)?;
            let text = if arguments.json {
                format!("{:#}\n", report.json())
            } else {
                report.text()
            };
            print(&text)?;
            match report.summary.findings {
                0 => Ok(()),
                count => Err(Failure::Damaged(count)),
            }
        }
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Arguments::command(),
                "ferrite",
                &mut std::io::stdout(),
            );
            Ok(())
        }
    }
}

fn volume_path(name: &str) -> String {
    format!("/v1/volumes/{}", segment(name))
}

/// Prints, and takes it for an answer when the reader has gone away (`ferrite log | head`).
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

fn volumes(answer: &Value) -> String {
    let rows = items(answer, "volumes").iter().map(|volume| {
        vec![
            text_of(volume, "name"),
            size_of(volume, "size"),
            size_of(volume, "allocated"),
        ]
    });
    table(&["NAME", ">SIZE", ">ALLOCATED"], &rows.collect::<Vec<_>>())
}

fn drives(answer: &Value) -> String {
    let rows = items(answer, "drives").iter().map(|drive| {
        ["id", "state", "model", "serial", "slot"]
            .map(|key| text_of(drive, key))
            .into_iter()
            .chain([size_of(drive, "size"), size_of(drive, "used")])
            .collect()
    });
    let headings = ["ID", "STATE", "MODEL", "SERIAL", "SLOT", ">SIZE", ">USED"];
    table(&headings, &rows.collect::<Vec<_>>())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let parsed =
            Arguments::try_parse_from(["ferrite", "volume", "create", "db", "10GiB"]).unwrap();
        let Command::Volume(Volume::Create { name, size }) = parsed.command else {
            panic!()
        };
        assert_eq!((name.as_str(), size), ("db", 10 << 30));
        assert!(Arguments::try_parse_from(["ferrite", "volume", "create", "db", "much"]).is_err());
    }

    #[test]
    fn volumes_are_listed_with_readable_sizes() {
        let answer = json!([{"name": "demo", "size": 1 << 30, "allocated": 4096}]);
        assert_eq!(
            volumes(&answer),
            "NAME   SIZE  ALLOCATED\ndemo  1 GiB      4 KiB\n"
        );
    }
}
