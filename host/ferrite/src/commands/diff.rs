//! `ferrite diff`

use clap::Args;
use serde_json::{Value, json};

use super::{explain, volume_path};
use crate::client::segment;
use crate::console::{Console, print};
use crate::describe::items;
use crate::{Client, Failure};

/// Tell where a volume or snapshot differs from an older snapshot
#[derive(Debug, Args)]
pub struct Diff {
    /// VOLUME@SNAPSHOT, the older one; a VOLUME alone: all that it holds
    from: String,
    /// VOLUME@SNAPSHOT or VOLUME, the newer one; the volume as it is now when left out
    to: Option<String>,
}

impl Diff {
    /// Does it, page by page: there may be any number of ranges.
    pub fn run(self, console: &Console) -> Result<(), Failure> {
        self.check()?;
        let client = console.client()?;
        let (volume, path) = self.path();
        let mut ranges = Vec::new();
        let mut sums = Sums::default();
        let mut next = String::new();
        loop {
            let page = client.get(&format!("{path}{next}"));
            let page = page.map_err(|failure| self.explain(&client, failure, &volume))?;
            let part = items(&page, "ranges");
            if console.json {
                ranges.extend_from_slice(part);
            } else {
                print(
                    &part
                        .iter()
                        .map(|range| sums.line(range))
                        .collect::<String>(),
                )?;
            }
            match page["next"].as_str() {
                Some(token) => next = format!("&next={}", segment(token)),
                None => break,
            }
        }
        console.show(&json!({"ranges": ranges}), |_| sums.text())
    }

    /// The older one is a snapshot, unless it is the only one.
    fn check(&self) -> Result<(), Failure> {
        match &self.to {
            Some(to) if !self.from.contains('@') => Err(Failure::Here(format!(
                "the older one, `{}`, must be a snapshot, VOLUME@SNAPSHOT; the newer one, `{to}`, may be a volume",
                self.from
            ))),
            _ => Ok(()),
        }
    }

    /// The volume that is asked, and what.
    fn path(&self) -> (String, String) {
        // All that a volume holds is how it differs from nothing.
        let (from, to) = match (&self.to, self.from.contains('@')) {
            (None, false) => (None, Some(&self.from)),
            (to, _) => (Some(&self.from), to.as_ref()),
        };
        let asked = to.or(from).map_or("", String::as_str);
        let volume = asked.split('@').next().unwrap_or_default().to_owned();
        let mut path = format!("{}/diff?limit=1000", volume_path(&volume));
        for (key, side) in [("from", from), ("to", to)] {
            // A volume alone is that volume now, which is what a missing `to` means.
            if let Some(side) = side.filter(|side| key == "from" || side.contains('@')) {
                path += &format!("&{key}={}", segment(side));
            }
        }
        (volume, path)
    }

    fn explain(&self, client: &Client, failure: Failure, volume: &str) -> Failure {
        let is_missing = matches!(failure, Failure::Refused { status: 404, .. });
        for side in [Some(&self.from), self.to.as_ref()].into_iter().flatten() {
            let (of, snapshot) = match side.split_once('@') {
                Some((of, snapshot)) => (of, Some(snapshot)),
                None => (side.as_str(), None),
            };
            if is_missing && super::missing(client, of, snapshot).is_some() {
                return explain(client, failure, of, snapshot);
            }
        }
        explain(client, failure, volume, None)
    }
}

/// What a diff comes to.
#[derive(Default)]
struct Sums {
    ranges: u64,
    data: u64,
    zero: u64,
}

impl Sums {
    /// Counts a range and makes a line of it.
    fn line(&mut self, range: &Value) -> String {
        let number = |key: &str| range[key].as_u64().unwrap_or(0);
        let (offset, length) = (number("offset"), number("length"));
        let kind = range["kind"].as_str().unwrap_or("-");
        self.ranges += 1;
        match kind {
            "zero" => self.zero += length,
            _ => self.data += length,
        }
        format!("{offset:>15} {length:>13} {kind}\n")
    }

    fn text(&self) -> String {
        let ranges = match self.ranges {
            0 => return "no difference\n".into(),
            1 => "1 range".into(),
            many => format!("{many} ranges"),
        };
        let (data, zero) = (qemu::size::human(self.data), qemu::size::human(self.zero));
        format!("{ranges}: {data} of data, {zero} of zeros\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_becomes_what_is_asked() {
        for (from, to, path) in [
            ("db@a", None, "/v1/volumes/db/diff?limit=1000&from=db%40a"),
            (
                "db@a",
                Some("db"),
                "/v1/volumes/db/diff?limit=1000&from=db%40a",
            ),
            (
                "db@a",
                Some("db@b"),
                "/v1/volumes/db/diff?limit=1000&from=db%40a&to=db%40b",
            ),
            (
                "db@a",
                Some("test"),
                "/v1/volumes/test/diff?limit=1000&from=db%40a",
            ),
            ("db", None, "/v1/volumes/db/diff?limit=1000"),
        ] {
            let diff = Diff {
                from: from.into(),
                to: to.map(Into::into),
            };
            assert!(diff.check().is_ok());
            assert_eq!(diff.path().1, path);
        }
        let turned = Diff {
            from: "db".into(),
            to: Some("db@a".into()),
        };
        let refused = turned.check().unwrap_err().to_string();
        assert!(refused.contains("`db`, must be a snapshot"), "{refused}");
    }

    #[test]
    fn ranges_are_summed() {
        let mut sums = Sums::default();
        assert_eq!(sums.text(), "no difference\n");
        let line = sums.line(&json!({"offset": 8192, "length": 4096, "kind": "data"}));
        assert_eq!(line, "           8192          4096 data\n");
        sums.line(&json!({"offset": 16384, "length": 8192, "kind": "zero"}));
        assert_eq!(sums.text(), "2 ranges: 4 KiB of data, 8 KiB of zeros\n");
    }
}
