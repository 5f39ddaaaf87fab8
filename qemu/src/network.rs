//! Network back ends of a machine.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Error, bail};

use crate::escaped;

/// What a network interface of the guest is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// User-mode networking: DHCP, outgoing connections, and the machine's port forwards.
    User,
    /// An existing tap interface of the host.
    Tap(String),
    /// A Unix stream socket that takes length-prefixed frames.
    Socket(PathBuf),
}

impl FromStr for Network {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Ok(match text.split_once('=') {
            None if text == "user" => Self::User,
            Some(("tap", name)) if !name.is_empty() => Self::Tap(name.into()),
            Some(("socket", path)) if !path.is_empty() => Self::Socket(path.into()),
            _ => bail!("`{text}` is not a network; write user, tap=INTERFACE or socket=PATH"),
        })
    }
}

/// A TCP port of the host that leads into the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Where the host listens.
    pub host: SocketAddr,
    /// The port in the guest.
    pub guest_port: u16,
}

impl Network {
    /// The `-netdev` option; forwards apply to user-mode networking only.
    pub(crate) fn backend(&self, id: &str, forwards: &[Forward]) -> String {
        match self {
            Self::User => {
                let mut option = format!("user,id={id}");
                for forward in forwards {
                    // QEMU wants an IPv6 address bare of nothing but brackets, as `SocketAddr` prints it.
                    let (host, port) = (forward.host, forward.guest_port);
                    option.push_str(&format!(",hostfwd=tcp:{host}-:{port}"));
                }
                option
            }
            Self::Tap(name) => {
                format!(
                    "tap,id={id},ifname={},script=no,downscript=no,vhost=off",
                    escaped(name)
                )
            }
            Self::Socket(path) => format!(
                "stream,id={id},server=off,addr.type=unix,addr.path={}",
                escaped(&path.to_string_lossy())
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_three_kinds() {
        assert_eq!("user".parse::<Network>().unwrap(), Network::User);
        assert_eq!(
            "tap=t0".parse::<Network>().unwrap(),
            Network::Tap("t0".into())
        );
        assert_eq!(
            "socket=/a,b".parse::<Network>().unwrap().backend("n0", &[]),
            "stream,id=n0,server=off,addr.type=unix,addr.path=/a,,b"
        );
        for text in ["", "usr", "tap", "tap=", "socket="] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
