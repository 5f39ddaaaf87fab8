//! What the API asks of the appliance.

use alloc::string::String;
use alloc::vec::Vec;

use serde::Serialize;

/// The appliance as the API sees it; implemented by the appliance.
pub trait Node: 'static {
    /// Name, version and measures of this moment.
    fn info(&self) -> NodeInfo;

    /// All drives, those outside the pool included.
    fn drives(&self) -> Vec<DriveInfo>;

    /// The most recent log lines, oldest first, at most `lines`.
    fn log_tail(&self, lines: usize) -> Vec<String>;

    /// Starts an orderly shutdown and returns at once, so that the answer can be sent before the end.
    fn shutdown(&self);

    /// Starts an orderly reboot and returns at once.
    fn reboot(&self);
}

/// An appliance.
#[derive(Clone, Debug, Serialize)]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// Version of the firmware.
    pub version: String,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// Its memory.
    pub memory: MemoryInfo,
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
}
