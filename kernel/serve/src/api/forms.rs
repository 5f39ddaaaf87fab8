//! What requests can carry: forms of texts, query parameters, properties of bodies.

use store::{SIZE_MAX, is_name};
use upkeep::policy::KEEP_MAX;
use upkeep::{Keep, Schedule};
use volume::{ALLOW_MAX, Limits, Network, OriginAddress, split_name};

use access::Role;

use super::peers::parse_address;
use super::shape::{Form, Kind, Property, Rule, Shape};

/// The most log lines of one answer.
const LOG_LINES_MAX: u64 = 10_000;
/// The most of one answer, of what comes in pages.
pub(super) const PAGE_MAX: u64 = 1000;
/// The most volumes of one instant.
const GROUP_MAX: usize = 60;
/// The most modules with a log level of their own.
pub(super) const MODULES_MAX: usize = 32;

/// A property that must be there.
pub(super) const fn required(name: &'static str, kind: Kind, about: &'static str) -> Property {
    Property {
        name,
        kind,
        is_required: true,
        about,
    }
}

/// A property that need not be there.
pub(super) const fn optional(name: &'static str, kind: Kind, about: &'static str) -> Property {
    Property {
        name,
        kind,
        is_required: false,
        about,
    }
}

macro_rules! name {
    () => {
        "[a-z0-9][a-z0-9._-]{0,62}"
    };
}

pub(super) const NAME_FORM: Kind = Kind::Form(&Form {
    pattern: concat!("^", name!(), "$"),
    is: is_name,
    what: "a string of 1 to 63 of a-z 0-9 . _ -, which begins with a letter or digit",
});
const EXPORT_FORM: Kind = Kind::Form(&Form {
    pattern: concat!("^", name!(), "@", name!(), "$"),
    is: |text| match split_name(text) {
        (volume, Some(snapshot)) => is_name(volume) && is_name(snapshot),
        _ => false,
    },
    what: "a snapshot, as VOLUME@SNAPSHOT",
});
const ORIGIN_SNAPSHOT_FORM: Kind = Kind::Form(&Form {
    pattern: concat!("^", name!(), "@", name!(), "$"),
    is: |text| text.contains('@') && EXPORT_FORM.admits(&text.into()),
    what: "a snapshot, as VOLUME@SNAPSHOT: take one there first, or migrate the volume",
});
const SIDE_FORM: Kind = Kind::Form(&Form {
    pattern: concat!("^", name!(), "(@", name!(), ")?$"),
    is: |text| match split_name(text) {
        (volume, Some(snapshot)) => is_name(volume) && is_name(snapshot),
        (snapshot, None) => is_name(snapshot),
    },
    what: "a snapshot, or VOLUME@SNAPSHOT",
});
/// The most digits of a number that a string can be: such a one always fits in 64 bits.
const DIGITS_MAX: usize = 19;
pub(super) const DIGITS_FORM: Kind = Kind::Form(&Form {
    pattern: "^[0-9]{1,19}$",
    is: is_digits,
    what: "what the answer before said",
});
const PLACE_FORM: Kind = Kind::Form(&Form {
    pattern: "^(0|[vs][0-9]{1,19})-[vs][0-9]{1,19}-[0-9a-f]{1,16}$",
    is: is_place,
    what: "what the answer before said",
});
const MOMENT_FORM: Kind = Kind::Form(&Form {
    pattern: "^[0-9]{1,19}-[0-9]{1,19}$",
    is: is_moment,
    what: "what the answer before said",
});
macro_rules! v4 {
    () => {
        "((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\\.){3}(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
    };
}

macro_rules! v6 {
    () => {
        concat!(
            "([0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}|([0-9a-fA-F]{1,4}:){1,7}:|",
            "([0-9a-fA-F]{1,4}:){1,6}:[0-9a-fA-F]{1,4}|([0-9a-fA-F]{1,4}:){1,5}(:[0-9a-fA-F]{1,4}){1,2}|",
            "([0-9a-fA-F]{1,4}:){1,4}(:[0-9a-fA-F]{1,4}){1,3}|([0-9a-fA-F]{1,4}:){1,3}(:[0-9a-fA-F]{1,4}){1,4}|",
            "([0-9a-fA-F]{1,4}:){1,2}(:[0-9a-fA-F]{1,4}){1,5}|[0-9a-fA-F]{1,4}:(:[0-9a-fA-F]{1,4}){1,6}|",
            "::([0-9a-fA-F]{1,4}:){0,6}[0-9a-fA-F]{1,4}|::"
        )
    };
}

macro_rules! port {
    () => {
        "(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?"
    };
}

const NETWORK_FORM: Kind = Kind::Form(&Form {
    pattern: concat!(
        "^(",
        v4!(),
        "(/(3[0-2]|[12]?[0-9]))?|(",
        v6!(),
        ")(/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))?)$"
    ),
    is: |text| text.parse::<Network>().is_ok(),
    what: "one of networks like 10.0.0.0/8 or 2001:db8::/32",
});
const ADDRESS_FORM: Kind = Kind::Form(&Form {
    pattern: concat!(
        "^nbd://([A-Za-z0-9._-]{1,255}|\\[[0-9A-Fa-f:.]{2,45}\\])",
        port!(),
        "(/[A-Za-z0-9._~/:-]{0,255})?$"
    ),
    is: |text| {
        let parsed = text.parse::<OriginAddress>();
        !text.contains('%') && matches!(parsed, Ok(OriginAddress::Nbd { .. }))
    },
    what: "the address of an NBD export, like nbd://10.0.0.5:10809/disk",
});
const PEER_ADDRESS_FORM: Kind = Kind::Form(&Form {
    pattern: concat!("^(", v4!(), "|\\[(", v6!(), ")\\])", port!(), "$"),
    is: |text| parse_address(text).is_some(),
    what: "an address like 10.0.0.5, 10.0.0.5:10810 or [fd00::5]; names of machines cannot be looked up",
});
const PAIRING_TOKEN_FORM: Form = Form {
    pattern: "^ferrite_pair_[0-9a-fA-F]{64}$",
    is: |text| {
        let digits = text.strip_prefix("ferrite_pair_");
        digits.is_some_and(|digits| {
            digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    },
    what: "a pairing token, `ferrite_pair_` and 64 hexadecimal digits, that the other appliance made",
};
const EVERY_FORM: Kind = Kind::Form(&Form {
    pattern: concat!(
        "^([1-9][0-9]{0,6}s|[1-9][0-9]{0,4}m|([1-9][0-9]{0,2}|[1-7][0-9]{3})h|",
        "([1-9][0-9]?|[12][0-9]{2}|3[0-5][0-9]|36[0-6])d|([1-9]|[1-4][0-9]|5[0-2])w)$"
    ),
    is: is_every,
    what: "a number and one of s, m, h, d, w, like `15m` or `1d`, up to a year",
});
const MODULE_FORM: Form = Form {
    pattern: "^[a-z][a-z0-9_]{0,31}$",
    is: |text| {
        let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        text.len() <= 32
            && text.bytes().all(is_part)
            && text
                .bytes()
                .next()
                .is_some_and(|byte| byte.is_ascii_lowercase())
    },
    what: "names of modules, like `nvme`",
};
const LEVELS: Kind = Kind::Word(&["off", "error", "warn", "info", "debug", "trace"]);

fn is_digits(text: &str) -> bool {
    (1..=DIGITS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_moment(text: &str) -> bool {
    text.split_once('-')
        .is_some_and(|(time, id)| is_digits(time) && is_digits(id))
}

fn is_place(text: &str) -> bool {
    let is_side = |side: &str| side.strip_prefix(['v', 's']).is_some_and(is_digits);
    let mut parts = text.split('-');
    parts
        .next()
        .is_some_and(|from| from == "0" || is_side(from))
        && parts.next().is_some_and(is_side)
        && parts.next().is_some_and(|at| {
            let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            (1..=16).contains(&at.len()) && at.bytes().all(is_digit)
        })
        && parts.next().is_none()
}

/// Not with more digits than anybody needs, so that the form can be told as a pattern.
fn is_every(text: &str) -> bool {
    let digits_max = match text.bytes().last() {
        Some(b's') => 7,
        Some(b'm') => 5,
        _ => 4,
    };
    let any = Keep {
        last: 1,
        ..Keep::default()
    };
    let is_short = !text.starts_with('0') && text.len() <= digits_max + 1;
    let is_hours = text.strip_suffix('h').is_some_and(|hours| hours.len() == 4);
    is_short && !(is_hours && text > "7999h") && Schedule::new(text, any).is_ok()
}

pub(super) const NAME: Property = required(
    "name",
    NAME_FORM,
    "1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit.",
);
pub(super) const NEW_NAME: Property = optional("name", NAME_FORM, "Its name from now on.");
const VOLUME_SIZE: Kind = Kind::Units(512, 4096, SIZE_MAX);
pub(super) const SIZE: Property = optional(
    "size",
    VOLUME_SIZE,
    "Bytes: a multiple of 512, at least 4096. Not for a clone, which begins with its snapshot's size.",
);
const NEW_SIZE: Property = optional(
    "size",
    VOLUME_SIZE,
    "Bytes: a multiple of 512, not less than now.",
);
pub(super) const READ_ONLY: Property = optional(
    "read_only",
    Kind::Flag,
    "Whether writes are refused, of clients that are attached now, too.",
);
pub(super) const ALLOW: Property = optional(
    "allow",
    Kind::List(&NETWORK_FORM, 0, ALLOW_MAX),
    "From where clients may come from now on: networks like `10.0.0.0/8`, at most 32; none: from anywhere.",
);
pub(super) const IOPS_MAX: Property = optional(
    "iops_max",
    Kind::OrNull(&Kind::Number(Limits::IOPS.0, Limits::IOPS.1)),
    "The most requests of its clients in a second, but for flushes; `null`: no limit.",
);
pub(super) const RATE_MAX: Property = optional(
    "rate_max",
    Kind::OrNull(&Kind::Number(Limits::RATE_BYTES.0, Limits::RATE_BYTES.1)),
    "The most bytes that its clients read and write in a second; `null`: no limit.",
);
pub(super) const ORIGIN: Property = optional(
    "origin",
    Kind::Object(&ORIGIN_AT),
    "The new volume is what is there: at once, and its blocks follow. `size` may be larger than that.",
);
pub(super) const NBD: Property = optional(
    "nbd",
    ADDRESS_FORM,
    "An export of an NBD server, as `nbd://HOST:PORT/EXPORT`.",
);
pub(super) const ORIGIN_PEER: Property = optional(
    "appliance",
    NAME_FORM,
    "A peer of this appliance, which has the snapshot `volume`.",
);
pub(super) const ORIGIN_SNAPSHOT: Property =
    optional("volume", ORIGIN_SNAPSHOT_FORM, "`VOLUME@SNAPSHOT` there.");
pub(super) const DESTINATION: Property =
    required("to", NAME_FORM, "The peer to which the volume is to go.");
pub(super) const WITH_SNAPSHOTS: Property = optional(
    "with_snapshots",
    Kind::Flag,
    "Whether its snapshots go along, behind the volume. Otherwise they stay here, with the copy.",
);
/// What [`HAND_OVER`] can be besides `now`.
pub(super) const WAIT: &str = "wait";
pub(super) const HAND_OVER: Property = optional(
    "hand_over",
    Kind::Word(&["now", WAIT]),
    "`now`, which is the default: as soon as the other appliance is ready. `wait`: when somebody says so, by `/hand-over`.",
);
/// What [`AFTER`] can be besides `keep`.
pub(super) const AFTER_FREE: &str = "free";
pub(super) const AFTER_SNAPSHOT: &str = "snapshot";
pub(super) const AFTER: Property = optional(
    "after",
    Kind::Word(&["keep", AFTER_FREE, AFTER_SNAPSHOT]),
    "What becomes of the copy here, once the other appliance has all of it: it stays, which is the default, so that only differences \
     have to come back; it goes; or it stays with a snapshot of the hand-over.",
);
pub(super) const CONFIRM_VOLUME: Property = required(
    "confirm",
    Kind::Text,
    "The volume's name: what was written to it elsewhere is lost.",
);
pub(super) const CLONE_OF: Property = optional(
    "from",
    EXPORT_FORM,
    "`VOLUME@SNAPSHOT`: the new volume is a clone of that.",
);
pub(super) const FORCE: Property = optional(
    "force",
    Kind::Flag,
    "Even while clients are attached; they are cut off.",
);
pub(super) const EXACT: Property = optional(
    "exact",
    Kind::Flag,
    "Whether `allocated` is that of the last two seconds. Otherwise it is of the last checkpoint, which may be half a minute ago.",
);
pub(super) const TAIL: Property = optional(
    "tail",
    Kind::Number(1, LOG_LINES_MAX),
    "The most lines; 100 when absent.",
);
pub(super) const SNAPSHOT: Property = required("snapshot", NAME_FORM, "A snapshot of this volume.");
pub(super) const VOLUMES: Property = required(
    "volumes",
    Kind::Set(&NAME_FORM, 1, GROUP_MAX),
    "Names of volumes, at most 60.",
);
pub(super) const LIMIT: Property = optional(
    "limit",
    Kind::Number(1, PAGE_MAX),
    "The most of one answer; 1000 when absent.",
);
pub(super) const NEXT: Property = optional(
    "next",
    DIGITS_FORM,
    "Where to go on: what the answer before said under this name. None there: that was all.",
);
pub(super) const NEXT_MOMENT: Property = optional(
    "next",
    MOMENT_FORM,
    "Where to go on: what the answer before said under this name. None there: that was all.",
);
pub(super) const NEXT_PLACE: Property = optional(
    "next",
    PLACE_FORM,
    "Where to go on: what the answer before said under this name. None there: that was all.",
);
pub(super) const FROM: Property = optional(
    "from",
    SIDE_FORM,
    "The older side: a snapshot of this volume, or `VOLUME@SNAPSHOT`. Absent: all that holds data is told.",
);
pub(super) const TO: Property = optional(
    "to",
    SIDE_FORM,
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
    EVERY_FORM,
    "Time from one to the next: a number and one of s, m, h, d, w, like `1h`. They fall on round times (UTC).",
);
const COUNT: Kind = Kind::Number(0, KEEP_MAX);
pub(super) const KEEP: Property = required(
    "keep",
    Kind::Object(&Shape {
        name: "",
        properties: &[
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
        ],
        rule: Rule::SomePositive,
    }),
    "How many stay, by each rule; what no rule wants goes when the next one was made.",
);
pub(super) const ROLE: Property = required(
    "role",
    Kind::Word(&Role::NAMES),
    "`read-only` looks; `operator` works with volumes, snapshots, schedules and jobs; `admin` may do everything.",
);
pub(super) const CONFIRM: Property = required(
    "confirm",
    Kind::Text,
    "The drive's serial number: what it holds is given up.",
);
pub(super) const PEER_ADDRESS: Property = required(
    "address",
    PEER_ADDRESS_FORM,
    "Where the other appliance listens: `ADDRESS` or `ADDRESS:PORT`, the port being 10810 when absent.",
);
pub(super) const PAIRING_TOKEN: Property = required(
    "token",
    Kind::Secret(&PAIRING_TOKEN_FORM),
    "A pairing token that the other appliance made.",
);
pub(super) const LEVEL: Property = required(
    "level",
    LEVELS,
    "The least important level that is logged, of modules that have none of their own.",
);
pub(super) const MODULES: Property = optional(
    "modules",
    Kind::Map(&MODULE_FORM, &LEVELS, MODULES_MAX),
    "Levels of modules, by the name that log lines begin with, or of all modules of a room.",
);

macro_rules! body {
    ($($(#[$doc:meta])* $name:ident: $rule:expr, [$($property:expr),*];)*) => {
        $($(#[$doc])* pub(super) const $name: Shape = Shape {
            name: "",
            properties: &[$($property),*],
            rule: $rule,
        };)*
    };
}

body! {
    /// No body.
    NOTHING: Rule::Free, [];
    /// A new volume.
    NEW_VOLUME: Rule::OneOfOrFirstAndLast(&["size", "from", "origin"]), [NAME, SIZE, CLONE_OF, ORIGIN];
    /// Where a volume is adopted from.
    ORIGIN_AT: Rule::OneOf(&[&["nbd"], &["appliance", "volume"]]), [NBD, ORIGIN_PEER, ORIGIN_SNAPSHOT];
    /// Where a volume is to go.
    MIGRATION: Rule::Free, [DESTINATION, WITH_SNAPSHOTS, HAND_OVER, AFTER, RATE];
    /// Which volume is taken over.
    TAKE_OVER: Rule::Free, [CONFIRM_VOLUME];
    /// A volume's changes.
    VOLUME_CHANGE: Rule::Free, [NEW_SIZE, NEW_NAME, READ_ONLY, ALLOW, IOPS_MAX, RATE_MAX];
    /// Which snapshot.
    ROLLBACK: Rule::Free, [SNAPSHOT];
    /// A name alone.
    NAMED: Rule::Free, [NAME];
    /// A snapshot of several volumes.
    GROUP: Rule::Free, [NAME, VOLUMES];
    /// A schedule.
    SCHEDULE: Rule::Free, [EVERY, KEEP];
    /// A scrub.
    SCRUB: Rule::Free, [RATE];
    /// A job's changes.
    JOB_CHANGE: Rule::Free, [STATE, RATE];
    /// A new token.
    NEW_TOKEN: Rule::Free, [NAME, ROLE];
    /// A new peer.
    NEW_PEER: Rule::Free, [PEER_ADDRESS, PAIRING_TOKEN];
    /// A peer's changes.
    PEER_CHANGE: Rule::Free, [PEER_ADDRESS];
    /// What is given up.
    GIVE_UP: Rule::Free, [CONFIRM];
    /// Levels of the log.
    LOG_LEVELS: Rule::Free, [LEVEL, MODULES];
}

/// What stands in place of `{…}` in paths.
pub(super) const CAPTURES: [Property; 6] = [
    required("volume", NAME_FORM, "A volume's name."),
    required("snapshot", NAME_FORM, "A snapshot's name."),
    required("job", DIGITS_FORM, "A job's number."),
    required("token", NAME_FORM, "A token's name."),
    required("peer", NAME_FORM, "A peer's name."),
    required("drive", Kind::Text, "A drive's `id`."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_between_snapshots_are_as_their_pattern_says() {
        for good in [
            "1s", "9999999s", "99999m", "999h", "7999h", "1d", "366d", "52w",
        ] {
            assert!(is_every(good), "{good}");
        }
        for bad in [
            "",
            "s",
            "0s",
            "01s",
            "10000000s",
            "100000m",
            "8000h",
            "367d",
            "53w",
            "1y",
            "1 s",
        ] {
            assert!(!is_every(bad), "{bad}");
        }
    }

    #[test]
    fn places_are_two_sides_and_a_number() {
        for good in ["0-v1-0", "s12-v3-ff", "v1-s2-ffffffffffffffff"] {
            assert!(is_place(good), "{good}");
        }
        for bad in [
            "", "0-0-0", "v-v1-0", "0-v1", "0-v1-0-0", "0-v1-F", "1-v1-0", "0-v1-",
        ] {
            assert!(!is_place(bad), "{bad}");
        }
    }
}
