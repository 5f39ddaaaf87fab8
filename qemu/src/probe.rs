//! Asks the two servers of an appliance whether they answer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// What an NBD server says first (fixed newstyle), before its 16 bits of flags.
const NBD_GREETING: &[u8; 16] = b"NBDMAGICIHAVEOPT";

/// Option 2, ABORT, with the client's flags before it: leaves politely.
const NBD_LEAVE: &[u8; 20] = b"\0\0\0\x03IHAVEOPT\0\0\0\x02\0\0\0\0";

/// Checks that an NBD server greets at `address`.
///
/// # Errors
/// When nothing connects or answers within `limit`, or it is not NBD.
pub fn nbd(address: SocketAddr, limit: Duration) -> Result<()> {
    let mut stream = connect(address, limit)?;
    let mut greeting = [0; 18];
    stream
        .read_exact(&mut greeting)
        .with_context(|| format!("no NBD greeting at {address}"))?;
    if !greeting.starts_with(NBD_GREETING) {
        bail!("what answers at {address} is not an NBD server");
    }
    // The answer does not matter; an old server just closes.
    let _ = stream.write_all(NBD_LEAVE);
    Ok(())
}

/// Checks that `GET /healthz` at `address` is answered with 200.
///
/// # Errors
/// When nothing connects or answers within `limit`, or the status differs.
pub fn healthz(address: SocketAddr, limit: Duration) -> Result<()> {
    let mut stream = connect(address, limit)?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut head = [0; 12];
    stream
        .read_exact(&mut head)
        .with_context(|| format!("no HTTP answer at {address}"))?;
    if !(head.starts_with(b"HTTP/1.") && head.ends_with(b" 200")) {
        bail!(
            "/healthz at {address} answers `{}`",
            String::from_utf8_lossy(&head)
        );
    }
    Ok(())
}

fn connect(address: SocketAddr, limit: Duration) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, limit)
        .with_context(|| format!("nothing listens at {address}"))?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    Ok(stream)
}

/// A TCP port of the loopback interface that nothing uses at this moment.
///
/// # Errors
/// When the system has none left.
pub fn free_port() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free TCP port")?;
    Ok(listener.local_addr()?)
}

/// Checks that a server could listen at `address`.
///
/// # Errors
/// When somebody else does, or the address is not of this host.
pub fn can_listen(address: SocketAddr) -> Result<()> {
    TcpListener::bind(address)
        .map(drop)
        .with_context(|| format!("cannot listen at {address}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    /// Serves one connection: reads what comes, after having sent `bytes`.
    fn serve(bytes: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(bytes).unwrap();
            let _ = stream.read(&mut [0; 256]);
        });
        address
    }

    #[test]
    fn tells_servers_from_others() {
        nbd(serve(b"NBDMAGICIHAVEOPT\0\x03"), LIMIT).unwrap();
        assert!(nbd(serve(b"SSH-2.0-whatever__"), LIMIT).is_err());
        healthz(serve(b"HTTP/1.1 200 OK\r\n\r\n"), LIMIT).unwrap();
        assert!(healthz(serve(b"HTTP/1.1 503 Later\r\n\r\n"), LIMIT).is_err());
        let nobody = free_port().unwrap();
        assert!(nbd(nobody, LIMIT).is_err());
        can_listen(nobody).unwrap();
    }
}
