//! `ferrite volume …`

use clap::Subcommand;
use serde_json::{Value, json};

use super::{explain, force_query, pages, snapshots, volume_path};
use crate::Failure;
use crate::console::Console;
use crate::describe::{describe, items, size_of, text_of};
use crate::output::table;

/// Work with volumes
#[derive(Debug, Subcommand)]
pub enum Volume {
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
    /// Show one volume, with what it alone uses
    Get {
        /// Its name
        name: String,
    },
    /// Delete a volume and everything in it
    Delete {
        /// Its name
        name: String,
        /// Its snapshots, too
        #[arg(long)]
        snapshots: bool,
        /// Even while clients are attached; they are cut off
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
    /// Give a volume another name
    Rename {
        /// Its name
        name: String,
        /// Its name from now on
        new_name: String,
    },
}

impl Volume {
    /// Does it.
    pub fn run(self, console: &Console) -> Result<(), Failure> {
        let client = console.client()?;
        let patch = |name: &str, change: Value| {
            let changed = client.patch(&volume_path(name), &change);
            let changed = changed.map_err(|failure| explain(&client, failure, name, None))?;
            console.show(&changed, describe)
        };
        match self {
            Self::List => {
                let all = pages(&client, "/v1/volumes", "volumes")?;
                console.show(&json!({"volumes": all}), volumes)
            }
            Self::Create { name, size } => {
                let made = client.post("/v1/volumes", &json!({"name": name, "size": size}))?;
                console.show(&made, describe)
            }
            Self::Get { name } => {
                let found = client.get(&volume_path(&name));
                let found = found.map_err(|failure| explain(&client, failure, &name, None))?;
                console.show(&found, describe)
            }
            Self::Grow { name, size } => patch(&name, json!({"size": size})),
            Self::Rename { name, new_name } => patch(&name, json!({"name": new_name})),
            Self::Delete {
                name,
                snapshots,
                force,
            } => delete(console, &name, snapshots, force),
        }
    }
}

fn delete(console: &Console, name: &str, with_snapshots: bool, force: bool) -> Result<(), Failure> {
    let client = console.client()?;
    let all = snapshots(&client, name);
    let all = all.map_err(|failure| explain(&client, failure, name, None))?;
    let exports = all.iter().filter_map(|one| one["export"].as_str());
    let exports: Vec<String> = exports.map(str::to_owned).collect();
    if !exports.is_empty() && !with_snapshots {
        return Err(Failure::Here(format!(
            "volume `{name}` has {}, which would go with it: {}; add --snapshots to delete them all",
            count(exports.len()),
            few(&exports)
        )));
    }
    client.delete(&format!("{}{}", volume_path(name), force_query(force)))?;
    let answer = json!({"deleted": name, "snapshots": exports});
    console.show(&answer, |_| match exports.len() {
        0 => format!("deleted {name}\n"),
        many => format!("deleted {name} and {}: {}\n", count(many), few(&exports)),
    })
}

fn count(snapshots: usize) -> String {
    match snapshots {
        1 => "1 snapshot".into(),
        many => format!("{many} snapshots"),
    }
}

/// The first of them.
fn few(names: &[String]) -> String {
    const FEW: usize = 8;
    let shown = names[..names.len().min(FEW)].join(", ");
    match names.len() {
        0..=FEW => shown,
        more => format!("{shown} and {} more", more - FEW),
    }
}

fn volumes(answer: &Value) -> String {
    let rows = items(answer, "volumes").iter().map(|volume| {
        vec![
            text_of(volume, "name"),
            size_of(volume, "size"),
            size_of(volume, "allocated"),
            text_of(volume, "snapshots"),
            text_of(volume, "origin"),
        ]
    });
    let headings = ["NAME", ">SIZE", ">ALLOCATED", ">SNAPSHOTS", "ORIGIN"];
    table(&headings, &rows.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_listed_with_readable_sizes() {
        let answer = json!([{"name": "demo", "size": 1 << 30, "allocated": 4096, "snapshots": 2, "origin": null},
            {"name": "test", "size": 1 << 30, "allocated": 0, "snapshots": 0, "origin": "demo@monday"}]);
        assert_eq!(
            volumes(&answer),
            "NAME   SIZE  ALLOCATED  SNAPSHOTS  ORIGIN\n\
             demo  1 GiB      4 KiB          2  -\n\
             test  1 GiB        0 B          0  demo@monday\n"
        );
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..11).map(|index| format!("v@{index}")).collect();
        assert_eq!(few(&names[..2]), "v@0, v@1");
        assert!(few(&names).ends_with("v@7 and 3 more"));
    }
}
