//! Slow clients of the API beside a load: connections that say nothing, stop in the middle of a request, or send a byte now
//! and then.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

/// How many there are; twice as many as the API serves at a time.
pub const CLIENTS: usize = 64;

/// Between two bytes of one that sends.
const PAUSE: Duration = Duration::from_millis(250);

const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A request whose body never ends, and a header that never does.
const BODY: &[u8] =
    b"POST /v1/volumes HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n{\"name\":\"";
const HEADER: &[u8] = b"GET /v1/volumes HTTP/1.1\r\nHost: a\r\nX-Slow: ";

/// A crowd at work; it goes when it is dropped.
pub struct Crowd {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Crowd {
    /// Connects all of them to the API at `address`.
    ///
    /// # Errors
    /// When not even the first connection succeeds.
    pub fn gather(address: SocketAddr) -> Result<Self> {
        let mut clients: Vec<Slow> = (0..CLIENTS).map(Slow::new).collect();
        clients[0]
            .connect(address)
            .context("the API's first slow client")?;
        let ends = Arc::new(AtomicBool::new(false));
        let is_over = ends.clone();
        let thread = thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                for client in &mut clients {
                    client.goes_on(address);
                }
                thread::sleep(PAUSE);
            }
        });
        Ok(Self {
            ends,
            thread: Some(thread),
        })
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One of them.
struct Slow {
    stream: Option<TcpStream>,
    /// What it says at once.
    begins: &'static [u8],
    /// Whether it then says more, byte by byte.
    dribbles: bool,
}

impl Slow {
    fn new(number: usize) -> Self {
        let (begins, dribbles): (&[u8], bool) = match number % 4 {
            0 => (b"", false),
            1 => (HEADER, false),
            2 => (HEADER, true),
            _ => (BODY, true),
        };
        Self {
            stream: None,
            begins,
            dribbles,
        }
    }

    fn connect(&mut self, address: SocketAddr) -> std::io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&address, CONNECT_LIMIT)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        stream.write_all(self.begins)?;
        self.stream = Some(stream);
        Ok(())
    }

    /// Sends its next byte, or comes again if it was turned out.
    fn goes_on(&mut self, address: SocketAddr) {
        let Some(stream) = &mut self.stream else {
            // Full as the API is, it may have to try often.
            let _ = self.connect(address);
            return;
        };
        let is_sent = !self.dribbles || stream.write_all(b"a").is_ok();
        let is_there = match stream.read(&mut [0; 512]) {
            Ok(0) => false,
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        };
        if !(is_sent && is_there) {
            self.stream = None;
        }
    }
}
