//! Measures of what is below volumes: drives, the store's own places, the network.

use net::NetCounters;
use store::Counters;
use volume::Operation;

use super::super::node::{DriveInfo, DriveState};
use super::Page;

impl Page {
    pub(super) fn drives(&mut self, drives: &[DriveInfo]) {
        type Value = fn(&DriveInfo) -> u64;
        let families: [(&str, &str, &str, Value); 6] = [
            (
                "ferrite_drive_size_bytes",
                "gauge",
                "Bytes of a drive.",
                |drive| drive.size,
            ),
            (
                "ferrite_drive_used_bytes",
                "gauge",
                "Bytes of a drive that the pool uses.",
                |drive| drive.used,
            ),
            (
                "ferrite_drive_errors_total",
                "counter",
                "Failed operations since the start.",
                |drive| drive.errors,
            ),
            (
                "ferrite_drive_serving",
                "gauge",
                "Whether a drive is part of the pool and works.",
                |drive| u64::from(drive.state == DriveState::Serving),
            ),
            (
                "ferrite_drive_failing",
                "gauge",
                "Whether a drive is part of the pool and answers, but with errors.",
                |drive| u64::from(drive.state == DriveState::Failing),
            ),
            (
                "ferrite_drive_failed",
                "gauge",
                "Whether a drive failed or is gone.",
                |drive| u64::from(drive.state == DriveState::Failed),
            ),
        ];
        for (name, kind, about, value) in families {
            self.family(name, kind, about);
            for drive in drives {
                self.sample(name, &[("drive", &drive.id)], value(drive));
            }
        }
        self.operations(drives);
    }

    /// What drives did.
    fn operations(&mut self, drives: &[DriveInfo]) {
        let all = || {
            drives.iter().flat_map(|drive| {
                Operation::ALL.map(|operation| {
                    let labels = [
                        ("drive", drive.id.as_str()),
                        ("operation", operation.name()),
                    ];
                    (labels, drive.meters.of(operation))
                })
            })
        };
        let name = "ferrite_drive_bytes_total";
        let about = "Bytes that operations of a drive were for, failed ones left out.";
        self.family(name, "counter", about);
        for (labels, meter) in all() {
            self.sample(name, &labels, meter.bytes());
        }
        let name = "ferrite_drive_operation_duration_seconds";
        let about = "Operations of a drive, from asked to answered, failed ones left out.";
        self.family(name, "histogram", about);
        for (labels, meter) in all() {
            self.durations(name, labels, meter);
        }
    }

    /// What the store keeps in memory, and its journal.
    pub(super) fn store(&mut self, counters: &Counters) {
        for (name, kind, about, value) in [
            (
                "ferrite_cache_hits_total",
                "counter",
                "Map nodes that were in memory when they were looked for.",
                counters.node_hits,
            ),
            (
                "ferrite_cache_misses_total",
                "counter",
                "Map nodes that had to be read first.",
                counters.node_misses,
            ),
            (
                "ferrite_cache_nodes",
                "gauge",
                "Map nodes in memory.",
                counters.nodes,
            ),
            (
                "ferrite_cache_nodes_max",
                "gauge",
                "The most map nodes in memory.",
                counters.nodes_max,
            ),
            (
                "ferrite_journal_used_bytes",
                "gauge",
                "Bytes of the journal that a restart would replay now.",
                counters.journal_used_bytes,
            ),
            (
                "ferrite_journal_size_bytes",
                "gauge",
                "The most bytes of the journal that may be in use.",
                counters.journal_size_bytes,
            ),
        ] {
            self.one(name, kind, about, value);
        }
    }

    /// TCP, and the frames below it.
    pub(super) fn network(&mut self, net: &NetCounters) {
        let count = |number: usize| number as u64;
        for (name, kind, about, value) in [
            (
                "ferrite_tcp_connections",
                "gauge",
                "TCP connections, in whatever state.",
                count(net.sockets),
            ),
            (
                "ferrite_tcp_half_open_connections",
                "gauge",
                "TCP connections whose peer has not answered yet.",
                count(net.half_open),
            ),
            (
                "ferrite_tcp_accepted_total",
                "counter",
                "Connections that peers made.",
                net.accepted,
            ),
            (
                "ferrite_tcp_refused_total",
                "counter",
                "Connections refused because a port had as many as it takes.",
                net.refused,
            ),
            (
                "ferrite_tcp_resets_total",
                "counter",
                "Connections that peers reset.",
                net.reset,
            ),
            (
                "ferrite_tcp_retransmissions_total",
                "counter",
                "How often a connection sent again what was not acknowledged in time.",
                net.retransmissions,
            ),
            (
                "ferrite_tcp_received_bytes_total",
                "counter",
                "Bytes that servers took from connections.",
                net.received_bytes,
            ),
            (
                "ferrite_tcp_sent_bytes_total",
                "counter",
                "Bytes that servers gave to connections.",
                net.sent_bytes,
            ),
            (
                "ferrite_network_received_frames_total",
                "counter",
                "Frames from the network.",
                net.frames_received,
            ),
            (
                "ferrite_network_sent_frames_total",
                "counter",
                "Frames to the network.",
                net.frames_sent,
            ),
            (
                "ferrite_network_dropped_frames_total",
                "counter",
                "Frames that were dropped unread: damaged, or parts of packets.",
                net.frames_dropped,
            ),
        ] {
            self.one(name, kind, about, value);
        }
    }
}
