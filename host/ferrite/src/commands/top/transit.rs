//! Volumes whose blocks are on their way: to here, or to another appliance.

use serde_json::{Value, json};

use super::view::{grown, rate, size, whole};
use crate::measures::Measures;
use crate::output::table;

/// One of them.
#[derive(Debug)]
pub struct Transit {
    volume: String,
    /// The appliance to which it goes; none: it comes.
    to: Option<String>,
    /// Bytes of the volume of which nobody knows yet whether they are there.
    unknown: f64,
    /// Bytes of data in a second, by who wants them.
    on_demand: f64,
    background: f64,
}

/// All of them, between two looks that are `interval` seconds apart.
pub fn between(before: &Measures, now: &Measures, interval: f64) -> Vec<Transit> {
    let one =
        |family: &str, labels: &[(&str, &str)], (volume, to): (&str, Option<&str>), unknown| {
            let flow = |by| {
                let labels: Vec<_> = labels.iter().copied().chain([("by", by)]).collect();
                grown(before, now, family, &labels) / interval
            };
            Transit {
                volume: volume.to_owned(),
                to: to.map(str::to_owned),
                unknown,
                on_demand: flow("clients"),
                background: flow("background"),
            }
        };
    let arriving = now
        .all("ferrite_volume_unknown_bytes")
        .iter()
        .map(|sample| {
            let volume = sample.label("volume");
            let family = "ferrite_volume_fetched_bytes_total";
            one(family, &[("volume", volume)], (volume, None), sample.value)
        });
    let leaving = now
        .all("ferrite_migration_unknown_bytes")
        .iter()
        .map(|sample| {
            let (volume, to) = (sample.label("volume"), sample.label("to"));
            let labels = [("volume", volume), ("to", to)];
            let family = "ferrite_migration_bytes_total";
            one(family, &labels, (volume, Some(to)), sample.value)
        });
    arriving.chain(leaving).collect()
}

/// As a table under an empty line; nothing if there are none.
pub fn text(all: &[Transit]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let rows = all.iter().map(|one| {
        let way = one
            .to
            .as_ref()
            .map_or_else(|| "comes".into(), |to| format!("goes to {to}"));
        let words = [
            one.volume.clone(),
            way,
            size(one.unknown),
            rate(one.on_demand),
            rate(one.background),
        ];
        Vec::from(words)
    });
    let headings = ["MOVING", "WAY", ">UNKNOWN", ">ON DEMAND", ">BACKGROUND"];
    format!("\n{}", table(&headings, &rows.collect::<Vec<_>>()))
}

/// Lines of [`text`].
pub fn lines(all: &[Transit]) -> usize {
    match all.len() {
        0 => 0,
        many => many + 2,
    }
}

impl Transit {
    /// For scripts.
    pub fn json(&self) -> Value {
        json!({
            "volume": self.volume,
            "to": self.to,
            "unknown": whole(self.unknown),
            "on_demand_bytes_per_second": whole(self.on_demand),
            "background_bytes_per_second": whole(self.background),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_and_what_goes_is_told() {
        let look = |bytes: u64| {
            Measures::read(&format!(
                "ferrite_volume_unknown_bytes{{volume=\"a\"}} 1048576\n\
                 ferrite_volume_fetched_bytes_total{{volume=\"a\",by=\"clients\"}} {bytes}\n\
                 ferrite_migration_unknown_bytes{{volume=\"db\",to=\"b\"}} 2097152\n\
                 ferrite_migration_bytes_total{{volume=\"db\",to=\"b\",by=\"background\"}} {bytes}\n"
            ))
        };
        let all = between(&look(0), &look(8192), 2.0);
        assert_eq!(
            text(&all),
            "\nMOVING  WAY        UNKNOWN  ON DEMAND  BACKGROUND\n\
             a       comes        1 MiB    4 KiB/s           -\n\
             db      goes to b    2 MiB          -     4 KiB/s\n"
        );
        assert_eq!(text(&all).lines().count(), lines(&all));
        assert_eq!(all[1].json()["to"], "b");
        assert_eq!((text(&[]), lines(&[])), (String::new(), 0));
    }
}
