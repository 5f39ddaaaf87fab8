//! Samples, their median and spread, and the two forms in which they are shown.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use crate::fio::{JOBS, Job, Outcome};
use crate::grid::Grid;
use crate::host::Host;
use crate::target::Route;

/// One number, sampled.
#[derive(Clone, Debug)]
pub struct Figure {
    name: String,
    unit: &'static str,
    /// In the order in which they were taken.
    pub samples: Vec<f64>,
    remark: String,
}

impl Figure {
    /// A figure without samples yet.
    #[must_use]
    pub fn new(name: String, unit: &'static str) -> Self {
        Self {
            name,
            unit,
            samples: Vec::new(),
            remark: String::new(),
        }
    }

    /// The same with a remark on how it was taken, or why not.
    #[must_use]
    pub fn remark(mut self, remark: &str) -> Self {
        self.remark = remark.into();
        self
    }
}

/// One fio job on one target, sampled.
#[derive(Clone, Debug)]
pub struct Load {
    job: Job,
    route: Route,
    outcomes: Vec<Outcome>,
    /// µs of QEMU's CPU time for each operation; empty where there is no machine.
    cpu_us: Vec<f64>,
}

impl Load {
    /// A load without samples yet.
    #[must_use]
    pub fn new(job: Job, route: Route) -> Self {
        Self {
            job,
            route,
            outcomes: Vec::new(),
            cpu_us: Vec::new(),
        }
    }

    /// Adds a run and the CPU time that QEMU used meanwhile.
    pub fn push(&mut self, outcome: Outcome, used: Option<Duration>) {
        if let Some(used) = used {
            let operations = outcome.operations.max(1) as f64;
            self.cpu_us.push(used.as_secs_f64() * 1e6 / operations);
        }
        self.outcomes.push(outcome);
    }

    /// What people look at: MiB/s of streams, operations per second of the rest.
    fn rates(&self) -> Vec<f64> {
        let rate = |outcome: &Outcome| match self.job.is_stream {
            true => outcome.mib_per_s,
            false => outcome.iops,
        };
        self.outcomes.iter().map(rate).collect()
    }

    fn json(&self) -> Value {
        let each =
            |value: fn(&Outcome) -> f64| -> Vec<f64> { self.outcomes.iter().map(value).collect() };
        json!({
            "job": self.job.name, "route": self.route.name(),
            "iops": each(|o| o.iops), "mib_per_s": each(|o| o.mib_per_s),
            "p50_us": each(|o| o.p50_us), "p99_us": each(|o| o.p99_us), "longest_us": each(|o| o.longest_us),
            "qemu_cpu_us_per_operation": self.cpu_us,
        })
    }
}

/// Everything that one run measured.
#[derive(Clone, Debug)]
pub struct Report {
    /// Where.
    pub host: Host,
    /// Single numbers.
    pub figures: Vec<Figure>,
    /// Tables.
    pub grids: Vec<Grid>,
    /// What else has to be known to read them.
    pub notes: Vec<String>,
    /// fio jobs.
    pub loads: Vec<Load>,
    /// Routes that could not be measured, and why.
    pub missing: Vec<(Route, String)>,
}

impl Report {
    /// A report without figures yet.
    #[must_use]
    pub fn new(host: Host) -> Self {
        Self {
            host,
            figures: Vec::new(),
            grids: Vec::new(),
            notes: Vec::new(),
            loads: Vec::new(),
            missing: Vec::new(),
        }
    }

    /// The tables.
    #[must_use]
    pub fn markdown(&self) -> String {
        let Host {
            processor,
            qemu,
            kernel,
            commit,
            folder,
            job_seconds,
            load_before,
            load_after,
        } = &self.host;
        let mut out = format!(
            "{processor}, {kernel}, {qemu}; commit {commit}; drives in {folder}; \
             load average {load_before} before, {load_after} after\n"
        );
        for note in &self.notes {
            let _ = writeln!(out, "\n{note}");
        }
        for grid in self.grids.iter().filter(|grid| !grid.is_empty()) {
            out.push_str(&grid.markdown());
        }
        if !self.figures.is_empty() {
            out.push_str(
                "\n| figure | median (spread) | samples | how |\n| --- | ---: | ---: | --- |\n",
            );
            for figure in &self.figures {
                let cell = spread(&figure.samples, figure.unit);
                let (name, count) = (&figure.name, figure.samples.len());
                row(&mut out, &[name, &cell, &count.to_string(), &figure.remark]);
            }
        }
        if !self.loads.is_empty() {
            let _ = write!(
                out,
                "\nfio (ioengine=nbd) for {job_seconds} s each, median (spread); CPU is of the QEMU process, per operation\n\n"
            );
            self.loads_table(&mut out);
        }
        for (route, reason) in &self.missing {
            let _ = write!(out, "\n{} was not measured: {reason}\n", route.name());
        }
        out
    }

    /// A line for each job, a column for each route, and ratios to the host's server.
    fn loads_table(&self, out: &mut String) {
        let routes = [Route::User, Route::Tap, Route::Host]
            .into_iter()
            .filter(|route| self.loads.iter().any(|load| load.route == *route));
        let routes: Vec<Route> = routes.collect();
        let mut head = vec!["job".to_owned()];
        for route in &routes {
            head.push(route.name().into());
            if *route != Route::Host {
                head.push("CPU".into());
                head.push("of host".into());
            }
        }
        row(out, &head);
        let _ = writeln!(out, "| --- |{}", " ---: |".repeat(head.len() - 1));
        for job in JOBS {
            let find = |route| {
                let wanted = |load: &&Load| load.job == job && load.route == route;
                self.loads.iter().find(wanted)
            };
            let ceiling = find(Route::Host).and_then(|load| median(&load.rates()));
            let mut cells = vec![job.name.to_owned()];
            for &route in &routes {
                let Some(load) = find(route) else { continue };
                let rates = load.rates();
                let unit = if job.is_stream { "MiB/s" } else { "IOPS" };
                cells.push(spread(&rates, unit));
                if route != Route::Host {
                    cells.push(spread(&load.cpu_us, "µs"));
                    let ratio = median(&rates).zip(ceiling).map(|(ours, host)| ours / host);
                    cells.push(ratio.map_or("–".into(), |ratio| format!("{ratio:.3}")));
                }
            }
            row(out, &cells);
        }
    }

    /// Every sample.
    #[must_use]
    pub fn json(&self) -> Value {
        let host = &self.host;
        let figure = |figure: &Figure| {
            json!({
                "name": figure.name, "unit": figure.unit, "samples": figure.samples,
                "median": median(&figure.samples), "remark": figure.remark,
            })
        };
        let missing =
            |(route, reason): &(Route, String)| json!({"route": route.name(), "reason": reason});
        json!({
            "host": {
                "processor": host.processor, "qemu": host.qemu, "kernel": host.kernel,
                "commit": host.commit, "folder": host.folder, "job_seconds": host.job_seconds,
                "load_before": host.load_before, "load_after": host.load_after,
            },
            "figures": self.figures.iter().map(figure).collect::<Vec<_>>(),
            "notes": self.notes,
            "grids": self.grids.iter().map(Grid::json).collect::<Vec<_>>(),
            "loads": self.loads.iter().map(Load::json).collect::<Vec<_>>(),
            "missing": self.missing.iter().map(missing).collect::<Vec<_>>(),
        })
    }
}

fn row(out: &mut String, cells: &[impl AsRef<str>]) {
    for cell in cells {
        let _ = write!(out, "| {} ", cell.as_ref());
    }
    out.push_str("|\n");
}

/// `median unit (least..most)`; the spread only where there is one.
pub fn spread(samples: &[f64], unit: &str) -> String {
    let (Some(median), Some(least), Some(most)) = (
        median(samples),
        samples.iter().copied().reduce(f64::min),
        samples.iter().copied().reduce(f64::max),
    ) else {
        return "–".into();
    };
    let places = match most {
        _ if samples.iter().all(|sample| sample.fract() == 0.0) => 0,
        most if most < 10.0 => 2,
        most if most < 100.0 => 1,
        _ => 0,
    };
    let mut text = format!("{median:.places$}");
    if !unit.is_empty() {
        let _ = write!(text, " {unit}");
    }
    if samples.len() > 1 {
        let _ = write!(text, " ({least:.places$}..{most:.places$})");
    }
    text
}

/// The middle sample, or the mean of the two in the middle.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_spread() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(spread(&[], "ms"), "–");
        assert_eq!(spread(&[48.0], "MiB"), "48 MiB");
        assert_eq!(spread(&[0.25, 0.5], "%"), "0.38 % (0.25..0.50)");
        assert_eq!(spread(&[120.0, 100.0, 110.4], "ms"), "110 ms (100..120)");
    }

    fn report() -> Report {
        let load = |route, iops| {
            let mut load = Load::new(JOBS[0], route);
            let outcome = Outcome {
                operations: 1000,
                iops,
                mib_per_s: 1.0,
                p50_us: 1.0,
                p99_us: 2.0,
                longest_us: 3.0,
            };
            let machine = route != Route::Host;
            load.push(outcome, machine.then_some(Duration::from_millis(500)));
            load
        };
        let host = Host {
            processor: "1 × P".into(),
            qemu: "Q".into(),
            kernel: "K".into(),
            commit: "c0ffee".into(),
            folder: "F".into(),
            job_seconds: 5,
            load_before: "1".into(),
            load_after: "2".into(),
        };
        Report {
            host,
            grids: Vec::new(),
            notes: Vec::new(),
            figures: vec![Figure::new("least memory".into(), "MiB").remark("once")],
            loads: vec![load(Route::User, 500.0), load(Route::Host, 2000.0)],
            missing: vec![(Route::Tap, "needs root".into())],
        }
    }

    #[test]
    fn the_table_has_ratios_and_says_what_is_missing() {
        let text = report().markdown();
        let line = "| 4 KiB random read, QD 1 | 500 IOPS | 500 µs | 0.250 | 2000 IOPS |";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("| least memory | – | 0 | once |"), "{text}");
        assert!(text.contains("tap was not measured: needs root"), "{text}");
        assert!(text.contains("commit c0ffee"), "{text}");
    }

    #[test]
    fn json_has_every_sample() {
        let json = report().json();
        assert_eq!(json["loads"][1]["iops"][0], 2000.0);
        assert_eq!(json["loads"][0]["qemu_cpu_us_per_operation"][0], 500.0);
        assert_eq!(json["missing"][0]["reason"], "needs root");
    }
}
