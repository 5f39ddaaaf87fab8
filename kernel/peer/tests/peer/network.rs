//! A network in memory that changes what passes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use exec::Exec;
use net::pipe::{Pipe, PipeDialer, PipeListener, pipe, pipe_port};
use net::{Connect, NetError, Stream};

/// Bytes of a hello.
pub const HELLO_LEN: usize = 9;
/// Bytes that a connection holds in each direction.
const CAPACITY: usize = 64 << 10;

/// Which way something passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// From who connected.
    Forth,
    /// To who connected.
    Back,
}

/// A hello, or a message or frame with its length, that passes.
#[derive(Clone, Debug)]
pub struct Unit {
    /// Which connection of the network, from 0.
    pub connection: usize,
    pub way: Way,
    /// Which of this direction, from 0; the hello is the first one forth.
    pub index: usize,
    pub bytes: Vec<u8>,
}

/// What becomes of a unit.
pub enum Fate {
    Pass,
    Become(Vec<u8>),
    /// It becomes this, and then nothing more comes.
    BecomeAndEnd(Vec<u8>),
}

type Meddle = Rc<dyn Fn(&Unit) -> Fate>;

/// Clones are the same network.
#[derive(Clone)]
pub struct Network {
    exec: Exec,
    ports: Rc<RefCell<BTreeMap<SocketAddr, PipeDialer>>>,
    meddle: Rc<RefCell<Meddle>>,
    /// All that passed, as it was sent.
    pub seen: Rc<RefCell<Vec<Unit>>>,
    pub connections: Rc<Cell<usize>>,
}

impl Network {
    pub fn new(exec: &Exec) -> Self {
        Self {
            exec: exec.clone(),
            ports: Rc::default(),
            meddle: Rc::new(RefCell::new(Rc::new(|_: &Unit| Fate::Pass))),
            seen: Rc::default(),
            connections: Rc::default(),
        }
    }

    /// A port that is reached at `at` from now on.
    pub fn listen(&self, at: SocketAddr) -> PipeListener {
        let (listener, dialer) = pipe_port(CAPACITY);
        self.ports.borrow_mut().insert(at, dialer);
        listener
    }

    /// From now on this becomes of what passes.
    pub fn meddle(&self, meddle: impl Fn(&Unit) -> Fate + 'static) {
        *self.meddle.borrow_mut() = Rc::new(meddle);
    }

    /// Everything passes again.
    pub fn behave(&self) {
        self.meddle(|_| Fate::Pass);
    }

    /// A connection that nothing is on the way of.
    pub fn dial(&self, to: SocketAddr) -> Pipe {
        let dialer = self.ports.borrow()[&to].clone();
        dialer.connect().expect("a connection")
    }

    /// What passed on this connection, in this direction.
    pub fn passed(&self, connection: usize, way: Way) -> Vec<Unit> {
        let seen = self.seen.borrow();
        let mut units = seen.clone();
        units.retain(|unit| unit.connection == connection && unit.way == way);
        units
    }

    async fn carry(self, connection: usize, way: Way, from: Pipe, to: Pipe) {
        for index in 0.. {
            let (bytes, is_whole) = receive(&from, way == Way::Forth && index == 0).await;
            if bytes.is_empty() {
                break;
            }
            let unit = Unit {
                connection,
                way,
                index,
                bytes,
            };
            let meddle = self.meddle.borrow().clone();
            let fate = meddle(&unit);
            self.seen.borrow_mut().push(unit.clone());
            let (bytes, is_end) = match fate {
                Fate::Pass => (unit.bytes, !is_whole),
                Fate::Become(bytes) => (bytes, !is_whole),
                Fate::BecomeAndEnd(bytes) => (bytes, true),
            };
            if to.write_all(&bytes).await.is_err() {
                from.abort();
                return;
            }
            if is_end {
                break;
            }
        }
        to.finish();
        // What else is sent goes nowhere.
        while let Ok(1..) = from.read(&mut [0; 4096]).await {}
    }
}

/// A unit, or what came of it before the end.
async fn receive(from: &Pipe, is_hello: bool) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let mut need = if is_hello { HELLO_LEN } else { 2 };
    loop {
        while bytes.len() < need {
            let mut part = vec![0; need - bytes.len()];
            match from.read(&mut part).await {
                Ok(count @ 1..) => bytes.extend(&part[..count]),
                _ => return (bytes, false),
            }
        }
        let whole = match is_hello {
            true => HELLO_LEN,
            false => 2 + usize::from(u16::from_be_bytes([bytes[0], bytes[1]])),
        };
        if need == whole {
            return (bytes, true);
        }
        need = whole;
    }
}

impl Connect for Network {
    type Stream = Pipe;

    async fn connect(&self, to: SocketAddr) -> Result<Pipe, NetError> {
        let dialer = self.ports.borrow().get(&to).cloned();
        let far = dialer.ok_or(NetError::Unreachable)?.connect()?;
        let (near, middle) = pipe(CAPACITY);
        let connection = self.connections.get();
        self.connections.set(connection + 1);
        let (forth, back) = (self.clone(), self.clone());
        let ends = (middle.clone(), far.clone());
        self.exec
            .spawn(forth.carry(connection, Way::Forth, ends.0, ends.1));
        self.exec
            .spawn(back.carry(connection, Way::Back, far, middle));
        Ok(near)
    }
}
