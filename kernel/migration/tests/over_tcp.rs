//! A volume moves over two whole network stacks, with frames that get lost.

#[expect(dead_code, reason = "other tests need more of it")]
#[path = "../../net/tests/stack/lab.rs"]
mod lab;
#[path = "../../volume/tests/ram/mod.rs"]
mod ram;

use std::rc::Rc;
use std::time::Duration;

use lab::{Dice, Lab, LabLink};
use migration::{After, MigrateOptions, Moves};
use net::Stack;
use net::cable::Fate;
use peer::{Me, Peers};
use ram::{Bench, RamDisk};
use store::Span;
use upkeep::Upkeep;
use volume::{Access, Answer, Origin, OriginAddress, OriginError, Origins, Volumes};
use world::{Buf, Pool};

const PORT: u16 = 10810;
/// Buffers of the volume.
const BUFFERS: u64 = 64;
const BUFFER: u64 = 128 << 10;

struct NoOrigins;

impl Origins for NoOrigins {
    fn open(&self, _: &OriginAddress) -> Answer<'_, Rc<dyn Origin>> {
        Box::pin(async { Err(OriginError::Unreachable) })
    }
}

#[derive(Clone)]
struct Node {
    volumes: Volumes<RamDisk>,
    peers: Peers<RamDisk>,
    moves: Moves<RamDisk>,
    upkeep: Upkeep<RamDisk>,
}

fn node(lab: &Lab, stack: &Stack<LabLink>, name: &str, seed: u64) -> Node {
    let mut bench = Bench::new();
    bench.exec = lab.exec.clone();
    let store = bench.store();
    let (exec, way) = (lab.exec.clone(), stack.clone());
    let me = Me {
        name: name.into(),
        port: PORT,
    };
    let entropy = Rc::new(Dice::new(seed));
    let listener = stack.listen(PORT, net::ListenOptions::default());
    lab.run(async move {
        let volumes = Volumes::new(store.clone());
        let opened = Peers::open(exec.clone(), store, entropy.clone(), me).await;
        let peers = opened.expect("peers");
        let pages = Pool::new(128);
        let known = peers.clone();
        let moves = Moves::new(exec.clone(), entropy, volumes.clone(), known, way, pages);
        volumes.reach_origins_by(moves.origins(Rc::new(NoOrigins)), 256);
        moves.load().await;
        let upkeep = Upkeep::open(&exec, &volumes).await;
        moves.begin(&upkeep.jobs);
        let serving = moves.clone();
        let serve = peers
            .clone()
            .serve(listener, move |channel| serving.clone().serve(channel));
        exec.spawn(serve);
        Node {
            volumes,
            peers,
            moves,
            upkeep,
        }
    })
}

fn pattern(of: u64) -> Vec<u8> {
    lab::pattern(of, BUFFER as usize)
}

#[test]
fn a_volume_moves_though_frames_get_lost() {
    let lab = Lab::new();
    let b = node(&lab, &lab.server, "b", 2);
    let a = node(&lab, &lab.client, "a", 1);
    let token = b.peers.make_token().expect("a token").text();
    let (way, to) = (
        lab.client.clone(),
        "10.0.0.1:10810".parse().expect("an address"),
    );
    let from = a.clone();
    lab.run(async move {
        from.peers.pair(&way, to, &token).await.expect("a pair");
        let made = from.volumes.create("db", BUFFERS * BUFFER).await;
        made.expect("a volume");
        let volume = from
            .volumes
            .attach("db", Access::ReadWrite)
            .expect("attached");
        for of in (0..BUFFERS).step_by(2) {
            let mut buf = Buf::from_heap(32);
            buf.copy_from(0, &pattern(of));
            let span = Span {
                offset: of * BUFFER,
                len: BUFFER as u32,
            };
            volume.write(span, buf).await.expect("a write");
        }
        volume.flush().await.expect("a flush");
    });
    // One frame of twenty, both ways, from now on.
    let dice = Dice::new(7);
    lab.decide(move |_| (dice.roll(20) == 0).then_some(Fate::Drop));
    let (from, to) = (a.clone(), b.clone());
    let exec = lab.exec.clone();
    let job = lab.run_within(Duration::from_secs(3600), async move {
        let options = MigrateOptions {
            to: "b".into(),
            at_once: true,
            after: After::Keep,
            with_snapshots: false,
            rate: 0,
        };
        let job = from
            .moves
            .migrate("db", options)
            .await
            .expect("a migration");
        loop {
            let info = from.upkeep.jobs.get(job.id).expect("the job");
            if info.state.is_over() {
                break info;
            }
            exec.sleep(Duration::from_secs(1)).await;
        }
    });
    assert_eq!(job.state, upkeep::JobState::Done, "{job:?}");
    let upkeep::Work::Migrate(migration) = job.work else {
        panic!("another job");
    };
    let sent = migration.demanded_bytes + migration.background_bytes;
    assert_eq!(sent, BUFFERS / 2 * BUFFER, "each block once, and no hole");
    lab.run(async move {
        let volume = to.volumes.attach("db", Access::ReadOnly).expect("attached");
        for of in 0..BUFFERS {
            let span = Span {
                offset: of * BUFFER,
                len: BUFFER as u32,
            };
            let (buf, read) = volume.read(span, Buf::from_heap(32)).await;
            read.expect("a read");
            let mut bytes = vec![0; BUFFER as usize];
            buf.copy_to(0, &mut bytes);
            let expected = match of % 2 {
                0 => pattern(of),
                _ => vec![0; BUFFER as usize],
            };
            assert!(bytes == expected, "buffer {of}");
        }
    });
}
