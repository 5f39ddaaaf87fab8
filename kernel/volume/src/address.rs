//! How an origin is named: `nbd://HOST[:PORT][/EXPORT]` (the NBD project's URI specification, without TLS and sockets);
//! `ferrite://PEER/VOLUME@SNAPSHOT`, for a snapshot on a paired appliance; and, where nobody types it, `moved:IDENTITY/EPOCH`.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use store::is_name;

use crate::{OriginAddress, VolumeError};

/// The port when none is named (IANA).
const NBD_PORT: u16 = 10809;
/// The longest host name (RFC 1035, section 2.3.4).
const HOST_MAX: usize = 255;
/// The longest export name: encoded, it has to fit a record of the store.
const EXPORT_MAX: usize = 255;

impl FromStr for OriginAddress {
    type Err = VolumeError;

    fn from_str(text: &str) -> Result<Self, VolumeError> {
        let parsed = match text.split_once(':') {
            Some(("ferrite", rest)) => parse_peer(rest),
            Some(("moved", rest)) => parse_moved(rest),
            _ => parse_nbd(text),
        };
        parsed.ok_or(VolumeError::BadOrigin)
    }
}

fn parse_peer(rest: &str) -> Option<OriginAddress> {
    let (peer, snapshot) = rest.strip_prefix("//")?.split_once('/')?;
    let (volume, name) = snapshot.split_once('@')?;
    let is_fine = [peer, volume, name].into_iter().all(is_name);
    is_fine.then(|| OriginAddress::Peer {
        peer: peer.into(),
        snapshot: snapshot.into(),
    })
}

fn parse_moved(rest: &str) -> Option<OriginAddress> {
    let (digits, epoch) = rest.split_once('/')?;
    if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let id = u128::from_str_radix(digits, 16).ok()?.to_be_bytes();
    let epoch = epoch.parse().ok()?;
    Some(OriginAddress::Moved { id, epoch })
}

fn parse_nbd(text: &str) -> Option<OriginAddress> {
    let rest = text.strip_prefix("nbd://")?;
    if rest.contains(['?', '#', '@']) {
        return None;
    }
    let (authority, export) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = match authority.strip_prefix('[') {
        // An IPv6 address has colons of its own.
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            match after {
                "" => (host, None),
                port => (host, Some(port.strip_prefix(':')?)),
            }
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    if !(1..=HOST_MAX).contains(&host.len()) || !host.bytes().all(is_host) {
        return None;
    }
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port > 0)?,
        None => NBD_PORT,
    };
    let export = decode(export)?;
    (export.len() <= EXPORT_MAX).then(|| OriginAddress::Nbd {
        host: host.into(),
        port,
        export,
    })
}

/// Undoes percent-encoding (RFC 3986, section 2.1).
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = after.split_first_chunk::<2>()?;
        let digits = core::str::from_utf8(digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.contains(char::is_control)).then_some(text)
}

fn encode(text: &str) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~/:".contains(byte);
    let mut out = String::new();
    for byte in text.as_bytes() {
        match is_plain(byte) {
            true => out.push(char::from(*byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

impl fmt::Display for OriginAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port, export) = match self {
            Self::Nbd { host, port, export } => (host, port, export),
            Self::Peer { peer, snapshot } => return write!(out, "ferrite://{peer}/{snapshot}"),
            Self::Moved { id, epoch } => {
                let id = u128::from_be_bytes(*id);
                return write!(out, "moved:{id:032x}/{epoch}");
            }
        };
        match host.contains(':') {
            true => write!(out, "nbd://[{host}]")?,
            false => write!(out, "nbd://{host}")?,
        }
        write!(out, ":{port}/{}", encode(export))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn addresses_are_read_and_written() {
        for (text, host, port, export, again) in [
            (
                "nbd://10.0.0.5:10810/db",
                "10.0.0.5",
                10810,
                "db",
                "nbd://10.0.0.5:10810/db",
            ),
            (
                "nbd://store-1.example",
                "store-1.example",
                10809,
                "",
                "nbd://store-1.example:10809/",
            ),
            (
                "nbd://[2001:db8::7]/a%20b",
                "2001:db8::7",
                10809,
                "a b",
                "nbd://[2001:db8::7]:10809/a%20b",
            ),
            (
                "nbd://[::1]:7/x%40y/z",
                "::1",
                7,
                "x@y/z",
                "nbd://[::1]:7/x%40y/z",
            ),
        ] {
            let parsed: OriginAddress = text.parse().unwrap();
            let expected = OriginAddress::Nbd {
                host: host.into(),
                port,
                export: export.into(),
            };
            assert_eq!(parsed, expected);
            assert_eq!(parsed.to_string(), again);
            assert_eq!(again.parse(), Ok(expected));
        }
    }

    #[test]
    fn appliances_are_named_too() {
        let peer = OriginAddress::Peer {
            peer: "node-b".into(),
            snapshot: "db@monday".into(),
        };
        let id = core::array::from_fn(|at| at as u8);
        for (text, address) in [
            ("ferrite://node-b/db@monday", peer),
            (
                "moved:000102030405060708090a0b0c0d0e0f/7",
                OriginAddress::Moved { id, epoch: 7 },
            ),
        ] {
            assert_eq!(text.parse(), Ok(address.clone()));
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in [
            "ferrite://node-b/db",
            "ferrite://node b/db@monday",
            "ferrite:node-b/db@monday",
            "moved:0001/7",
            "moved:+00102030405060708090a0b0c0d0e0f/7",
            "moved:000102030405060708090a0b0c0d0e0f",
            "",
            "nbd:",
            "nbd://",
            "nbds://host",
            "http://host",
            "nbd://host:0",
            "nbd://host:65536",
            "nbd://host:x",
            "nbd://ho st",
            "nbd://[::1",
            "nbd://[::1]7",
            "nbd://host/%",
            "nbd://host/%4",
            "nbd://host/%zz",
            "nbd://host/%ff",
            "nbd://host/a?b",
            "nbd://user@host",
            "nbd://host/%00",
        ] {
            assert_eq!(
                bad.parse::<OriginAddress>(),
                Err(VolumeError::BadOrigin),
                "{bad}"
            );
        }
        let long = format!("nbd://host/{}", "x".repeat(EXPORT_MAX + 1));
        assert_eq!(long.parse::<OriginAddress>(), Err(VolumeError::BadOrigin));
    }
}
