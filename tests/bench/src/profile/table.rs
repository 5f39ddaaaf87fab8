//! Counts by room, by function of the source and by function of the image; each table adds up to the total.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::counter::Counts;

use super::names::{Names, Place};

/// Executed instructions under some heading.
pub struct Table {
    heading: &'static str,
    counts: HashMap<String, u64>,
}

/// What instructions are put under.
type Key = fn(&Place) -> &str;

const TABLES: [(&str, Key); 3] = [
    ("by room", |place| &place.room),
    ("by function as written, inlined or not", |place| {
        &place.function
    }),
    (
        "by function in the image, with what is inlined into it",
        |place| &place.symbol,
    ),
];

impl Table {
    /// All tables of all windows together.
    #[must_use]
    pub fn of(windows: &[Counts], names: &Names) -> [Self; 3] {
        let mut by_address: HashMap<u64, u64> = HashMap::new();
        let mut unplaced = 0;
        for window in windows {
            unplaced += window.unplaced;
            for (&address, &count) in &window.by_address {
                *by_address.entry(address).or_default() += count;
            }
        }
        let mut tables = TABLES.map(|(heading, _)| Self {
            heading,
            counts: HashMap::new(),
        });
        for (address, count) in by_address {
            let place = names.place(address);
            for (table, (_, key)) in tables.iter_mut().zip(TABLES) {
                table.add(key(&place), count);
            }
        }
        if unplaced > 0 {
            for table in &mut tables {
                table.add("(not kept apart)", unplaced);
            }
        }
        tables
    }

    fn add(&mut self, name: &str, count: u64) {
        match self.counts.get_mut(name) {
            Some(sum) => *sum += count,
            None => {
                self.counts.insert(name.to_owned(), count);
            }
        }
    }

    /// The largest `rows` as Markdown, per operation, then the rest and the sum.
    #[must_use]
    pub fn text(&self, operations: u64, rows: usize) -> String {
        let mut lines: Vec<(&str, u64)> = self
            .counts
            .iter()
            .map(|(name, count)| (name.as_str(), *count))
            .collect();
        // By name where counts are equal, so that the same counts print the same table.
        lines.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        let all: u64 = lines.iter().map(|(_, count)| count).sum();
        let others = lines.split_off(rows.min(lines.len()));
        let mut out = format!(
            "| instructions | % | {} |\n| ---: | ---: | --- |\n",
            self.heading
        );
        let mut line = |name: &str, count: u64| {
            let each = count as f64 / operations as f64;
            let percent = count as f64 * 100.0 / all.max(1) as f64;
            let name = name.replace('|', "\\|");
            let _ = writeln!(out, "| {each:.1} | {percent:.1} | {name} |");
        };
        for (name, count) in lines {
            line(name, count);
        }
        if !others.is_empty() {
            let rest = others.iter().map(|(_, count)| count).sum();
            line(&format!("({} others)", others.len()), rest);
        }
        line("**all**", all);
        out.push('\n');
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_table_still_adds_up() {
        let mut table = Table {
            heading: "by x",
            counts: HashMap::new(),
        };
        for (name, count) in [("a", 50), ("b|c", 300), ("d", 30), ("a", 20)] {
            table.add(name, count);
        }
        assert_eq!(
            table.text(10, 2),
            "| instructions | % | by x |\n| ---: | ---: | --- |\n| 30.0 | 75.0 | b\\|c |\n| 7.0 | 17.5 | a |\n\
             | 3.0 | 7.5 | (1 others) |\n| 40.0 | 100.0 | **all** |\n\n"
        );
    }
}
