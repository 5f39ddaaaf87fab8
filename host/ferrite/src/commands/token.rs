//! `ferrite token …` and `ferrite audit`: who may do what, and who did.

use clap::Subcommand;
use serde_json::{Value, json};

use super::guess;
use super::snapshot::moment;
use crate::arguments::new_name;
use crate::client::segment;
use crate::console::Console;
use crate::describe::{describe, items, text_of};
use crate::output::table;
use crate::{Client, Failure};

/// Entries of the audit log that one answer can have.
const AUDIT_MAX: usize = 1000;

/// Give access to others, and take it away
#[derive(Debug, Subcommand)]
pub enum Token {
    /// List all tokens; their secrets are known to nobody
    List,
    /// Make a token and print its secret, which is never shown again
    Create {
        /// What it is for, e.g. backup
        #[arg(value_parser = new_name)]
        name: String,
        /// read-only looks; operator works with volumes, snapshots, schedules and jobs; admin may do everything
        #[arg(long, value_parser = ["read-only", "operator", "admin"])]
        role: String,
    },
    /// Revoke a token: it opens nothing any more
    #[command(visible_alias = "delete")]
    Revoke {
        /// Its name
        name: String,
    },
}

impl Token {
    /// Does it.
    pub fn run(self, console: &Console) -> Result<(), Failure> {
        let client = console.client()?;
        match self {
            Self::List => console.show(&client.get("/v1/tokens")?, tokens),
            Self::Create { name, role } => {
                let wanted = json!({"name": name, "role": role});
                let made = client.post("/v1/tokens", &wanted)?;
                console.show(&made, describe)
            }
            Self::Revoke { name } => {
                let revoked = client.delete(&format!("/v1/tokens/{}", segment(&name)));
                revoked.map_err(|failure| explain(&client, failure, &name))?;
                console.show(&json!({"revoked": name}), |_| format!("revoked {name}\n"))
            }
        }
    }
}

/// Adds to the refusal of a name what was probably meant by it.
fn explain(client: &Client, failure: Failure, name: &str) -> Failure {
    let (Failure::Refused { status: 404, .. }, Ok(all)) = (&failure, client.get("/v1/tokens"))
    else {
        return failure;
    };
    let all: Vec<String> = items(&all, "tokens")
        .iter()
        .map(|token| text_of(token, "name"))
        .collect();
    Failure::Refused {
        status: 404,
        message: format!("no token `{name}`{}", guess(name, &all)),
    }
}

fn tokens(answer: &Value) -> String {
    let rows = items(answer, "tokens").iter().map(|token| {
        let origin = match token["configured"].as_bool() {
            Some(true) => "the configuration".into(),
            _ => moment(&text_of(token, "created_at")),
        };
        let seen = match token["last_seen_at"].as_str() {
            Some(seen) => moment(seen),
            None => "-".into(),
        };
        vec![text_of(token, "name"), text_of(token, "role"), origin, seen]
    });
    // Since the appliance was started; it keeps no note of it.
    let headings = ["NAME", "ROLE", "SINCE", "LAST SEEN"];
    table(&headings, &rows.collect::<Vec<_>>())
}

/// Shows the newest `count` entries of the audit log, oldest first.
pub fn audit(console: &Console, count: usize) -> Result<(), Failure> {
    let mut entries = newest(&console.client()?, count)?;
    entries.reverse();
    let answer = json!({"entries": entries});
    console.show(&answer, changes)
}

fn newest(client: &Client, count: usize) -> Result<Vec<Value>, Failure> {
    let mut all = Vec::new();
    let mut next = String::new();
    while all.len() < count {
        let limit = (count - all.len()).min(AUDIT_MAX);
        let page = client.get(&format!("/v1/audit?limit={limit}{next}"))?;
        all.extend(items(&page, "entries").iter().cloned());
        match page["next"].as_str() {
            Some(id) => next = format!("&next={}", segment(id)),
            None => break,
        }
    }
    Ok(all)
}

fn changes(answer: &Value) -> String {
    let rows = items(answer, "entries").iter().map(|entry| {
        // What has any length comes last, so that no column is as wide as the longest of it.
        let mut what = text_of(entry, "what");
        for more in [&entry["with"], &entry["error"]] {
            let words: Vec<&str> = (more.as_str().unwrap_or_default())
                .split_whitespace()
                .collect();
            if !words.is_empty() {
                what += &format!(" {}", words.join(" "));
            }
        }
        vec![
            moment(&text_of(entry, "at")),
            text_of(entry, "who"),
            text_of(entry, "from"),
            entry["status"].to_string(),
            what,
        ]
    });
    let headings = ["AT", "WHO", "FROM", "RESULT", "WHAT"];
    table(&headings, &rows.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_changes_are_listed_for_people() {
        let answer = json!({"tokens": [
            {"name": "configuration", "role": "admin", "created_at": null,
                "last_seen_at": "2026-11-22T04:10:00.000Z", "configured": true},
            {"name": "backup", "role": "operator", "created_at": "2026-11-22T04:00:00.000Z",
                "last_seen_at": null, "configured": false}]});
        assert_eq!(
            tokens(&answer),
            "NAME           ROLE      SINCE                LAST SEEN\n\
             configuration  admin     the configuration    2026-11-22 04:10:00\n\
             backup         operator  2026-11-22 04:00:00  -\n"
        );
        let answer = json!({"entries": [{"id": 1, "at": "2026-11-22T04:00:00.000Z", "who": "backup",
            "from": "10.0.0.2", "what": "DELETE /v1/volumes/db", "with": "{\n  \"a\": 1\n}", "status": 404, "error": "no such volume"}]});
        assert_eq!(
            changes(&answer),
            "AT                   WHO     FROM      RESULT  WHAT\n\
             2026-11-22 04:00:00  backup  10.0.0.2  404     DELETE /v1/volumes/db { \"a\": 1 } no such volume\n"
        );
    }
}
