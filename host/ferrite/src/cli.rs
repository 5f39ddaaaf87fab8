//! What can be typed, and what it does.

use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use serde_json::{Value, json};

use crate::Failure;
use crate::arguments::new_name;
use crate::check::{Mode, check};
use crate::client::segment;
use crate::commands::{self, SnapshotName};
use crate::console::{Console, print};
use crate::describe::{describe, items, size_of, text_of};
use crate::output::table;

/// Manages a Ferrite appliance.
///
/// It finds the appliance in FERRITE_API and FERRITE_TOKEN, or in a context (`ferrite context`), or takes the one that
/// `cargo xtask run` started last.
/// Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no appliance answers, 4 `check` or `scrub` found damage.
#[derive(Debug, Parser)]
#[command(name = "ferrite", version)]
pub struct Arguments {
    /// Address of the API, e.g. http://127.0.0.1:8080
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
    /// The context that names the appliance, instead of the one in use
    #[arg(long, global = true, env = "FERRITE_CONTEXT", value_name = "NAME")]
    context: Option<String>,
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
    /// Watch requests, throughput and latency of volumes, drives and memory
    Top(commands::top::Top),
    /// Work with volumes
    #[command(subcommand)]
    Volume(commands::volume::Volume),
    /// Work with snapshots, written VOLUME@SNAPSHOT
    #[command(subcommand)]
    Snapshot(commands::snapshot::Snapshot),
    /// Make a volume that begins as a snapshot is; costs nothing until it is written
    Clone {
        /// VOLUME@SNAPSHOT
        from: SnapshotName,
        /// The new volume
        #[arg(value_parser = new_name)]
        name: String,
    },
    /// Make a volume what it was at one of its snapshots; what was written since is lost
    Rollback {
        /// VOLUME@SNAPSHOT
        to: SnapshotName,
        /// Even while clients are attached; they are cut off
        #[arg(long)]
        force: bool,
    },
    /// Tell where a volume or snapshot differs from an older snapshot
    Diff(commands::diff::Diff),
    /// Move a volume to another appliance, while it is used
    Migrate(commands::migrate::Migrate),
    /// Make snapshots by the clock, and keep some of them
    #[command(subcommand)]
    Schedule(commands::schedule::Schedule),
    /// Verify every block in use, and repair what can be
    Scrub(commands::job::Scrub),
    /// Look at long work, pause it, cancel it
    #[command(visible_alias = "job")]
    Jobs {
        #[command(subcommand)]
        what: Option<commands::job::Jobs>,
    },
    /// Look at drives
    #[command(subcommand)]
    Drive(Drive),
    /// Show the appliance's log, or say how much goes into it
    Log(commands::log::Log),
    /// Show what was changed, by whom, and what came of it
    Audit {
        /// How many entries
        #[arg(short = 'n', long, default_value_t = 50)]
        entries: usize,
    },
    /// Give access to others, and take it away
    #[command(subcommand)]
    Token(commands::token::Token),
    /// Pair appliances, so that volumes can move between them
    #[command(subcommand)]
    Peer(commands::peer::Peer),
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
        /// Even while a machine writes to them; what is reported then need not be so
        #[arg(long)]
        force: bool,
    },
    /// Look at what an appliance can be told at its start
    #[command(subcommand)]
    Config(commands::config::Config),
    /// Give appliances names, and choose which one is meant
    #[command(subcommand)]
    Context(commands::context::Choice),
    /// Write all that is to be known of the appliance to one file, without secrets
    Support(commands::support::Support),
    /// Print the manual page, or write those of all commands into a folder
    Man {
        /// The folder, e.g. ~/.local/share/man/man1
        folder: Option<PathBuf>,
    },
    /// Print a completion script for a shell
    Completions {
        /// bash, zsh, fish, …
        shell: Shell,
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
    /// Give up what a drive holds; the next start makes a pool of it if there is none
    Format {
        /// As `drive list` names it
        id: String,
        /// Its serial number: what it holds cannot be got back
        #[arg(long, value_name = "SERIAL")]
        confirm: String,
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
    let console = Console {
        api: arguments.api,
        token: arguments.token,
        context: arguments.context,
        json: arguments.json,
    };
    let find = || console.client();
    match arguments.command {
        Command::Status => commands::status::run(&console),
        Command::Top(what) => what.run(&console),
        Command::Volume(what) => what.run(&console),
        Command::Snapshot(what) => what.run(&console),
        Command::Clone { from, name } => commands::snapshot::clone(&console, &from, &name),
        Command::Rollback { to, force } => commands::snapshot::rollback(&console, &to, force),
        Command::Diff(what) => what.run(&console),
        Command::Migrate(what) => what.run(&console),
        Command::Schedule(what) => what.run(&console),
        Command::Scrub(what) => what.run(&console),
        Command::Jobs { what } => what.unwrap_or(commands::job::Jobs::List).run(&console),
        Command::Drive(Drive::List) => console.show(&find()?.get("/v1/drives")?, drives),
        Command::Drive(Drive::Get { id }) => console.show(
            &find()?.get(&format!("/v1/drives/{}", segment(&id)))?,
            describe,
        ),
        Command::Drive(Drive::Format { id, confirm }) => {
            let path = format!("/v1/drives/{}/format", segment(&id));
            let given_up = find()?.post(&path, &json!({"confirm": confirm}))?;
            console.show(&given_up, describe)
        }
        Command::Log(what) => what.run(&console),
        Command::Audit { entries } => commands::token::audit(&console, entries),
        Command::Token(what) => what.run(&console),
        Command::Peer(what) => what.run(&console),
        Command::Node(Node::Shutdown) => find()?.post("/v1/node/shutdown", &json!({})).map(drop),
        Command::Node(Node::Reboot) => find()?.post("/v1/node/reboot", &json!({})).map(drop),
        Command::Check {
            images,
            fast,
            force,
        } => {
            let mode = Mode {
                verify_data: !fast,
                force,
            };
            let report = check(&images, mode)?;
            console.show(&report.json(), |_| report.text())?;
            match report.summary.findings {
                0 => Ok(()),
                count => Err(Failure::Damaged(count)),
            }
        }
        Command::Config(what) => what.run(&console),
        Command::Context(what) => what.run(&console),
        Command::Support(what) => what.run(&console),
        Command::Man { folder } => manual(folder),
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

/// Without the commands that print help: a manual is that already.
fn without_help(command: clap::Command) -> clap::Command {
    let command = command.disable_help_subcommand(true);
    command.mut_subcommands(without_help)
}

fn manual(folder: Option<PathBuf>) -> Result<(), Failure> {
    let mut command = without_help(Arguments::command());
    command.build();
    let Some(folder) = folder else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        return print(&String::from_utf8_lossy(&page));
    };
    std::fs::create_dir_all(&folder)?;
    Ok(clap_mangen::generate_to(command, folder)?)
}

fn drives(answer: &Value) -> String {
    let rows = items(answer, "drives").iter().map(|drive| {
        ["id", "state", "model", "serial", "slot"]
            .map(|key| text_of(drive, key))
            .into_iter()
            .chain([size_of(drive, "size"), size_of(drive, "used")])
            .chain([text_of(drive, "errors")])
            .collect()
    });
    let headings = [
        "ID", "STATE", "MODEL", "SERIAL", "SLOT", ">SIZE", ">USED", ">ERRORS",
    ];
    let mut text = table(&headings, &rows.collect::<Vec<_>>());
    for drive in items(answer, "drives") {
        let state = drive["state"].as_str().unwrap_or_default();
        if let ("failing" | "failed", Some(why)) = (state, drive["detail"].as_str()) {
            text += &format!("{} is {state}: {why}\n", text_of(drive, "id"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_in_trouble_is_told_with_the_reason() {
        let answer = serde_json::json!({"drives": [
            {"id": "nvme0n1", "state": "serving", "model": "M", "serial": "a", "slot": "1", "size": 4096, "used": 0, "errors": 0},
            {"id": "nvme1n1", "state": "failing", "model": "M", "serial": "b", "slot": "2", "size": 4096, "used": 0, "errors": 3,
                "detail": "its last write failed"}]});
        assert_eq!(
            drives(&answer),
            "ID       STATE    MODEL  SERIAL  SLOT   SIZE  USED  ERRORS\n\
             nvme0n1  serving  M      a       1     4 KiB   0 B       0\n\
             nvme1n1  failing  M      b       2     4 KiB   0 B       3\n\
             nvme1n1 is failing: its last write failed\n"
        );
    }

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn commands_are_read_as_people_write_them() {
        for line in [
            "volume create db 10GiB",
            "volume rename db data",
            "volume delete db --snapshots",
            "volume limit db",
            "volume limit db --iops 500 --rate 10MiB",
            "volume limit db --iops none",
            "volume show db",
            "snapshot create db@monday",
            "volume adopt db nbd://10.0.0.5:10809/disk --wait",
            "volume adopt db ferrite://node-b/db@monday",
            "migrate db --to node-b",
            "migrate db --to node-b --prepare --after free --rate 50MiB",
            "migrate db --to node-b --wait-for-hand-over --detach",
            "migrate db --hand-over",
            "migrate db --take-back",
            "migrate db --take-over --confirm db",
            "snapshot create data@night log@night",
            "snapshot list",
            "snapshot list db --space",
            "snapshot rename db@monday tuesday",
            "clone db@monday test",
            "rollback db@monday --force",
            "diff db@monday",
            "diff db@monday db@tuesday",
            "diff db",
            "top",
            "top --once",
            "top -n 3 -i 0.5 --json",
            "schedule set db --every 1h --keep hourly=24,daily=7",
            "scrub --rate 50MiB",
            "jobs",
            "jobs pause 3",
            "job cancel 3",
            "log",
            "log -f -n 5",
            "log level",
            "log level info nvme=debug store=trace",
            "audit -n 5",
            "token create backup --role operator",
            "token revoke backup",
            "peer list",
            "peer token --json",
            "peer add 10.0.0.5",
            "peer add [fd00::5]:10810 --token-file token",
            "peer set-address b 10.0.0.6",
            "peer remove b",
            "drive format nvme1n1 --confirm SERIAL",
            "config check ferrite.toml",
            "config options --toml",
            "config show",
            "context add lab --api http://10.0.0.2:8080",
            "context use",
            "context use lab",
            "--context lab volume list",
            "support -o bundle.json",
            "man",
            "man pages",
        ] {
            let words = format!("ferrite {line}");
            let parsed = Arguments::try_parse_from(words.split(' '));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
        for line in [
            "volume create db much",
            "volume limit db --iops much",
            "snapshot create db",
            "snapshot create @monday",
            "migrate db",
            "migrate db --to node-b --hand-over",
            "migrate db --hand-over --rate 1MiB",
            "migrate db --to node-b --after burn",
            "migrate db --take-over",
            "migrate db --take-back --confirm db",
            "clone db test",
            "rollback db",
            "schedule set db --every 1h",
            "schedule set db --every 1h --keep 7",
            "jobs pause",
            "top -i 0",
            "top -n 0",
            "top --once -n 2",
            "log -f level",
            "log level info nvme",
            "token create backup",
            "token create backup --role root",
            "peer add",
            "peer set-address b",
            "drive format nvme1n1",
            "config check",
            "config options --toml --json",
            "context add a/b",
        ] {
            let words = format!("ferrite {line}");
            assert!(
                Arguments::try_parse_from(words.split(' ')).is_err(),
                "{line}"
            );
        }
    }
}
