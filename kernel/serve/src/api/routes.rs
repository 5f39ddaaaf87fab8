//! The table of everything that can be called.

use alloc::boxed::Box;

use access::Role::{Admin, Operator, ReadOnly};
use world::Disk;

use super::forms::{
    EXACT, FORCE, FROM, GIVE_UP, GROUP, JOB_CHANGE, LIMIT, LOG_LEVELS, MIGRATION, NAMED, NEW_PEER,
    NEW_TOKEN, NEW_VOLUME, NEXT, NEXT_MOMENT, NEXT_PLACE, NOTHING, PEER_CHANGE, ROLLBACK, SCHEDULE,
    SCRUB, TAIL, TAKE_OVER, TO, VOLUME_CHANGE,
};
use super::router::{Method, Route};
use super::{
    answers, changes, events, jobs, metrics, moves, peers, resources, schedules, snapshots, tokens,
    volumes,
};

/// A route: method, path, who may, query, body, answer, handler (an `async fn`), and what it does.
macro_rules! route {
    ($method:ident $path:literal, $needs:ident, $query:expr, $body:ident, $status:literal $answer:ident, $handler:path, $about:literal) => {
        Route {
            method: Method::$method,
            path: $path,
            about: $about,
            needs: Some($needs),
            query: &$query,
            body: &$body,
            is_body_optional: false,
            is_keyed: false,
            tag: None,
            answer: ($status, &answers::$answer),
            handler: |backend, call| Box::pin($handler(backend, call)),
        }
    };
}

/// A route that creates or starts something, and does so once for each `Idempotency-Key`.
macro_rules! once {
    ($($route:tt)*) => {
        Route { is_keyed: true, ..route!($($route)*) }
    };
}

/// A route about something that several people may edit, with what tells its tag.
macro_rules! edit {
    ($tag:path, $($route:tt)*) => {
        Route { tag: Some($tag), ..route!($($route)*) }
    };
}

/// The table.
#[rustfmt::skip]
pub(super) fn routes<D: Disk + 'static>() -> &'static [Route<D>] {
    struct Table<D>(D);
    impl<D: Disk + 'static> Table<D> {
        const ROUTES: &'static [Route<D>] = &[
            Route {
                needs: None,
                ..route!(Get "/healthz", ReadOnly, [], NOTHING, 200 STATUS, resources::health, "Tells that the API serves.")
            },
            route!(Get "/openapi.json", ReadOnly, [], NOTHING, 200 ANYTHING, resources::openapi, "This document."),
            route!(Get "/metrics", ReadOnly, [], NOTHING, 200 METRICS, metrics::metrics,
                "Measures for Prometheus, in its text format."),
            route!(Get "/v1/node", ReadOnly, [], NOTHING, 200 NODE, resources::node,
                "Name, version, uptime, memory, pool, drives; and whether the last run ended in a crash."),
            route!(Get "/v1/node/configuration", ReadOnly, [], NOTHING, 200 SETTINGS, resources::configuration,
                "What the appliance was told at its start, but for secrets, and what else it could be told."),
            route!(Post "/v1/node/shutdown", Admin, [], NOTHING, 202 STATUS, resources::shutdown, "Saves everything and turns off."),
            route!(Post "/v1/node/reboot", Admin, [], NOTHING, 202 STATUS, resources::reboot, "Saves everything and starts again."),
            route!(Get "/v1/drives", ReadOnly, [], NOTHING, 200 DRIVES, resources::drives, "All drives."),
            route!(Get "/v1/drives/{drive}", ReadOnly, [], NOTHING, 200 DRIVE, resources::drive, "One drive."),
            once!(Post "/v1/drives/{drive}/format", Admin, [], GIVE_UP, 200 DRIVE, resources::format,
                "Gives up what a drive holds that is no part of the pool. The next start makes a pool of blank drives if there is none."),

            route!(Get "/v1/log", ReadOnly, [TAIL], NOTHING, 200 LOG, events::log,
                "The most recent log lines, oldest first."),
            edit!(events::tag, Get "/v1/log/levels", ReadOnly, [], NOTHING, 200 LOG_LEVELS, events::levels,
                "How much is logged."),
            edit!(events::tag, Put "/v1/log/levels", Admin, [], LOG_LEVELS, 200 LOG_LEVELS, events::set_levels,
                "Says how much is logged, until the next start."),
            route!(Get "/v1/log/modules", ReadOnly, [], NOTHING, 200 LOG_MODULES, events::modules,
                "What can have a log level of its own."),
            route!(Get "/v1/audit", Operator, [LIMIT, NEXT], NOTHING, 200 AUDIT, events::audit,
                "What was changed, by whom, and what came of it; newest first."),

            route!(Get "/v1/volumes", ReadOnly, [EXACT, LIMIT, NEXT], NOTHING, 200 VOLUMES, volumes::list,
                "All volumes, oldest first."),
            once!(Post "/v1/volumes", Operator, [], NEW_VOLUME, 201 VOLUME, volumes::create,
                "Makes an empty volume, a clone of a snapshot, or a volume of what is elsewhere."),
            edit!(volumes::tag, Get "/v1/volumes/{volume}", ReadOnly, [], NOTHING, 200 VOLUME, volumes::get,
                "One volume, with what it uses at this moment."),
            edit!(volumes::tag, Patch "/v1/volumes/{volume}", Operator, [], VOLUME_CHANGE, 200 VOLUME, volumes::change,
                "Makes a volume larger, renames it, or says who may do what and how much with it."),
            edit!(volumes::tag, Delete "/v1/volumes/{volume}", Operator, [FORCE], NOTHING, 204 ANYTHING, volumes::delete,
                "Deletes a volume and its snapshots; clones of them live on."),
            Route {
                is_keyed: true,
                ..edit!(volumes::tag, Post "/v1/volumes/{volume}/rollback", Operator, [FORCE], ROLLBACK, 200 VOLUME,
                    volumes::rollback, "Makes a volume what it was at one of its snapshots, all of which stay.")
            },
            Route {
                is_keyed: true,
                ..edit!(volumes::tag, Post "/v1/volumes/{volume}/migrate", Operator, [], MIGRATION, 202 JOB, moves::migrate,
                    "Begins to move a volume to another appliance, while it is used.")
            },
            once!(Post "/v1/volumes/{volume}/hand-over", Operator, [], NOTHING, 200 VOLUME, moves::hand_over,
                "Hands over a volume for which the other appliance is prepared: from the answer on it is used there."),
            once!(Post "/v1/volumes/{volume}/take-back", Operator, [], NOTHING, 200 VOLUME, moves::take_back,
                "Makes a volume that was offered or given to another appliance this one's again; that one is asked."),
            once!(Post "/v1/volumes/{volume}/take-over", Operator, [], TAKE_OVER, 200 VOLUME, moves::take_over,
                "Makes the copy that stayed here the volume, without asking the appliance that has it: for when that is lost for good."),
            route!(Get "/v1/volumes/{volume}/diff", ReadOnly, [FROM, TO, LIMIT, NEXT_PLACE], NOTHING, 200 CHANGES,
                changes::diff, "Where a volume or snapshot differs from an older one."),

            route!(Get "/v1/volumes/{volume}/snapshots", ReadOnly, [EXACT, LIMIT, NEXT_MOMENT], NOTHING, 200 SNAPSHOTS, snapshots::list,
                "The snapshots of a volume, oldest first."),
            once!(Post "/v1/volumes/{volume}/snapshots", Operator, [], NAMED, 201 SNAPSHOT, snapshots::create,
                "Keeps a volume as it is now."),
            edit!(snapshots::tag, Get "/v1/volumes/{volume}/snapshots/{snapshot}", ReadOnly, [], NOTHING, 200 SNAPSHOT,
                snapshots::get, "One snapshot, with what it uses at this moment."),
            edit!(snapshots::tag, Patch "/v1/volumes/{volume}/snapshots/{snapshot}", Operator, [], NAMED, 200 SNAPSHOT,
                snapshots::rename, "Renames a snapshot."),
            edit!(snapshots::tag, Delete "/v1/volumes/{volume}/snapshots/{snapshot}", Operator, [FORCE], NOTHING, 204 ANYTHING,
                snapshots::delete, "Deletes a snapshot."),
            once!(Post "/v1/snapshots", Operator, [], GROUP, 201 MADE, snapshots::create_group,
                "Keeps several volumes as they are at one instant: all or none."),

            edit!(schedules::tag, Get "/v1/volumes/{volume}/schedule", ReadOnly, [], NOTHING, 200 SCHEDULE, schedules::get,
                "The snapshot schedule of a volume."),
            edit!(schedules::tag, Put "/v1/volumes/{volume}/schedule", Operator, [], SCHEDULE, 200 SCHEDULE, schedules::set,
                "Gives a volume a snapshot schedule, in place of the one it may have."),
            edit!(schedules::tag, Delete "/v1/volumes/{volume}/schedule", Operator, [], NOTHING, 204 ANYTHING,
                schedules::remove, "Takes the schedule away, if there is one; the snapshots stay."),
            route!(Get "/v1/schedules", ReadOnly, [LIMIT, NEXT], NOTHING, 200 SCHEDULES, schedules::list,
                "All snapshot schedules."),

            Route {
                is_body_optional: true,
                ..once!(Post "/v1/scrub", Operator, [], SCRUB, 202 JOB, jobs::scrub, "Starts to verify every block in use.")
            },
            route!(Get "/v1/jobs", ReadOnly, [], NOTHING, 200 JOBS, jobs::list, "All jobs that are remembered, oldest first."),
            edit!(jobs::tag, Get "/v1/jobs/{job}", ReadOnly, [], NOTHING, 200 JOB, jobs::get, "One job."),
            edit!(jobs::tag, Patch "/v1/jobs/{job}", Operator, [], JOB_CHANGE, 200 JOB, jobs::change,
                "Pauses, resumes or limits a job."),
            edit!(jobs::tag, Delete "/v1/jobs/{job}", Operator, [], NOTHING, 200 JOB, jobs::cancel,
                "Cancels a job that is not over."),

            route!(Get "/v1/whoami", ReadOnly, [], NOTHING, 200 WHO, tokens::whoami,
                "Which token was presented, and what it allows."),
            route!(Get "/v1/tokens", Admin, [], NOTHING, 200 TOKENS, tokens::list, "All tokens, without their secrets."),
            route!(Post "/v1/tokens", Admin, [], NEW_TOKEN, 201 NEW_TOKEN, tokens::create,
                "Makes a token. Its secret is in this answer and nowhere else."),
            route!(Get "/v1/tokens/{token}", Admin, [], NOTHING, 200 TOKEN, tokens::get, "One token, without its secret."),
            route!(Delete "/v1/tokens/{token}", Admin, [], NOTHING, 204 ANYTHING, tokens::revoke,
                "Revokes a token: it opens nothing any more."),

            route!(Get "/v1/peers", ReadOnly, [], NOTHING, 200 PEERS, peers::list,
                "This appliance as others know it, and those that it was paired with."),
            once!(Post "/v1/peers", Admin, [], NEW_PEER, 201 PEER, peers::pair,
                "Pairs this appliance with another one, by a token that was made there."),
            route!(Post "/v1/peers/tokens", Admin, [], NOTHING, 201 PAIRING_TOKEN, peers::make_token,
                "Makes a token by which one other appliance can be paired with this one. It is in this answer and nowhere else."),
            edit!(peers::tag, Get "/v1/peers/{peer}", ReadOnly, [], NOTHING, 200 PEER, peers::get, "One peer."),
            edit!(peers::tag, Patch "/v1/peers/{peer}", Admin, [], PEER_CHANGE, 200 PEER, peers::change,
                "Says where a peer listens from now on."),
            edit!(peers::tag, Delete "/v1/peers/{peer}", Admin, [], NOTHING, 204 ANYTHING, peers::remove,
                "Removes a peer: its channels end, and it is a stranger. It knows this appliance until that is removed there, too."),
        ];
    }
    Table::<D>::ROUTES
}
