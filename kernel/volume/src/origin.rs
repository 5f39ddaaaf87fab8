//! Where blocks come from that are not here yet.
//!
//! A volume can be *adopted*: it is there at once, and its blocks follow from an [`Origin`] when somebody wants them or when there is
//! time. This room decides what is fetched and when; how an origin is reached is up to who implements these traits.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use core::pin::Pin;

use world::Buf;

/// What an origin is asked for. Fetches wait for a network, so a box more does not count.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, OriginError>> + 'a>>;

/// What a volume is adopted from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginAddress {
    /// An export of an NBD server.
    Nbd {
        /// Name or address of the machine.
        host: String,
        /// TCP port.
        port: u16,
        /// The export's name; empty for the server's default.
        export: String,
    },
    /// A snapshot on an appliance that this one is paired with.
    Peer {
        /// What that one is called.
        peer: String,
        /// `VOLUME@SNAPSHOT`.
        snapshot: String,
    },
    /// Wherever a volume was that moves here: what it was when it was given for the ownership with this epoch.
    Moved {
        /// Identity of the volume, the same on all appliances.
        id: [u8; 16],
        /// Epoch.
        epoch: u64,
    },
}

/// An open origin. Requests may run concurrently; one that loses its connection connects again by itself.
pub trait Origin {
    /// Bytes that it has.
    fn size_bytes(&self) -> u64;

    /// What lies at `offset`, within its size: at least one extent, from `offset` on, ascending and touching. They may end before `len`
    /// bytes, and never go beyond. An origin that cannot tell calls everything data.
    fn extents(&self, offset: u64, len: u64) -> Answer<'_, Vec<OriginExtent>>;

    /// Reads the blocks at `offset`, a multiple of 4096, into all pages of `into`. What lies beyond the origin's end is zeros.
    fn read(&self, offset: u64, into: Buf) -> Answer<'_, Buf>;

    /// What was used there lately, and should come first. An origin that does not know says nothing.
    fn hottest(&self) -> Answer<'_, Vec<Range<u64>>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

/// Opens origins.
pub trait Origins {
    /// Connects and agrees on what is read. Ends within some seconds, one way or the other.
    fn open(&self, address: &OriginAddress) -> Answer<'_, Rc<dyn Origin>>;
}

/// A run of bytes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginExtent {
    /// Bytes, at least one.
    pub len: u64,
    /// Whether it reads as zeros, and need not be fetched.
    pub is_zero: bool,
}

/// Why an origin did not give what it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginError {
    /// Nobody answers there, or the connection was lost and could not be made again. May pass.
    Unreachable,
    /// It is named by what is no address, and nobody here can look names up.
    NoAddress,
    /// Where it is was kept, and cannot be read any more.
    Forgotten,
    /// It has no export of that name.
    NoExport,
    /// It does not let us in, or only with what we do not have (TLS).
    Refused,
    /// This appliance is not paired with it.
    NoPeer,
    /// It has not all of it itself, and cannot reach where the rest is. May pass.
    Behind,
    /// It said something that its protocol does not allow.
    Protocol,
    /// It answered, with this error number of its protocol. May pass.
    Failed(u32),
    /// It has another size than it had, or one that no volume can have: this one.
    Size(u64),
}

impl OriginError {
    /// Whether it may work another time.
    #[must_use]
    pub fn may_pass(self) -> bool {
        matches!(self, Self::Unreachable | Self::Behind | Self::Failed(_))
    }
}

impl fmt::Display for OriginError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable => out.write_str("the origin does not answer"),
            Self::NoAddress => out.write_str(
                "names of machines cannot be looked up: name the origin by its address, like nbd://10.0.0.5/disk",
            ),
            Self::Forgotten => out.write_str("where the origin is cannot be read any more"),
            Self::NoExport => out.write_str("the origin has no such export or snapshot"),
            Self::Refused => out.write_str("the origin refuses us"),
            Self::NoPeer => out.write_str("this appliance is not paired with the origin"),
            Self::Behind => out.write_str(
                "the origin has not all of it, and its own origin does not answer",
            ),
            Self::Protocol => out.write_str("the origin does not speak as it should"),
            Self::Failed(code) => write!(out, "the origin could not read it: error {code}"),
            Self::Size(bytes) => write!(out, "the origin has {bytes} bytes, which cannot be"),
        }
    }
}

impl core::error::Error for OriginError {}
