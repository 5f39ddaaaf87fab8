//! Edits by several people: `ETag` and `If-Match` (RFC 9110, 8.8.3 and 13.1), and one edit of a thing at a time.
//!
//! A tag changes with what can be edited, not with counters that change by themselves.

use alloc::format;
use alloc::rc::{Rc, Weak};
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::hash::Hasher;

use exec::{Permit, Semaphore};
use serde::Serialize;
use serde_json::Value;

use super::problem::Problem;

/// What a client wants to be so before anything is done.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions {
    /// `If-Match`.
    pub matches: Option<String>,
    /// `If-None-Match`.
    pub matches_none: Option<String>,
}

impl Conditions {
    /// Reads the headers `If-Match` and `If-None-Match`.
    ///
    /// # Errors
    /// 400 for what is no list of tags.
    pub fn read(matches: Option<&str>, matches_none: Option<&str>) -> Result<Self, Problem> {
        let both = [("If-Match", matches), ("If-None-Match", matches_none)];
        for (name, list) in both {
            if list.is_some_and(|list| !is_list(list)) {
                let detail =
                    format!("`{name}` must be `*`, or tags in quotes, with commas between");
                return Err(Problem::of_field(400, name, detail));
            }
        }
        Ok(Self {
            matches: matches.map(Into::into),
            matches_none: matches_none.map(Into::into),
        })
    }

    /// Checks them against the present tag; `None`: there is nothing.
    ///
    /// # Errors
    /// 412.
    pub fn check(&self, tag: Option<&str>) -> Result<(), Problem> {
        if let Some(wanted) = &self.matches
            && !names(wanted, tag)
        {
            let detail =
                "it is not what `If-Match` says any more; get it again and look what changed";
            return Err(Problem::new(412, detail));
        }
        if let Some(unwanted) = &self.matches_none
            && names(unwanted, tag)
        {
            let detail = "it is what `If-None-Match` says must not be there";
            return Err(Problem::new(412, detail));
        }
        Ok(())
    }
}

/// Whether this is `*` or a list of tags (RFC 9110, 8.8.3).
fn is_list(text: &str) -> bool {
    let is_tag = |one: &str| {
        let quoted = one.trim().trim_start_matches("W/");
        let tag = quoted
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'));
        tag.is_some_and(|tag| {
            tag.bytes()
                .all(|byte| byte > b' ' && byte != b'"' && byte != 0x7f)
        })
    };
    text.trim() == "*" || text.split(',').all(is_tag)
}

/// Whether a list of tags has this one; `*` has any.
fn names(list: &str, tag: Option<&str>) -> bool {
    let Some(tag) = tag else { return false };
    list.trim() == "*" || list.split(',').any(|one| one.trim() == tag)
}

/// The tag of what looks like this.
pub(super) fn tag_of(value: &Value) -> String {
    format!("\"{:016x}\"", fingerprint(value))
}

/// A number that is another one for other values.
pub(super) fn fingerprint(value: &impl Serialize) -> u64 {
    let bytes = serde_json::to_vec(value).expect("our own types become JSON");
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    hash.write(&bytes);
    hash.finish()
}

/// FNV-1a: nobody gains by two values with one hash but who made them.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// One edit at a time of each thing, so that nothing comes between a condition and what is done under it.
#[derive(Default)]
pub(super) struct Turns {
    held: RefCell<Vec<(String, Weak<Semaphore>)>>,
}

/// The right to edit; given back when dropped.
pub(super) struct Turn {
    _permit: Permit,
    _line: Rc<Semaphore>,
}

impl Turns {
    /// Waits for the turn to edit `thing`.
    pub async fn enter(&self, thing: String) -> Turn {
        let line = self.line(thing);
        Turn {
            _permit: line.acquire().await,
            _line: line,
        }
    }

    fn line(&self, thing: String) -> Rc<Semaphore> {
        let mut held = self.held.borrow_mut();
        // As many as there are connections, at most.
        held.retain(|(_, line)| line.strong_count() > 0);
        let known = held.iter().find(|(name, _)| *name == thing);
        if let Some(line) = known.and_then(|(_, line)| line.upgrade()) {
            return line;
        }
        let line = Rc::new(Semaphore::new(1));
        held.push((thing, Rc::downgrade(&line)));
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conditions_are_tags_in_quotes() {
        for good in ["*", " * ", "\"a\"", "\"a\", W/\"b\"", "\"\""] {
            assert!(is_list(good), "{good}");
        }
        for bad in ["", "a", "\"a", "\"a b\"", "\"a\",", "*, \"a\"", "{}"] {
            assert!(!is_list(bad), "{bad}");
        }
    }

    #[test]
    fn conditions_are_about_the_present_tag() {
        let tag = tag_of(&json!({"a": 1}));
        assert_ne!(tag, tag_of(&json!({"a": 2})));
        let ask = |matches: Option<&str>, none: Option<&str>, tag: Option<&str>| {
            let conditions = Conditions {
                matches: matches.map(Into::into),
                matches_none: none.map(Into::into),
            };
            conditions.check(tag).is_ok()
        };
        let (list, other) = (format!("\"x\", {tag}"), Some("\"x\""));
        for (matches, none, now, is_fine) in [
            (None, None, None, true),
            (Some(tag.as_str()), None, Some(tag.as_str()), true),
            (Some(list.as_str()), None, Some(&tag), true),
            (Some("*"), None, Some(&tag), true),
            (Some("*"), None, None, false),
            (other, None, Some(&tag), false),
            (Some(&tag), None, None, false),
            (None, Some("*"), None, true),
            (None, Some("*"), Some(&tag), false),
            (None, Some(&tag), Some(&tag), false),
            (None, other, Some(&tag), true),
        ] {
            assert_eq!(
                ask(matches, none, now),
                is_fine,
                "{matches:?} {none:?} {now:?}"
            );
        }
    }
}
