//! Opens origins.

use alloc::rc::Rc;
use alloc::string::String;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use exec::Exec;
use volume::{Answer, Origin, OriginAddress, OriginError, Origins};

use crate::Connect;
use crate::origin::{Dialer, NbdOrigin};

/// How long is waited for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a connection and its handshake.
    pub open: Duration,
    /// For the next byte, while something is asked for; then the connection is given up and another one made.
    pub silence: Duration,
    /// For the answer to a request, with all connections that it takes.
    pub request: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            open: Duration::from_secs(10),
            silence: Duration::from_secs(10),
            request: Duration::from_secs(30),
        }
    }
}

/// Opens exports of NBD servers as origins.
pub struct NbdOrigins<C> {
    exec: Exec,
    connect: Rc<C>,
    patience: Patience,
}

impl<C: Connect> NbdOrigins<C> {
    /// What opens origins by `connect`, with the usual [`Patience`].
    #[must_use]
    pub fn new(exec: Exec, connect: C) -> Self {
        Self {
            exec,
            connect: Rc::new(connect),
            patience: Patience::default(),
        }
    }

    /// The same with another patience, which what is opened then keeps.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    async fn open_nbd(
        &self,
        host: &str,
        port: u16,
        export: String,
    ) -> Result<Rc<dyn Origin>, OriginError> {
        let host = address_of(host).ok_or(OriginError::NoAddress)?;
        let dialer = Dialer {
            exec: self.exec.clone(),
            connect: self.connect.clone(),
            to: SocketAddr::new(host, port),
            export,
            patience: self.patience,
        };
        Ok(Rc::new(NbdOrigin::open(dialer).await?))
    }
}

impl<C: Connect> Origins for NbdOrigins<C> {
    fn open(&self, address: &OriginAddress) -> Answer<'_, Rc<dyn Origin>> {
        let address = address.clone();
        alloc::boxed::Box::pin(async move {
            match address {
                OriginAddress::Nbd { host, port, export } => {
                    self.open_nbd(&host, port, export).await
                }
                OriginAddress::Peer { .. } | OriginAddress::Moved { .. } => {
                    Err(OriginError::NoPeer)
                }
            }
        })
    }
}

/// The address that `host` is, with or without the brackets of IPv6; `None` for a name, which nobody here can look up.
#[must_use]
pub fn address_of(host: &str) -> Option<IpAddr> {
    let inner = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match inner {
        Some(inner) => inner.parse().ok().map(IpAddr::V6),
        None => host.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_numbers() {
        for (host, is_address) in [
            ("10.0.0.1", true),
            ("fd00::1", true),
            ("[fd00::1]", true),
            ("[10.0.0.1]", false),
            ("nas", false),
            ("", false),
        ] {
            assert_eq!(address_of(host).is_some(), is_address, "{host}");
        }
    }
}
