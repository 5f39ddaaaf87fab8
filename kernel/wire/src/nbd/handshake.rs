//! Handshake and option haggling.

use super::{NBD_MAX_STRING, NbdError, take};

/// First magic of the greeting, `NBDMAGIC`.
pub const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second magic of the greeting and magic of every option, `IHAVEOPT`.
pub const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
/// Magic of every option reply.
pub const NBD_REP_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Handshake flag: options after a failed one are allowed.
pub const NBD_FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// Handshake flag: the 124 zero bytes after EXPORT_NAME may be left out.
pub const NBD_FLAG_NO_ZEROES: u16 = 1 << 1;

/// Enters transmission without a reply that could carry an error.
pub const NBD_OPT_EXPORT_NAME: u32 = 1;
/// Ends the session.
pub const NBD_OPT_ABORT: u32 = 2;
/// Lists exports.
pub const NBD_OPT_LIST: u32 = 3;
/// Starts TLS.
pub const NBD_OPT_STARTTLS: u32 = 5;
/// Describes an export.
pub const NBD_OPT_INFO: u32 = 6;
/// Describes an export and enters transmission.
pub const NBD_OPT_GO: u32 = 7;
/// Switches to structured replies.
pub const NBD_OPT_STRUCTURED_REPLY: u32 = 8;
/// Lists metadata contexts.
pub const NBD_OPT_LIST_META_CONTEXT: u32 = 9;
/// Selects metadata contexts.
pub const NBD_OPT_SET_META_CONTEXT: u32 = 10;
/// Switches to extended headers (the extension of that name).
pub const NBD_OPT_EXTENDED_HEADERS: u32 = 11;

/// Done.
pub const NBD_REP_ACK: u32 = 1;
/// One export of a list.
pub const NBD_REP_SERVER: u32 = 2;
/// One piece of information about an export.
pub const NBD_REP_INFO: u32 = 3;
/// One metadata context: its id and name.
pub const NBD_REP_META_CONTEXT: u32 = 4;
/// The option is unknown here.
pub const NBD_REP_ERR_UNSUP: u32 = (1 << 31) + 1;
/// The option is forbidden here.
pub const NBD_REP_ERR_POLICY: u32 = (1 << 31) + 2;
/// The option's data is wrong.
pub const NBD_REP_ERR_INVALID: u32 = (1 << 31) + 3;
/// The option is not possible on the server's machine.
pub const NBD_REP_ERR_PLATFORM: u32 = (1 << 31) + 4;
/// Only with TLS.
pub const NBD_REP_ERR_TLS_REQD: u32 = (1 << 31) + 5;
/// There is no such export.
pub const NBD_REP_ERR_UNKNOWN: u32 = (1 << 31) + 6;
/// The server is about to stop.
pub const NBD_REP_ERR_SHUTDOWN: u32 = (1 << 31) + 7;
/// Only for clients that ask for block sizes.
pub const NBD_REP_ERR_BLOCK_SIZE_REQD: u32 = (1 << 31) + 8;
/// The option or its data is too large.
pub const NBD_REP_ERR_TOO_BIG: u32 = (1 << 31) + 9;
/// Extended headers were negotiated, and the option does not go with them.
pub const NBD_REP_ERR_EXT_HEADER_REQD: u32 = (1 << 31) + 10;

/// Size and transmission flags.
pub const NBD_INFO_EXPORT: u16 = 0;
/// Canonical name.
pub const NBD_INFO_NAME: u16 = 1;
/// A text for people.
pub const NBD_INFO_DESCRIPTION: u16 = 2;
/// Block sizes.
pub const NBD_INFO_BLOCK_SIZE: u16 = 3;

/// Transmission flags are valid; always set.
pub const NBD_FLAG_HAS_FLAGS: u16 = 1 << 0;
/// The export takes no writes.
pub const NBD_FLAG_READ_ONLY: u16 = 1 << 1;
/// FLUSH is known.
pub const NBD_FLAG_SEND_FLUSH: u16 = 1 << 2;
/// Writes take [`NBD_CMD_FLAG_FUA`](super::NBD_CMD_FLAG_FUA).
pub const NBD_FLAG_SEND_FUA: u16 = 1 << 3;
/// TRIM is known.
pub const NBD_FLAG_SEND_TRIM: u16 = 1 << 5;
/// WRITE_ZEROES is known.
pub const NBD_FLAG_SEND_WRITE_ZEROES: u16 = 1 << 6;
/// READ takes [`NBD_CMD_FLAG_DF`](super::NBD_CMD_FLAG_DF); only with structured replies.
pub const NBD_FLAG_SEND_DF: u16 = 1 << 7;
/// Several connections see one coherent export, and a flush on one covers all.
pub const NBD_FLAG_CAN_MULTI_CONN: u16 = 1 << 8;
/// CACHE is known.
pub const NBD_FLAG_SEND_CACHE: u16 = 1 << 10;
/// WRITE_ZEROES takes [`NBD_CMD_FLAG_FAST_ZERO`](super::NBD_CMD_FLAG_FAST_ZERO).
pub const NBD_FLAG_SEND_FAST_ZERO: u16 = 1 << 11;
/// BLOCK_STATUS may have a payload that chooses contexts; only with extended headers.
pub const NBD_FLAG_BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;

/// The server's first bytes.
#[must_use]
pub fn greeting() -> [u8; 18] {
    let mut out = [0; 18];
    out[..8].copy_from_slice(&NBDMAGIC.to_be_bytes());
    out[8..16].copy_from_slice(&IHAVEOPT.to_be_bytes());
    out[16..].copy_from_slice(&(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES).to_be_bytes());
    out
}

/// The client's answer to the greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientFlags {
    /// It knows option replies other than that of EXPORT_NAME.
    pub fixed_newstyle: bool,
    /// It wants no zeros after EXPORT_NAME.
    pub no_zeroes: bool,
}

impl ClientFlags {
    /// Bytes on the wire.
    pub const LEN: usize = 4;

    /// Reads the flags.
    ///
    /// # Errors
    /// Flags that [`greeting`] did not offer.
    pub fn decode(bytes: [u8; Self::LEN]) -> Result<Self, NbdError> {
        let flags = u32::from_be_bytes(bytes);
        let has = |flag: u16| flags & u32::from(flag) != 0;
        if flags & !u32::from(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES) != 0 {
            return Err(NbdError::UnknownFlags);
        }
        Ok(Self {
            fixed_newstyle: has(NBD_FLAG_FIXED_NEWSTYLE),
            no_zeroes: has(NBD_FLAG_NO_ZEROES),
        })
    }
}

/// What stands before the data of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHead {
    /// `NBD_OPT_*`.
    pub option: u32,
    /// Bytes of data that follow.
    pub len: u32,
}

impl OptionHead {
    /// Bytes on the wire.
    pub const LEN: usize = 16;

    /// Reads the head of an option.
    ///
    /// # Errors
    /// A wrong magic number.
    pub fn decode(bytes: [u8; Self::LEN]) -> Result<Self, NbdError> {
        let mut rest = &bytes[..];
        let magic = take(&mut rest).map(u64::from_be_bytes);
        let option = take(&mut rest).map(u32::from_be_bytes);
        let len = take(&mut rest).map(u32::from_be_bytes);
        match (magic, option, len) {
            (Some(IHAVEOPT), Some(option), Some(len)) => Ok(Self { option, len }),
            _ => Err(NbdError::BadMagic),
        }
    }

    /// The bytes of the head.
    #[must_use]
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..8].copy_from_slice(&IHAVEOPT.to_be_bytes());
        out[8..12].copy_from_slice(&self.option.to_be_bytes());
        out[12..].copy_from_slice(&self.len.to_be_bytes());
        out
    }
}

/// What stands before the data of an option reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionReplyHead {
    /// The option it answers.
    pub option: u32,
    /// `NBD_REP_*`.
    pub reply: u32,
    /// Bytes of data that follow.
    pub len: u32,
}

impl OptionReplyHead {
    /// Bytes on the wire.
    pub const LEN: usize = 20;

    /// The bytes of the head.
    #[must_use]
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..8].copy_from_slice(&NBD_REP_MAGIC.to_be_bytes());
        out[8..12].copy_from_slice(&self.option.to_be_bytes());
        out[12..16].copy_from_slice(&self.reply.to_be_bytes());
        out[16..].copy_from_slice(&self.len.to_be_bytes());
        out
    }
}

/// The data of [`NBD_OPT_INFO`] and [`NBD_OPT_GO`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InfoRequest<'a> {
    /// Export name, maybe empty.
    pub name: &'a str,
    requests: &'a [u8],
}

impl<'a> InfoRequest<'a> {
    /// Reads the data of the option.
    ///
    /// # Errors
    /// Lengths that do not add up, a name that is not UTF-8, or one that is too long.
    pub fn decode(mut bytes: &'a [u8]) -> Result<Self, NbdError> {
        let name = split_string(&mut bytes)?;
        let count = take(&mut bytes)
            .map(u16::from_be_bytes)
            .ok_or(NbdError::Malformed)?;
        if bytes.len() != usize::from(count) * 2 {
            return Err(NbdError::Malformed);
        }
        Ok(Self {
            name,
            requests: bytes,
        })
    }

    /// Whether the client asked for `info` (`NBD_INFO_*`).
    #[must_use]
    pub fn wants(&self, info: u16) -> bool {
        self.requests
            .chunks_exact(2)
            .any(|pair| pair == info.to_be_bytes())
    }
}

/// Takes a string and the 32-bit length before it off `bytes`.
pub(super) fn split_string<'a>(bytes: &mut &'a [u8]) -> Result<&'a str, NbdError> {
    let len = take(bytes)
        .map(u32::from_be_bytes)
        .and_then(|len| usize::try_from(len).ok())
        .ok_or(NbdError::Malformed)?;
    let (string, rest) = bytes.split_at_checked(len).ok_or(NbdError::Malformed)?;
    if len > NBD_MAX_STRING {
        return Err(NbdError::NameTooLong);
    }
    *bytes = rest;
    core::str::from_utf8(string).map_err(|_| NbdError::Malformed)
}

/// Payload of [`NBD_INFO_EXPORT`]; its last ten bytes answer EXPORT_NAME.
#[must_use]
pub fn info_export(size_bytes: u64, flags: u16) -> [u8; 12] {
    let mut out = [0; 12];
    out[..2].copy_from_slice(&NBD_INFO_EXPORT.to_be_bytes());
    out[2..10].copy_from_slice(&size_bytes.to_be_bytes());
    out[10..].copy_from_slice(&flags.to_be_bytes());
    out
}

/// Payload of [`NBD_INFO_BLOCK_SIZE`], in bytes.
#[must_use]
pub fn info_block_size(minimum: u32, preferred: u32, payload_max: u32) -> [u8; 14] {
    let mut out = [0; 14];
    out[..2].copy_from_slice(&NBD_INFO_BLOCK_SIZE.to_be_bytes());
    out[2..6].copy_from_slice(&minimum.to_be_bytes());
    out[6..10].copy_from_slice(&preferred.to_be_bytes());
    out[10..].copy_from_slice(&payload_max.to_be_bytes());
    out
}
