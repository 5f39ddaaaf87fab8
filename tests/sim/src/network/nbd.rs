//! A small NBD client: one connection for each volume, many requests at a time, made again when it breaks.

use core::cell::{Cell, RefCell};
use core::time::Duration;
use std::collections::BTreeMap;
use std::rc::Rc;

use exec::{Exec, Notify, Semaphore};
use net::cable::CableEnd;
use net::{NetError, Stream, TcpStream};
use store::{Span, StoreError};
use wire::nbd::*;
use world::{BLOCK_SIZE, Buf};

use super::Network;
use crate::random::Random;

/// What came of a request.
#[derive(Debug)]
pub enum Answer<T> {
    /// The server answered.
    Got(Result<T, StoreError>),
    /// The connection broke first: it may have happened, or happen still.
    Lost,
}

/// The connections of all clients.
pub struct Clients {
    exec: Exec,
    network: Rc<Network>,
    random: RefCell<Random>,
    /// By number of the volume in the model.
    connections: RefCell<BTreeMap<u64, Rc<Connection>>>,
    /// Only one connection is made at a time, so that there is one for each volume.
    connecting: Semaphore,
}

struct Connection {
    stream: TcpStream<CableEnd>,
    sending: Semaphore,
    /// Requests that wait for their reply; a READ with the bytes it wants.
    waiting: RefCell<BTreeMap<u64, Waiting>>,
    answered: Notify,
    next_cookie: Cell<u64>,
    is_broken: Cell<bool>,
}

#[derive(Default)]
struct Waiting {
    wanted: usize,
    offset: u64,
    data: Vec<u8>,
    /// The error of a chunk; the answer comes with the last one.
    error: Option<StoreError>,
    answer: Option<Result<(), StoreError>>,
}

type Gone = NetError;

impl Clients {
    pub fn new(exec: Exec, network: Rc<Network>, random: Random) -> Self {
        Self {
            exec,
            network,
            random: RefCell::new(random),
            connections: RefCell::default(),
            connecting: Semaphore::new(1),
        }
    }

    /// Reads `span` of a volume into as many blocks as it touches.
    pub async fn read(&self, number: u64, name: &str, span: Span) -> Answer<Buf> {
        let request = request(NBD_CMD_READ, 0, span.offset, span.len);
        match self.ask(number, name, request, &[]).await {
            Answer::Got(result) => Answer::Got(result.map(|data| {
                let mut buf = Buf::from_heap(span.blocks());
                buf.copy_from(inside(span), &data);
                buf
            })),
            Answer::Lost => Answer::Lost,
        }
    }

    /// Writes `span` of a volume; durable at once when `fua`.
    pub async fn write(
        &self,
        number: u64,
        name: &str,
        span: Span,
        buf: &Buf,
        fua: bool,
    ) -> Answer<()> {
        let mut data = vec![0; span.len as usize];
        buf.copy_to(inside(span), &mut data);
        let flags = if fua { NBD_CMD_FLAG_FUA } else { 0 };
        let request = request(NBD_CMD_WRITE, flags, span.offset, span.len);
        self.ask(number, name, request, &data).await.forget()
    }

    /// Discards a range, by either of the two commands that do.
    pub async fn discard(&self, number: u64, name: &str, offset: u64, len: u32) -> Answer<()> {
        let commands = [NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES];
        let command = self.random.borrow_mut().pick(&commands);
        let request = request(command, 0, offset, len);
        self.ask(number, name, request, &[]).await.forget()
    }

    /// Makes everything durable that was answered before.
    pub async fn flush(&self, number: u64, name: &str) -> Answer<()> {
        let request = request(NBD_CMD_FLUSH, 0, 0, 0);
        self.ask(number, name, request, &[]).await.forget()
    }

    /// Detaches from a volume that was deleted.
    pub fn detach(&self, number: u64) {
        if let Some(connection) = self.connections.borrow_mut().remove(&number) {
            connection.stream.finish();
        }
    }

    async fn ask(
        &self,
        number: u64,
        name: &str,
        request: Request,
        payload: &[u8],
    ) -> Answer<Vec<u8>> {
        let connection = match self.connection(number, name).await {
            Ok(connection) => connection,
            Err(Some(refused)) => return Answer::Got(Err(refused)),
            Err(None) => return Answer::Lost,
        };
        // Now and then a client dies with requests under way.
        let dies = self.random.borrow_mut().one_in(300);
        let answer = connection.ask(request, payload, dies).await;
        if let Answer::Got(Err(StoreError::NoVolume)) = answer {
            // The volume was deleted; a client that stayed would take up a place.
            connection.stream.finish();
        }
        if matches!(
            answer,
            Answer::Lost | Answer::Got(Err(StoreError::NoVolume))
        ) {
            let mut all = self.connections.borrow_mut();
            if all
                .get(&number)
                .is_some_and(|known| Rc::ptr_eq(known, &connection))
            {
                all.remove(&number);
            }
        }
        answer
    }

    /// The connection of a volume, made if there is none; `Err(Some(…))` when the server knows no such volume.
    async fn connection(
        &self,
        number: u64,
        name: &str,
    ) -> Result<Rc<Connection>, Option<StoreError>> {
        let _only_one = self.connecting.acquire().await;
        if let Some(connection) = self.connections.borrow().get(&number) {
            return Ok(connection.clone());
        }
        for _ in 0..60 {
            let structured = self.random.borrow_mut().one_in(2);
            if let Ok(stream) = self.network.connect().await {
                match handshake(&stream, name, structured).await {
                    Ok(true) => {
                        let connection = Rc::new(Connection::new(stream));
                        self.exec.spawn(connection.clone().receive());
                        (self.connections.borrow_mut()).insert(number, connection.clone());
                        return Ok(connection);
                    }
                    Ok(false) => {
                        stream.abort();
                        return Err(Some(StoreError::NoVolume));
                    }
                    Err(_) => stream.abort(),
                }
            }
            self.exec.sleep(Duration::from_secs(1)).await;
        }
        Err(None)
    }
}

impl Answer<Vec<u8>> {
    fn forget(self) -> Answer<()> {
        match self {
            Self::Got(result) => Answer::Got(result.map(|_| ())),
            Self::Lost => Answer::Lost,
        }
    }
}

fn request(command: u16, flags: u16, offset: u64, len: u32) -> Request {
    Request {
        flags,
        command,
        cookie: 0,
        offset,
        len: len.into(),
    }
}

/// Where the range begins within its first block.
fn inside(span: Span) -> usize {
    usize::try_from(span.offset % BLOCK_SIZE as u64).unwrap_or(0)
}

/// Attaches to an export; false when there is no such export.
async fn handshake(
    stream: &TcpStream<CableEnd>,
    name: &str,
    structured: bool,
) -> Result<bool, Gone> {
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).await?;
    let flags = u32::from(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    stream.write_all(&flags.to_be_bytes()).await?;
    if structured {
        option(stream, NBD_OPT_STRUCTURED_REPLY, &[]).await?;
    }
    let len = u32::try_from(name.len()).unwrap_or(0);
    let mut data = len.to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend([0, 0]);
    option(stream, NBD_OPT_GO, &data).await
}

/// Sends an option and reads its replies up to the last one; whether it was acknowledged.
async fn option(stream: &TcpStream<CableEnd>, option: u32, data: &[u8]) -> Result<bool, Gone> {
    let len = u32::try_from(data.len()).unwrap_or(0);
    stream
        .write_all(&OptionHead { option, len }.encode())
        .await?;
    stream.write_all(data).await?;
    loop {
        let mut head = [0; OptionReplyHead::LEN];
        stream.read_exact(&mut head).await?;
        let reply = number32(&head[12..]);
        let mut data = vec![0; number32(&head[16..]) as usize];
        stream.read_exact(&mut data).await?;
        match reply {
            NBD_REP_INFO => {}
            reply => return Ok(reply == NBD_REP_ACK),
        }
    }
}

fn number32(bytes: &[u8]) -> u32 {
    bytes
        .first_chunk()
        .map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

fn number64(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk()
        .map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

fn result_of(errno: u32) -> Result<(), StoreError> {
    match Errno(errno) {
        Errno(0) => Ok(()),
        NBD_ENOSPC => Err(StoreError::NoSpace),
        NBD_ESHUTDOWN => Err(StoreError::NoVolume),
        NBD_EPERM => Err(StoreError::ReadOnly),
        NBD_EINVAL => Err(StoreError::OutOfRange),
        _ => Err(StoreError::DamagedPool),
    }
}

impl Connection {
    fn new(stream: TcpStream<CableEnd>) -> Self {
        Self {
            stream,
            sending: Semaphore::new(1),
            waiting: RefCell::default(),
            answered: Notify::default(),
            next_cookie: Cell::new(1),
            is_broken: Cell::new(false),
        }
    }

    async fn ask(&self, mut request: Request, payload: &[u8], dies: bool) -> Answer<Vec<u8>> {
        let cookie = self.next_cookie.replace(self.next_cookie.get() + 1);
        request.cookie = cookie;
        let wanted = if request.command == NBD_CMD_READ {
            usize::try_from(request.len).unwrap_or(0)
        } else {
            0
        };
        let waiting = Waiting {
            wanted,
            offset: request.offset,
            ..Waiting::default()
        };
        self.waiting.borrow_mut().insert(cookie, waiting);
        if self.send(&request, payload).await.is_err() || dies {
            self.stream.abort();
            self.give_up();
        }
        loop {
            let done = {
                let mut all = self.waiting.borrow_mut();
                let is_done = all.get(&cookie).is_some_and(|one| one.answer.is_some());
                if is_done { all.remove(&cookie) } else { None }
            };
            match done {
                Some(Waiting {
                    answer: Some(result),
                    data,
                    ..
                }) => {
                    return Answer::Got(result.map(|()| data));
                }
                _ if self.is_broken.get() => return Answer::Lost,
                _ => self.answered.wait().await,
            }
        }
    }

    async fn send(&self, request: &Request, payload: &[u8]) -> Result<(), Gone> {
        let _turn = self.sending.acquire().await;
        self.stream.write_all(&request.encode()).await?;
        self.stream.write_all(payload).await
    }

    /// Takes replies until the connection breaks.
    async fn receive(self: Rc<Self>) {
        while let Ok(()) = self.reply().await {
            self.answered.notify();
        }
        self.stream.abort();
        self.give_up();
    }

    fn give_up(&self) {
        self.is_broken.set(true);
        self.answered.notify();
    }

    async fn reply(&self) -> Result<(), Gone> {
        let mut magic = [0; 4];
        self.stream.read_exact(&mut magic).await?;
        match u32::from_be_bytes(magic) {
            NBD_SIMPLE_REPLY_MAGIC => self.simple().await,
            NBD_STRUCTURED_REPLY_MAGIC => self.chunk().await,
            other => panic!("not the magic number of a reply: {other:#x}"),
        }
    }

    async fn simple(&self) -> Result<(), Gone> {
        let mut head = [0; 12];
        self.stream.read_exact(&mut head).await?;
        let result = result_of(number32(&head));
        let cookie = number64(&head[4..]);
        let wanted = self.with(cookie, |waiting| waiting.wanted);
        let mut data = vec![0; if result.is_ok() { wanted } else { 0 }];
        self.stream.read_exact(&mut data).await?;
        self.with(cookie, |waiting| {
            waiting.data = data;
            waiting.answer = Some(result);
        });
        Ok(())
    }

    /// A chunk of a structured reply.
    async fn chunk(&self) -> Result<(), Gone> {
        // Flags, type, cookie and length, behind the magic number.
        let mut head = [0; 16];
        self.stream.read_exact(&mut head).await?;
        let [flag_high, flag_low, kind_high, kind_low, ..] = head;
        let done = u16::from_be_bytes([flag_high, flag_low]) & NBD_REPLY_FLAG_DONE != 0;
        let kind = u16::from_be_bytes([kind_high, kind_low]);
        let cookie = number64(&head[4..]);
        let mut payload = vec![0; number32(&head[12..]) as usize];
        self.stream.read_exact(&mut payload).await?;
        self.with(cookie, |waiting| {
            waiting.data.resize(waiting.wanted, 0);
            if kind == NBD_REPLY_TYPE_OFFSET_DATA {
                let at = number64(&payload) - waiting.offset;
                let at = usize::try_from(at).unwrap_or(usize::MAX);
                waiting.data[at..at + payload.len() - 8].copy_from_slice(&payload[8..]);
            } else if kind == NBD_REPLY_TYPE_OFFSET_HOLE {
                let at = number64(&payload) - waiting.offset;
                let at = usize::try_from(at).unwrap_or(usize::MAX);
                waiting.data[at..at + number32(&payload[8..]) as usize].fill(0);
            } else if kind != NBD_REPLY_TYPE_NONE {
                waiting.error = result_of(number32(&payload)).err();
            }
            if done {
                waiting.answer = Some(waiting.error.map_or(Ok(()), Err));
            }
        });
        Ok(())
    }

    fn with<T>(&self, cookie: u64, with: impl FnOnce(&mut Waiting) -> T) -> T {
        match self.waiting.borrow_mut().get_mut(&cookie) {
            Some(waiting) => with(waiting),
            None => panic!("a reply to a request that nobody waits for: {cookie}"),
        }
    }
}
