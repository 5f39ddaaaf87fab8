//! `ferrite migrate`: volumes that move from one appliance to another.

use clap::{ArgGroup, Args};
use serde_json::{Value, json};

use super::{explain, job, looked_up, volume_path};
use crate::console::Console;
use crate::describe::{describe, text_of};
use crate::{Client, Failure};

/// What is done with a volume that moves already.
const OTHERS: [&str; 3] = ["hand_over", "take_back", "take_over"];

/// Move a volume to another appliance, while it is used
///
/// The other appliance gets ready, the volume is handed over, and its blocks follow: what clients there read comes first. From the hand-over on
/// clients are refused here and welcome there. Ctrl-C ends only the watching. Schedules do not move.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["to", "hand_over", "take_back", "take_over"]))]
pub struct Migrate {
    /// The volume
    volume: String,
    /// Move it to this peer (`ferrite peer list`)
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    /// Only until the other appliance is prepared: it can be opened and read there, and --hand-over does the rest
    #[arg(long, visible_alias = "wait-for-hand-over", conflicts_with_all = OTHERS)]
    prepare: bool,
    /// What becomes of the copy here, once everything is there: it stays, it goes, or it stays with a snapshot of the hand-over
    #[arg(long, conflicts_with_all = OTHERS, value_parser = ["keep", "free", "snapshot"])]
    after: Option<String>,
    /// Its snapshots follow, too; otherwise they stay here, with the copy
    #[arg(long, conflicts_with_all = OTHERS)]
    with_snapshots: bool,
    /// The most bytes in a second, e.g. 50MiB; as fast as clients leave room for when left out
    #[arg(long, conflicts_with_all = OTHERS, value_parser = qemu::size::parse)]
    rate: Option<u64>,
    /// Do not wait; `ferrite jobs` shows how it is
    #[arg(long, conflicts_with_all = OTHERS)]
    detach: bool,
    /// Hand over a volume for which the other appliance is prepared
    #[arg(long)]
    hand_over: bool,
    /// Make it this appliance's again: the other one is asked, and what was written there comes back
    #[arg(long)]
    take_back: bool,
    /// Make the copy that stayed here the volume, because the other appliance is lost for good; what was written there is lost
    #[arg(long, requires = "confirm")]
    take_over: bool,
    /// The volume's name again: what was written elsewhere cannot be got back
    #[arg(long, value_name = "VOLUME", conflicts_with_all = ["to", "hand_over", "take_back"])]
    confirm: Option<String>,
}

impl Migrate {
    /// Does it.
    pub fn run(self, console: &Console) -> Result<(), Failure> {
        let client = console.client()?;
        if self.to.is_some() {
            return self.migrate(console, &client);
        }
        let (what, body) = match (self.hand_over, self.take_back) {
            (true, _) => ("hand-over", json!({})),
            (_, true) => ("take-back", json!({})),
            _ => ("take-over", json!({"confirm": self.confirm})),
        };
        let path = format!("{}/{what}", volume_path(&self.volume));
        let volume = client.post(&path, &body);
        let volume = volume.map_err(|failure| explain(&client, failure, &self.volume, None))?;
        console.show(&looked_up(&client, volume), describe)
    }

    fn migrate(&self, console: &Console, client: &Client) -> Result<(), Failure> {
        let mut wanted = json!({"to": self.to});
        if self.prepare {
            wanted["hand_over"] = "wait".into();
        }
        if let Some(after) = &self.after {
            wanted["after"] = after.as_str().into();
        }
        if self.with_snapshots {
            wanted["with_snapshots"] = true.into();
        }
        if let Some(rate) = self.rate {
            wanted["rate"] = rate.into();
        }
        let path = format!("{}/migrate", volume_path(&self.volume));
        let started = client.post(&path, &wanted);
        let started = started.map_err(|failure| explain(client, failure, &self.volume, None))?;
        let Some(id) = started["id"].as_u64().filter(|_| !self.detach) else {
            return console.show(&started, describe);
        };
        tell_on_interrupt(id);
        if !self.prepare {
            return job::wait(console, client, id);
        }
        let prepared = job::wait_until(client, id, |job| job["result"]["phase"] == "prepared")?;
        job::show(console, &prepared)?;
        eprintln!(
            "note: `{0}` can be opened and read at {1} now, and is still written here; `ferrite migrate {0} --hand-over` hands it over, \
             `ferrite jobs cancel {id}` takes it back",
            self.volume,
            text_of(&prepared["result"], "to"),
        );
        Ok(())
    }
}

/// Who ends the watching is told that this is all that ends.
fn tell_on_interrupt(id: u64) {
    let told = ctrlc::set_handler(move || {
        eprintln!(
            "\nnote: job {id} goes on; `ferrite jobs wait {id}` shows it again, and `ferrite jobs cancel {id}` ends it before the hand-over"
        );
        // As a shell says of who was interrupted.
        std::process::exit(130);
    });
    // The job goes on without a word, too.
    let _ = told;
}

/// Where a volume is on its way, in a few words; nothing of one that is at rest.
pub fn way(volume: &Value) -> Option<String> {
    let moved = &volume["move"];
    let peer = moved["peer"].as_str().unwrap_or("another appliance");
    let arriving = volume["hydration"]["from"].as_str();
    match moved["state"].as_str() {
        Some("offered") if moved["confirmed"] == true => Some(format!("{peer} is prepared")),
        Some("offered") => Some(format!("offered to {peer}")),
        Some("prepared") => Some(format!("still with {peer}")),
        Some("given") if moved["confirmed"] == false && !moved["job"].is_null() => {
            Some(format!("given to {peer}, which does not know yet"))
        }
        Some("given") => Some(format!("given to {peer}")),
        Some("left") => Some("left behind".into()),
        _ => arriving.map(|from| format!("arriving from {from}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_volume_is_takes_a_few_words() {
        let told = |state: &str, confirmed: bool, job: Value| {
            let moved = json!({"state": state, "peer": "b", "confirmed": confirmed, "job": job});
            way(&json!({"move": moved, "hydration": null}))
        };
        assert_eq!(told("offered", false, 3.into()).unwrap(), "offered to b");
        assert_eq!(told("offered", true, 3.into()).unwrap(), "b is prepared");
        assert_eq!(told("prepared", true, Value::Null).unwrap(), "still with b");
        assert_eq!(
            told("given", false, 3.into()).unwrap(),
            "given to b, which does not know yet"
        );
        assert_eq!(told("given", true, 3.into()).unwrap(), "given to b");
        assert_eq!(told("owned", true, Value::Null), None);
        let arriving = json!({"hydration": {"from": "ferrite://a"}});
        assert_eq!(way(&arriving).unwrap(), "arriving from ferrite://a");
        assert_eq!(way(&json!({"hydration": null})), None);
    }
}
