//! A disk that is somewhere else, and the line to it: what volumes are adopted from.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use qemu::probe;

use crate::clients;
use crate::reference::Reference;
use crate::wire::{Counts, Wire};

/// Flag of an extent in `base:allocation`: it reads as zeros (NBD protocol, "Metadata contexts").
const ZERO: u64 = 2;

/// An image behind qemu-nbd, and a line to it on which everything is counted; ends with the value.
#[derive(Debug)]
pub struct Origin {
    // In the order in which they have to go.
    wire: Wire,
    server: Reference,
    data: Vec<(u64, u64)>,
}

impl Origin {
    /// Serves a qcow2 file at `ip`, in the caller's network namespace.
    ///
    /// # Errors
    /// When qemu-nbd or nbdinfo is missing, or does not do what it should.
    pub fn of_image(image: &Path, ip: IpAddr) -> Result<Self> {
        let port = probe::free_port()?.port();
        let server = Reference::of_image(image, SocketAddr::new(ip, port))?;
        let data = data(&server.uri()).context("what the image has")?;
        let wire = Wire::to(server.address(), ip)?;
        Ok(Self { wire, server, data })
    }

    /// What of it is not known to be zeros: offset and length, ascending.
    #[must_use]
    pub fn data(&self) -> &[(u64, u64)] {
        &self.data
    }

    /// How many bytes that are.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        self.data.iter().map(|(_, len)| len).sum()
    }

    /// What went over the line so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.wire.counts()
    }

    /// Where clients connect to, over the line.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.wire.address()
    }

    /// The URI over the line, for somebody to whom this host is `host`.
    #[must_use]
    pub fn uri(&self, host: &str) -> String {
        format!("nbd://{host}:{}/", self.address().port())
    }

    /// The URI without the line.
    #[must_use]
    pub fn direct_uri(&self) -> String {
        self.server.uri()
    }
}

/// Extents of an export that are not known to be zeros, neighbours joined.
fn data(uri: &str) -> Result<Vec<(u64, u64)>> {
    let mut data: Vec<(u64, u64)> = Vec::new();
    for (offset, len, flags) in clients::map(uri, "base:allocation")? {
        match data.last_mut() {
            _ if flags & ZERO != 0 => {}
            Some((start, before)) if *start + *before == offset => *before += len,
            _ => data.push((offset, len)),
        }
    }
    Ok(data)
}
