//! An NBD client that does an exact number of operations, so that what a guest executes can be divided by it.
//!
//! It talks as common clients do: structured replies when they are offered, one segment for each request, as many requests
//! in flight as the depth says, and the next request as soon as a reply is there.

use std::collections::HashMap;
use std::io::{BufReader, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const OPTION_GO: u32 = 7;
const OPTION_STRUCTURED_REPLY: u32 = 8;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_ERROR: u32 = 1 << 31;
/// Fixed newstyle, no padding of zeros.
const CLIENT_FLAGS: u32 = 3;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_MAGIC: u32 = 0x668e_33ef;
const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
/// Flag of a structured reply: its last chunk.
const DONE: u16 = 1;
/// Kind of a structured chunk: data behind their offset.
const OFFSET_DATA: u16 = 1;
/// Kind of a structured chunk: a hole.
const OFFSET_HOLE: u16 = 2;
/// Kinds with this bit are errors.
const CHUNK_ERROR: u16 = 1 << 15;

/// No answer may take longer.
const LIMIT: Duration = Duration::from_secs(60);

/// What each operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A read at random.
    Read,
    /// A write at random.
    Write,
    /// A write at random and then a flush, together one operation.
    WriteFlush,
    /// Reads in order.
    StreamRead,
    /// Writes in order.
    StreamWrite,
}

/// A load: what, how large, how many at once, and where.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// What each operation does.
    pub kind: Kind,
    /// Bytes of one operation.
    pub bytes: u32,
    /// Operations in flight on each connection.
    pub depth: u32,
    /// The first so many bytes of the export are used.
    pub span: u64,
}

/// One connection to an export.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    replies: BufReader<TcpStream>,
    cookie: u64,
    random: u64,
    position: u64,
    payload: Vec<u8>,
    into: Vec<u8>,
    // Whether a simple reply is followed by data.
    is_reading: bool,
}

impl Connection {
    /// Connects and selects `export`; `seed` decides where random operations go.
    ///
    /// # Errors
    /// When nobody listens, the export is refused, or what answers is not NBD.
    pub fn open(address: SocketAddr, export: &str, seed: u64) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, LIMIT)
            .with_context(|| format!("nothing listens at {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let replies = BufReader::with_capacity(1 << 18, stream.try_clone()?);
        let mut connection = Self {
            stream,
            replies,
            cookie: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            position: 0,
            payload: Vec::new(),
            into: Vec::new(),
            is_reading: false,
        };
        connection.negotiate(export)?;
        Ok(connection)
    }

    fn negotiate(&mut self, export: &str) -> Result<()> {
        let greeting: [u8; 18] = self.array()?;
        ensure!(
            greeting.starts_with(b"NBDMAGICIHAVEOPT"),
            "not an NBD server"
        );
        self.stream.write_all(&CLIENT_FLAGS.to_be_bytes())?;
        // A server that has none refuses this and goes on.
        self.option(OPTION_STRUCTURED_REPLY, &[])?;
        let mut data = u32::try_from(export.len())?.to_be_bytes().to_vec();
        data.extend_from_slice(export.as_bytes());
        data.extend_from_slice(&[0; 2]);
        let answer = self.option(OPTION_GO, &data)?;
        ensure!(
            answer == REPLY_ACK,
            "export `{export}` refused ({answer:#x})"
        );
        Ok(())
    }

    /// Sends an option and returns the kind of the reply that ends it.
    fn option(&mut self, option: u32, data: &[u8]) -> Result<u32> {
        let mut message = OPTION_MAGIC.to_vec();
        message.extend_from_slice(&option.to_be_bytes());
        message.extend_from_slice(&u32::try_from(data.len())?.to_be_bytes());
        message.extend_from_slice(data);
        self.stream.write_all(&message)?;
        loop {
            let magic = u64::from_be_bytes(self.array()?);
            let about = u32::from_be_bytes(self.array()?);
            let kind = u32::from_be_bytes(self.array()?);
            let length = u32::from_be_bytes(self.array()?);
            ensure!(
                magic == OPTION_REPLY_MAGIC && about == option && length < 65536,
                "malformed reply"
            );
            let mut rest = vec![0; length as usize];
            self.replies.read_exact(&mut rest)?;
            match kind {
                REPLY_INFO => {}
                REPLY_ACK => return Ok(kind),
                error if error >= REPLY_ERROR => return Ok(kind),
                other => bail!("an unknown answer ({other:#x})"),
            }
        }
    }

    /// Does `count` operations and returns when all are answered.
    ///
    /// # Errors
    /// When the server refuses one or the connection ends.
    pub fn run(&mut self, load: Load, count: u64) -> Result<()> {
        self.prepare(load);
        let mut stages: HashMap<u64, Stage> = HashMap::new();
        let mut started = 0;
        let mut done = 0;
        while started < count.min(load.depth.into()) {
            self.start(load, &mut stages)?;
            started += 1;
        }
        while done < count {
            let cookie = self.reply()?;
            let stage = stages.remove(&cookie).context("a reply to nothing")?;
            if stage == Stage::Data && load.kind == Kind::WriteFlush {
                let cookie = self.send(FLUSH, 0, 0)?;
                stages.insert(cookie, Stage::Flush);
                continue;
            }
            done += 1;
            if started < count {
                self.start(load, &mut stages)?;
                started += 1;
            }
        }
        Ok(())
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// When the server refuses or the connection ends.
    pub fn flush(&mut self) -> Result<()> {
        self.is_reading = false;
        let sent = self.send(FLUSH, 0, 0)?;
        ensure!(self.reply()? == sent, "a reply to something else");
        Ok(())
    }

    /// Writes the first `bytes` of the export in order, with contents that differ from block to block, and flushes.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn fill(&mut self, bytes: u64) -> Result<()> {
        let load = Load {
            kind: Kind::StreamWrite,
            bytes: 1 << 17,
            depth: 8,
            span: bytes,
        };
        self.position = 0;
        self.run(load, bytes / u64::from(load.bytes))?;
        self.flush()
    }

    fn prepare(&mut self, load: Load) {
        let bytes = load.bytes as usize;
        self.into.resize(bytes, 0);
        self.is_reading = matches!(load.kind, Kind::Read | Kind::StreamRead);
        if self.payload.len() != bytes {
            let words = (0..bytes / 8).flat_map(|_| self.next_random().to_ne_bytes());
            self.payload = words.collect();
        }
    }

    fn start(&mut self, load: Load, stages: &mut HashMap<u64, Stage>) -> Result<()> {
        let places = load.span / u64::from(load.bytes);
        let place = match load.kind {
            Kind::StreamRead | Kind::StreamWrite => {
                self.position += 1;
                (self.position - 1) % places
            }
            _ => self.next_random() % places,
        };
        let command = match load.kind {
            Kind::Read | Kind::StreamRead => READ,
            _ => WRITE,
        };
        let cookie = self.send(command, place * u64::from(load.bytes), load.bytes)?;
        stages.insert(cookie, Stage::Data);
        Ok(())
    }

    fn send(&mut self, command: u16, offset: u64, length: u32) -> Result<u64> {
        self.cookie += 1;
        let mut head = [0; 28];
        head[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        head[6..8].copy_from_slice(&command.to_be_bytes());
        head[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        head[16..24].copy_from_slice(&offset.to_be_bytes());
        head[24..].copy_from_slice(&length.to_be_bytes());
        if command != WRITE {
            self.stream.write_all(&head)?;
            return Ok(self.cookie);
        }
        // No two blocks alike: each write says which it is.
        self.payload[..8].copy_from_slice(&self.cookie.to_ne_bytes());
        self.payload[8..16].copy_from_slice(&offset.to_ne_bytes());
        let parts = [IoSlice::new(&head), IoSlice::new(&self.payload)];
        let sent = self.stream.write_vectored(&parts)?;
        if sent < head.len() {
            self.stream.write_all(&head[sent..])?;
        }
        self.stream
            .write_all(&self.payload[sent.saturating_sub(head.len())..])?;
        Ok(self.cookie)
    }

    /// Waits for the end of one request's reply and returns its cookie.
    fn reply(&mut self) -> Result<u64> {
        loop {
            let magic = u32::from_be_bytes(self.array()?);
            if magic == SIMPLE_MAGIC {
                let error = u32::from_be_bytes(self.array()?);
                let cookie = u64::from_be_bytes(self.array()?);
                ensure!(error == 0, "the server refused with error {error}");
                if self.is_reading {
                    self.replies.read_exact(&mut self.into)?;
                }
                return Ok(cookie);
            }
            ensure!(magic == STRUCTURED_MAGIC, "not a reply ({magic:#x})");
            let flags = u16::from_be_bytes(self.array()?);
            let kind = u16::from_be_bytes(self.array()?);
            let cookie = u64::from_be_bytes(self.array()?);
            let length = u32::from_be_bytes(self.array()?) as usize;
            ensure!(
                kind & CHUNK_ERROR == 0,
                "the server refused (chunk {kind:#x})"
            );
            match kind {
                OFFSET_DATA => ensure!(length <= 8 + self.into.len(), "too much data"),
                OFFSET_HOLE => ensure!(length == 12, "a malformed hole"),
                _ => ensure!(length == 0, "an unknown chunk ({kind})"),
            }
            if length > 0 {
                let _: [u8; 8] = self.array()?;
                self.replies.read_exact(&mut self.into[..length - 8])?;
            }
            if flags & DONE != 0 {
                return Ok(cookie);
            }
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.replies
            .read_exact(&mut bytes)
            .context("the server is silent or gone")?;
        Ok(bytes)
    }

    /// A fixed sequence (xorshift64*): the same seed asks for the same places.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The other side may be gone already.
        let _ = self.send(DISCONNECT, 0, 0);
    }
}

/// What a request in flight is of its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The read or write.
    Data,
    /// The flush behind it.
    Flush,
}
