//! Values as people type them, checked before anybody is asked: what is wrong with them is said in the words of this tool.

use std::fmt::Write as _;

use crate::suggest::nearest;

/// Rules of schedules.
const RULES: [&str; 6] = ["last", "hourly", "daily", "weekly", "monthly", "yearly"];
/// The most that one rule keeps.
const KEEP_MAX: u32 = 1000;

/// A size, and how it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size {
    /// Bytes.
    pub bytes: u64,
    text: String,
}

impl Size {
    /// What to say to somebody who may have meant powers of 1024 and wrote powers of 1000.
    pub fn note(&self) -> Option<String> {
        let text = self.text.trim();
        let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let unit = text[digits.len()..].to_ascii_lowercase();
        let ("kb" | "mb" | "gb" | "tb" | "pb") = unit.as_str() else {
            return None;
        };
        let letter = unit[..1].to_ascii_uppercase();
        let letter = if letter == "K" { "k".into() } else { letter };
        Some(format!(
            "{text} counts in thousands: {} bytes, or {}; {}{}iB counts in powers of 1024",
            self.bytes,
            qemu::size::human(self.bytes),
            digits.trim(),
            letter.replace('k', "K"),
        ))
    }
}

/// Reads the size of a volume.
pub fn volume_size(text: &str) -> Result<Size, String> {
    let bytes = qemu::size::parse(text).map_err(|error| error.to_string())?;
    if bytes < 4096 {
        let small = "a volume has at least 4KiB";
        return Err(
            match text.trim().bytes().all(|byte| byte.is_ascii_digit()) {
                true => format!(
                    "{small}, and a number without a unit is bytes; did you mean {text}GiB?"
                ),
                false => small.into(),
            },
        );
    }
    if bytes > store::SIZE_MAX {
        return Err("a volume has at most 128TiB".into());
    }
    if !store::is_size(bytes) {
        let (below, above) = (bytes / 512 * 512, bytes.div_ceil(512) * 512);
        return Err(format!(
            "{bytes} bytes are no multiple of 512, as a volume's size is; {below} and {above} are"
        ));
    }
    Ok(Size {
        bytes,
        text: text.into(),
    })
}

/// Reads a name that something is to get.
pub fn new_name(text: &str) -> Result<String, String> {
    if store::is_name(text) {
        return Ok(text.into());
    }
    let mut why = "a name is 1 to 63 of a-z 0-9 . _ - and begins with a letter or digit".to_owned();
    let lower = text.to_lowercase();
    if lower != text && store::is_name(&lower) {
        let _ = write!(why, "; did you mean {lower}?");
    }
    Err(why)
}

/// Reads a time between snapshots.
pub fn every(text: &str) -> Result<String, &'static str> {
    let unit = text.strip_suffix(['s', 'm', 'h', 'd', 'w']);
    let number: Option<u64> = unit.and_then(|number| number.parse().ok());
    match number {
        Some(1..) => Ok(text.into()),
        _ => Err("a time is a number and s, m, h, d or w, like 15m or 1d, and at most a year"),
    }
}

/// Reads a rule of a schedule.
pub fn rule(text: &str) -> Result<(String, u32), String> {
    let Some((rule, count)) = text.split_once('=') else {
        return Err("a rule is written RULE=COUNT, like daily=7".into());
    };
    if !RULES.contains(&rule) {
        let meant = match nearest(rule, RULES) {
            Some(meant) => format!("; did you mean {meant}?"),
            None => format!("; rules are {}", RULES.join(", ")),
        };
        return Err(format!("there is no rule `{rule}`{meant}"));
    }
    match count.parse() {
        Ok(count @ 0..=KEEP_MAX) => Ok((rule.to_owned(), count)),
        _ => Err(format!("{rule} keeps 0 to {KEEP_MAX}, not `{count}`")),
    }
}

/// Levels of the log.
pub const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Reads the log level of a module.
pub fn module(text: &str) -> Result<(String, String), String> {
    let Some((module, level)) = text.split_once('=') else {
        return Err("written MODULE=LEVEL, like nvme=debug".into());
    };
    if LEVELS.contains(&level) {
        return Ok((module.to_owned(), level.to_owned()));
    }
    let meant = nearest(level, LEVELS).map(|meant| format!("; did you mean {meant}?"));
    Err(format!(
        "there is no level `{level}`{}",
        meant.unwrap_or_else(|| format!("; levels are {}", LEVELS.join(", ")))
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_volumes_are_refused_with_a_way_out() {
        assert_eq!(volume_size("10GiB").unwrap().bytes, 10 << 30);
        for (text, about) in [
            ("10", "did you mean 10GiB?"),
            ("1KiB", "at least 4KiB"),
            ("200TiB", "at most 128TiB"),
            ("1mb", "999936 and 1000448"),
            ("ten", "is not a size"),
        ] {
            let why = volume_size(text).unwrap_err();
            assert!(why.contains(about), "{why}");
        }
    }

    #[test]
    fn who_writes_thousands_is_told() {
        for (text, note) in [
            ("10GiB", None),
            ("10g", None),
            ("1073741824", None),
            (
                "10gb",
                Some(
                    "10gb counts in thousands: 10000000000 bytes, or 9.3 GiB; 10GiB counts in powers of 1024",
                ),
            ),
        ] {
            assert_eq!(volume_size(text).unwrap().note().as_deref(), note);
        }
    }

    #[test]
    fn names_begin_and_go_on_as_they_must() {
        assert_eq!(new_name("db-1"), Ok("db-1".into()));
        assert!(new_name("DB").unwrap_err().ends_with("did you mean db?"));
        assert!(new_name("-x").unwrap_err().ends_with("letter or digit"));
    }

    #[test]
    fn rules_are_names_and_counts() {
        assert_eq!(rule("daily=7"), Ok(("daily".into(), 7)));
        for (text, about) in [
            ("daily", "RULE=COUNT"),
            ("hurly=24", "`hurly`; did you mean hourly?"),
            ("never=1", "rules are last, hourly"),
            ("daily=", "daily keeps 0 to 1000, not ``"),
            ("daily=-1", "not `-1`"),
            ("daily=1001", "0 to 1000"),
        ] {
            let why = rule(text).unwrap_err();
            assert!(why.contains(about), "{why}");
        }
        for (text, is_time) in [("1h", true), ("0h", false), ("hour", false), ("1 h", false)] {
            assert_eq!(every(text).is_ok(), is_time, "{text}");
        }
    }

    #[test]
    fn levels_of_modules_are_checked() {
        assert_eq!(module("nvme=debug"), Ok(("nvme".into(), "debug".into())));
        assert!(
            module("nvme=debgu")
                .unwrap_err()
                .ends_with("did you mean debug?")
        );
        assert!(module("nvme").unwrap_err().contains("MODULE=LEVEL"));
    }
}
