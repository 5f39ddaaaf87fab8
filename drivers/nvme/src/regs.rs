//! Controller registers (NVMe Base 2.0, 3.1).

use core::time::Duration;

use hal::{ReadOnly, ReadWrite, Reg, WriteOnly, register_value};

/// Controller Capabilities (3.1.4.1).
pub const CAP: Reg<ReadOnly, Capabilities> = Reg::at(0x00);
/// Version (3.1.4.2).
pub const VS: Reg<ReadOnly, Version> = Reg::at(0x08);
/// Controller Configuration (3.1.4.5).
pub const CC: Reg<ReadWrite, Configuration> = Reg::at(0x14);
/// Controller Status (3.1.4.6).
pub const CSTS: Reg<ReadOnly, ControllerStatus> = Reg::at(0x1c);
/// Admin Queue Attributes (3.1.4.8): sizes less one, completion queue in the upper half.
pub const AQA: Reg<ReadWrite, u32> = Reg::at(0x24);
/// Admin Submission Queue Base Address (3.1.4.9).
pub const ASQ: Reg<ReadWrite, u64> = Reg::at(0x28);
/// Admin Completion Queue Base Address (3.1.4.10).
pub const ACQ: Reg<ReadWrite, u64> = Reg::at(0x30);

/// Where the doorbells begin (3.1.4, 0x1000 and following).
const DOORBELLS: usize = 0x1000;

/// The doorbell of queue pair `queue`: submission tail, or completion head.
pub const fn doorbell(queue: u16, completion: bool, stride: usize) -> Reg<WriteOnly, u32> {
    Reg::at(DOORBELLS + (queue as usize * 2 + completion as usize) * stride)
}

/// Bytes of registers that `pairs` queue pairs need.
pub const fn len_for(pairs: u16, stride: usize) -> usize {
    DOORBELLS + pairs as usize * 2 * stride
}

/// What the controller can do.
#[derive(Clone, Copy, Debug)]
pub struct Capabilities(pub u64);
register_value!(Capabilities: u64);

impl Capabilities {
    /// The most entries of a queue.
    pub fn queue_entries_max(self) -> u32 {
        (self.0 as u32 & 0xffff) + 1
    }

    /// How long enabling or disabling may take.
    pub fn timeout(self) -> Duration {
        Duration::from_millis((self.0 >> 24 & 0xff) * 500)
    }

    /// Bytes between doorbells.
    pub fn doorbell_stride(self) -> usize {
        4 << (self.0 >> 32 & 0xf)
    }

    /// Whether it speaks the NVM command set.
    pub fn has_nvm_commands(self) -> bool {
        self.0 >> 37 & 1 != 0
    }

    /// Whether it takes pages of 4 KiB.
    pub fn has_small_pages(self) -> bool {
        self.0 >> 48 & 0xf == 0
    }

    /// Whether the whole register reads as all ones: the controller is not there.
    pub fn is_gone(self) -> bool {
        self.0 == u64::MAX
    }
}

/// The version of the standard the controller follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32);
register_value!(Version: u32);

impl Version {
    /// 1.1, the first with lists of active namespaces.
    pub const V1_1: Self = Self(0x0001_0100);
}

/// How the controller is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Configuration(pub u32);
register_value!(Configuration: u32);

impl Configuration {
    /// Disabled.
    pub const OFF: Self = Self(0);
    /// Enabled, with the NVM command set, pages of 4 KiB, submission entries of 64 and completion entries of 16 bytes.
    pub const ON: Self = Self(4 << 20 | 6 << 16 | 1);
    /// As [`ON`](Self::ON), and told that power will go.
    pub const SHUTDOWN: Self = Self(Self::ON.0 | 1 << 14);

    /// Whether it is enabled.
    pub fn is_enabled(self) -> bool {
        self.0 & 1 != 0
    }
}

/// How the controller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControllerStatus(pub u32);
register_value!(ControllerStatus: u32);

impl ControllerStatus {
    /// Whether it takes commands.
    pub fn is_ready(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether it met an error it cannot report otherwise.
    pub fn is_fatal(self) -> bool {
        self.0 & 2 != 0
    }

    /// Whether it is ready for power to go.
    pub fn is_shut_down(self) -> bool {
        self.0 >> 2 & 3 == 2
    }

    /// Whether the register reads as all ones: the controller is not there.
    pub fn is_gone(self) -> bool {
        self.0 == u32::MAX
    }
}
