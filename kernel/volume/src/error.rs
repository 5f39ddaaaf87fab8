//! Why a volume operation failed.

use core::fmt;

use store::StoreError;

use crate::OriginError;

/// Why a volume operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeError {
    /// The request is wrong: there is no such volume.
    NoVolume,
    /// The request is wrong: the volume has no such snapshot.
    NoSnapshot,
    /// The request is wrong: no name was given, and there is neither a `demo` nor a single volume.
    NoDefault,
    /// The request is wrong: the name is taken.
    NameTaken,
    /// The request is wrong: not a name ([`check_name`](crate::check_name)).
    BadName,
    /// The request is wrong: not a size ([`check_size`](crate::check_size)).
    BadSize,
    /// The request is wrong: volumes do not shrink; this is the present size in bytes.
    Shrinks(u64),
    /// The request is wrong: so many clients are attached, and it was not forced.
    Attached(usize),
    /// The request is wrong: this attachment takes no writes.
    ReadOnly,
    /// The request is wrong: beyond the end of the volume.
    OutOfRange,
    /// The request is wrong: not in units of 512 bytes.
    Unaligned,
    /// The request is wrong: one volume is named twice.
    NamedTwice,
    /// The request is wrong: not a network, or too many of them.
    BadNetwork,
    /// The request is wrong: a limit is out of its bounds ([`Limits`](crate::Limits)).
    BadLimit,
    /// The request is wrong: this volume is not for clients from there.
    NotAllowed,
    /// The request is wrong: not the address of an origin.
    BadOrigin,
    /// The request is wrong: the volume is offered to another appliance, so what is asked for has to wait.
    Offered,
    /// The request is wrong: the volume is still another appliance's, and cannot be changed here.
    NotYet,
    /// The request is wrong: the volume is another appliance's now.
    Elsewhere,
    /// The request is wrong: another appliance still fetches from here, and it was not forced.
    Needed,
    /// The origin of an adopted volume, and why a block that is not here yet cannot be had from there.
    Origin(OriginError),
    /// The volume or snapshot is being or was deleted while attached. Detach.
    Deleted,
    /// The volume is being or was rolled back while attached: nothing that was read before need be true any more. Attach
    /// again.
    RolledBack,
    /// The store refused or failed.
    Store(StoreError),
}

impl fmt::Display for VolumeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoVolume => out.write_str("no such volume"),
            Self::NoSnapshot => out.write_str("no such snapshot"),
            Self::NoDefault => {
                out.write_str("no name given, and there is neither a `demo` nor a single volume")
            }
            Self::NameTaken => StoreError::NameTaken.fmt(out),
            Self::BadName => StoreError::BadName.fmt(out),
            Self::BadSize => out.write_str(
                "a size is a multiple of 512 bytes, at least 4096 bytes and at most 128 TiB",
            ),
            Self::Shrinks(size) => {
                out.write_str("volumes only grow, and this one has ")?;
                write_size(out, *size)
            }
            Self::Attached(1) => out.write_str("a client is attached"),
            Self::Attached(count) => write!(out, "{count} clients are attached"),
            Self::ReadOnly => out.write_str("attached read-only"),
            Self::OutOfRange => out.write_str("beyond the end of the volume"),
            Self::Unaligned => out.write_str("not in units of 512 bytes"),
            Self::NamedTwice => out.write_str("one volume is named twice"),
            Self::BadNetwork => out.write_str(
                "`allow` is a list of at most 32 networks, like 10.0.0.0/8 or 2001:db8::/32",
            ),
            Self::BadLimit => out.write_str(
                "a limit is 1 to 10000000 requests, or 65536 to 68719476736 bytes, in a second",
            ),
            Self::NotAllowed => out.write_str("this volume is not for clients from there"),
            Self::BadOrigin => out.write_str("an origin is named like nbd://10.0.0.5:10809/disk, or ferrite://NODE/VOLUME@SNAPSHOT"),
            Self::Offered => {
                out.write_str("it is being moved to another appliance; cancel that first")
            }
            Self::NotYet => out.write_str("it is another appliance's until that hands it over"),
            Self::Elsewhere => out.write_str("it is another appliance's now"),
            Self::Needed => out.write_str("another appliance still fetches from it"),
            Self::Origin(error) => error.fmt(out),
            Self::Deleted => out.write_str("it was deleted"),
            Self::RolledBack => out.write_str("the volume was rolled back"),
            Self::Store(error) => error.fmt(out),
        }
    }
}

/// Writes a size as people do, in a unit that says it in few digits; and exactly, if that is not exact.
fn write_size(out: &mut fmt::Formatter<'_>, bytes: u64) -> fmt::Result {
    /// More digits than these are not read but counted.
    const FEW: u64 = 10_000;
    let units = [
        (40, "TiB"),
        (30, "GiB"),
        (20, "MiB"),
        (10, "KiB"),
        (0, "bytes"),
    ];
    let exact = units
        .into_iter()
        .find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift) && bytes >> shift < FEW);
    if let Some((shift, unit)) = exact {
        return write!(out, "{} {unit}", bytes >> shift);
    }
    let fitting = units.into_iter().find(|(shift, _)| bytes >> shift > 0);
    let (shift, unit) = fitting.unwrap_or((0, "bytes"));
    let tenths = (u128::from(bytes) * 10) >> shift;
    let (whole, part) = (tenths / 10, tenths % 10);
    write!(out, "{whole}.{part} {unit} ({bytes} bytes)")
}

impl core::error::Error for VolumeError {}

impl From<OriginError> for VolumeError {
    fn from(error: OriginError) -> Self {
        Self::Origin(error)
    }
}

impl From<StoreError> for VolumeError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoVolume => Self::NoVolume,
            StoreError::NoSnapshot | StoreError::OtherVolume => Self::NoSnapshot,
            StoreError::NameTaken => Self::NameTaken,
            StoreError::BadName => Self::BadName,
            StoreError::BadSize => Self::BadSize,
            StoreError::OutOfRange => Self::OutOfRange,
            other => Self::Store(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn sizes_are_said_exactly() {
        for (size, text) in [
            (10 << 30, "10 GiB"),
            (3 << 29, "1536 MiB"),
            ((1 << 30) + 512, " 1.0 GiB (1073742336 bytes)"),
            ((5 << 40) / 2 + 4096, " 2.5 TiB (2748779073536 bytes)"),
            (4096, " 4 KiB"),
        ] {
            let said = VolumeError::Shrinks(size).to_string();
            assert!(said.ends_with(text), "{said}");
        }
    }
}
