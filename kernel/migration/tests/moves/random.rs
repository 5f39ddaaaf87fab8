//! Everything that can happen to a volume that moves, in any order: writes, wishes, power cuts, a network that is cut, at any moment.
//!
//! At every moment at most one appliance takes writes; whatever is read was written last, or may have been; and once all is well again, one
//! appliance has the volume, and everything that was acknowledged. `MOVES_SEEDS=FIRST..LAST` runs others than the usual seeds.

use std::collections::BTreeSet;
use std::time::Duration;

use migration::{After, MigrateOptions};
use volume::{Access, Standing};

use crate::lab::{self, Dice, Lab, name_of};

const BLOCKS: u64 = 96;
const STEPS: u64 = 80;
const NODES: u64 = 3;

struct Play {
    lab: Lab,
    dice: Dice,
    /// What each block may be.
    blocks: Vec<BTreeSet<u64>>,
    next: u64,
    /// Snapshots that were made, and what each block of them may be.
    kept: Vec<([u8; 16], Vec<BTreeSet<u64>>)>,
    log: Vec<String>,
}

impl Play {
    fn new(seed: u64) -> Self {
        let lab = Lab::new(NODES as usize, seed);
        lab.create(0, "db", BLOCKS);
        Self {
            lab,
            dice: Dice::new(seed),
            blocks: vec![BTreeSet::from([0]); BLOCKS as usize],
            next: 1,
            kept: Vec::new(),
            log: Vec::new(),
        }
    }

    fn someone(&self) -> Option<usize> {
        let up: Vec<usize> = (0..NODES as usize)
            .filter(|of| self.lab.is_up(*of))
            .collect();
        let index = self.dice.roll(up.len().max(1) as u64) as usize;
        up.get(index).copied()
    }

    fn note(&mut self, what: String) {
        log::info!("{what}");
        self.log.push(what);
    }

    fn step(&mut self) {
        let Some(of) = self.someone() else {
            return self.start();
        };
        match self.dice.roll(100) {
            0..28 => self.write(of),
            28..30 => self.keep(of),
            30..45 => self.read(of),
            45..57 => self.migrate(of),
            57..64 => self.wish(of, true),
            64..70 => self.wish(of, false),
            70..76 => {
                self.note(format!("{of} dies"));
                self.lab.kill(of);
            }
            76..82 => self.start(),
            82..86 => {
                let other = self.dice.roll(NODES) as usize;
                self.note(format!("{of} and {other} are cut"));
                self.lab.cut(of, other);
            }
            86..90 => {
                self.note("mended".into());
                self.lab.mend();
            }
            90..95 => {
                let seconds = self.dice.roll(20);
                self.lab.pass(Duration::from_secs(seconds));
            }
            _ => self.turns(),
        }
        if self.lab.nodes.iter().any(Option::is_some) {
            self.turns();
            self.check_owners();
        }
    }

    fn turns(&self) {
        self.lab.turns(self.dice.roll(60));
    }

    fn start(&mut self) {
        let down = (0..NODES as usize).find(|of| !self.lab.is_up(*of));
        if let Some(of) = down {
            self.note(format!("{of} starts"));
            self.lab.start(of, false);
        }
    }

    fn write(&mut self, of: usize) {
        let block = self.dice.roll(BLOCKS);
        let value = self.next;
        self.next += 1;
        let written = self.lab.write(of, "db", block, value);
        self.note(format!("{of} writes {value} to {block}: {written:?}"));
        let may_be = &mut self.blocks[block as usize];
        if written.is_ok() {
            may_be.clear();
        }
        may_be.insert(value);
    }

    fn keep(&mut self, of: usize) {
        let name = format!("s{}", self.kept.len());
        let kept = self.lab.keep(of, "db", &name);
        self.note(format!("{of} keeps {name}: {kept:?}"));
        if let Ok(uuid) = kept {
            self.kept.push((uuid, self.blocks.clone()));
        }
    }

    /// Every snapshot is somewhere, and what it was.
    fn check_kept(&mut self) {
        for (index, (uuid, blocks)) in self.kept.iter().enumerate() {
            let mut copies = 0;
            for of in 0..NODES as usize {
                for info in self.lab.snapshots(of) {
                    if info.uuid != *uuid {
                        continue;
                    }
                    copies += 1;
                    let found = self.lab.read_snapshot(of, info.id, BLOCKS);
                    for (block, (found, may_be)) in found.iter().zip(blocks).enumerate() {
                        assert!(
                            may_be.contains(found),
                            "snapshot {index} at {of} has {found} in {block}, which may be {may_be:?}"
                        );
                    }
                }
            }
            assert!(copies > 0, "snapshot {index} is nowhere");
        }
    }

    fn read(&mut self, of: usize) {
        let block = self.dice.roll(BLOCKS);
        self.check_block(of, block);
    }

    fn check_block(&mut self, of: usize, block: u64) {
        let read = self.lab.read(of, "db", block);
        self.note(format!("{of} reads {block}: {read:?}"));
        if let Ok(value) = read {
            let may_be = &self.blocks[block as usize];
            assert!(
                may_be.contains(&value),
                "{of} reads {value} in {block}, which may be {may_be:?}"
            );
        }
    }

    fn migrate(&mut self, of: usize) {
        let to = (of + 1 + self.dice.roll(NODES - 1) as usize) % NODES as usize;
        let after = [After::Keep, After::Free, After::Snapshot][self.dice.roll(3) as usize].clone();
        let options = MigrateOptions {
            to: name_of(to),
            at_once: self.dice.roll(2) == 0,
            after,
            with_snapshots: self.dice.roll(2) == 0,
            rate: [0, 50_000][self.dice.roll(2) as usize],
        };
        self.note(format!("{of} migrates: {options:?}"));
        let moves = self.lab.node(of).moves.clone();
        self.lab.node(of).exec.spawn(async move {
            let _ = moves.migrate("db", options).await;
        });
    }

    fn wish(&mut self, of: usize, is_hand_over: bool) {
        self.note(format!("{of} wishes: {is_hand_over}"));
        let moves = self.lab.node(of).moves.clone();
        self.lab.node(of).exec.spawn(async move {
            match is_hand_over {
                true => drop(moves.hand_over("db").await),
                false => drop(moves.take_back("db").await),
            }
        });
    }

    fn owners(&self) -> Vec<usize> {
        let is_owner = |of: &usize| {
            let Some(node) = &self.lab.nodes[*of] else {
                return false;
            };
            let info = node.volumes.get("db").ok();
            let standing = info.map(|info| node.volumes.standing(info.id));
            matches!(standing, Some(Standing::Owner | Standing::Offered))
        };
        (0..NODES as usize).filter(is_owner).collect()
    }

    fn check_owners(&self) {
        let owners = self.owners();
        assert!(owners.len() <= 1, "{owners:?} take writes at the same time");
    }

    /// All is well again: what is pending ends, and somebody has everything.
    fn end(&mut self) {
        self.lab.mend();
        while (0..NODES as usize).any(|of| !self.lab.is_up(of)) {
            self.start();
            self.check_owners();
        }
        let owner = self.settle();
        self.note(format!("all is well, and {owner} has it"));
        for block in 0..BLOCKS {
            self.check_block(owner, block);
        }
        self.write(owner);
        assert!(self.log.last().is_some_and(|last| last.ends_with("Ok(())")));
        self.lab.wait_for_all(owner);
        self.lab.pass(Duration::from_secs(40));
        self.check_kept();
        for other in (0..NODES as usize).filter(|of| *of != owner) {
            self.lab.kill(other);
        }
        for block in 0..BLOCKS {
            let value = self.lab.read(owner, "db", block).expect("all is there");
            assert!(self.blocks[block as usize].contains(&value));
        }
        self.lab.kill(owner);
        self.lab.start(owner, false);
        for block in 0..BLOCKS {
            let value = self.lab.read(owner, "db", block).expect("all is there");
            assert!(self.blocks[block as usize].contains(&value));
        }
    }

    /// Waits until one appliance has the volume and nothing is under way.
    fn settle(&mut self) -> usize {
        let mut quiet = 0;
        for _ in 0..60 {
            quiet += 1;
            self.lab.pass(Duration::from_secs(10));
            self.check_owners();
            for of in 0..NODES as usize {
                // Nobody will say when.
                if self.lab.state(of, "db") == Some("offered") {
                    self.wish(of, true);
                }
            }
            match self.owners()[..] {
                [owner] if self.lab.state(owner, "db") != Some("owned") => quiet = 0,
                // Longer than anybody waits before another try.
                [owner] if quiet > 6 => return owner,
                [_] => {}
                _ => quiet = 0,
            }
        }
        let states: Vec<_> = (0..NODES as usize)
            .map(|of| self.lab.state(of, "db"))
            .collect();
        for of in 0..NODES as usize {
            let node = self.lab.node(of);
            for info in node.volumes.list() {
                let found = node.moves.get(info.id);
                self.log.push(format!("{of}: {}: {found:?}", info.name));
            }
        }
        panic!("nobody has it: {states:?}");
    }
}

/// Says what the appliances say, for who wants to know why.
struct Loud;

impl log::Log for Loud {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        println!("    {}: {}", record.target(), record.args());
    }

    fn flush(&self) {}
}

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("MOVES_SEEDS") else {
        return 0..60;
    };
    let (first, last) = text.split_once("..").expect("FIRST..LAST");
    first.parse().expect("a number")..last.parse().expect("a number")
}

#[test]
fn whatever_happens_one_appliance_has_everything() {
    if std::env::var_os("MOVES_LOUD").is_some() {
        log::set_logger(&Loud).expect("the first logger");
        log::set_max_level(log::LevelFilter::Debug);
    }
    for seed in seeds() {
        let mut play = Play::new(seed);
        let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..STEPS {
                play.step();
            }
            play.end();
        }));
        if played.is_err() {
            for line in &play.log {
                println!("  {line}");
            }
            panic!("seed {seed}");
        }
    }
}

/// What a client may do, and nobody else: attached read-write to what was handed over.
#[test]
fn a_client_that_stayed_cannot_write() {
    let lab = Lab::new(2, 3);
    lab.create(0, "db", BLOCKS);
    let stale = lab
        .node(0)
        .volumes
        .attach("db", Access::ReadWrite)
        .expect("attached");
    lab.write(0, "db", 1, 1).expect("a write");
    lab.migrate(0, "db", 1, true, After::Keep)
        .expect("a migration");
    lab.wait(1, "db", "owned");
    let tried = lab.run(0, async move {
        let flushed = stale.flush().await;
        (
            lab::write(&stale, 1, 2).await,
            lab::read(&stale, 1).await,
            flushed,
        )
    });
    let elsewhere = volume::VolumeError::Elsewhere;
    assert_eq!(tried, (Err(elsewhere), Err(elsewhere), Ok(())));
    assert_eq!(lab.read(1, "db", 1), Ok(1));
}
