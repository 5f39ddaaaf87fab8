//! What the API asks of the appliance.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::pin::Pin;

use log::LevelFilter;
use net::NetCounters;
use serde::Serialize;
use volume::Meters;

/// The appliance as the API sees it; implemented by the appliance.
pub trait Node: 'static {
    /// Name, version and measures of this moment.
    fn info(&self) -> NodeInfo;

    /// All drives, those outside the pool included.
    fn drives(&self) -> Vec<DriveInfo>;

    /// What went through the network.
    fn network(&self) -> NetCounters;

    /// What it was told at its start, and could be told.
    fn configuration(&self) -> Vec<SettingInfo>;

    /// The most recent log lines, oldest first, at most `lines`.
    fn log_tail(&self, lines: usize) -> Vec<String>;

    /// How much is logged.
    fn log_levels(&self) -> LogLevels;

    /// Modules that log anything, and the rooms that they are in.
    fn log_modules(&self) -> &'static [&'static str];

    /// Says how much is logged from now on.
    fn set_log_levels(&self, levels: LogLevels);

    /// Gives up what a drive holds, if `confirm` is its serial number and the pool does not need it.
    fn format_drive(&self, id: &str, confirm: &str) -> Pending<Result<DriveInfo, FormatError>>;

    /// Starts an orderly shutdown and returns at once, so that the answer can be sent before the end.
    fn shutdown(&self);

    /// Starts an orderly reboot and returns at once.
    fn reboot(&self);
}

/// What takes a while.
pub type Pending<T> = Pin<Box<dyn Future<Output = T>>>;

/// How much is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevels {
    /// The least important level of modules that have none of their own.
    pub level: LevelFilter,
    /// Levels of modules, or of all modules of a room.
    pub modules: Vec<(String, LevelFilter)>,
}

/// Why a drive was not given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatError {
    /// The request is wrong: there is no such drive.
    NoDrive,
    /// The pool is on it.
    Serving,
    /// The request is wrong: that is not its serial number.
    WrongSerial,
    /// The drive does not take it.
    Failed,
}

impl fmt::Display for FormatError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::NoDrive => "no such drive",
            Self::Serving => "the pool is on this drive",
            Self::WrongSerial => "`confirm` must be the drive's serial number",
            Self::Failed => "the drive does not take writes",
        })
    }
}

impl core::error::Error for FormatError {}

/// An appliance.
#[derive(Clone, Debug, Serialize)]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// Version of the firmware.
    pub version: String,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// The port at which clients reach NBD.
    pub nbd_port: u16,
    /// Its memory.
    pub memory: MemoryInfo,
    /// The report of the crash that ended the run before this one; absent when it ended otherwise.
    pub crash: Option<String>,
}

/// A key of the configuration.
#[derive(Clone, Debug, Serialize)]
pub struct SettingInfo {
    /// The dotted key.
    pub key: &'static str,
    /// Its value, but for that of a secret; absent where there is none.
    pub value: Option<String>,
    /// What holds without it, for people.
    pub default: &'static str,
    /// What it is for.
    pub about: &'static str,
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct MemoryInfo {
    /// All that the firmware found usable.
    pub total: u64,
    /// Not in use.
    pub free: u64,
}

/// How a drive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriveState {
    /// A member of the pool, working.
    Serving,
    /// A member of the pool that answers, but with errors.
    Failing,
    /// Blank, and not asked to join the pool.
    Blank,
    /// It holds something else and is left alone.
    Foreign,
    /// It failed or is gone.
    Failed,
}

/// A drive.
#[derive(Clone, Debug, Serialize)]
pub struct DriveInfo {
    /// Short stable name within this appliance.
    pub id: String,
    /// Model name.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// Where it is plugged in.
    pub slot: String,
    /// How it is.
    pub state: DriveState,
    /// What it holds or why it failed, for people; absent when there is nothing to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Bytes in all.
    pub size: u64,
    /// Bytes in use by the pool.
    pub used: u64,
    /// Failed operations since it was opened.
    pub errors: u64,
    /// What it did, failed operations left out; told by `/metrics` only.
    #[serde(skip)]
    pub meters: Rc<Meters>,
}
