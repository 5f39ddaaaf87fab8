//! `ferrite snapshot …`, `ferrite clone`, `ferrite rollback`

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    SnapshotName, explain, force_query, looked_up, missing, pages, snapshots, volume_path,
};
use crate::console::Console;
use crate::describe::{describe, items, size_of, text_of};
use crate::output::table;
use crate::{Client, Failure, arguments};

/// Work with snapshots, written VOLUME@SNAPSHOT
#[derive(Debug, Subcommand)]
pub enum Snapshot {
    /// Keep a volume as it is now, or several volumes at one instant
    Create {
        /// VOLUME@SNAPSHOT; several are of one instant and have the same name after the @
        #[arg(required = true, value_parser = new_snapshot)]
        names: Vec<SnapshotName>,
    },
    /// List the snapshots of a volume, or of all
    List {
        /// The volume
        volume: Option<String>,
        /// Tell what the deletion of each would free; takes a look-up each
        #[arg(long)]
        space: bool,
    },
    /// Show one snapshot, with what its deletion would free
    Get {
        /// VOLUME@SNAPSHOT
        name: SnapshotName,
    },
    /// Delete snapshots, in any order; clones of them live on
    Delete {
        /// VOLUME@SNAPSHOT
        #[arg(required = true)]
        names: Vec<SnapshotName>,
        /// Even while clients are attached; they are cut off
        #[arg(long)]
        force: bool,
    },
    /// Give a snapshot another name
    Rename {
        /// VOLUME@SNAPSHOT
        name: SnapshotName,
        /// Its name from now on, without or with the volume
        new_name: String,
    },
}

/// Reads a snapshot that is to be made.
fn new_snapshot(text: &str) -> Result<SnapshotName, String> {
    let name: SnapshotName = text.parse()?;
    arguments::new_name(&name.snapshot)?;
    Ok(name)
}

impl Snapshot {
    /// Does it.
    pub fn run(self, console: &Console) -> Result<(), Failure> {
        let client = console.client()?;
        match self {
            Self::Create { names } => create(console, &client, &names),
            Self::List { volume, space } => list(console, &client, volume.as_deref(), space),
            Self::Get { name } => {
                let found = client.get(&name.path());
                console.show(&known(&client, &name, found)?, describe)
            }
            Self::Delete { names, force } => {
                let mut gone: Vec<String> = Vec::new();
                let mut result = Ok(());
                for name in &names {
                    let path = format!("{}{}", name.path(), force_query(force));
                    result = known(&client, name, client.delete(&path)).map(drop);
                    if result.is_err() {
                        break;
                    }
                    gone.push(name.to_string());
                }
                // Also when one of them was refused: the others are gone.
                if !gone.is_empty() {
                    let answer = json!({"deleted": gone});
                    console.show(&answer, |_| format!("deleted {}\n", gone.join(", ")))?;
                }
                result
            }
            Self::Rename { name, new_name } => {
                let new_name = match new_name.split_once('@') {
                    Some((volume, new_name)) if volume == name.volume => new_name,
                    _ => &new_name,
                };
                arguments::new_name(new_name).map_err(Failure::Here)?;
                let renamed = client.patch(&name.path(), &json!({"name": new_name}));
                console.show(&known(&client, &name, renamed)?, describe)
            }
        }
    }
}

/// Makes a clone.
pub fn clone(console: &Console, from: &SnapshotName, name: &str) -> Result<(), Failure> {
    let client = console.client()?;
    let wanted = json!({"name": name, "from": from.to_string()});
    let made = client.post("/v1/volumes", &wanted);
    let made = looked_up(&client, known(&client, from, made)?);
    console.show(&made, describe)
}

/// Rolls a volume back.
pub fn rollback(console: &Console, to: &SnapshotName, force: bool) -> Result<(), Failure> {
    let client = console.client()?;
    let path = format!("{}/rollback{}", volume_path(&to.volume), force_query(force));
    let volume = client.post(&path, &json!({"snapshot": to.snapshot}));
    let volume = looked_up(&client, known(&client, to, volume)?);
    console.show(&volume, describe)
}

/// The answer, or a refusal that says what was probably meant by the name.
fn known(
    client: &Client,
    name: &SnapshotName,
    answer: Result<Value, Failure>,
) -> Result<Value, Failure> {
    answer.map_err(|failure| explain(client, failure, &name.volume, Some(&name.snapshot)))
}

fn create(console: &Console, client: &Client, names: &[SnapshotName]) -> Result<(), Failure> {
    let [only] = names else {
        let name = &names[0].snapshot;
        if names.iter().any(|other| other.snapshot != *name) {
            return Err(Failure::Here(format!(
                "snapshots of one instant have one name: write {name} after each @"
            )));
        }
        let volumes: Vec<&str> = names.iter().map(|name| name.volume.as_str()).collect();
        let made = client.post("/v1/snapshots", &json!({"name": name, "volumes": volumes}));
        let made = made.map_err(|failure| {
            let is_missing = matches!(failure, Failure::Refused { status: 404, .. });
            let mut volumes = volumes.iter().filter(|_| is_missing);
            let missing = volumes.find(|volume| missing(client, volume, None).is_some());
            match missing {
                Some(volume) => explain(client, failure, volume, None),
                None => failure,
            }
        })?;
        return console.show(&made, |made| rows(items(made, "snapshots")));
    };
    let path = format!("{}/snapshots", volume_path(&only.volume));
    let made = client.post(&path, &json!({"name": only.snapshot}));
    let made = made.map_err(|failure| explain(client, failure, &only.volume, None))?;
    console.show(&made, describe)
}

fn list(
    console: &Console,
    client: &Client,
    volume: Option<&str>,
    space: bool,
) -> Result<(), Failure> {
    let volumes = match volume {
        Some(volume) => vec![volume.to_owned()],
        None => {
            let volumes = pages(client, "/v1/volumes", "volumes")?;
            let names = volumes.iter();
            names.map(|volume| text_of(volume, "name")).collect()
        }
    };
    let mut all = Vec::new();
    for volume in &volumes {
        let of_volume = snapshots(client, volume);
        all.extend(of_volume.map_err(|failure| explain(client, failure, volume, None))?);
    }
    if space {
        for one in &mut all {
            let name = SnapshotName {
                volume: text_of(one, "volume"),
                snapshot: text_of(one, "name"),
            };
            *one = client.get(&name.path())?;
        }
    }
    let answer = json!({"snapshots": all});
    console.show(&answer, |answer| rows(items(answer, "snapshots")))
}

fn rows(snapshots: &[Value]) -> String {
    let has_usage = snapshots.iter().any(|one| one.get("unique").is_some());
    let mut headings = vec!["SNAPSHOT", "CREATED", ">SIZE", ">ALLOCATED"];
    headings.extend(has_usage.then_some(">UNIQUE"));
    let rows = snapshots.iter().map(|one| {
        let mut row = vec![
            text_of(one, "export"),
            moment(&text_of(one, "created_at")),
            size_of(one, "size"),
            size_of(one, "allocated"),
        ];
        row.extend(has_usage.then(|| size_of(one, "unique")));
        row
    });
    table(&headings, &rows.collect::<Vec<_>>())
}

/// `2026-11-22T03:00:00.000Z` as people write it.
pub fn moment(rfc3339: &str) -> String {
    match (rfc3339.get(..10), rfc3339.get(11..19)) {
        (Some(day), Some(time)) => format!("{day} {time}"),
        _ => rfc3339.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_listed_with_their_times() {
        let one = json!({"export": "db@monday", "created_at": "2026-11-22T03:00:01.500Z", "size": 1 << 30,
            "allocated": 8192});
        assert_eq!(
            rows(std::slice::from_ref(&one)),
            "SNAPSHOT   CREATED               SIZE  ALLOCATED\n\
             db@monday  2026-11-22 03:00:01  1 GiB      8 KiB\n"
        );
        let mut looked_up = one.clone();
        looked_up["unique"] = json!(4096);
        looked_up["created_at"] = Value::Null;
        let text = rows(&[one, looked_up]);
        assert!(
            text.ends_with("db@monday  -                    1 GiB      8 KiB   4 KiB\n"),
            "{text}"
        );
    }

    #[test]
    fn names_are_of_volume_and_snapshot() {
        let name: SnapshotName = "db@monday".parse().unwrap();
        assert_eq!(
            (name.volume.as_str(), name.snapshot.as_str()),
            ("db", "monday")
        );
        assert_eq!(name.path(), "/v1/volumes/db/snapshots/monday");
        for bad in ["db", "db@", "@monday", "@", ""] {
            assert!(bad.parse::<SnapshotName>().is_err(), "{bad}");
        }
    }
}
