//! What a stack is told at start: its addresses and its patience.

use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr};
use core::str::FromStr;
use core::time::Duration;

use smoltcp::wire::{IpAddress, IpCidr};

/// The most fixed addresses of one stack; the rest of the interface's table is for DHCP, link-local and advertised ones.
pub const ADDRESSES_MAX: usize = 4;

/// How a stack gets its addresses and when it gives a silent peer up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// Fixed addresses, at most [`ADDRESSES_MAX`]; the link-local IPv6 address comes on top.
    pub addresses: Vec<Cidr>,
    /// Default gateways, at most one per address family (the last one counts).
    pub gateways: Vec<IpAddr>,
    /// Asks for an IPv4 address by DHCP (RFC 2131).
    pub dhcp: bool,
    /// Takes IPv6 addresses from router advertisements (RFC 4862).
    pub slaac: bool,
    /// A quiet connection is probed this often.
    pub keep_alive: Duration,
    /// A connection whose peer has not answered for this long is dropped. Below about 62 s this would drop peers that
    /// are alive but do not read: a closed window is probed only every 60 s in the end.
    pub timeout: Duration,
}

impl Default for NetConfig {
    /// DHCP and router advertisements.
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            gateways: Vec::new(),
            dhcp: true,
            slaac: true,
            keep_alive: Duration::from_secs(15),
            timeout: Duration::from_secs(75),
        }
    }
}

impl NetConfig {
    /// Only these addresses (and the link-local one).
    #[must_use]
    pub fn fixed(addresses: &[Cidr], gateways: &[IpAddr]) -> Self {
        Self {
            addresses: addresses.to_vec(),
            gateways: gateways.to_vec(),
            dhcp: false,
            slaac: false,
            ..Self::default()
        }
    }
}

/// A unicast address and the length of its network prefix, as in `10.0.0.2/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix_bits: u8,
}

impl Cidr {
    /// An address in a network of `prefix_bits`; `None` when that is too long or the address cannot be a host's.
    #[must_use]
    pub fn new(address: IpAddr, prefix_bits: u8) -> Option<Self> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        (is_host(address) && prefix_bits <= bits).then_some(Self {
            address,
            prefix_bits,
        })
    }

    /// The address.
    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// The prefix length in bits.
    #[must_use]
    pub const fn prefix_bits(self) -> u8 {
        self.prefix_bits
    }

    pub(crate) fn to_wire(self) -> IpCidr {
        IpCidr::new(IpAddress::from(self.address), self.prefix_bits)
    }

    pub(crate) fn from_wire(cidr: &IpCidr) -> Self {
        Self {
            address: cidr.address().into(),
            prefix_bits: cidr.prefix_len(),
        }
    }
}

/// Whether one host can have this address.
pub(crate) fn is_host(address: IpAddr) -> bool {
    let is_broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    !(address.is_unspecified() || address.is_multicast() || is_broadcast)
}

impl fmt::Display for Cidr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.prefix_bits)
    }
}

/// The text is not an address, a slash and a prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CidrError;

impl fmt::Display for CidrError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("expected an address and a prefix length, as in 10.0.0.2/24")
    }
}

impl core::error::Error for CidrError {}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = text.split_once('/').ok_or(CidrError)?;
        let address = address.parse().map_err(|_| CidrError)?;
        let prefix_bits = prefix.parse().map_err(|_| CidrError)?;
        Self::new(address, prefix_bits).ok_or(CidrError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn reads_what_it_prints() {
        for text in ["10.0.0.2/24", "fd00::2/64", "192.168.1.1/32", "127.0.0.1/0"] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_no_host_can_have() {
        let texts = [
            "10.0.0.2",
            "10.0.0.2/33",
            "fd00::2/129",
            "224.0.0.1/24",
            "0.0.0.0/0",
            "ff02::1/64",
            "255.255.255.255/32",
            "10.0.0/24",
            "10.0.0.2/-1",
            "",
        ];
        for text in texts {
            assert_eq!(text.parse::<Cidr>(), Err(CidrError), "{text}");
        }
    }
}
