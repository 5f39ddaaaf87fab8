//! The table of everything that can be called.

use alloc::boxed::Box;

use upkeep::policy::KEEP_MAX;
use world::Disk;

use super::router::{Method, Route};
use super::shape::{Kind, Property};
use super::{changes, jobs, resources, schedules, snapshots, volumes};

/// The most log lines of one answer.
const LOG_LINES_MAX: u64 = 10_000;
/// The most snapshots, or ranges of a diff, of one answer.
const PAGE_MAX: u64 = 1000;

/// A property that must be there.
const fn required(name: &'static str, kind: Kind, about: &'static str) -> Property {
    Property {
        name,
        kind,
        is_required: true,
        about,
    }
}

/// A property that need not be there.
const fn optional(name: &'static str, kind: Kind, about: &'static str) -> Property {
    Property {
        name,
        kind,
        is_required: false,
        about,
    }
}

pub(super) const NAME: Property = required(
    "name",
    Kind::Text,
    "1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit.",
);
pub(super) const NEW_NAME: Property = optional("name", Kind::Text, "Its name from now on.");
pub(super) const SIZE: Property = optional(
    "size",
    Kind::Size,
    "Bytes: a multiple of 512, at least 4096. Not for a clone, which begins with its snapshot's size.",
);
pub(super) const NEW_SIZE: Property = optional(
    "size",
    Kind::Size,
    "Bytes: a multiple of 512, not less than now.",
);
pub(super) const READ_ONLY: Property = optional(
    "read_only",
    Kind::Flag,
    "Whether writes are refused, of clients that are attached now, too.",
);
pub(super) const ALLOW: Property = optional(
    "allow",
    Kind::Texts,
    "From where clients may come from now on: networks like `10.0.0.0/8`, at most 32; none: from anywhere.",
);
pub(super) const ORIGIN: Property = optional(
    "from",
    Kind::Text,
    "`VOLUME@SNAPSHOT`: the new volume is a clone of that.",
);
pub(super) const FORCE: Property = optional(
    "force",
    Kind::Flag,
    "Even while clients are attached; they are cut off.",
);
pub(super) const TAIL: Property = optional(
    "tail",
    Kind::Number(1, LOG_LINES_MAX),
    "The most lines; 100 when absent.",
);
pub(super) const SNAPSHOT: Property =
    required("snapshot", Kind::Text, "A snapshot of this volume.");
pub(super) const VOLUMES: Property =
    required("volumes", Kind::Names, "Names of volumes, at most 60.");
pub(super) const LIMIT: Property = optional(
    "limit",
    Kind::Number(1, PAGE_MAX),
    "The most of one answer; 1000 when absent.",
);
pub(super) const NEXT: Property = optional(
    "next",
    Kind::Text,
    "Where to go on: what the answer before said under this name. None there: that was all.",
);
pub(super) const FROM: Property = optional(
    "from",
    Kind::Text,
    "The older side: a snapshot of this volume, or `VOLUME@SNAPSHOT`. Absent: all that holds data is told.",
);
pub(super) const TO: Property = optional(
    "to",
    Kind::Text,
    "The newer side, likewise. Absent: the volume as it is now.",
);
pub(super) const RATE: Property = optional(
    "rate",
    Kind::Size,
    "The most bytes in a second; 0: as fast as clients leave room for.",
);
/// What [`STATE`] can be.
pub(super) const PAUSED: &str = "paused";
pub(super) const STATE: Property = optional(
    "state",
    Kind::Word(&[PAUSED, "running"]),
    "`paused`, or `running` to go on.",
);
pub(super) const EVERY: Property = required(
    "every",
    Kind::Text,
    "Time from one to the next: a number and one of s, m, h, d, w, like `1h`. They fall on round times (UTC).",
);
pub(super) const KEEP: Property = required(
    "keep",
    Kind::Object(&[
        optional("last", COUNT, "The newest ones."),
        optional(
            "hourly",
            COUNT,
            "Of each hour the newest one, for so many hours that have any.",
        ),
        optional("daily", COUNT, "Of each day."),
        optional("weekly", COUNT, "Of each week, from Monday on."),
        optional("monthly", COUNT, "Of each month."),
        optional("yearly", COUNT, "Of each year."),
    ]),
    "How many stay, by each rule; what no rule wants goes when the next one was made.",
);
const COUNT: Kind = Kind::Number(0, KEEP_MAX);

/// A route: method, path, query, body, handler (an `async fn`), and what it does.
macro_rules! route {
    ($method:ident $path:literal, $query:expr, $body:expr, $handler:path, $about:literal) => {
        Route {
            method: Method::$method,
            path: $path,
            about: $about,
            query: &$query,
            body: &$body,
            is_body_optional: false,
            needs_token: true,
            handler: |backend, call| Box::pin($handler(backend, call)),
        }
    };
}

/// The table.
#[rustfmt::skip]
pub(super) fn routes<D: Disk + 'static>() -> &'static [Route<D>] {
    struct Table<D>(D);
    impl<D: Disk + 'static> Table<D> {
        const ROUTES: &'static [Route<D>] = &[
            Route {
                needs_token: false,
                ..route!(Get "/healthz", [], [], resources::health, "Tells that the API serves.")
            },
            route!(Get "/openapi.json", [], [], resources::openapi, "This document."),
            route!(Get "/v1/node", [], [], resources::node, "Name, version, uptime, memory, pool, drives."),
            route!(Post "/v1/node/shutdown", [], [], resources::shutdown, "Saves everything and turns off."),
            route!(Post "/v1/node/reboot", [], [], resources::reboot, "Saves everything and starts again."),
            route!(Get "/v1/drives", [], [], resources::drives, "All drives."),
            route!(Get "/v1/drives/{id}", [], [], resources::drive, "One drive."),
            route!(Get "/v1/log", [TAIL], [], resources::log, "The most recent log lines, oldest first."),
            route!(Get "/v1/volumes", [], [], volumes::list, "All volumes, oldest first."),
            route!(Post "/v1/volumes", [], [NAME, SIZE, ORIGIN], volumes::create,
                "Makes an empty volume, or a clone of a snapshot."),
            route!(Get "/v1/volumes/{v}", [], [], volumes::get, "One volume, with what it uses at this moment."),
            route!(Patch "/v1/volumes/{v}", [], [NEW_SIZE, NEW_NAME, READ_ONLY, ALLOW], volumes::change,
                "Makes a volume larger, renames it, or says who may do what with it."),
            route!(Delete "/v1/volumes/{v}", [FORCE], [], volumes::delete,
                "Deletes a volume and its snapshots; clones of them live on."),
            route!(Post "/v1/volumes/{v}/rollback", [FORCE], [SNAPSHOT], volumes::rollback,
                "Makes a volume what it was at one of its snapshots, all of which stay."),
            route!(Get "/v1/volumes/{v}/diff", [FROM, TO, LIMIT, NEXT], [], changes::diff,
                "Where a volume or snapshot differs from an older one."),
            route!(Get "/v1/volumes/{v}/snapshots", [LIMIT, NEXT], [], snapshots::list,
                "The snapshots of a volume, oldest first."),
            route!(Post "/v1/volumes/{v}/snapshots", [], [NAME], snapshots::create,
                "Keeps a volume as it is now."),
            route!(Get "/v1/volumes/{v}/snapshots/{s}", [], [], snapshots::get,
                "One snapshot, with what it uses at this moment."),
            route!(Patch "/v1/volumes/{v}/snapshots/{s}", [], [NAME], snapshots::rename, "Renames a snapshot."),
            route!(Delete "/v1/volumes/{v}/snapshots/{s}", [FORCE], [], snapshots::delete, "Deletes a snapshot."),
            route!(Post "/v1/snapshots", [], [NAME, VOLUMES], snapshots::create_group,
                "Keeps several volumes as they are at one instant: all or none."),
            route!(Get "/v1/volumes/{v}/schedule", [], [], schedules::get, "The snapshot schedule of a volume."),
            route!(Put "/v1/volumes/{v}/schedule", [], [EVERY, KEEP], schedules::set,
                "Gives a volume a snapshot schedule, in place of the one it may have."),
            route!(Delete "/v1/volumes/{v}/schedule", [], [], schedules::remove,
                "Takes the schedule away; the snapshots stay."),
            route!(Get "/v1/schedules", [], [], schedules::list, "All snapshot schedules."),
            Route {
                is_body_optional: true,
                ..route!(Post "/v1/scrub", [], [RATE], jobs::scrub, "Starts to verify every block in use.")
            },
            route!(Get "/v1/jobs", [], [], jobs::list, "All jobs that are remembered, oldest first."),
            route!(Get "/v1/jobs/{id}", [], [], jobs::get, "One job."),
            route!(Patch "/v1/jobs/{id}", [], [STATE, RATE], jobs::change, "Pauses, resumes or limits a job."),
            route!(Delete "/v1/jobs/{id}", [], [], jobs::cancel, "Cancels a job that is not over."),
        ];
    }
    Table::<D>::ROUTES
}
