//! The handshake: greeting, option haggling, and the attachment that comes out of it.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use net::Stream;
use volume::{Access, Volume, VolumeError, Volumes};
use wire::nbd::*;
use world::Disk;

use super::contexts::{self, Context};
use super::errors::Broken;
use super::{BLOCK_MINIMUM, BLOCK_PREFERRED, PAYLOAD_MAX};

/// The most bytes of data that an option of ours can have, with some room.
const OPTION_MAX: u32 = 8 << 10;
/// The most bytes of data that are read only to refuse them politely.
const OPTION_SKIPPED_MAX: u32 = 1 << 20;
/// The most exports that LIST names. There may be any number of snapshots, and all can be attached to.
const LIST_MAX: usize = 1000;

/// What a successful handshake ends in.
pub(super) struct Negotiated<D> {
    pub volume: Volume<D>,
    pub headers: Headers,
    pub contexts: Vec<Context>,
}

/// Goes through the handshake; `None` when the client ended it properly.
pub(super) async fn negotiate<D: Disk + 'static, S: Stream>(
    stream: &S,
    volumes: Option<&Volumes<D>>,
) -> Result<Option<Negotiated<D>>, Broken> {
    stream.write_all(&greeting()).await?;
    let mut bytes = [0; ClientFlags::LEN];
    stream.read_exact(&mut bytes).await?;
    let mut haggling = Haggling {
        stream,
        volumes,
        flags: ClientFlags::decode(bytes)?,
        headers: Headers::Simple,
        contexts: None,
    };
    loop {
        match haggling.option().await? {
            Step::Next => {}
            Step::Done(volume, contexts) => {
                return Ok(Some(Negotiated {
                    volume,
                    headers: haggling.headers,
                    contexts,
                }));
            }
            Step::Aborted => return Ok(None),
        }
    }
}

enum Step<D> {
    Next,
    Done(Volume<D>, Vec<Context>),
    Aborted,
}

struct Haggling<'a, D, S> {
    stream: &'a S,
    /// None while there is no pool: then there are no exports.
    volumes: Option<&'a Volumes<D>>,
    flags: ClientFlags,
    headers: Headers,
    /// Contexts that were selected last, and the name of the export that they are for.
    contexts: Option<(String, Vec<Context>)>,
}

impl<D: Disk + 'static, S: Stream> Haggling<'_, D, S> {
    async fn option(&mut self) -> Result<Step<D>, Broken> {
        let mut bytes = [0; OptionHead::LEN];
        self.stream.read_exact(&mut bytes).await?;
        let head = OptionHead::decode(bytes)?;
        let option = head.option;
        if option == NBD_OPT_EXPORT_NAME {
            return self.export_name(head.len).await;
        }
        if !self.flags.fixed_newstyle {
            // Such a client understands no reply to this.
            return Err(NbdError::Malformed.into());
        }
        if head.len > OPTION_MAX {
            self.skip(head.len).await?;
            self.reply(option, NBD_REP_ERR_TOO_BIG, b"option data too long")
                .await?;
            return Ok(Step::Next);
        }
        let data = self.data(head.len).await?;
        match option {
            NBD_OPT_ABORT => {
                self.reply(option, NBD_REP_ACK, &[]).await?;
                return Ok(Step::Aborted);
            }
            NBD_OPT_LIST if data.is_empty() => self.list().await?,
            NBD_OPT_STRUCTURED_REPLY if data.is_empty() => {
                if self.headers == Headers::Extended {
                    let why = b"extended headers were negotiated";
                    self.reply(option, NBD_REP_ERR_EXT_HEADER_REQD, why).await?;
                } else {
                    self.headers = Headers::Structured;
                    self.reply(option, NBD_REP_ACK, &[]).await?;
                }
            }
            NBD_OPT_EXTENDED_HEADERS if data.is_empty() => {
                self.headers = Headers::Extended;
                self.reply(option, NBD_REP_ACK, &[]).await?;
            }
            NBD_OPT_LIST | NBD_OPT_STRUCTURED_REPLY | NBD_OPT_EXTENDED_HEADERS => {
                let why = b"this option has no data";
                self.reply(option, NBD_REP_ERR_INVALID, why).await?;
            }
            NBD_OPT_LIST_META_CONTEXT | NBD_OPT_SET_META_CONTEXT => {
                self.meta_context(option, &data).await?;
            }
            NBD_OPT_INFO | NBD_OPT_GO => return self.info(option, &data).await,
            _ => {
                self.reply(option, NBD_REP_ERR_UNSUP, b"unknown option")
                    .await?
            }
        }
        Ok(Step::Next)
    }

    async fn export_name(&mut self, len: u32) -> Result<Step<D>, Broken> {
        if len as usize > NBD_MAX_STRING {
            return Err(Broken::TooLarge);
        }
        if self.headers == Headers::Extended {
            // These only go with GO.
            return Err(NbdError::Malformed.into());
        }
        let data = self.data(len).await?;
        let name = core::str::from_utf8(&data).map_err(|_| Broken::NoExport)?;
        let volume = self.attach(name).map_err(|_| Broken::NoExport)?;
        let mut reply =
            info_export(volume.size_bytes(), self.export_flags(&volume, name))[2..].to_vec();
        if !self.flags.no_zeroes {
            reply.resize(reply.len() + 124, 0);
        }
        self.stream.write_all(&reply).await?;
        let contexts = self.take_contexts(name);
        Ok(Step::Done(volume, contexts))
    }

    async fn list(&self) -> Result<(), Broken> {
        let peer = self.stream.peer().ip();
        let exports = self.volumes.map(|volumes| volumes.exports(peer, LIST_MAX));
        for name in exports.unwrap_or_default() {
            let len = u32::try_from(name.len()).expect("names are short");
            let mut data = len.to_be_bytes().to_vec();
            data.extend_from_slice(name.as_bytes());
            self.reply(NBD_OPT_LIST, NBD_REP_SERVER, &data).await?;
        }
        self.reply(NBD_OPT_LIST, NBD_REP_ACK, &[]).await
    }

    async fn info(&mut self, option: u32, data: &[u8]) -> Result<Step<D>, Broken> {
        let request = match InfoRequest::decode(data) {
            Ok(request) => request,
            Err(error) => {
                self.refuse_data(option, error).await?;
                return Ok(Step::Next);
            }
        };
        let volume = match self.attach(request.name) {
            Ok(volume) => volume,
            Err(error) => {
                self.refuse_export(option, error).await?;
                return Ok(Step::Next);
            }
        };
        let flags = self.export_flags(&volume, request.name);
        let export = info_export(volume.size_bytes(), flags);
        self.reply(option, NBD_REP_INFO, &export).await?;
        if request.wants(NBD_INFO_NAME) {
            self.info_text(option, NBD_INFO_NAME, volume.name()).await?;
        }
        if request.wants(NBD_INFO_DESCRIPTION) {
            let kind = match volume.name().contains('@') {
                true => "snapshot",
                false => "volume",
            };
            let text = alloc::format!("Ferrite {kind} {}", volume.name());
            self.info_text(option, NBD_INFO_DESCRIPTION, &text).await?;
        }
        let sizes = info_block_size(BLOCK_MINIMUM, BLOCK_PREFERRED, PAYLOAD_MAX);
        self.reply(option, NBD_REP_INFO, &sizes).await?;
        self.reply(option, NBD_REP_ACK, &[]).await?;
        Ok(if option == NBD_OPT_GO {
            Step::Done(volume, self.take_contexts(request.name))
        } else {
            Step::Next
        })
    }

    async fn info_text(&self, option: u32, info: u16, text: &str) -> Result<(), Broken> {
        let mut data = info.to_be_bytes().to_vec();
        data.extend_from_slice(text.as_bytes());
        self.reply(option, NBD_REP_INFO, &data).await
    }

    /// LIST_META_CONTEXT and SET_META_CONTEXT.
    async fn meta_context(&mut self, option: u32, data: &[u8]) -> Result<(), Broken> {
        let sets = option == NBD_OPT_SET_META_CONTEXT;
        if sets {
            // Whatever becomes of it, it replaces what was selected before.
            self.contexts = None;
        }
        if !self.headers.in_chunks() {
            let why = b"structured replies come first";
            return self.reply(option, NBD_REP_ERR_INVALID, why).await;
        }
        let request = match MetaRequest::decode(data) {
            Ok(request) => request,
            Err(error) => return self.refuse_data(option, error).await,
        };
        let volume = match self.attach(request.name) {
            Ok(volume) => volume,
            Err(error) => return self.refuse_export(option, error).await,
        };
        if sets {
            let Some(selected) = contexts::selected(&volume, request) else {
                let why = b"too many contexts";
                return self.reply(option, NBD_REP_ERR_TOO_BIG, why).await;
            };
            for (id, (_, name)) in (0..).zip(&selected) {
                self.context(option, id, name).await?;
            }
            let contexts = selected.into_iter().map(|(context, _)| context).collect();
            self.contexts = Some((request.name.into(), contexts));
        } else {
            for name in contexts::listed(&volume, request) {
                self.context(option, 0, &name).await?;
            }
        }
        self.reply(option, NBD_REP_ACK, &[]).await
    }

    async fn context(&self, option: u32, id: u32, name: &str) -> Result<(), Broken> {
        let mut data = id.to_be_bytes().to_vec();
        data.extend_from_slice(name.as_bytes());
        self.reply(option, NBD_REP_META_CONTEXT, &data).await
    }

    /// The contexts that were selected for the export called `name`, by that very name.
    fn take_contexts(&mut self, name: &str) -> Vec<Context> {
        match self.contexts.take() {
            Some((for_name, contexts)) if for_name == name => contexts,
            _ => Vec::new(),
        }
    }

    fn attach(&self, name: &str) -> Result<Volume<D>, VolumeError> {
        let volumes = self.volumes.ok_or(VolumeError::NoVolume)?;
        volumes.attach_from(self.stream.peer().ip(), name, Access::ReadWrite)
    }

    fn export_flags(&self, volume: &Volume<D>, name: &str) -> u16 {
        let always = NBD_FLAG_HAS_FLAGS
            | NBD_FLAG_SEND_FLUSH
            | NBD_FLAG_CAN_MULTI_CONN
            | NBD_FLAG_SEND_CACHE;
        let access = if volume.is_read_only() {
            NBD_FLAG_READ_ONLY
        } else {
            NBD_FLAG_SEND_FUA
                | NBD_FLAG_SEND_TRIM
                | NBD_FLAG_SEND_WRITE_ZEROES
                | NBD_FLAG_SEND_FAST_ZERO
        };
        let chunks = match self.headers.in_chunks() {
            true => NBD_FLAG_SEND_DF,
            false => 0,
        };
        let contexts = match &self.contexts {
            Some((for_name, contexts))
                if self.headers == Headers::Extended
                    && for_name == name
                    && !contexts.is_empty() =>
            {
                NBD_FLAG_BLOCK_STATUS_PAYLOAD
            }
            _ => 0,
        };
        always | access | chunks | contexts
    }

    async fn reply(&self, option: u32, reply: u32, data: &[u8]) -> Result<(), Broken> {
        let len = u32::try_from(data.len()).expect("replies are short");
        let head = OptionReplyHead { option, reply, len };
        let mut bytes = Vec::with_capacity(OptionReplyHead::LEN + data.len());
        bytes.extend_from_slice(&head.encode());
        bytes.extend_from_slice(data);
        Ok(self.stream.write_all(&bytes).await?)
    }

    /// Refuses an option whose data makes no sense.
    async fn refuse_data(&self, option: u32, error: NbdError) -> Result<(), Broken> {
        let reply = match error {
            NbdError::NameTooLong => NBD_REP_ERR_TOO_BIG,
            _ => NBD_REP_ERR_INVALID,
        };
        self.refuse(option, reply, error).await
    }

    /// Refuses an export.
    async fn refuse_export(&self, option: u32, error: VolumeError) -> Result<(), Broken> {
        let reply = match error {
            VolumeError::Deleted | VolumeError::RolledBack => NBD_REP_ERR_SHUTDOWN,
            VolumeError::NotAllowed => NBD_REP_ERR_POLICY,
            _ => NBD_REP_ERR_UNKNOWN,
        };
        if error == VolumeError::NotAllowed {
            // Programs show this text, and not the number's meaning.
            let peer = self.stream.peer().ip().to_canonical();
            let why = alloc::format!("{error}: {peer} is in none of its networks (`allow`)");
            return self.refuse(option, reply, why).await;
        }
        self.refuse(option, reply, error).await
    }

    async fn refuse(
        &self,
        option: u32,
        reply: u32,
        why: impl core::fmt::Display,
    ) -> Result<(), Broken> {
        let text: String = alloc::format!("{why}");
        self.reply(option, reply, text.as_bytes()).await
    }

    async fn data(&self, len: u32) -> Result<Vec<u8>, Broken> {
        let mut data = vec![0; len as usize];
        self.stream.read_exact(&mut data).await?;
        Ok(data)
    }

    async fn skip(&self, len: u32) -> Result<(), Broken> {
        if len > OPTION_SKIPPED_MAX {
            return Err(Broken::TooLarge);
        }
        let mut left = len;
        while left > 0 {
            let part = left.min(OPTION_MAX);
            drop(self.data(part).await?);
            left -= part;
        }
        Ok(())
    }
}
