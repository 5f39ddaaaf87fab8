//! What a completion says about its command (NVMe Base 2.0, 3.3.3.2.1).

use core::fmt;

use world::DiskError;

/// A status code with its type; zero is success.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Status code type in bits 8 to 10, status code in bits 0 to 7.
    code: u16,
    /// The controller says that a repetition would fail as well.
    is_final: bool,
}

impl Status {
    /// From the upper 15 bits of the last doubleword of a completion.
    #[must_use]
    pub const fn from_field(field: u16) -> Self {
        Self {
            code: field & 0x7ff,
            is_final: field & 1 << 14 != 0,
        }
    }

    /// Type and code, as `0x281`.
    #[must_use]
    pub const fn code(self) -> u16 {
        self.code
    }

    /// Whether the command did what it was asked.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.code == 0
    }

    /// Whether the same command may well succeed at once: the controller was interrupted, not in trouble.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        !self.is_final && matches!(self.code, 0x021 | 0x022 | 0x082)
    }

    /// What this means to those above.
    #[must_use]
    pub const fn to_error(self) -> DiskError {
        match self.code {
            0x00b => DiskError::Gone,
            0x080 => DiskError::OutOfRange,
            0x020 | 0x182 => DiskError::ReadOnly,
            0x280 | 0x281 | 0x282 | 0x283 | 0x284 | 0x287 => DiskError::Media,
            code => DiskError::Device(code),
        }
    }

    /// The name the standard gives it.
    #[must_use]
    pub fn name(self) -> &'static str {
        let found = NAMES.binary_search_by_key(&self.code, |entry| entry.0);
        match (found, self.code >> 8) {
            (Ok(index), _) => NAMES[index].1,
            (_, 0) => "Generic Status",
            (_, 1) => "Command Specific Status",
            (_, 2) => "Media and Data Integrity Error",
            (_, 3) => "Path Related Status",
            (_, 7) => "Vendor Specific Status",
            _ => "Reserved Status",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({:#05x})", self.name(), self.code)
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// Names by code, ascending.
const NAMES: &[(u16, &str)] = &[
    (0x000, "Successful Completion"),
    (0x001, "Invalid Command Opcode"),
    (0x002, "Invalid Field in Command"),
    (0x003, "Command ID Conflict"),
    (0x004, "Data Transfer Error"),
    (0x005, "Commands Aborted due to Power Loss Notification"),
    (0x006, "Internal Error"),
    (0x007, "Command Abort Requested"),
    (0x008, "Command Aborted due to SQ Deletion"),
    (0x009, "Command Aborted due to Failed Fused Command"),
    (0x00a, "Command Aborted due to Missing Fused Command"),
    (0x00b, "Invalid Namespace or Format"),
    (0x00c, "Command Sequence Error"),
    (0x00d, "Invalid SGL Segment Descriptor"),
    (0x00e, "Invalid Number of SGL Descriptors"),
    (0x00f, "Data SGL Length Invalid"),
    (0x010, "Metadata SGL Length Invalid"),
    (0x011, "SGL Descriptor Type Invalid"),
    (0x012, "Invalid Use of Controller Memory Buffer"),
    (0x013, "PRP Offset Invalid"),
    (0x014, "Atomic Write Unit Exceeded"),
    (0x015, "Operation Denied"),
    (0x016, "SGL Offset Invalid"),
    (0x018, "Host Identifier Inconsistent Format"),
    (0x019, "Keep Alive Timer Expired"),
    (0x01a, "Keep Alive Timeout Invalid"),
    (0x01b, "Command Aborted due to Preempt and Abort"),
    (0x01c, "Sanitize Failed"),
    (0x01d, "Sanitize In Progress"),
    (0x01e, "SGL Data Block Granularity Invalid"),
    (0x01f, "Command Not Supported for Queue in CMB"),
    (0x020, "Namespace is Write Protected"),
    (0x021, "Command Interrupted"),
    (0x022, "Transient Transport Error"),
    (0x023, "Command Prohibited by Command and Feature Lockdown"),
    (0x024, "Admin Command Media Not Ready"),
    (0x080, "LBA Out of Range"),
    (0x081, "Capacity Exceeded"),
    (0x082, "Namespace Not Ready"),
    (0x083, "Reservation Conflict"),
    (0x084, "Format In Progress"),
    (0x100, "Completion Queue Invalid"),
    (0x101, "Invalid Queue Identifier"),
    (0x102, "Invalid Queue Size"),
    (0x103, "Abort Command Limit Exceeded"),
    (0x105, "Asynchronous Event Request Limit Exceeded"),
    (0x106, "Invalid Firmware Slot"),
    (0x107, "Invalid Firmware Image"),
    (0x108, "Invalid Interrupt Vector"),
    (0x109, "Invalid Log Page"),
    (0x10a, "Invalid Format"),
    (0x10c, "Invalid Queue Deletion"),
    (0x10d, "Feature Identifier Not Saveable"),
    (0x10e, "Feature Not Changeable"),
    (0x10f, "Feature Not Namespace Specific"),
    (0x115, "Namespace Insufficient Capacity"),
    (0x11a, "Namespace Not Attached"),
    (0x180, "Conflicting Attributes"),
    (0x181, "Invalid Protection Information"),
    (0x182, "Attempted Write to Read Only Range"),
    (0x183, "Command Size Limit Exceeded"),
    (0x280, "Write Fault"),
    (0x281, "Unrecovered Read Error"),
    (0x282, "End-to-end Guard Check Error"),
    (0x283, "End-to-end Application Tag Check Error"),
    (0x284, "End-to-end Reference Tag Check Error"),
    (0x285, "Compare Failure"),
    (0x286, "Access Denied"),
    (0x287, "Deallocated or Unwritten Logical Block"),
    (0x288, "End-to-end Storage Tag Check Error"),
    (0x300, "Internal Path Error"),
    (0x301, "Asymmetric Access Persistent Loss"),
    (0x302, "Asymmetric Access Inaccessible"),
    (0x303, "Asymmetric Access Transition"),
    (0x360, "Controller Pathing Error"),
    (0x370, "Host Pathing Error"),
    (0x371, "Command Aborted By Host"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn names_are_sorted_and_found() {
        assert!(NAMES.is_sorted_by(|a, b| a.0 < b.0));
        let cases = [
            (0x0281, "Unrecovered Read Error (0x281)"),
            (0x4080, "LBA Out of Range (0x080)"),
            (0x01ff, "Command Specific Status (0x1ff)"),
            (0x07c0, "Vendor Specific Status (0x7c0)"),
        ];
        for (field, text) in cases {
            assert_eq!(Status::from_field(field).to_string(), text);
        }
    }

    #[test]
    fn codes_mean_what_those_above_expect() {
        let cases = [
            (0x281, DiskError::Media),
            (0x280, DiskError::Media),
            (0x080, DiskError::OutOfRange),
            (0x020, DiskError::ReadOnly),
            (0x182, DiskError::ReadOnly),
            (0x00b, DiskError::Gone),
            (0x006, DiskError::Device(6)),
        ];
        for (field, error) in cases {
            assert_eq!(Status::from_field(field).to_error(), error);
        }
        assert!(Status::from_field(0x021).is_transient());
        assert!(
            !Status::from_field(0x4021).is_transient(),
            "marked as final"
        );
        assert!(!Status::from_field(0x281).is_transient());
    }
}
