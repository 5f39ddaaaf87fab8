//! A bar for people who wait.

use std::io::{IsTerminal, Write};

use serde_json::Value;

use crate::describe::{duration, size_of};

/// Characters of the bar itself, and of one with much to say beside it.
const WIDTH: usize = 30;
const WIDTH_SMALL: usize = 12;

/// A bar on a terminal; nothing where standard error goes elsewhere.
pub struct Progress {
    is_shown: bool,
}

impl Progress {
    /// A bar, if somebody can see it.
    pub fn new() -> Self {
        Self {
            is_shown: std::io::stderr().is_terminal(),
        }
    }

    /// Shows how a job is.
    pub fn show(&self, job: &Value) {
        if self.is_shown {
            let mut out = std::io::stderr().lock();
            let size = rustix::termios::tcgetwinsize(&out);
            // A line that goes on in the next one could not be written over.
            let line: String = match size.map_or(0, |size| size.ws_col) {
                0 => line(job),
                columns => line(job).chars().take(columns.into()).collect(),
            };
            // Somebody who closed the terminal does not miss it.
            let _ = write!(out, "\r{line}\x1b[K").and_then(|()| out.flush());
        }
    }

    /// Takes the bar away.
    pub fn end(&self) {
        if self.is_shown {
            let mut out = std::io::stderr().lock();
            let _ = write!(out, "\r\x1b[K").and_then(|()| out.flush());
        }
    }
}

/// One line about a job.
fn line(job: &Value) -> String {
    let progress = job["progress"].as_f64().unwrap_or(0.0).clamp(0.0, 1.0);
    let phase = job["result"]["phase"].as_str();
    let width = if phase.is_some() { WIDTH_SMALL } else { WIDTH };
    let full = (progress * width as f64) as usize;
    let bar = format!("{}{}", "#".repeat(full), ".".repeat(width - full));
    let kind = job["kind"].as_str().unwrap_or("job");
    let mut line = format!("{kind} [{bar}] {}", percent(progress));
    if let Some(rate) = job["rate"].as_u64() {
        line += &format!(", {}/s", qemu::size::human(rate));
    }
    if let Some(left) = job["time_left_ms"].as_u64() {
        line += &format!(", {} left", duration(left));
    }
    if let Some(state) = job["state"].as_str().filter(|state| *state != "running") {
        line += &format!(", {state}");
    }
    if let Some(phase) = phase {
        let moved = |key| size_of(&job["result"]["bytes"], key);
        line += &format!(
            ", {phase}: {} on demand, {} background, {} metadata",
            moved("on_demand"),
            moved("background"),
            moved("metadata")
        );
    }
    // What keeps it from going on.
    if let Some(error) = job["error"].as_str() {
        line += &format!(", {error}");
    }
    line
}

/// A part of one as people read it.
pub fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_tells_what_is_known() {
        let job = json!({"kind": "scrub", "state": "running", "progress": 0.5, "rate": 1 << 20,
            "time_left_ms": 61_000});
        let bar = "[###############...............]";
        assert_eq!(
            line(&job),
            format!("scrub {bar} 50.0 %, 1 MiB/s, 1 min 1 s left")
        );
        let job = json!({"kind": "scrub", "state": "paused", "progress": 0.5, "rate": null});
        assert_eq!(line(&job), format!("scrub {bar} 50.0 %, paused"));
        let job =
            json!({"kind": "hydrate", "state": "running", "progress": 0.5, "error": "no answer"});
        assert_eq!(line(&job), format!("hydrate {bar} 50.0 %, no answer"));
        let bytes = json!({"known": 0, "on_demand": 4096, "background": 1 << 20, "metadata": 100});
        let job = json!({"kind": "migrate", "state": "running", "progress": 0.5,
            "result": {"phase": "following", "bytes": bytes}});
        assert_eq!(
            line(&job),
            "migrate [######......] 50.0 %, following: 4 KiB on demand, 1 MiB background, 100 B metadata"
        );
    }
}
