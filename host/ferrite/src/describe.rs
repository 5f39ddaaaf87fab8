//! The API's JSON for people.
//!
//! The API has one style: sizes are bytes under the names in [`SIZES`] or ending in `_bytes`, durations end in `_ms`.

use serde_json::Value;

use crate::output::properties;

/// Names of properties that are numbers of bytes.
const SIZES: [&str; 28] = [
    "size",
    "used",
    "free",
    "writable",
    "allocated",
    "unique",
    "deallocated",
    "done",
    "rate",
    "rate_max",
    "offset",
    "length",
    "shared",
    "memory",
    "total",
    "pending",
    "reserved",
    "available",
    "heap",
    "pool",
    "cache",
    "known",
    "stored",
    "on_demand",
    "background",
    "fetched",
    "metadata",
    "unknown",
];

/// The elements of a list answer: bare, or under `key` beside other properties.
#[must_use]
pub fn items<'a>(answer: &'a Value, key: &str) -> &'a [Value] {
    let list = answer
        .as_array()
        .or_else(|| answer.get(key).and_then(Value::as_array));
    list.map_or(&[], Vec::as_slice)
}

/// A property as text, or `-`.
#[must_use]
pub fn text_of(value: &Value, key: &str) -> String {
    match value.get(key) {
        None | Some(Value::Null) => "-".into(),
        Some(value) => plain(key, value),
    }
}

/// A property as a size, or `-`.
#[must_use]
pub fn size_of(value: &Value, key: &str) -> String {
    let bytes = value.get(key).and_then(Value::as_u64);
    bytes.map_or_else(|| "-".into(), qemu::size::human)
}

/// All properties of one thing, nested ones with dotted names.
#[must_use]
pub fn describe(value: &Value) -> String {
    let mut pairs = Vec::new();
    collect("", value, &mut pairs);
    properties(&pairs)
}

fn collect(name: &str, value: &Value, pairs: &mut Vec<(String, String)>) {
    let dotted = |key: &str| {
        if name.is_empty() {
            key.to_owned()
        } else {
            format!("{name}.{key}")
        }
    };
    match value {
        Value::Object(map) => map
            .iter()
            .for_each(|(key, value)| collect(&dotted(key), value, pairs)),
        Value::Array(list) if list.iter().any(Value::is_object) => {
            for (index, value) in list.iter().enumerate() {
                collect(&dotted(&index.to_string()), value, pairs);
            }
        }
        Value::Null => {}
        other => {
            let key = name.rsplit('.').next().unwrap_or(name);
            // The unit is with the value.
            let units = ["_ms", "_bytes"].into_iter();
            let bare = units
                .filter(|_| other.is_number())
                .find_map(|unit| name.strip_suffix(unit));
            pairs.push((bare.unwrap_or(name).to_owned(), plain(key, other)));
        }
    }
}

fn plain(key: &str, value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_u64() {
            Some(bytes) if SIZES.contains(&key) || key.ends_with("_bytes") => {
                qemu::size::human(bytes)
            }
            Some(ms) if key.ends_with("_ms") => duration(ms),
            _ => number.to_string(),
        },
        Value::Array(list) if list.is_empty() => "-".into(),
        Value::Array(list) => {
            let texts: Vec<String> = list.iter().map(|value| plain(key, value)).collect();
            texts.join(", ")
        }
        other => other.to_string(),
    }
}

/// Milliseconds in two units at most.
#[must_use]
pub fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match seconds {
        0..10 => format!("{}.{:03} s", seconds, ms % 1000),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86400 => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nested_properties_get_dotted_names_and_units() {
        let node = json!({"name": "a", "pool": {"size": 8u64 << 30, "state": "serving"},
            "uptime_ms": 61_000, "drives": [{"id": "nvme0n1"}], "nothing": null, "tags": ["x", "y"],
            "none": []});
        assert_eq!(
            describe(&node),
            "drives.0.id  nvme0n1\n\
             name         a\n\
             none         -\n\
             pool.size    8 GiB\n\
             pool.state   serving\n\
             tags         x, y\n\
             uptime       1 min 1 s\n"
        );
    }

    #[test]
    fn durations_have_two_units_at_most() {
        for (ms, text) in [
            (7, "0.007 s"),
            (59_999, "59 s"),
            (3_600_000, "1 h 0 min"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(duration(ms), text);
        }
    }

    #[test]
    fn lists_come_bare_or_named() {
        assert_eq!(items(&json!([1, 2]), "volumes").len(), 2);
        assert_eq!(items(&json!({"volumes": [1]}), "volumes").len(), 1);
        assert!(items(&json!({}), "volumes").is_empty());
    }
}
