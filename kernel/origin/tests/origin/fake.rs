//! An NBD server that knows what it is told to know, and answers requests as a script says.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use exec::Exec;
use net::pipe::{Pipe, pipe};
use net::{NetError, Stream};
use origin::Connect;
use wire::nbd::*;

/// The byte at `offset` of what it has; no two blocks are alike.
pub fn byte_at(offset: u64) -> u8 {
    (offset / 512 * 37 + offset % 512 / 3 + 1) as u8
}

/// The bytes of a range.
pub fn content(offset: u64, len: u64) -> Vec<u8> {
    (offset..offset + len).map(byte_at).collect()
}

/// What it knows.
#[derive(Clone, Copy, Debug)]
pub struct Knows {
    pub fixed: bool,
    pub no_zeroes: bool,
    pub extended: bool,
    pub structured: bool,
    pub allocation: bool,
    pub go: bool,
    /// The least and the most of a request.
    pub sizes: Option<(u32, u32)>,
    pub size: u64,
}

impl Knows {
    pub const ALL: Self = Self {
        fixed: true,
        no_zeroes: true,
        extended: true,
        structured: true,
        allocation: true,
        go: true,
        sizes: Some((1, 32 << 20)),
        size: 1 << 20,
    };
    pub const STRUCTURED: Self = Self {
        extended: false,
        ..Self::ALL
    };
    pub const SIMPLE: Self = Self {
        structured: false,
        ..Self::STRUCTURED
    };
}

/// What it does about a request.
pub enum Act {
    Say(Vec<u8>),
    SayLater(Duration, Vec<u8>),
    /// One byte at a time, with pauses.
    Drip(Duration, Vec<u8>),
    SayAndClose(Vec<u8>),
    Nothing,
}

/// How many connections there were, a request and the form of its reply.
pub struct Asked {
    /// From 0.
    pub connection: usize,
    pub request: Request,
    pub to: ReplyTo,
    pub knows: Knows,
}

type Script = Rc<dyn Fn(&Asked) -> Act>;

/// A replacement for the reply to an option: what to do instead of the proper thing.
type Options = Rc<dyn Fn(usize, u32) -> Option<Vec<u8>>>;

/// The server; clones are the same one.
#[derive(Clone)]
pub struct Fake {
    exec: Exec,
    knows: Rc<Cell<Knows>>,
    script: Script,
    options: Options,
    /// Bytes after which the first connection ends.
    pub cut_after: Rc<Cell<Option<usize>>>,
    /// Nobody is there.
    pub is_away: Rc<Cell<bool>>,
    /// Attempts to connect.
    pub dialled: Rc<Cell<usize>>,
    /// Bytes of all connections.
    pub said: Rc<Cell<usize>>,
    pub requests: Rc<RefCell<Vec<Request>>>,
}

impl Fake {
    /// An honest one.
    pub fn new(exec: &Exec, knows: Knows) -> Self {
        Self {
            exec: exec.clone(),
            knows: Rc::new(Cell::new(knows)),
            script: Rc::new(|asked| Act::Say(asked.honestly())),
            options: Rc::new(|_, _| None),
            cut_after: Rc::default(),
            is_away: Rc::default(),
            dialled: Rc::default(),
            said: Rc::default(),
            requests: Rc::default(),
        }
    }

    /// With another script.
    pub fn scripted(self, script: impl Fn(&Asked) -> Act + 'static) -> Self {
        let script = Rc::new(script);
        Self { script, ..self }
    }

    /// With another idea of options.
    pub fn with_options(self, options: impl Fn(usize, u32) -> Option<Vec<u8>> + 'static) -> Self {
        let options = Rc::new(options);
        Self { options, ..self }
    }

    /// Becomes another one for connections to come.
    pub fn becomes(&self, knows: Knows) {
        self.knows.set(knows);
    }

    /// How many requests of a kind came.
    pub fn count(&self, command: u16) -> usize {
        let requests = self.requests.borrow();
        requests.iter().filter(|r| r.command == command).count()
    }

    /// Serves a connection, the so-manieth one.
    pub async fn serve<S: Stream>(self, stream: S, connection: usize) {
        let left = if connection == 0 {
            self.cut_after.get()
        } else {
            None
        };
        let line = Line {
            stream,
            left: Rc::new(Cell::new(left.unwrap_or(usize::MAX))),
            said: self.said.clone(),
        };
        // What ends it is the test's affair.
        let _ = self.session(&line, connection).await;
        line.stream.finish();
    }

    async fn session<S: Stream>(&self, line: &Line<S>, connection: usize) -> Result<(), NetError> {
        let knows = self.knows.get();
        let headers = self.handshake(line, connection, knows).await?;
        loop {
            let request = if headers == Headers::Extended {
                Request::decode_extended(line.bytes().await?)
            } else {
                Request::decode(line.bytes().await?)
            };
            let request = request.expect("a request");
            self.requests.borrow_mut().push(request);
            if request.command == NBD_CMD_DISC {
                return Ok(());
            }
            let to = ReplyTo {
                headers,
                cookie: request.cookie,
                offset: request.offset,
            };
            let asked = Asked {
                connection,
                request,
                to,
                knows,
            };
            match (self.script)(&asked) {
                Act::Say(bytes) => line.say(&bytes).await?,
                Act::SayAndClose(bytes) => return line.say(&bytes).await,
                Act::Nothing => {}
                Act::SayLater(pause, bytes) => {
                    let (exec, line) = (self.exec.clone(), line.clone());
                    self.exec.spawn(async move {
                        exec.sleep(pause).await;
                        let _ = line.say(&bytes).await;
                    });
                }
                Act::Drip(pause, bytes) => {
                    for byte in bytes {
                        self.exec.sleep(pause).await;
                        line.say(&[byte]).await?;
                    }
                }
            }
        }
    }

    async fn handshake<S: Stream>(
        &self,
        line: &Line<S>,
        connection: usize,
        knows: Knows,
    ) -> Result<Headers, NetError> {
        let mut hello = greeting();
        hello[17] = u8::from(knows.fixed) | u8::from(knows.no_zeroes) << 1;
        line.say(&hello).await?;
        let flags = ClientFlags::decode(line.bytes().await?).expect("flags");
        assert_eq!(flags.fixed_newstyle, knows.fixed);
        let mut headers = Headers::Simple;
        loop {
            let head = OptionHead::decode(line.bytes().await?).expect("an option");
            let mut data = vec![0; head.len as usize];
            line.stream.read_exact(&mut data).await?;
            if let Some(bytes) = (self.options)(connection, head.option) {
                line.say(&bytes).await?;
                continue;
            }
            let known = match head.option {
                NBD_OPT_EXTENDED_HEADERS => knows.extended,
                NBD_OPT_STRUCTURED_REPLY => knows.structured,
                NBD_OPT_SET_META_CONTEXT => knows.allocation && headers.in_chunks(),
                NBD_OPT_GO => knows.go,
                NBD_OPT_EXPORT_NAME => {
                    assert_eq!(data, b"demo");
                    line.say(&info_export(knows.size, NBD_FLAG_HAS_FLAGS)[2..])
                        .await?;
                    if !flags.no_zeroes {
                        line.say(&[0; 124]).await?;
                    }
                    return Ok(headers);
                }
                _ => false,
            };
            assert!(knows.fixed, "an option that may fail");
            if !known {
                line.say(&option_reply(head.option, NBD_REP_ERR_UNSUP, b"what?"))
                    .await?;
                continue;
            }
            let replies = proper_replies(head.option, &data, knows);
            line.say(&replies).await?;
            match head.option {
                NBD_OPT_EXTENDED_HEADERS => headers = Headers::Extended,
                NBD_OPT_STRUCTURED_REPLY => headers = Headers::Structured,
                NBD_OPT_GO => return Ok(headers),
                _ => {}
            }
        }
    }
}

/// What one says to an option that is known.
fn proper_replies(option: u32, data: &[u8], knows: Knows) -> Vec<u8> {
    let mut replies = Vec::new();
    match option {
        NBD_OPT_SET_META_CONTEXT => {
            let request = MetaRequest::decode(data).expect("contexts");
            assert_eq!(request.name, "demo");
            assert_eq!(request.queries().collect::<Vec<_>>(), [BASE_ALLOCATION]);
            let context = [&[0, 0, 0, 5], BASE_ALLOCATION.as_bytes()].concat();
            replies.extend(option_reply(option, NBD_REP_META_CONTEXT, &context));
        }
        NBD_OPT_GO => {
            let request = InfoRequest::decode(data).expect("information");
            assert!(request.name == "demo" && request.wants(NBD_INFO_BLOCK_SIZE));
            let text = [&NBD_INFO_DESCRIPTION.to_be_bytes()[..], &[b'x'; 300]].concat();
            replies.extend(option_reply(option, NBD_REP_INFO, &text));
            let export = info_export(knows.size, NBD_FLAG_HAS_FLAGS);
            replies.extend(option_reply(option, NBD_REP_INFO, &export));
            if let Some((least, most)) = knows.sizes {
                let sizes = info_block_size(least, least.max(4096), most);
                replies.extend(option_reply(option, NBD_REP_INFO, &sizes));
            }
        }
        _ => {}
    }
    replies.extend(option_reply(option, NBD_REP_ACK, &[]));
    replies
}

/// One reply to an option.
pub fn option_reply(option: u32, reply: u32, data: &[u8]) -> Vec<u8> {
    let len = data.len() as u32;
    let head = OptionReplyHead { option, reply, len };
    [&head.encode()[..], data].concat()
}

impl Asked {
    /// The right answer: data in three chunks of which the middle one is a hole where there are zeros, and the first
    /// half of every 64 KiB as allocated.
    pub fn honestly(&self) -> Vec<u8> {
        let Request {
            command,
            offset,
            len,
            ..
        } = self.request;
        assert!(len > 0 && offset + len <= self.knows.size, "out of range");
        if let Some((least, most)) = self.knows.sizes {
            let least = u64::from(least);
            let fits = |at: u64| at.is_multiple_of(least) || at == self.knows.size;
            assert!(fits(offset) && fits(offset + len), "not aligned");
            assert!(
                command != NBD_CMD_READ || len <= u64::from(most),
                "too long"
            );
        }
        match command {
            NBD_CMD_READ => self.data(),
            NBD_CMD_BLOCK_STATUS => {
                assert!(self.knows.allocation, "no context was selected");
                self.status(&self.alternating())
            }
            other => panic!("request {other}"),
        }
    }

    fn alternating(&self) -> Vec<(u64, u32)> {
        let (mut at, end) = (self.request.offset, self.request.offset + self.request.len);
        let mut runs = Vec::new();
        while at < end {
            let next = (at / 32768 + 1) * 32768;
            let flags = if at / 32768 % 2 == 0 { 0 } else { 3 };
            runs.push((next.min(end) - at, flags));
            at = next;
        }
        runs
    }

    /// All of the data.
    pub fn data(&self) -> Vec<u8> {
        let Request { offset, len, .. } = self.request;
        match self.to.headers {
            Headers::Simple => [&self.to.simple(None)[..], &content(offset, len)].concat(),
            _ => {
                let half = len / 2;
                let second = self.chunk(false, offset + half, len - half);
                [second, self.chunk(true, offset, half)].concat()
            }
        }
    }

    /// A chunk of data.
    pub fn chunk(&self, is_last: bool, offset: u64, len: u64) -> Vec<u8> {
        let head = self.to.data(is_last, offset, len as u32);
        [&head[..], &content(offset, len)].concat()
    }

    /// All of a block status.
    pub fn status(&self, runs: &[(u64, u32)]) -> Vec<u8> {
        let mut bytes = self.to.block_status(true, 5, runs.len() as u32).to_vec();
        for (len, flags) in runs {
            bytes.extend(&*self.to.descriptor(*len, *flags));
        }
        bytes
    }
}

/// The server's end of a connection.
#[derive(Clone)]
struct Line<S> {
    stream: S,
    /// Bytes that it will still say.
    left: Rc<Cell<usize>>,
    said: Rc<Cell<usize>>,
}

impl<S: Stream> Line<S> {
    async fn say(&self, bytes: &[u8]) -> Result<(), NetError> {
        let count = bytes.len().min(self.left.get());
        self.left.set(self.left.get() - count);
        self.said.set(self.said.get() + count);
        self.stream.write_all(&bytes[..count]).await?;
        if count < bytes.len() {
            return Err(NetError::Closed);
        }
        Ok(())
    }

    async fn bytes<const N: usize>(&self) -> Result<[u8; N], NetError> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).await?;
        Ok(bytes)
    }
}

impl Connect for Fake {
    type Stream = Pipe;

    async fn connect(&self, to: SocketAddr) -> Result<Pipe, NetError> {
        assert_eq!(to, "10.0.0.7:10809".parse().unwrap());
        let connection = self.dialled.get();
        self.dialled.set(connection + 1);
        if self.is_away.get() {
            return Err(NetError::Unreachable);
        }
        let (near, far) = pipe(64 << 10);
        self.exec.spawn(self.clone().serve(far, connection));
        Ok(near)
    }
}
