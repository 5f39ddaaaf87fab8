//! `ferrite schedule …`

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::snapshot::moment;
use super::{explain, pages, volume_path};
use crate::Failure;
use crate::arguments::{every, rule};
use crate::console::Console;
use crate::describe::{describe, items, text_of};
use crate::output::table;

/// Make snapshots by the clock, and keep some of them
#[derive(Debug, Subcommand)]
pub enum Schedule {
    /// List all schedules
    List,
    /// Show the schedule of a volume
    Get {
        /// The volume
        volume: String,
    },
    /// Give a volume a schedule, in place of the one it may have
    Set {
        /// The volume
        volume: String,
        /// Time from one snapshot to the next: a number and s, m, h, d or w, e.g. 1h
        #[arg(long, value_parser = every)]
        every: String,
        /// How many stay by each rule: last, hourly, daily, weekly, monthly, yearly; e.g. hourly=24,daily=7
        #[arg(long, required = true, value_delimiter = ',', value_parser = rule, value_name = "RULE=COUNT")]
        keep: Vec<(String, u32)>,
    },
    /// Take a volume's schedule away; its snapshots stay
    Delete {
        /// The volume
        volume: String,
    },
}

impl Schedule {
    /// Does it.
    pub fn run(self, console: &Console) -> Result<(), Failure> {
        let client = console.client()?;
        let path = |volume: &str| format!("{}/schedule", volume_path(volume));
        let known = |volume: &str, answer: Result<Value, Failure>| {
            answer.map_err(|failure| explain(&client, failure, volume, None))
        };
        match self {
            Self::List => {
                let all = pages(&client, "/v1/schedules", "schedules")?;
                console.show(&json!({"schedules": all}), schedules)
            }
            Self::Get { volume } => {
                let found = client.get(&path(&volume));
                console.show(&known(&volume, found)?, describe)
            }
            Self::Set {
                volume,
                every,
                keep,
            } => {
                if keep.iter().all(|(_, count)| *count == 0) {
                    let detail =
                        "a schedule keeps something: at least one rule needs a count above 0";
                    return Err(Failure::Here(detail.into()));
                }
                let keep = keep.into_iter().map(|(rule, count)| (rule, count.into()));
                let wanted = json!({"every": every, "keep": keep.collect::<Map<_, _>>()});
                let set = client.put(&path(&volume), &wanted);
                console.show(&known(&volume, set)?, describe)
            }
            Self::Delete { volume } => {
                known(&volume, client.delete(&path(&volume)))?;
                Ok(())
            }
        }
    }
}

fn schedules(answer: &Value) -> String {
    let rows = items(answer, "schedules").iter().map(|one| {
        let keep = one["keep"].as_object().into_iter().flatten();
        let keep: Vec<String> = keep
            .map(|(rule, count)| format!("{rule}={count}"))
            .collect();
        vec![
            text_of(one, "volume"),
            text_of(one, "every"),
            keep.join(","),
            text_of(one, "snapshots"),
            moment(&text_of(one, "next_at")),
            text_of(one, "problem"),
        ]
    });
    let headings = ["VOLUME", "EVERY", "KEEP", ">SNAPSHOTS", "NEXT", "PROBLEM"];
    table(&headings, &rows.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_listed_with_their_rules() {
        let answer = json!({"schedules": [{"volume": "db", "every": "1h", "keep": {"daily": 7, "hourly": 24},
            "snapshots": 3, "next_at": "2026-11-22T04:00:00.000Z", "problem": null}]});
        assert_eq!(
            schedules(&answer),
            "VOLUME  EVERY  KEEP               SNAPSHOTS  NEXT                 PROBLEM\n\
             db      1h     daily=7,hourly=24          3  2026-11-22 04:00:00  -\n"
        );
    }
}
