//! Two stacks, one cable, one executor, one fake clock.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use exec::Exec;
use net::cable::{Cable, CableEnd, Fate, Passing};
use net::{ListenOptions, Listener, NetConfig, NetError, Stack, Stream, TcpListener, TcpStream};
use world::{Clock, Entropy, Frame, Instant, Link, LinkInfo};

/// The most turns in a row that do nothing although a deadline has come: as many microseconds.
const IDLE_TURNS_MAX: u32 = 20_000;

/// How long a frame takes.
pub const LATENCY: Duration = Duration::from_micros(50);

pub type Wire = TcpStream<LabLink>;

/// Answers a frame that a stack sends, in place of a server or router on its network.
pub type Neighbour = Box<dyn FnMut(&[u8]) -> Option<Vec<u8>>>;

/// An end of the cable, and perhaps somebody on the way.
pub struct LabLink {
    end: CableEnd,
    neighbour: Option<Neighbour>,
    answers: VecDeque<Frame>,
}

impl LabLink {
    fn new(end: CableEnd, neighbour: Option<Neighbour>) -> Self {
        Self {
            end,
            neighbour,
            answers: VecDeque::new(),
        }
    }
}

impl Link for LabLink {
    fn info(&self) -> LinkInfo {
        self.end.info()
    }

    fn receive(&mut self) -> Option<Frame> {
        self.answers.pop_front().or_else(|| self.end.receive())
    }

    fn release(&mut self, frame: Frame) {
        self.end.release(frame);
    }

    fn transmit_frame(&mut self) -> Option<Frame> {
        self.end.transmit_frame()
    }

    fn transmit(&mut self, frame: Frame) {
        let answer = self
            .neighbour
            .as_mut()
            .and_then(|neighbour| neighbour(frame.bytes()));
        if let Some(answer) = answer {
            let len = answer.len();
            self.answers.push_back(Frame::new(answer.into(), 0, len));
        }
        self.end.transmit(frame);
    }

    fn kick(&mut self) {
        self.end.kick();
    }
}

#[derive(Default)]
pub struct FakeClock {
    now: Cell<Instant>,
}

impl Clock for FakeClock {
    fn now(&self) -> Instant {
        self.now.get()
    }

    fn wall_nanos(&self) -> Option<u64> {
        None
    }
}

/// A small generator; the same numbers for the same seed.
pub struct Dice(Cell<u64>);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    /// A number below `limit`.
    pub fn roll(&self, limit: u64) -> u64 {
        let mut mixed = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(mixed);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

impl Entropy for Dice {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.roll(256) as u8;
        }
    }
}

/// A link without offloads.
pub fn plain_link(host: u8) -> LinkInfo {
    LinkInfo {
        mac: [0x52, 0x54, 0, 0, 0, host],
        mtu: 1500,
        transmit_checksum: false,
        receive_checksum: false,
        segmentation_tcp4: false,
    }
}

/// `10.0.0.host/24` and `fd00::host/64`.
pub fn fixed(host: u8) -> NetConfig {
    let v4 = format!("10.0.0.{host}/24").parse().unwrap();
    let v6 = format!("fd00::{host}/64").parse().unwrap();
    NetConfig::fixed(&[v4, v6], &[])
}

pub struct Lab {
    pub clock: Rc<FakeClock>,
    pub exec: Exec,
    pub cable: Cable,
    pub server: Stack<LabLink>,
    pub client: Stack<LabLink>,
}

impl Lab {
    /// Server 10.0.0.1 and client 10.0.0.2 on plain links.
    pub fn new() -> Self {
        Self::with(fixed(1), fixed(2), [plain_link(1), plain_link(2)])
    }

    pub fn with(server: NetConfig, client: NetConfig, links: [LinkInfo; 2]) -> Self {
        Self::build(server, client, links, None)
    }

    /// A server that gets its address in the way of `server`, with `neighbour` on its network.
    pub fn with_neighbour(server: NetConfig, neighbour: Neighbour) -> Self {
        let links = [plain_link(1), plain_link(2)];
        Self::build(server, fixed(2), links, Some(neighbour))
    }

    pub fn build(
        server: NetConfig,
        client: NetConfig,
        links: [LinkInfo; 2],
        neighbour: Option<Neighbour>,
    ) -> Self {
        let clock = Rc::new(FakeClock::default());
        let exec = Exec::new(clock.clone());
        let (cable, first, second) = Cable::new(clock.clone(), links);
        cable.decide(|_| Fate::Delay(LATENCY));
        let (first, second) = (LabLink::new(first, neighbour), LabLink::new(second, None));
        let server = Stack::new(first, server, exec.clone(), &Dice::new(1));
        let client = Stack::new(second, client, exec.clone(), &Dice::new(2));
        Self {
            clock,
            exec,
            cable,
            server,
            client,
        }
    }

    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// One turn of the loop; whether anything happened.
    fn turn(&self) -> bool {
        let received = self.server.ingress() | self.client.ingress();
        let ran = self.exec.run_ready();
        let sent = self.server.egress() | self.client.egress();
        received | ran | sent | self.exec.has_ready()
    }

    fn next_event(&self) -> Option<Instant> {
        let all = [
            self.server.next_deadline(),
            self.client.next_deadline(),
            self.exec.next_deadline(),
            self.cable.next_arrival(),
        ];
        all.into_iter().flatten().min()
    }

    /// Turns until `is_done`, or until time would pass `end`.
    fn turn_until(&self, end: Instant, is_done: impl Fn() -> bool) {
        let mut idle_turns = 0;
        while !is_done() {
            if self.turn() {
                idle_turns = 0;
                continue;
            }
            if self.now() >= end {
                return;
            }
            let next = self.next_event().unwrap_or(end).min(end);
            if next <= self.now() {
                idle_turns += 1;
                assert!(idle_turns < IDLE_TURNS_MAX, "the loop spins");
            } else {
                idle_turns = 0;
            }
            // A turn takes time, too.
            let soon = self.now() + Duration::from_micros(1);
            self.clock.now.set(next.max(soon));
        }
    }

    /// Lets `duration` pass.
    pub fn pass(&self, duration: Duration) {
        self.turn_until(self.now() + duration, || false);
    }

    /// Runs `task` to its end, which must come within an hour.
    pub fn run<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> T {
        self.run_within(Duration::from_secs(3600), task)
    }

    /// Runs `task` to its end, which must come within `limit`.
    pub fn run_within<T: 'static>(
        &self,
        limit: Duration,
        task: impl Future<Output = T> + 'static,
    ) -> T {
        let result = Rc::new(RefCell::new(None));
        let place = result.clone();
        self.exec.spawn(async move {
            *place.borrow_mut() = Some(task.await);
        });
        self.turn_until(self.now() + limit, || result.borrow().is_some());
        let value = result.borrow_mut().take();
        value.expect("the task ends in time")
    }

    /// Opens `port` on the server.
    pub fn listen(&self, port: u16) -> TcpListener<LabLink> {
        self.server.listen(port, ListenOptions::default())
    }

    /// Connects the client to `to`.
    pub fn connect(&self, to: &str) -> Result<Wire, NetError> {
        let (client, to) = (self.client.clone(), to.parse().unwrap());
        self.run(async move { client.connect(to).await })
    }

    /// A connection: the server's end and the client's.
    pub fn pair(&self) -> (Wire, Wire) {
        let listener = self.listen(7);
        let near = self.connect("10.0.0.1:7").unwrap();
        // Dropping the listener would reset connections that are not accepted.
        let far = self.run(async move { listener.accept().await });
        (far, near)
    }

    /// Serves `port` for ever: what a connection sends comes back.
    pub fn serve_echo(&self, port: u16, options: ListenOptions) {
        let listener = self.server.listen(port, options);
        let exec = self.exec.clone();
        self.exec.spawn(async move {
            loop {
                exec.spawn(echo(listener.accept().await));
            }
        });
    }

    /// Loses every frame from now on.
    pub fn cut(&self) {
        self.cable.decide(|_| Fate::Drop);
    }

    /// Lets `decide` choose; `None` is the usual latency.
    pub fn decide(&self, mut decide: impl FnMut(Passing<'_>) -> Option<Fate> + 'static) {
        self.cable
            .decide(move |passing| decide(passing).unwrap_or(Fate::Delay(LATENCY)));
    }
}

async fn echo(stream: Wire) {
    let mut buffer = [0; 5000];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// `len` bytes that depend on `seed`.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Dice::new(seed).fill(&mut bytes);
    bytes
}

/// Reads to the end.
pub async fn read_all(stream: &Wire) -> Result<Vec<u8>, NetError> {
    let mut all = Vec::new();
    let mut buffer = [0; 10_000];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(all),
            count => all.extend_from_slice(&buffer[..count]),
        }
    }
}
