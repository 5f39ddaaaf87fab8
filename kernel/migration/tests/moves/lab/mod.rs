//! Appliances in memory, with a network between them; each can lose its power.

#[expect(dead_code, reason = "other tests need more of it")]
#[path = "../../../../volume/tests/ram/mod.rs"]
mod ram;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use exec::Exec;
use migration::{After, MigrateOptions, Moves};
use net::pipe::{Pipe, PipeDialer, pipe_port};
use net::{Connect, NetError, Stream};
use peer::{Me, Peers};
use ram::RamDisk;
use store::{Config, Environment, FormatOptions, Span, Store};
use upkeep::Upkeep;
use volume::{
    Access, OriginAddress, OriginError, Origins, SnapshotId, SnapshotInfo, VolumeError, Volumes,
};
use world::{BLOCK_SIZE, Buf, Clock, Entropy, Instant, Pool};

/// Bytes that a connection holds in each direction.
const CAPACITY: usize = 64 << 10;
pub const BLOCK: u64 = BLOCK_SIZE as u64;

#[derive(Default)]
struct LabClock(Cell<u64>);

impl Clock for LabClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.get())
    }

    fn wall_nanos(&self) -> Option<u64> {
        Some(1_700_000_000_000_000_000 + self.0.get())
    }
}

/// Numbers that the seed decides.
#[derive(Clone)]
pub struct Dice(Rc<Cell<u64>>);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(Rc::new(Cell::new(
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d,
        )))
    }

    pub fn roll(&self, sides: u64) -> u64 {
        let next = self.0.get().wrapping_mul(6_364_136_223_846_793_005);
        self.0.set(next.wrapping_add(1_442_695_040_888_963_407));
        (self.0.get() >> 33) % sides
    }
}

impl Entropy for Dice {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.roll(256) as u8;
        }
    }
}

type Wires = Rc<RefCell<Vec<(usize, usize, Pipe)>>>;

/// The network, as appliance `from` has it.
#[derive(Clone)]
pub struct Way {
    from: usize,
    ports: Rc<RefCell<BTreeMap<SocketAddr, PipeDialer>>>,
    cut: Rc<RefCell<Vec<(usize, usize)>>>,
    wires: Wires,
    connections: Rc<Cell<usize>>,
}

fn address(of: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, of as u8 + 1], 10810))
}

fn pair(one: usize, other: usize) -> (usize, usize) {
    (one.min(other), one.max(other))
}

impl Connect for Way {
    type Stream = Pipe;

    async fn connect(&self, to: SocketAddr) -> Result<Pipe, NetError> {
        let SocketAddr::V4(v4) = to else {
            return Err(NetError::Unreachable);
        };
        let far = usize::from(v4.ip().octets()[3]) - 1;
        if self.cut.borrow().contains(&pair(self.from, far)) {
            return Err(NetError::Unreachable);
        }
        let dialer = self.ports.borrow().get(&to).cloned();
        let pipe = dialer.ok_or(NetError::Unreachable)?.connect()?;
        self.connections.set(self.connections.get() + 1);
        let mut wires = self.wires.borrow_mut();
        wires.push((self.from, far, pipe.clone()));
        Ok(pipe)
    }
}

/// No NBD here.
struct NoOrigins;

impl Origins for NoOrigins {
    fn open(&self, _: &OriginAddress) -> volume::Answer<'_, Rc<dyn volume::Origin>> {
        Box::pin(async { Err(OriginError::Unreachable) })
    }
}

/// An appliance that runs.
pub struct Node {
    pub exec: Exec,
    pub volumes: Volumes<RamDisk>,
    pub upkeep: Upkeep<RamDisk>,
    pub moves: Moves<RamDisk>,
    pub peers: Peers<RamDisk>,
}

/// Some appliances, all paired.
pub struct Lab {
    clock: Rc<LabClock>,
    disks: Vec<RamDisk>,
    dice: Vec<Dice>,
    pub nodes: Vec<Option<Node>>,
    way: Way,
}

impl Lab {
    pub fn new(count: usize, seed: u64) -> Self {
        let way = Way {
            from: 0,
            ports: Rc::default(),
            cut: Rc::default(),
            wires: Rc::default(),
            connections: Rc::default(),
        };
        let mut lab = Self {
            clock: Rc::default(),
            disks: (0..count).map(|_| RamDisk::default()).collect(),
            dice: (0..count)
                .map(|of| Dice::new(seed * 64 + of as u64))
                .collect(),
            nodes: (0..count).map(|_| None).collect(),
            way,
        };
        for of in 0..count {
            lab.start(of, true);
        }
        for one in 0..count {
            for other in one + 1..count {
                let token = lab.node(other).peers.make_token().expect("a token").text();
                let (peers, way) = (lab.node(one).peers.clone(), lab.way_of(one));
                lab.run(one, async move {
                    let paired = peers.pair(&way, address(other), &token).await;
                    paired.expect("a pair");
                });
                // It listens elsewhere than it connects from.
                let (peers, name) = (lab.node(other).peers.clone(), name_of(one));
                lab.run(other, async move {
                    let set = peers.set_address(&name, address(one)).await;
                    set.expect("an address");
                });
            }
        }
        lab
    }

    pub fn node(&self, of: usize) -> &Node {
        self.nodes[of].as_ref().expect("it runs")
    }

    pub fn is_up(&self, of: usize) -> bool {
        self.nodes[of].is_some()
    }

    fn way_of(&self, from: usize) -> Way {
        Way {
            from,
            ..self.way.clone()
        }
    }

    /// Power comes.
    pub fn start(&mut self, of: usize, is_new: bool) {
        let exec = Exec::new(self.clock.clone());
        let environment = Environment {
            exec: exec.clone(),
            entropy: Rc::new(self.dice[of].clone()),
            pool: Pool::new(1024),
        };
        let (listener, dialer) = pipe_port(CAPACITY);
        self.way.ports.borrow_mut().insert(address(of), dialer);
        let (disk, way) = (self.disks[of].clone(), self.way_of(of));
        let (task_exec, entropy) = (exec.clone(), self.dice[of].clone());
        let node = async move {
            let exec = task_exec;
            if is_new {
                let disks = std::slice::from_ref(&disk);
                let options = FormatOptions::default();
                let formatted = Store::format(disks, &environment, options).await;
                formatted.expect("format");
            }
            let config = Config::for_memory(8 << 20);
            let store = Store::open(vec![disk], environment, config).await;
            let store = store.expect("open");
            let volumes = Volumes::new(store.clone());
            let me = Me {
                name: name_of(of),
                port: 10810,
            };
            let entropy: Rc<dyn Entropy> = Rc::new(entropy);
            let peers = Peers::open(exec.clone(), store, entropy.clone(), me).await;
            let peers = peers.expect("peers");
            let pages = Pool::new(128);
            let moves = Moves::new(
                exec.clone(),
                entropy,
                volumes.clone(),
                peers.clone(),
                way,
                pages,
            );
            volumes.reach_origins_by(moves.origins(Rc::new(NoOrigins)), 1024);
            volumes.load_adoptions().await;
            volumes.load().await;
            moves.load().await;
            let upkeep = Upkeep::open(&exec, &volumes).await;
            moves.begin(&upkeep.jobs);
            let serving = moves.clone();
            let serve = peers
                .clone()
                .serve(listener, move |channel| serving.clone().serve(channel));
            exec.spawn(serve);
            Node {
                exec,
                volumes,
                upkeep,
                moves,
                peers,
            }
        };
        let node = self.run_on(&exec, node);
        self.nodes[of] = Some(node);
    }

    /// Power goes: what was not flushed is lost.
    pub fn kill(&mut self, of: usize) {
        let node = self.nodes[of].take().expect("it runs");
        self.way.ports.borrow_mut().remove(&address(of));
        node.exec.clear();
        drop(node);
        let durable = RamDisk::from(&*self.disks[of].durable.borrow());
        self.disks[of] = durable;
        let mut wires = self.way.wires.borrow_mut();
        wires.retain(|(one, other, pipe)| {
            let is_its = *one == of || *other == of;
            if is_its {
                pipe.abort();
            }
            !is_its
        });
    }

    /// Nothing passes between two any more.
    pub fn cut(&self, one: usize, other: usize) {
        self.way.cut.borrow_mut().push(pair(one, other));
        let mut wires = self.way.wires.borrow_mut();
        wires.retain(|(from, to, pipe)| {
            let is_it = pair(*from, *to) == pair(one, other);
            if is_it {
                pipe.abort();
            }
            !is_it
        });
    }

    pub fn mend(&self) {
        self.way.cut.borrow_mut().clear();
    }

    /// Runs everything until `future` is done, on appliance `of`.
    pub fn run<T: 'static>(&self, of: usize, future: impl Future<Output = T> + 'static) -> T {
        self.run_on(&self.node(of).exec.clone(), future)
    }

    fn run_on<T: 'static>(&self, exec: &Exec, future: impl Future<Output = T> + 'static) -> T {
        let out = Rc::new(RefCell::new(None));
        let slot = out.clone();
        exec.spawn(async move {
            let value = future.await;
            *slot.borrow_mut() = Some(value);
        });
        for _ in 0..20_000_000_u64 {
            if let Some(value) = out.borrow_mut().take() {
                return value;
            }
            self.turn(exec);
        }
        panic!("not done after 20 million rounds");
    }

    /// Everybody has a turn; time moves to the next timer when all wait.
    fn turn(&self, also: &Exec) {
        let nodes = self.nodes.iter().flatten().map(|node| &node.exec);
        let execs: Vec<&Exec> = nodes.chain([also]).collect();
        let mut was_busy = false;
        for exec in &execs {
            was_busy |= exec.run_ready();
        }
        if !was_busy {
            let next = execs.iter().filter_map(|exec| exec.next_deadline()).min();
            let next = next.expect("everything waits for nothing").as_nanos();
            self.clock.0.set(next.max(self.clock.0.get()));
        }
    }

    /// Some turns.
    pub fn turns(&self, count: u64) {
        let of = self.nodes.iter().flatten().next();
        let exec = of.expect("one runs").exec.clone();
        for _ in 0..count {
            self.turn(&exec);
        }
    }

    pub fn pass(&self, time: Duration) {
        let of = (0..self.nodes.len())
            .find(|of| self.is_up(*of))
            .expect("one runs");
        let exec = self.node(of).exec.clone();
        self.run(of, async move { exec.sleep(time).await });
    }

    pub fn write(&self, of: usize, name: &str, block: u64, value: u64) -> Result<(), VolumeError> {
        let (volumes, name) = (self.node(of).volumes.clone(), name.to_owned());
        self.run(of, async move {
            let volume = volumes.attach(&name, Access::ReadWrite)?;
            write(&volume, block, value).await?;
            volume.flush().await
        })
    }

    pub fn read(&self, of: usize, name: &str, block: u64) -> Result<u64, VolumeError> {
        let (volumes, name) = (self.node(of).volumes.clone(), name.to_owned());
        self.run(of, async move {
            let volume = volumes.attach(&name, Access::ReadOnly)?;
            read(&volume, block).await
        })
    }

    /// Makes a snapshot; its identity.
    pub fn keep(&self, of: usize, name: &str, snapshot: &str) -> Result<[u8; 16], VolumeError> {
        let (volumes, name) = (self.node(of).volumes.clone(), name.to_owned());
        let snapshot = snapshot.to_owned();
        let made = self.run(of, async move {
            volumes.create_snapshot(&name, &snapshot).await
        });
        made.map(|info| info.uuid)
    }

    /// Everything that a snapshot has, wherever it is here.
    pub fn read_snapshot(&self, of: usize, id: SnapshotId, blocks: u64) -> Vec<u64> {
        let volumes = self.node(of).volumes.clone();
        self.run(of, async move {
            let snapshot = volumes.attach_inside(id).expect("a snapshot");
            let mut found = Vec::new();
            for block in 0..blocks {
                found.push(read(&snapshot, block).await.expect("a block"));
            }
            found
        })
    }

    /// All snapshots, whosever they are.
    pub fn snapshots(&self, of: usize) -> Vec<SnapshotInfo> {
        let store = self.node(of).volumes.store();
        let volumes = store.volumes();
        { volumes.iter() }
            .flat_map(|info| store.snapshots(info.id))
            .collect()
    }

    pub fn create(&self, of: usize, name: &str, blocks: u64) {
        let (volumes, name) = (self.node(of).volumes.clone(), name.to_owned());
        let made = self.run(
            of,
            async move { volumes.create(&name, blocks * BLOCK).await },
        );
        made.expect("a volume");
    }

    pub fn migrate(
        &self,
        of: usize,
        name: &str,
        to: usize,
        at_once: bool,
        after: After,
    ) -> Result<u64, migration::MoveError> {
        self.migrate_at(of, name, to, at_once, after, 0)
    }

    /// As [`migrate`](Self::migrate), at most so many bytes in a second.
    pub fn migrate_at(
        &self,
        of: usize,
        name: &str,
        to: usize,
        at_once: bool,
        after: After,
        rate: u64,
    ) -> Result<u64, migration::MoveError> {
        let options = MigrateOptions {
            to: name_of(to),
            at_once,
            after,
            with_snapshots: false,
            rate,
        };
        self.migrate_as(of, name, options)
    }

    pub fn migrate_as(
        &self,
        of: usize,
        name: &str,
        options: MigrateOptions,
    ) -> Result<u64, migration::MoveError> {
        let (moves, name) = (self.node(of).moves.clone(), name.to_owned());
        self.run(of, async move {
            moves.migrate(&name, options).await.map(|job| job.id)
        })
    }

    pub fn hand_over(&self, of: usize, name: &str) -> Result<(), migration::MoveError> {
        let (moves, name) = (self.node(of).moves.clone(), name.to_owned());
        self.run(of, async move { moves.hand_over(&name).await.map(drop) })
    }

    pub fn take_back(&self, of: usize, name: &str) -> Result<(), migration::MoveError> {
        let (moves, name) = (self.node(of).moves.clone(), name.to_owned());
        self.run(of, async move { moves.take_back(&name).await.map(drop) })
    }

    /// Waits until a volume is so there, for a minute.
    pub fn wait(&self, of: usize, name: &str, state: &str) {
        for _ in 0..600 {
            if self.state(of, name).is_some_and(|now| now == state) {
                return;
            }
            self.pass(Duration::from_millis(100));
        }
        panic!("{name} at {of} is {:?}, not {state}", self.state(of, name));
    }

    pub fn state(&self, of: usize, name: &str) -> Option<&'static str> {
        let node = self.node(of);
        let info = node.volumes.get(name).ok()?;
        Some(node.moves.get(info.id).map_or("owned", |found| found.state))
    }

    /// Waits until all of a volume is there, for ten minutes.
    pub fn wait_for_all(&self, of: usize) {
        for _ in 0..6000 {
            if self.node(of).volumes.adoptions().is_empty() {
                return;
            }
            self.pass(Duration::from_millis(100));
        }
        panic!("not all is there: {:?}", self.node(of).volumes.adoptions());
    }
}

/// Tasks hold what they run on.
impl Drop for Lab {
    fn drop(&mut self) {
        for node in self.nodes.iter().flatten() {
            node.exec.clear();
        }
    }
}

pub fn name_of(of: usize) -> String {
    ["a", "b", "c"][of].into()
}

type Volume = volume::Volume<RamDisk>;

pub async fn write(volume: &Volume, block: u64, value: u64) -> Result<(), VolumeError> {
    let mut buf = Buf::from_heap(1);
    for word in buf.block_mut(0).chunks_exact_mut(8) {
        word.copy_from_slice(&value.to_le_bytes());
    }
    volume.write(span(block), buf).await
}

pub async fn read(volume: &Volume, block: u64) -> Result<u64, VolumeError> {
    let (buf, result) = volume.read(span(block), Buf::from_heap(1)).await;
    result?;
    let words: Vec<u64> = { buf.block(0).chunks_exact(8) }
        .map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")))
        .collect();
    assert!(words.iter().all(|word| *word == words[0]), "a mixed block");
    Ok(words[0])
}

fn span(block: u64) -> Span {
    Span {
        offset: block * BLOCK,
        len: BLOCK_SIZE as u32,
    }
}
