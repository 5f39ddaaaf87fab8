//! Measures for Prometheus, in its text format (version 0.0.4). Names and units follow its conventions: bytes, seconds,
//! `_total` on what only grows. What is below volumes is in `devices`, and volumes that move in `moves`.

mod devices;
mod moves;

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{Display, Write};

use volume::{
    Fullness, Limits, Meter, Operation, PoolState, Traffic, VolumeInfo, Volumes, writable_bytes,
};
use world::Disk;

use super::Backend;
use super::node::Node;
use super::router::{Call, Handled, Response};

/// The most volumes that are told of.
const VOLUMES_MAX: usize = 1000;
/// What a job can be.
const JOB_STATES: [&str; 6] = ["queued", "running", "paused", "done", "failed", "cancelled"];

pub(super) async fn metrics<D: Disk + 'static>(backend: Rc<Backend<D>>, call: Call) -> Handled {
    let mut page = Page::default();
    page.node(&*backend.node);
    let about = "Tasks of the executor.";
    page.one("ferrite_tasks", "gauge", about, call.exec.tasks());
    page.network(&backend.node.network());
    page.drives(&backend.node.drives());
    if let Some(volumes) = &backend.volumes {
        page.pool(volumes);
        page.store(&volumes.store().counters());
        page.volumes(volumes);
        if let Some(moves) = &backend.moves {
            page.moves(volumes, moves);
        }
    }
    if let Some(upkeep) = &backend.upkeep {
        let jobs = upkeep.jobs.list();
        page.family("ferrite_jobs", "gauge", "Jobs that are remembered.");
        for state in JOB_STATES {
            let count = jobs.iter().filter(|job| job.state.name() == state).count();
            page.sample("ferrite_jobs", &[("state", state)], count);
        }
        page.migrations(&jobs);
    }
    Ok(Response::text(page.0))
}

/// The text so far. Writing to a String does not fail.
#[derive(Default)]
struct Page(String);

impl Page {
    /// Begins a family of samples.
    fn family(&mut self, name: &str, kind: &str, about: &str) {
        let _ = writeln!(self.0, "# HELP {name} {about}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.0.push(if index == 0 { '{' } else { ',' });
            let text = text
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let _ = write!(self.0, "{label}=\"{text}\"");
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }

    /// A family of one sample.
    fn one(&mut self, name: &str, kind: &str, about: &str, value: impl Display) {
        self.family(name, kind, about);
        self.sample(name, &[], value);
    }

    fn node(&mut self, node: &dyn Node) {
        let info = node.info();
        self.family("ferrite_build_info", "gauge", "The firmware; always 1.");
        let labels = [
            ("name", info.name.as_str()),
            ("version", info.version.as_str()),
        ];
        self.sample("ferrite_build_info", &labels, 1);
        let seconds = format!("{}.{:03}", info.uptime_ms / 1000, info.uptime_ms % 1000);
        self.one(
            "ferrite_uptime_seconds",
            "gauge",
            "Time since the start.",
            seconds,
        );
        self.one(
            "ferrite_last_run_crashed",
            "gauge",
            "Whether the run before this one ended in a crash.",
            u64::from(info.crash.is_some()),
        );
        let memory = info.memory;
        self.one(
            "ferrite_memory_size_bytes",
            "gauge",
            "Memory that was found usable.",
            memory.total,
        );
        self.one(
            "ferrite_memory_free_bytes",
            "gauge",
            "Memory that is not in use.",
            memory.free,
        );
    }

    fn pool<D: Disk + 'static>(&mut self, volumes: &Volumes<D>) {
        let pool = volumes.pool();
        let takes_writes = pool.state == PoolState::Serving && pool.fullness != Fullness::Full;
        for (name, kind, about, value) in [
            (
                "ferrite_pool_writable",
                "gauge",
                "Whether the pool takes writes: not when it is read-only or full.",
                u64::from(takes_writes),
            ),
            (
                "ferrite_pool_size_bytes",
                "gauge",
                "Bytes of the pool.",
                pool.size_bytes,
            ),
            (
                "ferrite_pool_used_bytes",
                "gauge",
                "Bytes in use.",
                pool.used_bytes,
            ),
            (
                "ferrite_pool_free_bytes",
                "gauge",
                "Bytes not in use, those kept back included.",
                pool.free_bytes,
            ),
            (
                "ferrite_pool_writable_bytes",
                "gauge",
                "Bytes that can be written before writes are refused.",
                writable_bytes(&pool),
            ),
            (
                "ferrite_pool_pending_bytes",
                "gauge",
                "Bytes deleted and not free yet.",
                pool.pending_bytes,
            ),
            (
                "ferrite_pool_reserved_bytes",
                "gauge",
                "Bytes kept for deletes, discards and checkpoints.",
                pool.reserved_bytes,
            ),
            (
                "ferrite_pool_deallocated_bytes_total",
                "counter",
                "Bytes that drives were told are free.",
                pool.deallocated_bytes,
            ),
            (
                "ferrite_pool_checkpoints_total",
                "counter",
                "Checkpoints since the start.",
                pool.checkpoints,
            ),
            (
                "ferrite_pool_damaged_reads_total",
                "counter",
                "Blocks that could not be read, since the start.",
                pool.damaged_reads,
            ),
            (
                "ferrite_pool_operations_total",
                "counter",
                "Reads, writes and flushes of clients.",
                volumes.operations(),
            ),
        ] {
            self.one(name, kind, about, value);
        }
    }

    fn volumes<D: Disk + 'static>(&mut self, volumes: &Volumes<D>) {
        let mut list = volumes.list();
        self.one(
            "ferrite_volumes",
            "gauge",
            "Volumes that there are.",
            list.len(),
        );
        list.truncate(VOLUMES_MAX);
        let about = "Bytes of a volume; of the oldest thousand, as below.";
        self.family("ferrite_volume_size_bytes", "gauge", about);
        for volume in &list {
            let labels = [("volume", volume.name.as_str())];
            self.sample("ferrite_volume_size_bytes", &labels, volume.size_bytes);
        }
        let about = "Bytes that hold data, shared ones included; of the last checkpoint.";
        self.family("ferrite_volume_allocated_bytes", "gauge", about);
        for volume in &list {
            let labels = [("volume", volume.name.as_str())];
            self.sample(
                "ferrite_volume_allocated_bytes",
                &labels,
                volume.allocated_bytes,
            );
        }
        self.family(
            "ferrite_volume_snapshots",
            "gauge",
            "Snapshots of a volume.",
        );
        for volume in &list {
            let labels = [("volume", volume.name.as_str())];
            self.sample("ferrite_volume_snapshots", &labels, volume.snapshots);
        }
        self.family(
            "ferrite_volume_clients",
            "gauge",
            "Clients that are attached.",
        );
        for volume in &list {
            let labels = [("volume", volume.name.as_str())];
            self.sample(
                "ferrite_volume_clients",
                &labels,
                volumes.clients(volume.id),
            );
        }
        let used = list
            .iter()
            .filter_map(|volume| Some((volume.name.as_str(), volumes.traffic(volume.id)?)));
        let used = used.collect::<Vec<_>>();
        self.adoptions(volumes, &list);
        self.limits(volumes, &list);
        self.waits(&used);
        self.requests(&used);
    }

    /// What is still to come of volumes that were adopted.
    fn adoptions<D: Disk + 'static>(&mut self, volumes: &Volumes<D>, list: &[VolumeInfo]) {
        let adoption = |volume: &VolumeInfo| {
            let mut bases = volume.bases.iter();
            bases.find_map(|base| volumes.adoption(*base))
        };
        let all = list
            .iter()
            .filter_map(|volume| Some((volume, adoption(volume)?)));
        let all: Vec<_> = all.collect();
        let name = "ferrite_volume_unknown_bytes";
        let about = "Bytes of an adopted volume behind those that are all here; some may be here, or zeros.";
        self.family(name, "gauge", about);
        for (volume, adoption) in &all {
            let unknown = adoption.base.size_bytes - adoption.base.known_bytes;
            self.sample(name, &[("volume", &volume.name)], unknown);
        }
        let name = "ferrite_volume_fetched_bytes_total";
        let about = "Bytes of data that were fetched from the origin of an adopted volume, by whom they were wanted.";
        self.family(name, "counter", about);
        for (volume, adoption) in &all {
            for (by, bytes) in [
                ("clients", adoption.demanded_bytes),
                ("background", adoption.background_bytes),
            ] {
                self.sample(name, &[("volume", &volume.name), ("by", by)], bytes);
            }
        }
        let name = "ferrite_volume_origin_up";
        let about = "Whether the last fetch from the origin of an adopted volume succeeded.";
        self.family(name, "gauge", about);
        for (volume, adoption) in &all {
            let is_up = u8::from(adoption.failure.is_none());
            self.sample(name, &[("volume", &volume.name)], is_up);
        }
    }

    /// What the volumes that have limits are limited to.
    fn limits<D: Disk + 'static>(&mut self, volumes: &Volumes<D>, list: &[VolumeInfo]) {
        type Limit = fn(Limits) -> Option<u64>;
        let kinds: [(&str, &str, Limit); 2] = [
            (
                "ferrite_volume_limit_requests_per_second",
                "The most requests of clients in a second; of volumes that are limited.",
                |limits| limits.iops,
            ),
            (
                "ferrite_volume_limit_bytes_per_second",
                "The most bytes of clients in a second; of volumes that are limited.",
                |limits| limits.rate_bytes,
            ),
        ];
        for (name, about, limit) in kinds {
            self.family(name, "gauge", about);
            for volume in list {
                if let Some(limit) = limit(volumes.settings(volume.id).limits) {
                    self.sample(name, &[("volume", volume.name.as_str())], limit);
                }
            }
        }
    }

    /// What limits made clients wait.
    fn waits(&mut self, used: &[(&str, Rc<Traffic>)]) {
        let name = "ferrite_volume_limited_total";
        let about = "Requests, or 128 KiB pieces of them, that waited because of limits.";
        self.family(name, "counter", about);
        for (volume, traffic) in used {
            self.sample(name, &[("volume", *volume)], traffic.pace().waits());
        }
        let name = "ferrite_volume_limited_seconds_total";
        let about = "Time that these waited, added up.";
        self.family(name, "counter", about);
        for (volume, traffic) in used {
            let nanos = u64::try_from(traffic.pace().waited().as_nanos()).unwrap_or(u64::MAX);
            self.sample(name, &[("volume", *volume)], seconds(nanos));
        }
    }

    /// What clients did with the volumes that had any.
    fn requests(&mut self, used: &[(&str, Rc<Traffic>)]) {
        let all = || {
            used.iter().flat_map(|(name, traffic)| {
                Operation::ALL.map(|operation| {
                    let labels = [("volume", *name), ("operation", operation.name())];
                    (labels, traffic.of(operation))
                })
            })
        };
        let about = "Bytes that requests of clients were for.";
        self.family("ferrite_volume_bytes_total", "counter", about);
        for (labels, meter) in all() {
            self.sample("ferrite_volume_bytes_total", &labels, meter.bytes());
        }
        let about = "Requests of clients, from received to answered.";
        self.family(
            "ferrite_volume_request_duration_seconds",
            "histogram",
            about,
        );
        for (labels, meter) in all() {
            self.durations("ferrite_volume_request_duration_seconds", labels, meter);
        }
    }

    /// A histogram's samples, without its head.
    fn durations(&mut self, name: &str, labels: [(&str, &str); 2], meter: &Meter) {
        let [of, operation] = labels;
        let bucket = format!("{name}_bucket");
        for (nanos, requests) in meter.within() {
            let limit = seconds(nanos);
            self.sample(&bucket, &[of, operation, ("le", &limit)], requests);
        }
        let requests = meter.requests();
        self.sample(&bucket, &[of, operation, ("le", "+Inf")], requests);
        self.sample(&format!("{name}_sum"), &labels, seconds(meter.nanos()));
        self.sample(&format!("{name}_count"), &labels, requests);
    }
}

fn seconds(nanos: u64) -> String {
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut page = Page::default();
        page.sample("m", &[("a", "x\"y\\z\n"), ("b", "")], 7);
        page.one("n_total", "counter", "What.", "1.5");
        let expected = "m{a=\"x\\\"y\\\\z\\n\",b=\"\"} 7\n# HELP n_total What.\n# TYPE n_total counter\nn_total 1.5\n";
        assert_eq!(page.0, expected);
    }
}
