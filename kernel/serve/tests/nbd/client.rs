//! A client that checks every byte it gets.

use std::cell::Cell;

use net::Stream;
use net::pipe::{Pipe, PipeDialer};
use wire::nbd::*;

pub struct Client {
    pub stream: Pipe,
    pub headers: Headers,
    next_cookie: u64,
    /// Bytes that came as holes so far.
    pub holes: Cell<u64>,
}

/// All that can be negotiated.
pub const ALL: [Headers; 3] = [Headers::Simple, Headers::Structured, Headers::Extended];

/// What answered a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Data(Vec<u8>),
    /// What each context says: id and descriptors.
    Status(Vec<(u32, Vec<(u64, u64)>)>),
    Done,
    Error(Errno),
}

/// One reply to an option: kind and data.
pub type OptionReply = (u32, Vec<u8>);

impl Client {
    /// Connects and exchanges flags.
    pub async fn connect(port: &PipeDialer) -> Self {
        let client = Self::raw(port).await;
        client.stream.write_all(&[0, 0, 0, 3]).await.unwrap();
        client
    }

    /// Connects and reads the greeting.
    pub async fn raw(port: &PipeDialer) -> Self {
        let stream = port.connect().expect("a connection");
        let client = Self {
            stream,
            headers: Headers::Simple,
            next_cookie: 100,
            holes: Cell::new(0),
        };
        assert_eq!(client.bytes::<18>().await, greeting());
        client
    }

    pub async fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream
            .read_exact(&mut bytes)
            .await
            .expect("bytes from the server");
        bytes
    }

    async fn number(&self) -> u32 {
        u32::from_be_bytes(self.bytes().await)
    }

    async fn data(&self, len: u32) -> Vec<u8> {
        let mut data = vec![0; len as usize];
        self.stream
            .read_exact(&mut data)
            .await
            .expect("data from the server");
        data
    }

    /// Whether the server closes or resets the connection instead of sending more.
    pub async fn is_closed(&self) -> bool {
        !matches!(self.stream.read(&mut [0]).await, Ok(1))
    }

    /// Whether the server reset the connection.
    pub async fn is_cut_off(&self) -> bool {
        self.stream.read(&mut [0]).await.is_err()
    }

    pub async fn send_option(&self, option: u32, data: &[u8]) {
        let len = data.len() as u32;
        let head = OptionHead { option, len };
        self.stream.write_all(&head.encode()).await.unwrap();
        self.stream.write_all(data).await.unwrap();
    }

    /// Sends an option and reads replies up to the final one.
    pub async fn option(&self, option: u32, data: &[u8]) -> Vec<OptionReply> {
        self.send_option(option, data).await;
        let mut replies = Vec::new();
        loop {
            let reply = self.option_reply(option).await;
            let last = reply.0 == NBD_REP_ACK || reply.0 >= 1 << 31;
            replies.push(reply);
            if last {
                return replies;
            }
        }
    }

    async fn option_reply(&self, option: u32) -> OptionReply {
        assert_eq!(u64::from_be_bytes(self.bytes().await), NBD_REP_MAGIC);
        assert_eq!(self.number().await, option);
        let kind = self.number().await;
        let len = self.number().await;
        (kind, self.data(len).await)
    }

    pub async fn negotiate(&mut self, headers: Headers) {
        match headers {
            Headers::Simple => {}
            Headers::Structured => self.structured().await,
            Headers::Extended => self.extended().await,
        }
    }

    pub async fn structured(&mut self) {
        let replies = self.option(NBD_OPT_STRUCTURED_REPLY, &[]).await;
        assert_eq!(replies, [(NBD_REP_ACK, vec![])]);
        self.headers = Headers::Structured;
    }

    pub async fn extended(&mut self) {
        let replies = self.option(NBD_OPT_EXTENDED_HEADERS, &[]).await;
        assert_eq!(replies, [(NBD_REP_ACK, vec![])]);
        self.headers = Headers::Extended;
    }

    /// LIST_META_CONTEXT or SET_META_CONTEXT; returns ids and names.
    pub async fn contexts(&self, option: u32, name: &str, queries: &[&str]) -> Vec<(u32, String)> {
        let mut replies = self.option(option, &meta_data(name, queries)).await;
        assert_eq!(replies.pop(), Some((NBD_REP_ACK, vec![])));
        let contexts = replies.into_iter().map(|(kind, data)| {
            assert_eq!(kind, NBD_REP_META_CONTEXT);
            let id = u32::from_be_bytes(data[..4].try_into().unwrap());
            (id, String::from_utf8(data[4..].to_vec()).unwrap())
        });
        contexts.collect()
    }

    /// GO; returns size and transmission flags.
    pub async fn go(&mut self, name: &str) -> (u64, u16) {
        let replies = self.option(NBD_OPT_GO, &info_data(name, &[])).await;
        assert_eq!(replies.last().unwrap().0, NBD_REP_ACK, "{replies:?}");
        let export = &replies[0].1;
        assert_eq!(export[..2], NBD_INFO_EXPORT.to_be_bytes());
        let size = u64::from_be_bytes(export[2..10].try_into().unwrap());
        (size, u16::from_be_bytes(export[10..].try_into().unwrap()))
    }

    /// The cookie of the next request.
    pub fn next_cookie(&self) -> u64 {
        self.next_cookie + 1
    }

    /// Sends a request; returns its cookie.
    pub async fn send(&mut self, command: u16, flags: u16, offset: u64, len: u64) -> u64 {
        self.next_cookie += 1;
        let mut request = Request {
            flags,
            command,
            cookie: self.next_cookie,
            offset,
            len,
        };
        if self.headers == Headers::Extended {
            if command == NBD_CMD_WRITE {
                request.flags |= NBD_CMD_FLAG_PAYLOAD_LEN;
            }
            let bytes = request.encode_extended();
            self.stream.write_all(&bytes).await.unwrap();
        } else {
            self.stream.write_all(&request.encode()).await.unwrap();
        }
        self.next_cookie
    }

    /// Reads one whole reply; only for one request with chunks at a time. `read` is the READ in progress.
    pub async fn reply(&self, read: Option<(u64, u64, u64)>) -> (u64, Answer) {
        match self.number().await {
            NBD_SIMPLE_REPLY_MAGIC => {
                assert_ne!(self.headers, Headers::Extended);
                let error = self.number().await;
                let cookie = u64::from_be_bytes(self.bytes().await);
                let answer = match (error, read) {
                    (0, Some((of, _, len))) if of == cookie => {
                        assert_eq!(
                            self.headers,
                            Headers::Simple,
                            "READs are answered in chunks"
                        );
                        Answer::Data(self.data(len as u32).await)
                    }
                    (0, _) => Answer::Done,
                    (error, _) => Answer::Error(Errno(error)),
                };
                (cookie, answer)
            }
            NBD_STRUCTURED_REPLY_MAGIC if self.headers == Headers::Structured => {
                self.chunks(NBD_STRUCTURED_REPLY_MAGIC, read).await
            }
            NBD_EXTENDED_REPLY_MAGIC if self.headers == Headers::Extended => {
                self.chunks(NBD_EXTENDED_REPLY_MAGIC, read).await
            }
            magic => panic!("magic {magic:#x}"),
        }
    }

    /// Reads the chunks of a reply, the first from behind its magic on.
    async fn chunks(&self, magic: u32, read: Option<(u64, u64, u64)>) -> (u64, Answer) {
        let (of, offset, len) = read.unwrap_or_default();
        let mut data = vec![0xee; len.min(1 << 26) as usize];
        let (mut covered, mut error, mut status) = (0, None, Vec::new());
        let answered = loop {
            let flags = u16::from_be_bytes(self.bytes().await);
            let kind = u16::from_be_bytes(self.bytes().await);
            let cookie = u64::from_be_bytes(self.bytes().await);
            if read.is_some() {
                assert_eq!(cookie, of);
            }
            let payload = match self.headers {
                Headers::Extended => {
                    let request = u64::from_be_bytes(self.bytes().await);
                    assert!(
                        read.is_none() || request == offset,
                        "offset of another request"
                    );
                    u64::from_be_bytes(self.bytes().await) as u32
                }
                _ => self.number().await,
            };
            let payload = self.data(payload).await;
            match kind {
                NBD_REPLY_TYPE_NONE => assert!(payload.is_empty() && flags == NBD_REPLY_FLAG_DONE),
                NBD_REPLY_TYPE_OFFSET_DATA => {
                    let at = (long(&payload) - offset) as usize;
                    let part = &payload[8..];
                    assert!(!part.is_empty());
                    data[at..at + part.len()].copy_from_slice(part);
                    covered += part.len();
                }
                NBD_REPLY_TYPE_OFFSET_HOLE => {
                    assert_eq!(payload.len(), 12);
                    let at = (long(&payload) - offset) as usize;
                    let len = u32::from_be_bytes(payload[8..].try_into().unwrap()) as usize;
                    assert!(len > 0);
                    data[at..at + len].fill(0);
                    covered += len;
                    self.holes.set(self.holes.get() + len as u64);
                }
                NBD_REPLY_TYPE_BLOCK_STATUS | NBD_REPLY_TYPE_BLOCK_STATUS_EXT => {
                    status.push(descriptors(self.headers, kind, &payload));
                }
                NBD_REPLY_TYPE_ERROR | NBD_REPLY_TYPE_ERROR_OFFSET => {
                    error = Some(Errno(u32::from_be_bytes(payload[..4].try_into().unwrap())));
                }
                other => panic!("chunk type {other}"),
            }
            if flags & NBD_REPLY_FLAG_DONE != 0 {
                break cookie;
            }
            assert_eq!(self.number().await, magic);
        };
        let answer = match (error, read) {
            (Some(error), _) => Answer::Error(error),
            (None, Some(_)) => {
                assert_eq!(covered, data.len(), "not all of the range was sent");
                Answer::Data(data)
            }
            (None, None) if status.is_empty() => Answer::Done,
            (None, None) => Answer::Status(status),
        };
        (answered, answer)
    }

    pub async fn read_flags(&mut self, flags: u16, offset: u64, len: u64) -> Answer {
        let cookie = self.send(NBD_CMD_READ, flags, offset, len).await;
        let (answered, answer) = self.reply(Some((cookie, offset, len))).await;
        assert_eq!(answered, cookie);
        answer
    }

    pub async fn read(&mut self, offset: u64, len: u64) -> Answer {
        self.read_flags(0, offset, len).await
    }

    pub async fn write_flags(&mut self, flags: u16, offset: u64, data: &[u8]) -> Answer {
        let cookie = self
            .send(NBD_CMD_WRITE, flags, offset, data.len() as u64)
            .await;
        self.stream.write_all(data).await.unwrap();
        let (answered, answer) = self.reply(None).await;
        assert_eq!(answered, cookie);
        answer
    }

    pub async fn write(&mut self, offset: u64, data: &[u8]) -> Answer {
        self.write_flags(0, offset, data).await
    }

    /// A request that carries no data in either direction.
    pub async fn command(&mut self, command: u16, flags: u16, offset: u64, len: u64) -> Answer {
        let cookie = self.send(command, flags, offset, len).await;
        let (answered, answer) = self.reply(None).await;
        assert_eq!(answered, cookie);
        answer
    }

    /// Disconnects properly and checks that the server closes.
    pub async fn bye(mut self) {
        self.send(NBD_CMD_DISC, 0, 0, 0).await;
        assert_eq!(self.stream.read(&mut [0]).await, Ok(0));
        self.stream.finish();
    }
}

/// Data of INFO and GO.
pub fn info_data(name: &str, infos: &[u16]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend((infos.len() as u16).to_be_bytes());
    for info in infos {
        data.extend(info.to_be_bytes());
    }
    data
}

/// Data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub fn meta_data(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend((queries.len() as u32).to_be_bytes());
    for query in queries {
        data.extend((query.len() as u32).to_be_bytes());
        data.extend(query.as_bytes());
    }
    data
}

fn long(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes[..8].try_into().unwrap())
}

/// Id of the context, and length and flags of each extent.
fn descriptors(headers: Headers, kind: u16, payload: &[u8]) -> (u32, Vec<(u64, u64)>) {
    let number = |bytes: &[u8]| u64::from(u32::from_be_bytes(bytes[..4].try_into().unwrap()));
    let id = number(payload) as u32;
    let (of_id, size) = match headers {
        Headers::Extended => {
            assert_eq!(kind, NBD_REPLY_TYPE_BLOCK_STATUS_EXT);
            assert_eq!(number(&payload[4..]) as usize, (payload.len() - 8) / 16);
            (8, 16)
        }
        _ => {
            assert_eq!(kind, NBD_REPLY_TYPE_BLOCK_STATUS);
            (4, 8)
        }
    };
    let all = payload[of_id..].chunks(size).map(|one| {
        assert_eq!(one.len(), size);
        match size {
            16 => (long(one), long(&one[8..])),
            _ => (number(one), number(&one[4..])),
        }
    });
    let all: Vec<_> = all.collect();
    assert!(!all.is_empty() && all.iter().all(|(len, _)| *len > 0));
    (id, all)
}
