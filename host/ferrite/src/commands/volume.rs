//! `ferrite volume …`

use std::net::IpAddr;

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::{explain, force_query, looked_up, pages, snapshots, volume_path};
use super::{job, migrate};
use crate::Failure;
use crate::arguments::{Size, new_name, volume_size};
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
        #[arg(value_parser = new_name)]
        name: String,
        /// E.g. 10GiB, or 10G, which is the same; 10GB counts in thousands
        #[arg(value_parser = volume_size)]
        size: Size,
    },
    /// Make a volume of what is elsewhere: it is there at once, and its blocks follow
    ///
    /// Clients can use it right away; what they read first comes first, and a job brings in the rest. What is there must not change
    /// meanwhile.
    Adopt {
        /// The volume's name: 1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit
        #[arg(value_parser = new_name)]
        name: String,
        /// An export of an NBD server, e.g. nbd://10.0.0.5:10809/disk, or a snapshot of a peer, e.g. ferrite://node-b/db@monday
        from: String,
        /// Its size, if it is to be larger than that
        #[arg(long, value_parser = volume_size)]
        size: Option<Size>,
        /// Wait until everything is here
        #[arg(long)]
        wait: bool,
    },
    /// Show one volume, with what it alone uses
    #[command(visible_alias = "show")]
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
        #[arg(value_parser = volume_size)]
        size: Size,
    },
    /// Give a volume another name
    Rename {
        /// Its name
        name: String,
        /// Its name from now on
        #[arg(value_parser = new_name)]
        new_name: String,
    },
    /// Say from where clients of a volume may come and whether they may write, or show it
    ///
    /// Networks count for clients that come from now on; read-only holds at once, and refuses the writes of those that are attached, too.
    Access {
        /// Its name
        name: String,
        /// Refuse all writes
        #[arg(long, conflicts_with = "read_write")]
        read_only: bool,
        /// Take writes again
        #[arg(long)]
        read_write: bool,
        /// Only from this network, e.g. 10.20.0.0/24, or this address; repeatable, and instead of those before
        #[arg(long, value_name = "NETWORK", conflicts_with = "allow_any", value_parser = network)]
        allow: Vec<String>,
        /// From anywhere
        #[arg(long)]
        allow_any: bool,
    },
    /// Limit what clients of a volume do in a second, or show the limits
    ///
    /// Limits hold at once and stay over restarts. The volume's snapshots count as the volume; flushes cost nothing.
    Limit {
        /// Its name
        name: String,
        /// The most requests in a second, or `none`
        #[arg(long, value_parser = iops)]
        iops: Option<Limit>,
        /// The most bytes read and written in a second, e.g. 50MiB, or `none`
        #[arg(long, value_parser = rate)]
        rate: Option<Limit>,
    },
}

/// What a limit is to be; `None`: there is to be none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(Option<u64>);

fn iops(text: &str) -> Result<Limit, String> {
    match text {
        "none" => Ok(Limit(None)),
        number => (number.parse().map(|iops| Limit(Some(iops))))
            .map_err(|_| "a number of requests in a second, or `none`".into()),
    }
}

/// An address, or a network with the length of its prefix.
fn network(text: &str) -> Result<String, String> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let wanted = || "a network like 10.20.0.0/24 or 2001:db8::/32, or an address".to_owned();
    let address: IpAddr = address.parse().map_err(|_| wanted())?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    match prefix.map(str::parse::<u8>) {
        None => Ok(format!("{address}/{bits}")),
        Some(Ok(prefix)) if prefix <= bits => Ok(format!("{address}/{prefix}")),
        Some(_) => Err(wanted()),
    }
}

fn rate(text: &str) -> Result<Limit, String> {
    match text {
        "none" => Ok(Limit(None)),
        size => (qemu::size::parse(size).map(|bytes| Limit(Some(bytes))))
            .map_err(|error| format!("{error}, or `none`")),
    }
}

impl Volume {
    /// Does it.
    pub fn run(self, console: &Console) -> Result<(), Failure> {
        let client = console.client()?;
        let patch = |name: &str, change: Value| {
            let changed = client.patch(&volume_path(name), &change);
            let changed = changed.map_err(|failure| explain(&client, failure, name, None))?;
            console.show(&looked_up(&client, changed), describe)
        };
        match self {
            Self::List => {
                let all = pages(&client, "/v1/volumes?exact=true", "volumes")?;
                console.show(&json!({"volumes": all}), volumes)
            }
            Self::Adopt {
                name,
                from,
                size,
                wait,
            } => adopt(console, &name, &from, size.as_ref(), wait),
            Self::Create { name, size } => {
                let wanted = json!({"name": name, "size": size.bytes});
                let made = client.post("/v1/volumes", &wanted)?;
                tell(&size);
                console.show(&made, describe)
            }
            Self::Get { name } => {
                let found = client.get(&volume_path(&name));
                let found = found.map_err(|failure| explain(&client, failure, &name, None))?;
                console.show(&found, describe)
            }
            Self::Grow { name, size } => {
                patch(&name, json!({"size": size.bytes}))?;
                tell(&size);
                Ok(())
            }
            Self::Rename { name, new_name } => patch(&name, json!({"name": new_name})),
            Self::Access {
                name,
                read_only,
                read_write,
                allow,
                allow_any,
            } => {
                let mut change = Map::new();
                if read_only || read_write {
                    change.insert("read_only".into(), read_only.into());
                }
                if allow_any || !allow.is_empty() {
                    change.insert("allow".into(), allow.into());
                }
                set(console, &name, change, access)
            }
            Self::Limit { name, iops, rate } => {
                let mut change = Map::new();
                for (key, limit) in [("iops_max", iops), ("rate_max", rate)] {
                    if let Some(Limit(limit)) = limit {
                        change.insert(key.into(), limit.into());
                    }
                }
                set(console, &name, change, limits)
            }
            Self::Delete {
                name,
                snapshots,
                force,
            } => delete(console, &name, snapshots, force),
        }
    }
}

/// Makes changes, if there are any, and shows the volume in words.
fn set(
    console: &Console,
    name: &str,
    change: Map<String, Value>,
    words: impl Fn(&Value) -> String,
) -> Result<(), Failure> {
    let client = console.client()?;
    let volume = match change.is_empty() {
        true => client.get(&volume_path(name)),
        false => client.patch(&volume_path(name), &change.into()),
    };
    let volume = volume.map_err(|failure| explain(&client, failure, name, None))?;
    console.show(&volume, words)
}

/// Who may use a volume and how, in words.
fn access(volume: &Value) -> String {
    let networks: Vec<&str> = { volume["allow"].as_array().into_iter().flatten() }
        .filter_map(Value::as_str)
        .collect();
    let from = match networks.is_empty() {
        true => "anywhere".to_owned(),
        false => networks.join(", "),
    };
    let what = match volume["read_only"].as_bool() {
        Some(true) => "only be read",
        _ => "be read and written",
    };
    let name = text_of(volume, "name");
    format!("{name}: may {what}, from {from}\n")
}

/// A volume's limits in words.
fn limits(volume: &Value) -> String {
    let (iops, rate) = (volume["iops_max"].as_u64(), volume["rate_max"].as_u64());
    let words = [
        iops.map(|iops| format!("{iops} requests")),
        rate.map(qemu::size::human),
    ];
    let words: Vec<String> = words.into_iter().flatten().collect();
    let name = text_of(volume, "name");
    match words.is_empty() {
        true => format!("{name}: no limits\n"),
        false => format!("{name}: at most {} in a second\n", words.join(" and ")),
    }
}

/// Says, beside the answer, what a size may have been meant to be.
fn tell(size: &Size) {
    if let Some(note) = size.note() {
        eprintln!("note: {note}");
    }
}

/// Where a volume is adopted from, as the API takes it.
fn origin(from: &str) -> Result<Value, Failure> {
    let Some(rest) = from.strip_prefix("ferrite://") else {
        return Ok(json!({"nbd": from}));
    };
    match rest.split_once('/') {
        Some((peer, snapshot)) if !peer.is_empty() && snapshot.contains('@') => {
            Ok(json!({"appliance": peer, "volume": snapshot}))
        }
        _ => Err(Failure::Here(format!(
            "`{from}` is no snapshot of a peer, which is written ferrite://NODE/VOLUME@SNAPSHOT; take one there first \
             (`ferrite snapshot create`), or move the volume to here (`ferrite migrate`, there)"
        ))),
    }
}

fn adopt(
    console: &Console,
    name: &str,
    from: &str,
    size: Option<&Size>,
    wait: bool,
) -> Result<(), Failure> {
    let client = console.client()?;
    let mut wanted = json!({"name": name, "origin": origin(from)?});
    if let Some(size) = size {
        wanted["size"] = size.bytes.into();
        tell(size);
    }
    let made = client.post("/v1/volumes", &wanted)?;
    match made["hydration"]["job"].as_u64() {
        Some(job) if wait => job::wait(console, &client, job),
        Some(job) => {
            console.show(&made, describe)?;
            eprintln!(
                "note: job {job} brings in the rest; `ferrite jobs wait {job}` shows how far it is"
            );
            Ok(())
        }
        None => console.show(&made, describe),
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
    let all = items(answer, "volumes");
    // Where everything is at rest, nobody needs to be told so.
    let is_moving = all.iter().any(|volume| migrate::way(volume).is_some());
    let rows = all.iter().map(|volume| {
        let mut row = vec![
            text_of(volume, "name"),
            size_of(volume, "size"),
            size_of(volume, "allocated"),
            text_of(volume, "snapshots"),
            text_of(volume, "origin"),
        ];
        row.extend(is_moving.then(|| migrate::way(volume).unwrap_or_else(|| "-".into())));
        row
    });
    let mut headings = vec!["NAME", ">SIZE", ">ALLOCATED", ">SNAPSHOTS", "ORIGIN"];
    headings.extend(is_moving.then_some("WAY"));
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
    fn volumes_that_move_are_listed_with_where_they_are() {
        let moved = json!({"state": "given", "peer": "b", "confirmed": true, "job": null});
        let answer = json!([{"name": "db", "size": 4096, "allocated": 0, "snapshots": 0, "move": moved},
            {"name": "log", "size": 4096, "allocated": 0, "snapshots": 0}]);
        assert_eq!(
            volumes(&answer),
            "NAME   SIZE  ALLOCATED  SNAPSHOTS  ORIGIN  WAY\n\
             db    4 KiB        0 B          0  -       given to b\n\
             log   4 KiB        0 B          0  -       -\n"
        );
    }

    #[test]
    fn origins_are_exports_or_snapshots_of_peers() {
        let nbd = origin("nbd://10.0.0.5/disk").unwrap();
        assert_eq!(nbd, json!({"nbd": "nbd://10.0.0.5/disk"}));
        let peer = origin("ferrite://b/db@monday").unwrap();
        assert_eq!(peer, json!({"appliance": "b", "volume": "db@monday"}));
        for wrong in ["ferrite://b/db", "ferrite://b", "ferrite:///db@monday"] {
            let why = origin(wrong).unwrap_err().to_string();
            assert!(why.contains("VOLUME@SNAPSHOT"), "{why}");
        }
    }

    #[test]
    fn limits_are_told_in_words() {
        let told = |iops: Value, rate: Value| {
            limits(&json!({"name": "db", "iops_max": iops, "rate_max": rate}))
        };
        assert_eq!(told(Value::Null, Value::Null), "db: no limits\n");
        assert_eq!(
            told(500.into(), Value::Null),
            "db: at most 500 requests in a second\n"
        );
        assert_eq!(
            told(500.into(), (10 << 20).into()),
            "db: at most 500 requests and 10 MiB in a second\n"
        );
        assert_eq!(iops("none"), Ok(Limit(None)));
        assert_eq!(rate("10MiB"), Ok(Limit(Some(10 << 20))));
        assert!(iops("many").is_err() && rate("much").is_err());
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..11).map(|index| format!("v@{index}")).collect();
        assert_eq!(few(&names[..2]), "v@0, v@1");
        assert!(few(&names).ends_with("v@7 and 3 more"));
    }

    #[test]
    fn networks_are_as_people_write_them() {
        assert_eq!(network("10.20.0.0/24").as_deref(), Ok("10.20.0.0/24"));
        assert_eq!(network("10.20.0.7").as_deref(), Ok("10.20.0.7/32"));
        assert_eq!(network("2001:db8::/32").as_deref(), Ok("2001:db8::/32"));
        for wrong in ["", "nonsense", "10.20.0.0/33", "10.20.0/24", "10.20.0.0/"] {
            assert!(network(wrong).is_err(), "{wrong}");
        }
    }
}
