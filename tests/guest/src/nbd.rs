//! A small blocking NBD client for what programs cannot do: see which acknowledgement came, and which error.
//!
//! Fixed newstyle with GO and simple replies (NBD protocol, "Transmission phase").

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const INFO_EXPORT: u16 = 0;
/// Fixed newstyle, no padding of zeros.
const CLIENT_FLAGS: u32 = 3;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;

/// Command flag: durable before the answer.
pub const FUA: u16 = 1;
/// The error of damaged data.
pub const EIO: u32 = 5;

/// Why a request was not done.
#[derive(Debug)]
pub enum NbdError {
    /// The server refused with this error number; the connection goes on.
    Refused(u32),
    /// The connection is gone; whether the request was done is unknown.
    Lost(anyhow::Error),
}

impl std::fmt::Display for NbdError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(number) => write!(out, "the server refused with error {number}"),
            Self::Lost(error) => write!(out, "connection lost: {error:#}"),
        }
    }
}

impl std::error::Error for NbdError {}

/// A connection to one export.
#[derive(Debug)]
pub struct Nbd {
    stream: TcpStream,
    size: u64,
    cookie: u64,
}

impl Nbd {
    /// Connects and selects `export`. No answer may take longer than `limit`.
    ///
    /// # Errors
    /// When nobody listens, the export is refused, or what answers is not NBD.
    pub fn connect(address: SocketAddr, export: &str, limit: Duration) -> Result<Self> {
        let mut stream = TcpStream::connect_timeout(&address, limit)
            .with_context(|| format!("nothing listens at {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).context("no greeting")?;
        ensure!(
            greeting.starts_with(b"NBDMAGICIHAVEOPT"),
            "not an NBD server"
        );

        let name_length = u32::try_from(export.len())?;
        let mut hello = CLIENT_FLAGS.to_be_bytes().to_vec();
        hello.extend_from_slice(OPTION_MAGIC);
        hello.extend_from_slice(&OPTION_GO.to_be_bytes());
        hello.extend_from_slice(&(name_length + 6).to_be_bytes());
        hello.extend_from_slice(&name_length.to_be_bytes());
        hello.extend_from_slice(export.as_bytes());
        hello.extend_from_slice(&0u16.to_be_bytes());
        stream.write_all(&hello)?;

        let mut size = None;
        loop {
            let magic = u64::from_be_bytes(read_array(&mut stream)?);
            let option = u32::from_be_bytes(read_array(&mut stream)?);
            let kind = u32::from_be_bytes(read_array(&mut stream)?);
            let length = u32::from_be_bytes(read_array(&mut stream)?);
            ensure!(
                magic == OPTION_REPLY_MAGIC && option == OPTION_GO && length < 65536,
                "malformed reply"
            );
            let mut data = vec![0; length as usize];
            stream.read_exact(&mut data)?;
            match kind {
                REPLY_ACK => break,
                REPLY_INFO if data.starts_with(&INFO_EXPORT.to_be_bytes()) => {
                    let bytes = data.get(2..10).context("a short export description")?;
                    size = Some(u64::from_be_bytes(bytes.try_into()?));
                }
                REPLY_INFO => {}
                error => bail!(
                    "export `{export}` refused ({:#x}): {}",
                    error & 0x7fff_ffff,
                    String::from_utf8_lossy(&data)
                ),
            }
        }
        Ok(Self {
            stream,
            size: size.context("no export description")?,
            cookie: 0,
        })
    }

    /// Size of the export in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills `into` from `offset`.
    ///
    /// # Errors
    /// See [`NbdError`].
    pub fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), NbdError> {
        let length = u32::try_from(into.len()).map_err(|error| NbdError::Lost(error.into()))?;
        self.request(READ, 0, offset, length, &[], into)
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// See [`NbdError`].
    pub fn write(&mut self, offset: u64, bytes: &[u8], flags: u16) -> Result<(), NbdError> {
        let length = u32::try_from(bytes.len()).map_err(|error| NbdError::Lost(error.into()))?;
        self.request(WRITE, flags, offset, length, bytes, &mut [])
    }

    /// Makes what was acknowledged durable.
    ///
    /// # Errors
    /// See [`NbdError`].
    pub fn flush(&mut self) -> Result<(), NbdError> {
        self.request(FLUSH, 0, 0, 0, &[], &mut [])
    }

    /// Gives up the contents of a range.
    ///
    /// # Errors
    /// See [`NbdError`].
    pub fn trim(&mut self, offset: u64, length: u32) -> Result<(), NbdError> {
        self.request(TRIM, 0, offset, length, &[], &mut [])
    }

    /// Writes zeros.
    ///
    /// # Errors
    /// See [`NbdError`].
    pub fn write_zeroes(&mut self, offset: u64, length: u32) -> Result<(), NbdError> {
        self.request(WRITE_ZEROES, 0, offset, length, &[], &mut [])
    }

    fn request(
        &mut self,
        command: u16,
        flags: u16,
        offset: u64,
        length: u32,
        payload: &[u8],
        into: &mut [u8],
    ) -> Result<(), NbdError> {
        self.cookie += 1;
        let mut head = REQUEST_MAGIC.to_be_bytes().to_vec();
        head.extend_from_slice(&flags.to_be_bytes());
        head.extend_from_slice(&command.to_be_bytes());
        head.extend_from_slice(&self.cookie.to_be_bytes());
        head.extend_from_slice(&offset.to_be_bytes());
        head.extend_from_slice(&length.to_be_bytes());
        head.extend_from_slice(payload);
        self.stream
            .write_all(&head)
            .map_err(|error| NbdError::Lost(error.into()))?;
        let error = self.reply_head().map_err(NbdError::Lost)?;
        if error != 0 {
            return Err(NbdError::Refused(error));
        }
        self.stream
            .read_exact(into)
            .map_err(|error| NbdError::Lost(error.into()))
    }

    fn reply_head(&mut self) -> Result<u32> {
        let magic = u32::from_be_bytes(read_array(&mut self.stream)?);
        let error = u32::from_be_bytes(read_array(&mut self.stream)?);
        let cookie = u64::from_be_bytes(read_array(&mut self.stream)?);
        ensure!(
            magic == REPLY_MAGIC && cookie == self.cookie,
            "a reply to something else"
        );
        Ok(error)
    }
}

impl Drop for Nbd {
    fn drop(&mut self) {
        let mut head = REQUEST_MAGIC.to_be_bytes().to_vec();
        head.extend_from_slice(&[0; 2]);
        head.extend_from_slice(&DISCONNECT.to_be_bytes());
        head.extend_from_slice(&[0; 20]);
        // The other side may be gone already.
        let _ = self.stream.write_all(&head);
    }
}

fn read_array<const N: usize>(stream: &mut TcpStream) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}
