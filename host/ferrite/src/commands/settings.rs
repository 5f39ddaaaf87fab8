//! `ferrite config export` and `import`: what people set on an appliance, as one document.
//!
//! It has of each volume its size, who may use it and how much, and its snapshot schedule; and names and roles of tokens.
//! It has no data, no snapshots and no secrets: a token that is gone can only be made anew, with another secret.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{pages, volume_path};
use crate::client::segment;
use crate::console::{Console, print};
use crate::describe::{items, text_of};
use crate::{Client, Failure};

/// What the document says it is, and the version that is understood.
const FORMAT: &str = "ferrite-settings";
const VERSION: u64 = 1;
/// What of a volume is a setting.
const KEYS: [&str; 4] = ["read_only", "allow", "iops_max", "rate_max"];

/// Prints the document.
pub fn export(console: &Console) -> Result<(), Failure> {
    let client = console.client()?;
    let node = client.get("/v1/node")?;
    let (volumes, tokens) = present(&client)?;
    let document = json!({"format": FORMAT, "version": VERSION, "node": node["name"],
        "volumes": volumes, "tokens": tokens});
    print(&format!("{document:#}\n"))
}

/// What is set now: of volumes, and the tokens if whoever asks may see them.
fn present(client: &Client) -> Result<(Vec<Value>, Value), Failure> {
    let schedules = pages(client, "/v1/schedules", "schedules")?;
    let schedule_of = |name: &Value| {
        let found = schedules.iter().find(|one| one["volume"] == *name);
        found.map(|one| json!({"every": one["every"], "keep": one["keep"]}))
    };
    let setting = |volume: Value| {
        let mut kept = Map::new();
        for key in ["name", "size"].into_iter().chain(KEYS) {
            kept.insert(key.into(), volume[key].clone());
        }
        kept.insert("schedule".into(), schedule_of(&volume["name"]).into());
        kept.into()
    };
    let volumes = pages(client, "/v1/volumes", "volumes")?;
    let tokens = match client.get("/v1/tokens") {
        Ok(all) => items(&all, "tokens")
            .iter()
            .filter(|token| token["configured"] != true)
            .map(|token| json!({"name": token["name"], "role": token["role"]}))
            .collect(),
        Err(Failure::Refused { status: 403, .. }) => Value::Null,
        Err(failure) => return Err(failure),
    };
    Ok((volumes.into_iter().map(setting).collect(), tokens))
}

/// One request, and what it is in words.
#[derive(Debug, PartialEq)]
struct Step {
    words: String,
    request: Request,
}

#[derive(Debug, PartialEq)]
enum Request {
    Patch(String, Value),
    Put(String, Value),
    Post(String, Value),
    Delete(String),
}

/// Everything that an import does, and what it cannot.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    steps: Vec<Step>,
    /// Volumes that are not there.
    missing: Vec<String>,
    /// Commands that make the tokens that are not there.
    tokens: Vec<String>,
}

/// Makes an appliance what a document says, or with `dry_run` only says how.
pub fn import(console: &Console, file: &Path, create: bool, dry_run: bool) -> Result<(), Failure> {
    let here = |why: &dyn std::fmt::Display| Failure::Here(format!("{}: {why}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| here(&error))?;
    let document: Value = serde_json::from_str(&text).map_err(|error| here(&error))?;
    if document["format"] != FORMAT || document["version"] != VERSION {
        let why = "no settings that `ferrite config export` of this version wrote";
        return Err(here(&why));
    }
    let client = console.client()?;
    let (volumes, tokens) = present(&client)?;
    let plan = plan(&document, &volumes, &tokens, create);
    for step in &plan.steps {
        if !dry_run {
            carry_out(&client, step)?;
        }
        if !console.json {
            print(&format!("{}\n", step.words))?;
        }
    }
    let words: Vec<&str> = plan.steps.iter().map(|step| step.words.as_str()).collect();
    let answer =
        json!({"changes": words, "done": !dry_run, "missing": plan.missing, "tokens": plan.tokens});
    console.show(&answer, |_| {
        let mut told = match (words.is_empty(), dry_run) {
            (true, _) => "nothing to change\n".to_owned(),
            (false, true) => "nothing of this was done\n".to_owned(),
            (false, false) => String::new(),
        };
        for command in &plan.tokens {
            told += &format!("a token is not there, and its old secret is nowhere: {command}\n");
        }
        told
    })?;
    match plan.missing.as_slice() {
        [] => Ok(()),
        missing => Err(Failure::Here(format!(
            "not there: {}; restore them, or make them empty with --create, and import again",
            missing.join(", ")
        ))),
    }
}

fn carry_out(client: &Client, step: &Step) -> Result<(), Failure> {
    let done = match &step.request {
        Request::Patch(path, body) => client.patch(path, body),
        Request::Put(path, body) => client.put(path, body),
        Request::Post(path, body) => client.post(path, body),
        Request::Delete(path) => client.delete(path),
    };
    done.map(drop).map_err(|failure| match failure {
        Failure::Refused { status, message } => Failure::Refused {
            status,
            message: format!("{}: {message}", step.words),
        },
        other => other,
    })
}

fn plan(document: &Value, volumes: &[Value], tokens: &Value, create: bool) -> Plan {
    let mut plan = Plan::default();
    for wanted in items(document, "volumes") {
        let name = text_of(wanted, "name");
        let present = volumes.iter().find(|one| one["name"] == wanted["name"]);
        match present {
            Some(present) => plan.adjust(&name, wanted, present),
            // Who may write it, say, is set when its data is back.
            None if create => plan.steps.push(Step {
                words: format!(
                    "{name}: made, empty; copy its data back and import again for the rest"
                ),
                request: Request::Post(
                    "/v1/volumes".into(),
                    json!({"name": wanted["name"], "size": wanted["size"]}),
                ),
            }),
            None => plan.missing.push(name),
        }
    }
    let known = tokens.as_array();
    for token in items(document, "tokens") {
        let is_there = |known: &Vec<Value>| known.iter().any(|one| one["name"] == token["name"]);
        if known.is_some_and(|known| !is_there(known)) {
            let (name, role) = (text_of(token, "name"), text_of(token, "role"));
            plan.tokens
                .push(format!("ferrite token create {name} --role {role}"));
        }
    }
    plan
}

impl Plan {
    /// What makes a volume that is there as it is wanted.
    fn adjust(&mut self, name: &str, wanted: &Value, present: &Value) {
        let changed: Map<String, Value> = KEYS
            .into_iter()
            .filter(|key| wanted.get(key).is_some_and(|value| *value != present[*key]))
            .map(|key| (key.to_owned(), wanted[key].clone()))
            .collect();
        if !changed.is_empty() {
            let words = changed.iter().map(|(key, value)| format!("{key} {value}"));
            self.steps.push(Step {
                words: format!("{name}: {}", words.collect::<Vec<_>>().join(", ")),
                request: Request::Patch(volume_path(name), changed.into()),
            });
        }
        let path = format!("/v1/volumes/{}/schedule", segment(name));
        match wanted.get("schedule") {
            Some(schedule) if *schedule == present["schedule"] => {}
            Some(Value::Null) => self.steps.push(Step {
                words: format!("{name}: no schedule"),
                request: Request::Delete(path),
            }),
            Some(schedule) => self.steps.push(Step {
                words: format!("{name}: a snapshot every {}", text_of(schedule, "every")),
                request: Request::Put(path, schedule.clone()),
            }),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str, iops: Value, schedule: Value) -> Value {
        json!({"name": name, "size": 4096, "read_only": false, "allow": [], "iops_max": iops,
            "rate_max": null, "schedule": schedule})
    }

    #[test]
    fn only_what_differs_is_changed() {
        let hourly = json!({"every": "1h", "keep": {"last": 3}});
        let document = json!({"volumes": [
            volume("same", 5.into(), hourly.clone()),
            volume("limited", 500.into(), Value::Null),
            volume("kept", Value::Null, hourly.clone()),
            volume("gone", Value::Null, Value::Null)],
            "tokens": [{"name": "backup", "role": "operator"}, {"name": "here", "role": "admin"}]});
        let present = [
            volume("same", 5.into(), hourly.clone()),
            volume("limited", Value::Null, hourly.clone()),
            volume("kept", Value::Null, Value::Null),
            volume("other", 7.into(), Value::Null),
        ];
        let tokens = json!([{"name": "here", "role": "admin"}]);
        let planned = plan(&document, &present, &tokens, false);
        let words: Vec<&str> = planned.steps.iter().map(|step| &*step.words).collect();
        let expected = [
            "limited: iops_max 500",
            "limited: no schedule",
            "kept: a snapshot every 1h",
        ];
        assert_eq!(words, expected);
        let patch = Request::Patch("/v1/volumes/limited".into(), json!({"iops_max": 500}));
        assert_eq!(planned.steps[0].request, patch);
        let put = Request::Put("/v1/volumes/kept/schedule".into(), hourly);
        assert_eq!(planned.steps[2].request, put);
        assert_eq!(planned.missing, ["gone"]);
        assert_eq!(
            planned.tokens,
            ["ferrite token create backup --role operator"]
        );
        let planned = plan(&document, &present, &Value::Null, true);
        assert!(planned.missing.is_empty() && planned.tokens.is_empty());
        let made = json!({"name": "gone", "size": 4096});
        assert_eq!(
            planned.steps[3].request,
            Request::Post("/v1/volumes".into(), made)
        );
    }
}
