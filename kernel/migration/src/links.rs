//! Asking other appliances: a channel to each that something is asked of, for as long as something is.
//!
//! Questions of many tasks are under way at once; answers come in any order. A channel that nobody has used for a while is given up.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::{Rc, Weak};
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::pin::Pin;
use core::time::Duration;

use exec::{Exec, Notify, Semaphore};
use net::{Connect, Stream};
use peer::{Channel, MESSAGE_MAX, PeerError, Peers, PublicKey};
use world::{BLOCK_SIZE, Buf, Disk};

use crate::wire::{Answer, Ask, Question, Say, decode, encode_head};

/// How long an answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(40);
/// How long opening a channel may take.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// A channel that nobody used for so long is given up.
const IDLE_TIME: Duration = Duration::from_secs(30);
/// Questions under way to one appliance.
const QUESTIONS_MAX: usize = 64;
/// Bytes of a seal.
const SEAL_LEN: usize = 16;

/// What was answered, and its data.
#[derive(Debug)]
pub struct Answered {
    /// What.
    pub say: Say,
    /// Data that is no blocks; seals, if there are blocks.
    pub data: Vec<u8>,
    /// Blocks, if there was a buffer for them, from its beginning on.
    pub blocks: Buf,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// There is no such peer.
    NoPeer,
    /// There is no channel, or it ended before the answer came.
    Peer(PeerError),
    /// The answer is none.
    Nonsense,
}

impl fmt::Display for CallError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPeer => PeerError::NotPaired.fmt(out),
            Self::Peer(error) => error.fmt(out),
            Self::Nonsense => PeerError::Protocol.fmt(out),
        }
    }
}

impl From<PeerError> for CallError {
    fn from(error: PeerError) -> Self {
        Self::Peer(error)
    }
}

/// What asking leads to.
pub type Call<'a> = Pin<Box<dyn Future<Output = Result<Answered, CallError>> + 'a>>;

/// Asks other appliances.
pub trait Calls {
    /// Asks one; blocks of the answer go into `into`, which comes back with it.
    fn ask(&self, of: PublicKey, ask: Ask, into: Buf) -> Call<'_>;
}

/// Asks by channels over `C`.
pub struct Links<D, C: Connect> {
    exec: Exec,
    /// None: there is nobody to ask.
    peers: Option<Peers<D>>,
    way: C,
    table: RefCell<BTreeMap<PublicKey, Rc<Link<C::Stream>>>>,
    /// Whoever opens a channel to somebody.
    opening: RefCell<BTreeMap<PublicKey, Semaphore>>,
}

struct Link<S: Stream> {
    channel: Channel<S>,
    waiting: RefCell<BTreeMap<u32, Rc<Waiting>>>,
    next: Cell<u32>,
    questions: Semaphore,
    end: Cell<Option<PeerError>>,
}

/// Somebody who waits for an answer.
struct Waiting {
    into: RefCell<Option<Buf>>,
    answer: RefCell<Option<Result<Answered, CallError>>>,
    came: Notify,
}

impl Waiting {
    fn give(&self, answer: Result<Answered, CallError>) {
        *self.answer.borrow_mut() = Some(answer);
        self.came.notify();
    }

    async fn answer(&self) -> Result<Answered, CallError> {
        loop {
            if let Some(answer) = self.answer.borrow_mut().take() {
                return answer;
            }
            self.came.wait().await;
        }
    }
}

/// A question under way; dropped, nobody waits for the answer any more.
struct Asked<'a, S: Stream> {
    link: &'a Link<S>,
    number: u32,
}

impl<S: Stream> Drop for Asked<'_, S> {
    fn drop(&mut self) {
        self.link.waiting.borrow_mut().remove(&self.number);
    }
}

impl<D: Disk + 'static, C: Connect> Links<D, C> {
    /// No channel as yet.
    pub fn new(exec: Exec, peers: Option<Peers<D>>, way: C) -> Self {
        Self {
            exec,
            peers,
            way,
            table: RefCell::default(),
            opening: RefCell::default(),
        }
    }

    /// The channel that is open already.
    fn known(&self, of: &PublicKey) -> Option<Rc<Link<C::Stream>>> {
        let known = self.table.borrow().get(of).cloned();
        known.filter(|link| link.end.get().is_none())
    }

    async fn link(&self, of: PublicKey) -> Result<Rc<Link<C::Stream>>, CallError> {
        if let Some(link) = self.known(&of) {
            return Ok(link);
        }
        // One at a time for each of them; who does not answer keeps nobody from the others.
        let opening = {
            let mut all = self.opening.borrow_mut();
            all.entry(of).or_insert_with(|| Semaphore::new(1)).clone()
        };
        let _turn = opening.acquire().await;
        if let Some(link) = self.known(&of) {
            return Ok(link);
        }
        let peers = self.peers.as_ref().ok_or(CallError::NoPeer)?;
        let peer = peers.find_key(&of).ok_or(CallError::NoPeer)?;
        let connected = peers.connect(&self.way, &peer.name);
        let connected = self.exec.timeout(CONNECT_TIME, connected).await;
        let channel = connected.unwrap_or(Err(PeerError::Unreachable))?;
        let link = Rc::new(Link {
            channel: channel.clone(),
            waiting: RefCell::default(),
            next: Cell::new(0),
            questions: Semaphore::new(QUESTIONS_MAX),
            end: Cell::new(None),
        });
        self.table.borrow_mut().insert(of, link.clone());
        let listen = listen(self.exec.clone(), Rc::downgrade(&link), channel);
        self.exec.spawn(listen);
        Ok(link)
    }

    async fn ask_once(&self, of: PublicKey, ask: Ask, into: Buf) -> Result<Answered, CallError> {
        let link = self.link(of).await?;
        let _place = link.questions.acquire().await;
        let waiting = Rc::new(Waiting {
            into: RefCell::new(Some(into)),
            answer: RefCell::default(),
            came: Notify::default(),
        });
        let number = link.next.get();
        link.next.set(number.wrapping_add(1));
        link.waiting.borrow_mut().insert(number, waiting.clone());
        let asked = Asked {
            link: &link,
            number,
        };
        if let Some(end) = link.end.get() {
            return Err(end.into());
        }
        let head = encode_head(&Question { number, ask });
        link.channel.send(&[&head]).await?;
        let answered = waiting.answer().await;
        drop(asked);
        answered
    }
}

impl<D: Disk + 'static, C: Connect> Calls for Links<D, C> {
    fn ask(&self, of: PublicKey, ask: Ask, into: Buf) -> Call<'_> {
        Box::pin(async move {
            let asked = self.ask_once(of, ask, into);
            let answered = self.exec.timeout(ANSWER_TIME, asked).await;
            answered.unwrap_or(Err(PeerError::TimedOut.into()))
        })
    }
}

/// Takes answers until the channel ends or nobody wants it any more.
async fn listen<S: Stream>(exec: Exec, link: Weak<Link<S>>, channel: Channel<S>) {
    let mut message = vec![0; MESSAGE_MAX];
    let end = loop {
        let received = exec.timeout(IDLE_TIME, channel.receive(&mut message)).await;
        let Some(link) = link.upgrade() else {
            break PeerError::Lost;
        };
        let len = match received {
            Ok(Ok(Some(len))) => len,
            Ok(Ok(None)) => break PeerError::Lost,
            Ok(Err(error)) => break error,
            Err(_) if link.waiting.borrow().is_empty() => break PeerError::Lost,
            Err(_) => continue,
        };
        let Some((Answer { number, say }, data)) = decode(&message[..len]) else {
            break PeerError::Protocol;
        };
        // Whoever asked may not wait any more.
        let waiting = link.waiting.borrow_mut().remove(&number);
        if let Some(waiting) = waiting {
            let into = waiting.into.borrow_mut().take().unwrap_or_else(Buf::empty);
            waiting.give(sort(say, data, into));
        }
    };
    if let Some(link) = link.upgrade() {
        link.end.set(Some(end));
        let waiting = core::mem::take(&mut *link.waiting.borrow_mut());
        for waiting in waiting.values() {
            waiting.give(Err(end.into()));
        }
    }
    // Its last word, unless it is dead already.
    let _ = channel.finish().await;
}

/// Puts the data of an answer where it belongs.
fn sort(say: Say, data: &[u8], mut blocks: Buf) -> Result<Answered, CallError> {
    if blocks.is_empty() || data.is_empty() {
        let data = data.to_vec();
        return Ok(Answered { say, data, blocks });
    }
    let count = data.len() / (SEAL_LEN + BLOCK_SIZE);
    if data.len() != count * (SEAL_LEN + BLOCK_SIZE) || count > blocks.blocks() {
        return Err(CallError::Nonsense);
    }
    let (seals, bytes) = data.split_at(count * SEAL_LEN);
    blocks.copy_from(0, bytes);
    let data = seals.to_vec();
    Ok(Answered { say, data, blocks })
}
