//! A checkpoint of the model `crash`: journal durable up to the cut, nodes, FLUSH, superblock, FLUSH, publish.

use super::Mutant;
use super::drive::Op;
use super::format::{FAN, NODES, Place, Superblock, Tag, Value, tag_of};
use super::store::Store;
use crate::random::Random;

/// What a checkpoint waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Journal,
    Nodes,
    NodesFlush(Op),
    Superblock(Op),
    SuperblockFlush(Op),
}

/// A running checkpoint.
pub struct Checkpoint {
    phase: Phase,
    /// The first frame after the cut, and the tag of the one before.
    tail: (u64, Tag),
    next: Superblock,
    freed: Vec<usize>,
    nodes: Vec<Op>,
}

impl Store {
    /// Cuts.
    pub fn begin_checkpoint(&mut self) {
        if self.checkpoint.is_some() {
            return;
        }
        self.end_frame();
        self.frozen = std::mem::take(&mut self.active);
        self.replaced_frozen = std::mem::take(&mut self.replaced);
        if self.has(Mutant::TailMovesAtCut) {
            self.superblock.tail = self.next_seq;
        }
        self.checkpoint = Some(Checkpoint {
            phase: Phase::Journal,
            tail: (self.next_seq, self.prev),
            next: self.superblock.clone(),
            freed: Vec::new(),
            nodes: Vec::new(),
        });
    }

    /// Goes on with a checkpoint when what it waits for has happened.
    pub fn advance_checkpoint(&mut self, random: &mut Random, op: Op) {
        let Some(mut checkpoint) = self.checkpoint.take() else {
            return;
        };
        checkpoint.nodes.retain(|waiting| *waiting != op);
        match checkpoint.phase {
            Phase::Journal if self.durable + 1 >= checkpoint.tail.0 => {
                self.merge(random, &mut checkpoint);
                checkpoint.phase = Phase::Nodes;
            }
            Phase::Nodes if checkpoint.nodes.is_empty() => {
                checkpoint.phase = if self.has(Mutant::NoFlushBeforeSuperblock) {
                    Phase::Superblock(self.write_superblock(&mut checkpoint))
                } else {
                    Phase::NodesFlush(self.begin_flush())
                };
            }
            Phase::NodesFlush(waiting) if waiting == op => {
                checkpoint.phase = Phase::Superblock(self.write_superblock(&mut checkpoint));
            }
            Phase::Superblock(waiting) if waiting == op => {
                if self.has(Mutant::PublishBeforeFlush) {
                    return self.publish(random, checkpoint);
                }
                checkpoint.phase = Phase::SuperblockFlush(self.begin_flush());
            }
            Phase::SuperblockFlush(waiting) if waiting == op => {
                return self.publish(random, checkpoint);
            }
            _ => {}
        }
        self.checkpoint = Some(checkpoint);
    }

    fn merge(&mut self, random: &mut Random, checkpoint: &mut Checkpoint) {
        for index in 0..NODES {
            let changes = self.frozen.range(index * FAN..(index + 1) * FAN);
            let changes = changes
                .map(|(lba, place)| (*lba, *place))
                .collect::<Vec<_>>();
            if changes.is_empty() {
                continue;
            }
            let mut node = self.node(index);
            for (lba, place) in changes {
                let old = node[lba % FAN].replace(place);
                self.is_out_of_order |= old.is_some_and(|(_, birth)| birth >= place.1);
                checkpoint.freed.extend(old.map(|(addr, _)| addr));
                checkpoint.next.used.insert(place.0);
            }
            let old = checkpoint.next.nodes[index];
            checkpoint.freed.extend(old.map(|(addr, _)| addr));
            if self.has(Mutant::ReuseTree) {
                checkpoint
                    .freed
                    .iter()
                    .for_each(|addr| _ = self.used.remove(addr));
            }
            let addr = self.allocate(random, 0).expect("nodes have a reserve");
            checkpoint.next.used.insert(addr);
            checkpoint.next.nodes[index] = Some((addr, tag_of(&(addr, node))));
            checkpoint
                .nodes
                .push(self.drive.write(Place::Block(addr), Value::Node(node)));
        }
        // Replaced before the cut: written, never in a map.
        checkpoint.freed.append(&mut self.replaced_frozen);
        checkpoint
            .freed
            .iter()
            .for_each(|addr| _ = checkpoint.next.used.remove(addr));
    }

    fn write_superblock(&mut self, checkpoint: &mut Checkpoint) -> Op {
        let next = &mut checkpoint.next;
        next.generation += 1;
        (next.tail, next.prev) = checkpoint.tail;
        if self.mutant == Some(Mutant::TailBehindCut) {
            (next.tail, next.prev) = (self.next_seq, self.prev);
        }
        let slot = if self.has(Mutant::OneSlot) {
            0
        } else {
            next.generation % 2
        };
        self.drive
            .write(Place::Super(slot), Value::Super(next.clone()))
    }

    /// Only now may anything that the old superblock refers to be overwritten.
    fn publish(&mut self, random: &mut Random, checkpoint: Checkpoint) {
        self.superblock = checkpoint.next;
        self.frozen.clear();
        for addr in std::mem::take(&mut self.deferred) {
            self.used.remove(&addr);
        }
        // When space is short, blocks do not wait for one more checkpoint.
        if random.one_in(2) {
            checkpoint
                .freed
                .iter()
                .for_each(|addr| _ = self.used.remove(addr));
        } else {
            self.deferred = checkpoint.freed;
        }
        self.checkpoints += 1;
    }
}
