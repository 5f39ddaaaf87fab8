//! The handshake: from a fresh connection to [`Terms`], with as much as the server knows and no more.
//!
//! ```text
//! greeting ─► EXTENDED_HEADERS ─► STRUCTURED_REPLY ─► SET_META_CONTEXT ─► GO ──────► terms
//!    │         known: skip the next   (for allocation)                   └ unknown ─┐ ▲
//!    └ no options that may fail ───────────────────────────────────────► EXPORT_NAME┴─┘
//! ```

use net::Stream;
use volume::OriginError;
use wire::nbd::*;

use crate::terms::{Sizes, Terms};

/// Bytes of an option reply that are looked at; the others are texts for people.
const KNOWN_BYTES: usize = 64;
/// The most bytes of an option reply.
const REPLY_BYTES_MAX: u32 = 64 << 10;
/// The most replies to one option.
const REPLIES_MAX: usize = 64;

const _: () = assert!(KNOWN_BYTES > Info::LEN_MAX && KNOWN_BYTES > 4 + BASE_ALLOCATION.len());

/// Agrees with the server on reading `export`.
///
/// # Errors
/// - [`OriginError::Unreachable`] when the connection ends, or the server is about to;
/// - [`OriginError::NoExport`] and [`OriginError::Refused`] as the server says;
/// - [`OriginError::Protocol`] for anything else.
pub async fn negotiate<S: Stream>(stream: &S, export: &str) -> Result<Terms, OriginError> {
    if export.len() > NBD_MAX_STRING {
        return Err(OriginError::NoExport);
    }
    let client = Client { stream, export };
    let greeting = Greeting::decode(client.receive().await?).map_err(nonsense)?;
    let flags = ClientFlags {
        fixed_newstyle: greeting.fixed_newstyle,
        no_zeroes: greeting.no_zeroes,
    };
    client.send(&flags.encode()).await?;
    let mut terms = Terms {
        headers: Headers::Simple,
        size: 0,
        allocation: None,
        sizes: Sizes::default(),
    };
    if !greeting.fixed_newstyle {
        terms.size = client.export_name(greeting.no_zeroes).await?;
        return Ok(terms);
    }
    terms.headers = client.headers().await?;
    if terms.headers.in_chunks() {
        terms.allocation = client.allocation().await?;
    }
    match client.go().await? {
        Some((size, sizes)) => (terms.size, terms.sizes) = (size, sizes),
        None => terms.size = client.export_name(greeting.no_zeroes).await?,
    }
    Ok(terms)
}

struct Client<'a, S> {
    stream: &'a S,
    export: &'a str,
}

impl<S: Stream> Client<'_, S> {
    /// Agrees on the form of requests and replies.
    async fn headers(&self) -> Result<Headers, OriginError> {
        for (option, headers) in [
            (NBD_OPT_EXTENDED_HEADERS, Headers::Extended),
            (NBD_OPT_STRUCTURED_REPLY, Headers::Structured),
        ] {
            if self.option(option, &[], |_, _| wrong()).await? == NBD_REP_ACK {
                return Ok(headers);
            }
        }
        Ok(Headers::Simple)
    }

    /// Selects `base:allocation`; its id, or `None` when the server does not know it.
    async fn allocation(&self) -> Result<Option<u32>, OriginError> {
        let mut id = None;
        let request = meta_request(self.export, &[BASE_ALLOCATION]);
        let told = |reply, data: &[u8]| {
            if reply != NBD_REP_META_CONTEXT {
                return wrong();
            }
            let context = MetaContext::decode(data).map_err(nonsense)?;
            if context.name == BASE_ALLOCATION.as_bytes() {
                id = Some(context.id);
            }
            Ok(())
        };
        let reply = self.option(NBD_OPT_SET_META_CONTEXT, &request, told);
        // Who answers by an error will also say why, to GO.
        Ok(if reply.await? == NBD_REP_ACK {
            id
        } else {
            None
        })
    }

    /// Opens the export; its size and how requests are cut, or `None` when the server does not know this way.
    async fn go(&self) -> Result<Option<(u64, Sizes)>, OriginError> {
        let (mut export, mut sizes) = (None, Sizes::default());
        let request = info_request(self.export, &[NBD_INFO_BLOCK_SIZE]);
        let told = |reply, data: &[u8]| {
            if reply != NBD_REP_INFO {
                return wrong();
            }
            match Info::decode(data).map_err(nonsense)? {
                Info::Export(info) => export = Some(info),
                Info::BlockSize {
                    minimum,
                    payload_max,
                    ..
                } => sizes = Sizes::new(minimum, payload_max).ok_or(OriginError::Protocol)?,
                Info::Other(_) => {}
            }
            Ok(())
        };
        match self.option(NBD_OPT_GO, &request, told).await? {
            NBD_REP_ACK => {
                let export = export.ok_or(OriginError::Protocol)?;
                Ok(Some((export.size_bytes, sizes)))
            }
            NBD_REP_ERR_UNSUP => Ok(None),
            NBD_REP_ERR_UNKNOWN | NBD_REP_ERR_TOO_BIG => Err(OriginError::NoExport),
            NBD_REP_ERR_POLICY
            | NBD_REP_ERR_PLATFORM
            | NBD_REP_ERR_TLS_REQD
            | NBD_REP_ERR_BLOCK_SIZE_REQD => Err(OriginError::Refused),
            NBD_REP_ERR_SHUTDOWN => Err(OriginError::Unreachable),
            _ => Err(OriginError::Protocol),
        }
    }

    /// Opens the export the old way; its size. The server has no other way to refuse than to close.
    async fn export_name(&self, no_zeroes: bool) -> Result<u64, OriginError> {
        self.send_option(NBD_OPT_EXPORT_NAME, self.export.as_bytes())
            .await?;
        let info: Result<[u8; ExportInfo::LEN], _> = self.receive().await;
        let info = info.map_err(|_| OriginError::NoExport)?;
        if !no_zeroes {
            self.receive::<{ ExportInfo::ZEROES }>().await?;
        }
        Ok(ExportInfo::decode(info).size_bytes)
    }

    /// Sends an option, hands each reply but the last to `told` and returns what the last one is: an ACK or an error.
    async fn option(
        &self,
        option: u32,
        data: &[u8],
        mut told: impl FnMut(u32, &[u8]) -> Result<(), OriginError>,
    ) -> Result<u32, OriginError> {
        self.send_option(option, data).await?;
        for _ in 0..REPLIES_MAX {
            let head = OptionReplyHead::decode(self.receive().await?).map_err(nonsense)?;
            if head.option != option || head.len > REPLY_BYTES_MAX {
                return Err(OriginError::Protocol);
            }
            let len = head.len as usize;
            let mut known = [0; KNOWN_BYTES];
            let known = &mut known[..len.min(KNOWN_BYTES)];
            self.receive_bytes(known).await?;
            self.skip(len - known.len()).await?;
            if head.reply == NBD_REP_ACK || head.reply >> 31 == 1 {
                return Ok(head.reply);
            }
            told(head.reply, known)?;
        }
        Err(OriginError::Protocol)
    }

    async fn send_option(&self, option: u32, data: &[u8]) -> Result<(), OriginError> {
        let len = u32::try_from(data.len()).expect("a name and little more");
        self.send(&OptionHead { option, len }.encode()).await?;
        self.send(data).await
    }

    async fn send(&self, bytes: &[u8]) -> Result<(), OriginError> {
        let sent = self.stream.write_all(bytes).await;
        sent.map_err(|_| OriginError::Unreachable)
    }

    async fn receive<const N: usize>(&self) -> Result<[u8; N], OriginError> {
        let mut bytes = [0; N];
        self.receive_bytes(&mut bytes).await?;
        Ok(bytes)
    }

    async fn receive_bytes(&self, into: &mut [u8]) -> Result<(), OriginError> {
        let received = self.stream.read_exact(into).await;
        received.map_err(|_| OriginError::Unreachable)
    }

    async fn skip(&self, mut len: usize) -> Result<(), OriginError> {
        let mut scratch = [0; 256];
        while len > 0 {
            let count = len.min(scratch.len());
            self.receive_bytes(&mut scratch[..count]).await?;
            len -= count;
        }
        Ok(())
    }
}

fn wrong() -> Result<(), OriginError> {
    Err(OriginError::Protocol)
}

/// What cannot be decoded breaks the protocol, whatever it is.
pub fn nonsense(_: NbdError) -> OriginError {
    OriginError::Protocol
}
