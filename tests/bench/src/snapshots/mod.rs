//! What snapshots cost: counted exactly in this process ([`engine`](crate::engine)), and timed with the image in QEMU
//! ([`appliance`]).

mod appliance;
mod creation;
mod deletion;
mod reads;
mod writes;

use anyhow::{Context, Result};

use crate::engine::{Section, instructions};
use crate::interrupt;
use crate::report::Figure;
use crate::target::Bench;

/// What the figures of this process say of themselves.
const HOW: &str = "counted in this process";
/// The same where the drive's clock matters.
const MODEL: &str = "model drive: read 80 µs, write 20 µs, flush 500 µs, 16 at a time";

/// A measured section and its name.
pub struct Row {
    /// What was done.
    pub name: String,
    /// What it cost.
    pub section: Section,
}

/// Something whose instructions can be counted too; told whether they are, because that takes fifty times as long.
type Scenario = fn(bool) -> Result<Vec<Row>>;

/// The scenarios by name.
const SCENARIOS: [(&str, Scenario); 3] = [
    ("create", creation::idle),
    ("writes", writes::run),
    ("reads", reads::run),
];

/// Runs the scenario `name` and nothing else, for callgrind.
///
/// # Errors
/// When there is none of this name, or it fails.
pub fn counted(name: &str) -> Result<()> {
    let found = SCENARIOS.iter().find(|(known, _)| *known == name);
    let (_, scenario) = found.with_context(|| format!("no scenario {name}"))?;
    scenario(true).map(drop)
}

/// Everything about snapshots.
///
/// # Errors
/// When the store or an appliance fails.
pub fn measure(bench: &Bench, figures: &mut Vec<Figure>) -> Result<()> {
    for (name, scenario) in SCENARIOS {
        interrupt::check()?;
        eprintln!("snapshots, {name}: counting");
        let mut rows = scenario(false)?;
        let mut sections: Vec<_> = rows.iter_mut().map(|row| &mut row.section).collect();
        instructions::count(name, &mut sections)?;
        figures.extend(figures_of(&rows));
    }
    eprintln!("snapshots: create under load, delete");
    figures.extend(creation::under_load()?);
    figures.extend(deletion::measure()?);
    appliance::measure(bench, figures)
}

/// Rows of the same name are samples of one figure; there is a figure for each thing that is counted
/// and not zero.
fn figures_of(rows: &[Row]) -> Vec<Figure> {
    type Value = fn(&Section) -> f64;
    let values: [(&str, &str, Value, &str); 6] = [
        ("drive reads", "", |s| s.each(s.counts.reads), HOW),
        ("drive writes", "", |s| s.each(s.counts.writes), HOW),
        ("flushes", "", |s| s.each(s.counts.flushes), HOW),
        ("written", "B", |s| s.each(s.counts.written_bytes()), HOW),
        (
            "time",
            "µs",
            |s| s.time.as_secs_f64() * 1e6 / s.operations as f64,
            MODEL,
        ),
        (
            "instructions",
            "",
            |s| s.each(s.instructions),
            "callgrind, store and drive in memory",
        ),
    ];
    let mut names: Vec<&str> = Vec::new();
    for row in rows {
        if !names.contains(&row.name.as_str()) {
            names.push(&row.name);
        }
    }
    let mut figures = Vec::new();
    for name in names {
        for (what, unit, value, how) in values {
            let samples: Vec<f64> = rows
                .iter()
                .filter(|row| row.name == name)
                .map(|row| value(&row.section))
                .collect();
            let mut figure = Figure::new(format!("{name}: {what} each"), unit).remark(how);
            figure.samples = samples;
            // What is nothing at all need not be told.
            if figure.samples.iter().any(|count| *count > 0.0) {
                figures.push(figure);
            }
        }
    }
    figures
}
