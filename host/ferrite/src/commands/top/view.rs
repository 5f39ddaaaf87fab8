//! What happened between two looks at `/metrics`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::transit::{self, Transit};
use crate::describe::duration;
use crate::measures::Measures;
use crate::output::table;

/// What is counted of volumes and drives alike, under which names.
struct Counted {
    label: &'static str,
    duration: &'static str,
    bytes: &'static str,
}

const VOLUME: Counted = Counted {
    label: "volume",
    duration: "ferrite_volume_request_duration_seconds",
    bytes: "ferrite_volume_bytes_total",
};
const DRIVE: Counted = Counted {
    label: "drive",
    duration: "ferrite_drive_operation_duration_seconds",
    bytes: "ferrite_drive_bytes_total",
};

/// An appliance from one look to the next.
#[derive(Debug)]
pub struct View {
    name: String,
    version: String,
    uptime: f64,
    /// Seconds between the looks, by the appliance's clock.
    interval: f64,
    memory: (f64, f64),
    pool: Option<(f64, f64)>,
    drives: Vec<Drive>,
    /// The busiest first.
    volumes: Vec<Volume>,
    transits: Vec<Transit>,
}

#[derive(Debug)]
struct Drive {
    id: String,
    state: &'static str,
    size: f64,
    used: f64,
    errors: f64,
    work: Work,
}

#[derive(Debug)]
struct Volume {
    name: String,
    clients: f64,
    work: Work,
    iops_max: Option<f64>,
    rate_max: Option<f64>,
    /// Whether somebody waited because of that.
    is_held: bool,
}

/// What somebody did.
#[derive(Debug)]
struct Work {
    reads: Flow,
    writes: Flow,
    /// Flushes and trims in a second.
    others: f64,
    /// Seconds that a read or write took: the mean, and what 99 of 100 took at most.
    latency: Option<(f64, f64)>,
}

/// Requests and bytes in a second.
#[derive(Clone, Copy, Debug)]
struct Flow {
    requests: f64,
    bytes: f64,
}

impl View {
    /// What was between two looks. After a restart, what is since then.
    pub fn between(before: &Measures, now: &Measures) -> Self {
        let uptime = |of: &Measures| of.one("ferrite_uptime_seconds").unwrap_or(0.0);
        let nothing = Measures::default();
        let is_restarted = uptime(now) < uptime(before);
        let before = if is_restarted { &nothing } else { before };
        let interval = (uptime(now) - uptime(before)).max(1e-3);
        let one = |name: &str| now.one(name).unwrap_or(0.0);
        let info = now.all("ferrite_build_info").first();
        let text = |label: &str| info.map_or(String::new(), |info| info.label(label).to_owned());
        let pool = now.one("ferrite_pool_size_bytes");
        Self {
            name: text("name"),
            version: text("version"),
            uptime: uptime(now),
            interval,
            memory: (
                one("ferrite_memory_size_bytes"),
                one("ferrite_memory_free_bytes"),
            ),
            pool: pool.map(|size| (size, one("ferrite_pool_used_bytes"))),
            drives: drives(before, now, interval),
            volumes: volumes(before, now, interval),
            transits: transit::between(before, now, interval),
        }
    }

    /// For people: at most so many volumes, the busiest first.
    pub fn text(&self, volumes_max: usize) -> String {
        let (memory, free) = self.memory;
        let mut text = format!(
            "{}  ferrite {}  up {}  memory {} of {}",
            self.name,
            self.version,
            duration((self.uptime * 1000.0) as u64),
            size(memory - free),
            size(memory)
        );
        if let Some((all, used)) = self.pool {
            text += &format!("  pool {} of {}", size(used), size(all));
        }
        text += "\n\n";
        let rows = self.drives.iter().map(|drive| {
            let mut row = vec![
                drive.id.clone(),
                drive.state.into(),
                size(drive.size),
                size(drive.used),
                format!("{}", drive.errors),
            ];
            row.extend(drive.work.row());
            row
        });
        let mut headings = vec!["DRIVE", "STATE", ">SIZE", ">USED", ">ERRORS"];
        headings.extend(WORK);
        text += &table(&headings, &rows.collect::<Vec<_>>());
        text += "\n";
        let shown = &self.volumes[..self.volumes.len().min(volumes_max)];
        let rows: Vec<_> = shown.iter().map(Volume::row).collect();
        let mut headings = vec!["VOLUME", ">CLIENTS"];
        headings.extend(WORK);
        headings.push("LIMITS");
        text += &table(&headings, &rows);
        match self.volumes.len() - shown.len() {
            0 => {}
            more => text += &format!("and {more} more\n"),
        }
        text + &transit::text(&self.transits)
    }

    /// Lines of [`text`](Self::text) that are no volumes.
    pub fn lines_beside(&self) -> usize {
        self.drives.len() + 5 + transit::lines(&self.transits)
    }

    /// For scripts.
    pub fn json(&self) -> Value {
        let (memory, free) = self.memory;
        let drives = self.drives.iter().map(|drive| {
            let mut json = drive.work.json();
            json["id"] = drive.id.clone().into();
            json["state"] = drive.state.into();
            for (key, bytes) in [
                ("size", drive.size),
                ("used", drive.used),
                ("errors", drive.errors),
            ] {
                json[key] = whole(bytes).into();
            }
            json
        });
        let pool = self.pool;
        json!({
            "name": self.name,
            "version": self.version,
            "uptime_ms": whole(self.uptime * 1000.0),
            "interval_ms": whole(self.interval * 1000.0),
            "memory": {"total": whole(memory), "free": whole(free)},
            "pool": pool.map(|(size, used)| json!({"size": whole(size), "used": whole(used)})),
            "drives": drives.collect::<Vec<_>>(),
            "volumes": self.volumes.iter().map(Volume::json).collect::<Vec<_>>(),
            "moving": self.transits.iter().map(Transit::json).collect::<Vec<_>>(),
        })
    }
}

/// Headings of [`Work::row`].
const WORK: [&str; 6] = [
    ">READS/S",
    ">WRITES/S",
    ">READ",
    ">WRITTEN",
    ">LATENCY",
    ">99 %",
];

impl Work {
    fn row(&self) -> [String; 6] {
        let (mean, high) = match self.latency {
            Some((mean, high)) => (time(mean), format!("<{}", time(high))),
            None => ("-".into(), "-".into()),
        };
        [
            count(self.reads.requests),
            count(self.writes.requests),
            rate(self.reads.bytes),
            rate(self.writes.bytes),
            mean,
            high,
        ]
    }

    fn json(&self) -> Value {
        let in_ms = |seconds: f64| (seconds * 1e6).round() / 1e3;
        let latency = |pick: fn((f64, f64)) -> f64| self.latency.map(|both| in_ms(pick(both)));
        json!({
            "reads_per_second": tenths(self.reads.requests),
            "writes_per_second": tenths(self.writes.requests),
            "others_per_second": tenths(self.others),
            "read_bytes_per_second": whole(self.reads.bytes),
            "written_bytes_per_second": whole(self.writes.bytes),
            "latency_ms": latency(|both| both.0),
            "latency_99_ms": latency(|both| both.1),
        })
    }
}

impl Volume {
    fn row(&self) -> Vec<String> {
        let mut row = vec![self.name.clone(), format!("{}", self.clients)];
        row.extend(self.work.row());
        row.push(self.limits());
        row
    }

    fn limits(&self) -> String {
        let words = [
            self.iops_max.map(|iops| format!("{iops}/s")),
            self.rate_max.map(|rate| format!("{}/s", size(rate))),
        ];
        let words: Vec<String> = words.into_iter().flatten().collect();
        match (words.is_empty(), self.is_held) {
            (true, _) => "-".into(),
            (false, false) => words.join(", "),
            (false, true) => format!("{} (waiting)", words.join(", ")),
        }
    }

    fn json(&self) -> Value {
        let mut json = self.work.json();
        json["name"] = self.name.clone().into();
        json["clients"] = whole(self.clients).into();
        json["iops_max"] = self.iops_max.map(whole).into();
        json["rate_max"] = self.rate_max.map(whole).into();
        json["waited"] = self.is_held.into();
        json
    }

    fn weight(&self) -> f64 {
        let Work {
            reads,
            writes,
            others,
            ..
        } = &self.work;
        reads.bytes + writes.bytes + 4096.0 * (reads.requests + writes.requests + others)
    }
}

fn drives(before: &Measures, now: &Measures, interval: f64) -> Vec<Drive> {
    let sizes = now.all("ferrite_drive_size_bytes").iter();
    let drive = |id: &str, size| {
        let of = |name: &str| now.sum(name, &[("drive", id)]).unwrap_or(0.0);
        Drive {
            id: id.to_owned(),
            state: { ["failed", "failing", "serving"].into_iter() }
                .find(|state| of(&format!("ferrite_drive_{state}")) > 0.0)
                .unwrap_or("apart"),
            size,
            used: of("ferrite_drive_used_bytes"),
            errors: of("ferrite_drive_errors_total"),
            work: work(&DRIVE, id, before, now, interval),
        }
    };
    sizes
        .map(|sample| drive(sample.label("drive"), sample.value))
        .collect()
}

fn volumes(before: &Measures, now: &Measures, interval: f64) -> Vec<Volume> {
    let names = now.all("ferrite_volume_size_bytes").iter();
    let names: BTreeSet<&str> = names.map(|sample| sample.label("volume")).collect();
    let mut all: Vec<Volume> = names
        .into_iter()
        .map(|name| volume(name, before, now, interval))
        .collect();
    // What is equally busy stays in the order of names.
    all.sort_by(|one, other| other.weight().total_cmp(&one.weight()));
    all
}

/// How much more a counter is now. What came anew under an old name counts from its beginning.
pub(super) fn grown(
    before: &Measures,
    now: &Measures,
    family: &str,
    labels: &[(&str, &str)],
) -> f64 {
    let of = |measures: &Measures| measures.sum(family, labels).unwrap_or(0.0);
    let more = of(now) - of(before);
    if more < 0.0 { of(now) } else { more }
}

/// What the volume or drive called `name` did.
fn work(of: &Counted, name: &str, before: &Measures, now: &Measures, interval: f64) -> Work {
    let grown = |family: &str, labels: &[(&str, &str)]| grown(before, now, family, labels);
    let requests = |operation: &str| {
        let labels = [(of.label, name), ("operation", operation)];
        grown(&format!("{}_count", of.duration), &labels)
    };
    let flow = |operation: &str| {
        let labels = [(of.label, name), ("operation", operation)];
        Flow {
            requests: requests(operation) / interval,
            bytes: grown(of.bytes, &labels) / interval,
        }
    };
    let of_data = |family: &str, le: Option<&str>| -> f64 {
        let both = ["read", "write"].map(|operation| {
            let mut labels = vec![(of.label, name), ("operation", operation)];
            labels.extend(le.map(|le| ("le", le)));
            grown(&format!("{}_{family}", of.duration), &labels)
        });
        both.iter().sum()
    };
    let count = of_data("count", None);
    let limits = now.all(&format!("{}_bucket", of.duration)).iter();
    let limits = limits
        .filter(|sample| sample.label(of.label) == name && sample.label("operation") == "read");
    let high = limits
        .map(|sample| sample.label("le"))
        .find(|le| of_data("bucket", Some(le)) >= 0.99 * count)
        .and_then(|le| le.parse().ok())
        .unwrap_or(f64::INFINITY);
    Work {
        reads: flow("read"),
        writes: flow("write"),
        others: (requests("flush") + requests("discard")) / interval,
        latency: (count > 0.0).then(|| (of_data("sum", None) / count, high)),
    }
}

fn volume(name: &str, before: &Measures, now: &Measures, interval: f64) -> Volume {
    let labels = [("volume", name)];
    let gauge = |family: &str| now.sum(family, &labels);
    Volume {
        name: name.to_owned(),
        clients: gauge("ferrite_volume_clients").unwrap_or(0.0),
        work: work(&VOLUME, name, before, now, interval),
        iops_max: gauge("ferrite_volume_limit_requests_per_second"),
        rate_max: gauge("ferrite_volume_limit_bytes_per_second"),
        is_held: grown(before, now, "ferrite_volume_limited_total", &labels) > 0.0,
    }
}

/// Bytes in a second for people.
pub(super) fn rate(bytes: f64) -> String {
    match whole(bytes) {
        0 => "-".into(),
        _ => format!("{}/s", size(bytes)),
    }
}

/// Bytes for people.
pub(super) fn size(bytes: f64) -> String {
    qemu::size::human(whole(bytes))
}

pub(super) fn whole(number: f64) -> u64 {
    number.round() as u64
}

fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// A number for people, with as many digits as tell something.
fn count(number: f64) -> String {
    match number {
        0.0..10.0 if number != number.round() => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

/// Seconds for people.
fn time(seconds: f64) -> String {
    match seconds {
        ..0.001 => format!("{:.0} us", seconds * 1e6),
        ..1.0 => format!("{:.1} ms", seconds * 1e3),
        _ => format!("{seconds:.1} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DURATION: &str = VOLUME.duration;

    fn page(uptime: f64, reads: u64, waits: u64) -> Measures {
        let bytes = reads * 4096;
        let seconds = reads as f64 * 0.002;
        let within = reads * 995 / 1000;
        Measures::read(&format!(
            "ferrite_build_info{{name=\"a\",version=\"1\"}} 1\nferrite_uptime_seconds {uptime}\n\
             ferrite_memory_size_bytes 4194304\nferrite_memory_free_bytes 1048576\n\
             ferrite_drive_size_bytes{{drive=\"nvme0n1\"}} 1073741824\n\
             ferrite_drive_serving{{drive=\"nvme0n1\"}} 1\n\
             ferrite_drive_bytes_total{{drive=\"nvme0n1\",operation=\"write\"}} {bytes}\n\
             {0}_bucket{{drive=\"nvme0n1\",operation=\"read\",le=\"0.001\"}} 0\n\
             {0}_bucket{{drive=\"nvme0n1\",operation=\"write\",le=\"0.001\"}} {reads}\n\
             {0}_sum{{drive=\"nvme0n1\",operation=\"write\"}} {seconds}\n\
             {0}_count{{drive=\"nvme0n1\",operation=\"write\"}} {reads}\n\
             ferrite_drive_size_bytes{{drive=\"nvme1n1\"}} 1073741824\n\
             ferrite_drive_failing{{drive=\"nvme1n1\"}} 1\n\
             ferrite_drive_errors_total{{drive=\"nvme1n1\"}} 7\n\
             ferrite_volume_size_bytes{{volume=\"calm\"}} 4096\n\
             ferrite_volume_size_bytes{{volume=\"db\"}} 4096\n\
             ferrite_volume_clients{{volume=\"db\"}} 2\n\
             ferrite_volume_limit_requests_per_second{{volume=\"db\"}} 500\n\
             ferrite_volume_limited_total{{volume=\"db\"}} {waits}\n\
             ferrite_volume_bytes_total{{volume=\"db\",operation=\"read\"}} {bytes}\n\
             {DURATION}_bucket{{volume=\"db\",operation=\"read\",le=\"0.001\"}} 0\n\
             {DURATION}_bucket{{volume=\"db\",operation=\"read\",le=\"0.004\"}} {within}\n\
             {DURATION}_bucket{{volume=\"db\",operation=\"read\",le=\"+Inf\"}} {reads}\n\
             {DURATION}_sum{{volume=\"db\",operation=\"read\"}} {seconds}\n\
             {DURATION}_count{{volume=\"db\",operation=\"read\"}} {reads}\n",
            DRIVE.duration
        ))
    }

    #[test]
    fn rates_are_of_the_time_between_two_looks() {
        let view = View::between(&page(10.0, 1000, 4), &page(12.0, 2000, 5));
        assert_eq!(
            view.text(10),
            "a  ferrite 1  up 12 s  memory 3 MiB of 4 MiB\n\n\
             DRIVE    STATE     SIZE  USED  ERRORS  READS/S  WRITES/S  READ  WRITTEN  LATENCY     99 %\n\
             nvme0n1  serving  1 GiB   0 B       0        0       500     -  2 MiB/s   2.0 ms  <1.0 ms\n\
             nvme1n1  failing  1 GiB   0 B       7        0         0     -        -        -        -\n\n\
             VOLUME  CLIENTS  READS/S  WRITES/S     READ  WRITTEN  LATENCY     99 %  LIMITS\n\
             db            2      500         0  2 MiB/s        -   2.0 ms  <4.0 ms  500/s (waiting)\n\
             calm          0        0         0        -        -        -        -  -\n"
        );
        let json = view.json();
        assert_eq!(json["interval_ms"], 2000);
        assert_eq!(json["volumes"][0]["reads_per_second"], 500.0);
        assert_eq!(json["volumes"][0]["latency_99_ms"], 4.0);
        assert_eq!(json["drives"][0]["writes_per_second"], 500.0);
        assert_eq!(json["drives"][1]["state"], "failing");
        assert_eq!(json["volumes"][1]["latency_ms"], Value::Null);
        assert!(view.text(1).ends_with("and 1 more\n"));
        let lines = view.text(10).lines().count();
        assert_eq!(lines, view.lines_beside() + view.volumes.len());
    }

    #[test]
    fn a_restart_counts_from_its_beginning() {
        let view = View::between(&page(100.0, 1_000_000, 4), &page(4.0, 400, 0));
        assert_eq!(view.json()["volumes"][0]["reads_per_second"], 100.0);
        let calm = View::between(&page(10.0, 1000, 4), &page(12.0, 1000, 4));
        assert_eq!(calm.volumes[0].work.latency, None);
        assert!(!calm.volumes[0].is_held);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(count(0.0), "0");
        assert_eq!(count(0.5), "0.5");
        assert_eq!(count(1234.5), "1234");
        assert_eq!(time(0.000_04), "40 us");
        assert_eq!(time(0.0123), "12.3 ms");
        assert_eq!(time(2.0), "2.0 s");
    }
}
