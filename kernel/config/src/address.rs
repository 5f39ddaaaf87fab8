//! Addresses with a prefix length.

use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;

/// An address of this node and the length of its network's prefix, e.g. `10.0.0.2/24`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    /// The address.
    pub address: IpAddr,
    /// Bits of the network part: at most 32 for IPv4, 128 for IPv6.
    pub prefix_len: u8,
}

/// Not an address with a prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadCidr;

impl FromStr for Cidr {
    type Err = BadCidr;

    fn from_str(text: &str) -> Result<Self, BadCidr> {
        let (address, prefix_len) = text.split_once('/').ok_or(BadCidr)?;
        let address: IpAddr = address.parse().map_err(|_| BadCidr)?;
        let prefix_len: u8 = prefix_len.parse().map_err(|_| BadCidr)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if prefix_len > most || address.is_unspecified() || address.is_multicast() {
            return Err(BadCidr);
        }
        Ok(Self {
            address,
            prefix_len,
        })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.prefix_len)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self}")
    }
}
