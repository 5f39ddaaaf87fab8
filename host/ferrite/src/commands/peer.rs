//! `ferrite peer …`: appliances that know each other.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use super::guess;
use super::snapshot::moment;
use crate::client::segment;
use crate::console::{Console, ask_secret};
use crate::describe::{describe, duration, items, text_of};
use crate::output::table;
use crate::{Client, Failure};

/// How the host looks from an appliance in QEMU's user-mode network.
const USER_MODE_HOST: &str = "10.0.2.2";

/// Pair appliances, so that volumes can move between them
#[derive(Debug, Subcommand)]
pub enum Peer {
    /// List the appliances that this one was paired with
    List,
    /// Make a pairing token, and say what to do with it; it can be used once, within ten minutes
    Token,
    /// Pair with the appliance that made a token
    ///
    /// The token is asked for, or read from standard input if that is no terminal: on a command line everybody could read it.
    Add {
        /// Where that appliance is: ADDRESS or ADDRESS:PORT, e.g. 10.0.0.5; one of IPv6 is in brackets
        address: String,
        /// Read the token from this file
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
    /// Remove a peer: it is a stranger, and what it has open ends
    #[command(visible_alias = "delete")]
    Remove {
        /// Its name
        name: String,
    },
    /// Say where a peer is from now on
    SetAddress {
        /// Its name
        name: String,
        /// ADDRESS or ADDRESS:PORT
        address: String,
    },
}

impl Peer {
    /// Does it.
    pub fn run(self, console: &Console) -> Result<(), Failure> {
        let client = console.client()?;
        match self {
            Self::List => console.show(&client.get("/v1/peers")?, peers),
            Self::Token => {
                let made = client.post("/v1/peers/tokens", &json!({}))?;
                let me = client.get("/v1/peers")?;
                console.show(&made, |made| what_to_do(made, &me, client.base()))
            }
            Self::Add {
                address,
                token_file,
            } => {
                let token = match token_file {
                    Some(file) => std::fs::read_to_string(&file).map_err(|error| {
                        Failure::Here(format!("cannot read {}: {error}", file.display()))
                    })?,
                    None => ask_secret("pairing token: ")?,
                };
                let wanted = json!({"address": address, "token": token.trim()});
                console.show(&client.post("/v1/peers", &wanted)?, describe)
            }
            Self::Remove { name } => {
                let removed = client.delete(&path(&name));
                removed.map_err(|failure| explain(&client, failure, &name))?;
                let done = json!({"removed": name});
                console.show(&done, |_| {
                    format!(
                        "removed {name}; it knows this appliance until that is removed there, too\n"
                    )
                })
            }
            Self::SetAddress { name, address } => {
                let changed = client.patch(&path(&name), &json!({"address": address}));
                let peer = changed.map_err(|failure| explain(&client, failure, &name))?;
                console.show(&peer, describe)
            }
        }
    }
}

fn path(name: &str) -> String {
    format!("/v1/peers/{}", segment(name))
}

/// Adds to the refusal of a name what was probably meant by it.
fn explain(client: &Client, failure: Failure, name: &str) -> Failure {
    let (Failure::Refused { status: 404, .. }, Ok(all)) = (&failure, client.get("/v1/peers"))
    else {
        return failure;
    };
    let all = items(&all, "peers").iter();
    let all: Vec<String> = all.map(|peer| text_of(peer, "name")).collect();
    Failure::Refused {
        status: 404,
        message: format!("no peer `{name}`{}", guess(name, &all)),
    }
}

fn peers(answer: &Value) -> String {
    let rows = items(answer, "peers").iter().map(|peer| {
        vec![
            text_of(peer, "name"),
            text_of(peer, "address"),
            moment(&text_of(peer, "paired_at")),
            text_of(peer, "key"),
        ]
    });
    let me = format!(
        "This appliance is {}, at port {}, with the key {}\n",
        text_of(answer, "name"),
        text_of(answer, "port"),
        text_of(answer, "key")
    );
    let headings = ["NAME", "ADDRESS", "PAIRED", "KEY"];
    me + &table(&headings, &rows.collect::<Vec<_>>())
}

/// The token, and the command for the other appliance.
fn what_to_do(made: &Value, me: &Value, base: &str) -> String {
    let port = me["port"].as_u64().unwrap_or_default();
    let (address, note) = match host_of(base) {
        // The tool reaches it at this host, so something forwards ports to it.
        Some(host) if host.is_loopback() => (
            format!("{USER_MODE_HOST}:{port}"),
            "\n(That is this host as appliances in QEMU's user-mode network see it.)\n",
        ),
        Some(IpAddr::V4(host)) => (format!("{host}:{port}"), ""),
        Some(IpAddr::V6(host)) => (format!("[{host}]:{port}"), ""),
        None => (
            format!("ADDRESS:{port}"),
            "\n(ADDRESS is that of this appliance; names cannot be looked up there.)\n",
        ),
    };
    format!(
        "{}\n\nFor the other appliance, within {}:\n\n  ferrite peer add {address}\n\nIt asks for the token.\n{note}",
        text_of(made, "token"),
        duration(made["expires_in_ms"].as_u64().unwrap_or_default()),
    )
}

/// The address of an API like `http://10.0.0.2:8080`, if it is named by its address.
fn host_of(base: &str) -> Option<IpAddr> {
    let rest = base.split_once("://").map_or(base, |(_, rest)| rest);
    let authority = rest.split('/').next()?;
    let with_port = authority.parse::<SocketAddr>().map(|address| address.ip());
    let bare = authority.trim_start_matches('[').trim_end_matches(']');
    with_port.ok().or_else(|| bare.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Value {
        json!({"name": "a", "key": "aa", "port": 10811, "peers": [
            {"name": "b", "address": "10.0.0.3:10810", "paired_at": "2026-11-22T04:00:00.000Z", "key": "bb"},
            {"name": "c", "address": "[fd00::3]:10810", "paired_at": null, "key": "cc"}]})
    }

    #[test]
    fn peers_are_listed_for_people() {
        assert_eq!(
            peers(&me()),
            "This appliance is a, at port 10811, with the key aa\n\
             NAME  ADDRESS          PAIRED               KEY\n\
             b     10.0.0.3:10810   2026-11-22 04:00:00  bb\n\
             c     [fd00::3]:10810  -                    cc\n"
        );
    }

    #[test]
    fn who_made_a_token_is_told_what_to_type() {
        let made = json!({"token": "ferrite_pair_ab", "expires_in_ms": 600_000});
        for (base, command) in [
            (
                "http://10.20.0.2:8080",
                "ferrite peer add 10.20.0.2:10811\n",
            ),
            (
                "http://[fd00::2]:8080",
                "ferrite peer add [fd00::2]:10811\n",
            ),
            ("http://10.20.0.2", "ferrite peer add 10.20.0.2:10811\n"),
            ("http://127.0.0.1:8080", "ferrite peer add 10.0.2.2:10811\n"),
            ("http://storage-a:8080/", "ferrite peer add ADDRESS:10811\n"),
        ] {
            let text = what_to_do(&made, &me(), base);
            assert!(text.starts_with("ferrite_pair_ab\n"), "{text}");
            assert!(text.contains(command), "{base}: {text}");
        }
    }
}
