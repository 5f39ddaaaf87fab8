//! The `log` back end: `[seconds.millis] LEVEL module: text` on the serial console, and the last lines kept in memory.

mod levels;
mod ring;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use ::log::{Level, LevelFilter, Log, Metadata, Record};
use spin::Mutex;

use crate::clock;
use crate::serial::Console;
use levels::Levels;
use ring::Ring;

/// Bytes of recent lines that are kept.
const RECENT_BYTES: usize = 32 * 1024;

static RECENT: Mutex<Ring<RECENT_BYTES>> = Mutex::new(Ring::new());
static LEVELS: Mutex<Levels> = Mutex::new(Levels::new());

struct Serial;

impl Log for Serial {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // The level of whoever logs while levels are being set does not matter.
        let wanted = LEVELS.try_lock();
        wanted.is_none_or(|levels| metadata.level() <= levels.of(metadata.target()))
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let now = clock::now_nanos() / 1_000_000;
        let module = record.target().rsplit("::").next().unwrap_or_default();
        write_line(format_args!(
            "[{:5}.{:03}] {:<5} {module}: {}",
            now / 1000,
            now % 1000,
            level(record.level()),
            record.args()
        ));
    }

    fn flush(&self) {}
}

fn write_line(text: fmt::Arguments<'_>) {
    // A log call inside a log call (a failing allocation, say) goes to the console only.
    let mut out = Both {
        recent: RECENT.try_lock(),
    };
    // Nothing is left to do about a console that fails.
    let _ = writeln!(out, "{text}");
    if let Some(recent) = &mut out.recent {
        recent.end_line();
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

struct Both<'a> {
    recent: Option<spin::MutexGuard<'a, Ring<RECENT_BYTES>>>,
}

impl Write for Both<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some(recent) = &mut self.recent {
            recent.push(text.as_bytes());
        }
        Console.write_str(text)
    }
}

/// Makes this the program's log, at level `info`. Later calls change nothing.
pub fn init() {
    if ::log::set_logger(&Serial).is_ok() {
        set_level(LevelFilter::Info);
    }
}

/// Logs a line as it is, whatever the level: for what scripts wait for.
pub fn announce(text: fmt::Arguments<'_>) {
    write_line(text);
}

/// Shows a line on the console and keeps it nowhere: for what only who stands there may know.
pub fn show(text: fmt::Arguments<'_>) {
    // Nothing is left to do about a console that fails.
    let _ = writeln!(Console, "{text}");
}

/// Sets the least important level that is still logged, of all modules.
pub fn set_level(level: LevelFilter) {
    set_levels(level, Vec::new());
}

/// Sets the least important level that is still logged: of some modules, or all modules of a room, and of the others.
pub fn set_levels(level: LevelFilter, modules: Vec<(String, LevelFilter)>) {
    let most = modules
        .iter()
        .map(|(_, level)| *level)
        .fold(level, Ord::max);
    let old = LEVELS.lock().replace(level, modules);
    ::log::set_max_level(most);
    drop(old);
}

/// What [`set_levels`] set.
#[must_use]
pub fn levels() -> (LevelFilter, Vec<(String, LevelFilter)>) {
    LEVELS.lock().get()
}

/// The last `lines` lines, oldest first, as far as they are kept.
#[must_use]
pub fn tail(lines: usize) -> Vec<String> {
    RECENT.lock().tail(lines)
}
