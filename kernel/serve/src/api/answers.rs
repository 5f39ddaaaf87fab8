//! What answers carry.

use access::Role;

use super::forms::{MODULES_MAX, NAME_FORM, optional, required};
use super::shape::{Form, Kind, Property, Rule, Shape};

const UUID: Kind = Kind::Form(&Form {
    pattern: "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
    is: |text| text.len() == 36 && text.split('-').count() == 5,
    what: "a UUID",
});
const KEY: Kind = Kind::Form(&Form {
    pattern: "^[0-9a-f]{64}$",
    is: |text| text.len() == 64,
    what: "64 hexadecimal digits",
});
const COUNT: Kind = Kind::Number(0, u64::MAX);
const TIME: Kind = Kind::OrNull(&Kind::Time);
const TEXT_OR_NULL: Kind = Kind::OrNull(&Kind::Text);
const SIZE_OR_NULL: Kind = Kind::OrNull(&Kind::Size);
const COUNT_OR_NULL: Kind = Kind::OrNull(&COUNT);
/// How many of something an answer can have.
const ANY: usize = usize::MAX;
const NEXT: Property = optional(
    "next",
    Kind::Text,
    "There are more: the query parameter `next` of the request that gets them.",
);

macro_rules! answer {
    ($($(#[$doc:meta])* $name:ident $title:literal: [$($property:expr),* $(,)?];)*) => {
        $($(#[$doc])* pub(super) const $name: Shape = Shape {
            name: $title,
            properties: &[$($property),*],
            rule: Rule::Free,
        };)*
    };
}

/// A list of resources, under one name, in pages or not.
macro_rules! list {
    ($($name:ident $key:literal $of:ident $($next:ident)?;)*) => {
        $(pub(super) const $name: Shape = Shape {
            name: "",
            properties: &[
                required($key, Kind::List(&Kind::Object(&$of), 0, ANY), "What there is."),
                $($next)?
            ],
            rule: Rule::Free,
        };)*
    };
}

list! {
    VOLUMES "volumes" VOLUME NEXT;
    SNAPSHOTS "snapshots" SNAPSHOT NEXT;
    MADE "snapshots" SNAPSHOT;
    SCHEDULES "schedules" SCHEDULE NEXT;
    JOBS "jobs" JOB;
    DRIVES "drives" DRIVE;
    SETTINGS "options" SETTING;
    TOKENS "tokens" TOKEN;
    AUDIT "entries" AUDIT_ENTRY NEXT;
    CHANGES "ranges" RANGE NEXT;
}

answer! {
    /// Whatever it is.
    ANYTHING "": [];
    /// No JSON, but text of this type.
    METRICS "text/plain": [];
    STATUS "": [required("status", Kind::Text, "What goes on.")];
    NODE "Node": [
        required("name", Kind::Text, "Its name."),
        required("version", Kind::Text, "Version of the firmware."),
        required("uptime_ms", COUNT, "Milliseconds since it started."),
        required("nbd_port", Kind::Number(1, 65535), "The port at which clients reach NBD."),
        required("memory", Kind::Object(&MEMORY), "Its memory."),
        required("crash", TEXT_OR_NULL, "The report of the crash that ended the run before this one; `null` if none did."),
        required("pool", Kind::OrNull(&Kind::Object(&POOL)), "Its pool; `null` when there is none."),
        required("drives", Kind::List(&Kind::Object(&DRIVE_SUMMARY), 0, ANY), "Its drives in short."),
    ];
    SETTING "": [
        required("key", Kind::Text, "The dotted key."),
        required("value", TEXT_OR_NULL, "Its value, `(set)` for a secret; `null` when it has none."),
        required("default", Kind::Text, "What holds without it, for people."),
        required("about", Kind::Text, "What it is for."),
    ];
    MEMORY "": [
        required("total", Kind::Size, "Bytes that the firmware found usable."),
        required("free", Kind::Size, "Bytes that are not in use."),
    ];
    POOL "Pool": [
        required("uuid", UUID, "Its identity."),
        required("state", Kind::Word(&["serving", "read-only"]), "Whether it takes writes."),
        optional("reason", Kind::Text, "Why it takes no writes."),
        required("redundancy", Kind::Word(&["none"]), "How many copies there are of everything."),
        required("size", Kind::Size, "Bytes in all."),
        required("used", Kind::Size, "Bytes in use, `pending` included."),
        required("free", Kind::Size, "Bytes not in use, `reserved` and `writable` included: `size` without `used`."),
        required("writable", Kind::Size, "Bytes that can be written before writes are refused; 0 while they are."),
        required("pending", Kind::Size, "Bytes that were deleted and are not free yet."),
        required("reserved", Kind::Size, "Bytes kept for deletes, discards and checkpoints."),
        required("fullness", Kind::Word(&["fine", "low", "critical", "full"]), "How close to full it is; `full`: writes are refused."),
        required("deallocated", Kind::Size, "Bytes that the drives were told are not needed any more."),
        required("checkpoints", COUNT, "Checkpoints since it was opened."),
        required("damaged_reads", COUNT, "Blocks that could not be read, since it was opened."),
    ];
    DRIVE_SUMMARY "": [
        required("id", Kind::Text, "Short stable name within this appliance."),
        required("state", DRIVE_STATE, "How it is."),
        required("size", Kind::Size, "Bytes in all."),
        required("used", Kind::Size, "Bytes in use by the pool."),
    ];
    DRIVE "Drive": [
        required("id", Kind::Text, "Short stable name within this appliance."),
        required("model", Kind::Text, "Model name."),
        required("serial", Kind::Text, "Serial number."),
        required("slot", Kind::Text, "Where it is plugged in."),
        required("state", DRIVE_STATE, "How it is."),
        optional("detail", Kind::Text, "What it holds or why it failed, for people."),
        required("size", Kind::Size, "Bytes in all."),
        required("used", Kind::Size, "Bytes in use by the pool."),
        required("errors", COUNT, "Failed operations since it was opened."),
    ];
    VOLUME "Volume": [
        required("name", NAME_FORM, "Its name, which is also that of its NBD export."),
        required("uuid", UUID, "Its identity."),
        required("size", Kind::Size, "Bytes."),
        required("allocated", Kind::Size, "Bytes that hold data, shared ones included; see `exact` of lists."),
        optional("unique", Kind::Size, "Bytes that its deletion frees. Not in lists."),
        optional("shared", Kind::Size, "Bytes that something else refers to as well. Not in lists."),
        required("snapshots", COUNT, "How many it has."),
        required("origin", TEXT_OR_NULL, "`VOLUME@SNAPSHOT` that it was cloned from, while that exists."),
        required("hydration", Kind::OrNull(&Kind::Object(&HYDRATION)), "What is still to come of a volume that was adopted; `null`: nothing."),
        optional("move", Kind::Object(&MOVE), "Where it is on its way from one appliance to another. Only of volumes that move or have moved."),
        required("clients", COUNT, "Attached clients."),
        required("read_only", Kind::Flag, "Whether writes are refused."),
        required("allow", Kind::List(&Kind::Text, 0, ANY), "From where clients may come; none: from anywhere."),
        required("iops_max", COUNT_OR_NULL, "The most requests of its clients in a second; `null`: no limit."),
        required("rate_max", SIZE_OR_NULL, "The most bytes that its clients read and write in a second; `null`: no limit."),
        required("created_at", TIME, "`null` when the appliance had no clock then."),
    ];
    SNAPSHOT "Snapshot": [
        required("name", NAME_FORM, "Its name."),
        required("volume", NAME_FORM, "The volume that it is of."),
        required("export", Kind::Text, "What NBD clients attach to."),
        required("uuid", UUID, "Its identity."),
        required("size", Kind::Size, "Bytes."),
        optional("allocated", Kind::Size, "Bytes that hold data; not told of a snapshot that was just made."),
        optional("unique", Kind::Size, "Bytes that its deletion alone frees. Not in lists."),
        optional("shared", Kind::Size, "Bytes that something else refers to as well. Not in lists."),
        required("clients", COUNT, "Attached clients."),
        required("created_at", TIME, "`null` when the appliance had no clock then."),
    ];
    RANGE "": [
        required("offset", Kind::Size, "First byte."),
        required("length", Kind::Size, "Bytes."),
        required("kind", Kind::Word(&["data", "zero"]), "What is there on the newer side."),
    ];
    SCHEDULE "Schedule": [
        required("volume", NAME_FORM, "The volume."),
        required("every", Kind::Text, "Time from one snapshot to the next."),
        required("keep", Kind::Anything, "How many stay, by each rule that keeps any."),
        required("next_at", TIME, "When the next one is due; `null` when nobody knows the time."),
        required("newest", TEXT_OR_NULL, "The newest snapshot that it made."),
        required("snapshots", COUNT, "How many of its snapshots there are."),
        required("problem", TEXT_OR_NULL, "Why it does not do what it should."),
    ];
    JOB "Job": [
        required("id", COUNT, "Its number."),
        required("kind", Kind::Word(&["scrub", "hydrate", "migrate"]), "What it does."),
        required("state", Kind::Word(&["queued", "running", "paused", "done", "failed", "cancelled"]), "Where it is."),
        required("progress", Kind::Fraction, "From 0 to 1."),
        required("done", Kind::Size, "Bytes done."),
        required("rate", SIZE_OR_NULL, "Bytes in a second, while it runs."),
        required("rate_max", SIZE_OR_NULL, "The most bytes in a second."),
        required("time_left_ms", SIZE_OR_NULL, "At the present rate."),
        required("created_at", TIME, "When it was asked for."),
        required("ended_at", TIME, "When it was over."),
        required("error", TEXT_OR_NULL, "Why it failed, or what keeps it from going on."),
        optional("volume", NAME_FORM, "Of `hydrate`: a volume that has a part in what arrives. Of `migrate`: the volume that moves."),
        required("result", Kind::Object(&RESULT), "What it found so far."),
    ];
    RESULT "": [
        optional("blocks", COUNT, "Of `scrub`: blocks verified."),
        optional("repaired", COUNT, "Of `scrub`: replicas written anew."),
        optional("damaged_blocks", COUNT, "Of `scrub`: blocks that cannot be read, each once however many share it."),
        optional("damaged_pool_blocks", COUNT, "Of `scrub`: of these, blocks of the pool's own."),
        optional("damaged", Kind::List(&Kind::Object(&PLACE), 0, ANY), "Of `scrub`: where."),
        optional("damaged_more", COUNT, "Of `scrub`: places beyond those listed."),
        optional("fetched", Kind::Size, "Of `hydrate`: bytes of data that were fetched in the background."),
        optional("to", NAME_FORM, "Of `migrate`: the appliance to which the volume goes."),
        optional("phase", Kind::Word(&["offering", "prepared", "giving", "following"]), "Of `migrate`: where it is. `prepared`: somebody has to hand it over; `following`: it is there, and its blocks follow."),
        optional("bytes", Kind::Object(&MOVED), "Of `migrate`: what the other appliance has."),
    ];
    MOVED "": [
        required("known", Kind::Size, "Of so many bytes from the beginning on, everything is there."),
        required("on_demand", Kind::Size, "Bytes of data that went because a client wanted them."),
        required("background", Kind::Size, "Bytes of data that went in the background."),
        required("metadata", Kind::Size, "Bytes that were said about the data."),
    ];
    MOVE "Move": [
        required("state", Kind::Word(&["owned", "offered", "prepared", "given", "left"]), "`owned`: it is this appliance's; `offered`: it still is, and another one gets ready; `prepared`: this one is ready, and may read; `given`: it is another one's; `left`: what stayed of one that is elsewhere."),
        required("epoch", COUNT, "How often it was given."),
        required("id", UUID, "Its identity, the same on all appliances."),
        required("peer", TEXT_OR_NULL, "The other appliance, while there is one and this one knows it."),
        required("confirmed", Kind::Flag, "Whether the other appliance has said that it is ready, or that it took it."),
        required("job", COUNT_OR_NULL, "The job that moves it away."),
        required("trouble", TEXT_OR_NULL, "What keeps it from going on."),
    ];
    HYDRATION "Hydration": [
        required("from", Kind::Text, "Where its blocks come from."),
        required("known", Kind::Size, "Of so many bytes from the beginning on, everything is here."),
        required("stored", Kind::Size, "Bytes of data that arrived."),
        required("on_demand", Kind::Size, "Bytes of data that were fetched because a client wanted them, since the start."),
        required("background", Kind::Size, "Bytes of data that were fetched in the background, since the start."),
        required("job", COUNT_OR_NULL, "The job that brings in the rest."),
        required("error", TEXT_OR_NULL, "Why the last fetch failed."),
    ];
    PLACE "": [
        required("volume", NAME_FORM, "Its name."),
        required("snapshot", TEXT_OR_NULL, "`null`: the volume as it is now."),
        required("offset", Kind::Size, "First byte."),
        required("length", Kind::Size, "Bytes."),
    ];
    WHO "Who": [
        required("name", NAME_FORM, "The name of the token that was presented."),
        required("role", Kind::Word(&Role::NAMES), "What it allows."),
    ];
    TOKEN "Token": [
        required("name", NAME_FORM, "Its name."),
        required("role", Kind::Word(&Role::NAMES), "What it allows."),
        required("created_at", TIME, "`null` when nobody knows."),
        required("last_seen_at", TIME, "When it was presented last; `null`: not since the start, or nobody knows."),
        required("configured", Kind::Flag, "Whether it comes from the configuration and is taken out there."),
    ];
    NEW_TOKEN "NewToken": [
        required("name", NAME_FORM, "Its name."),
        required("role", Kind::Word(&Role::NAMES), "What it allows."),
        required("created_at", TIME, "`null` when nobody knows."),
        required("last_seen_at", TIME, "When it was presented last; `null`: not since the start, or nobody knows."),
        required("configured", Kind::Flag, "Whether it comes from the configuration and is taken out there."),
        required("token", Kind::Text, "The secret; it is never told again."),
    ];
    PEERS "": [
        required("name", NAME_FORM, "What this appliance calls itself: `node.name` of its configuration."),
        required("key", KEY, "Its public key."),
        required("port", Kind::Number(1, 65535), "The port at which other appliances reach it."),
        required("peers", Kind::List(&Kind::Object(&PEER), 0, ANY), "What it was paired with, by name."),
    ];
    PEER "Peer": [
        required("name", NAME_FORM, "What it called itself when they were paired."),
        required("key", KEY, "Its public key."),
        required("address", Kind::Text, "Where it listens."),
        required("paired_at", TIME, "`null` when the appliance had no clock then."),
    ];
    PAIRING_TOKEN "PairingToken": [
        required("token", Kind::Text, "What to tell the other appliance; it is never told again, and can be used once."),
        required("expires_in_ms", COUNT, "How long it can be used."),
    ];
    LOG "": [required("lines", Kind::List(&Kind::Text, 0, ANY), "Oldest first.")];
    LOG_LEVELS "LogLevels": [
        required("level", Kind::Text, "The least important level that is logged."),
        required("modules", Kind::Map(&MODULE, &Kind::Text, MODULES_MAX), "Modules and rooms with a level of their own."),
    ];
    LOG_MODULES "": [required("modules", Kind::List(&Kind::Text, 0, ANY), "Modules, and the rooms that they are in.")];
    AUDIT_ENTRY "AuditEntry": [
        required("id", COUNT, "A number that only grows."),
        required("at", TIME, "`null` when the appliance had no clock then."),
        required("who", Kind::Text, "The name of the token that was presented."),
        required("from", Kind::Text, "The address from which it came."),
        required("what", Kind::Text, "What was asked: method and target."),
        required("with", Kind::Text, "With what: the body, cut if it is long."),
        required("status", Kind::Number(100, 599), "The answer's status."),
        required("error", TEXT_OR_NULL, "Why it was refused."),
    ];
}

const DRIVE_STATE: Kind = Kind::Word(&["serving", "failing", "blank", "foreign", "failed"]);
const MODULE: Form = Form {
    pattern: "^[a-z0-9_]+$",
    is: |text| !text.is_empty(),
    what: "names of modules",
};
