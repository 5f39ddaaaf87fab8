//! Walking two maps side by side, past everything in which they need not be looked at.
//!
//! Equal pointers lead to equal contents, so the cost is that of the nodes that differ, however large the maps are.

use alloc::boxed::Box;

use world::{Disk, Page};

use crate::api::StoreError;
use crate::layout::{FAN, Kind, Pointer, get_pointer};
use crate::map::{Missing, index_in, reach, span};
use crate::shared::Shared;

/// Root and height of a map. The default is an empty one.
pub type Root = (Pointer, u8);

/// Two leaves for the same place.
pub struct Leaves {
    /// First block of both.
    pub first: u64,
    nodes: [Part; 2],
}

impl Leaves {
    /// What the two maps have at `first + index`.
    pub fn pair(&self, index: usize) -> [Pointer; 2] {
        let [one, two] = &self.nodes;
        [one.child(0, 0, index), two.child(0, 0, index)].map(|child| match child {
            Part::Pointer(pointer) => pointer,
            Part::Root(_) | Part::Node(_) => Pointer::NEVER,
        })
    }
}

/// What one map has for a range.
enum Part {
    /// The range is larger than the map; its root is at the beginning.
    Root(Root),
    Pointer(Pointer),
    Node(Box<Page>),
}

impl Part {
    /// What is below, for a part whose children have `level` levels below them and that begins at block `first`.
    fn child(&self, level: u8, first: u64, index: usize) -> Self {
        match self {
            Self::Node(page) => Self::Pointer(get_pointer(&page.bytes, index)),
            // A hole stands for holes everywhere below.
            Self::Pointer(pointer) => Self::Pointer(*pointer),
            Self::Root(_) if first > 0 || index > 0 => Self::Pointer(Pointer::NEVER),
            Self::Root((root, height)) if *height == level => Self::Pointer(*root),
            Self::Root(root) => Self::Root(*root),
        }
    }
}

impl<D: Disk> Shared<D> {
    /// The first leaf at or behind block `from` that has a pair, itself or a part of what leads to it, that is `wanted`.
    ///
    /// `wanted` is asked for pairs of pointers and the end of their range; if it says no, nothing below is looked at.
    pub async fn next_leaves(
        &self,
        roots: [Root; 2],
        from: u64,
        wanted: impl Fn([&Pointer; 2], u64) -> bool,
    ) -> Result<Option<Leaves>, StoreError> {
        let top = roots[0].1.max(roots[1].1);
        let whole = |root: Root| match root.1 == top {
            true => Part::Pointer(root.0),
            false => Part::Root(root),
        };
        let is_wanted = |parts: [&Part; 2], end| match parts {
            [Part::Pointer(one), Part::Pointer(two)] => wanted([one, two], end),
            _ => true,
        };
        let mut at = from;
        while top > 0 && at < reach(top) {
            let mut parts = roots.map(whole);
            if !is_wanted([&parts[0], &parts[1]], reach(top)) {
                return Ok(None);
            }
            let mut level = top;
            at = loop {
                level -= 1;
                let [one, two] = parts;
                let nodes = [
                    self.expand(one, level).await?,
                    self.expand(two, level).await?,
                ];
                let first = at / span(level + 1) * span(level + 1);
                let children = |index| nodes.each_ref().map(|node| node.child(level, first, index));
                let end = |index| first + (index as u64 + 1) * span(level);
                let found = (index_in(level, at)..FAN).find(|index| {
                    let [one, two] = children(*index);
                    is_wanted([&one, &two], end(*index))
                });
                let Some(index) = found else {
                    break first + span(level + 1);
                };
                if level == 0 {
                    return Ok(Some(Leaves { first, nodes }));
                }
                at = at.max(first + index as u64 * span(level));
                parts = children(index);
            };
        }
        Ok(None)
    }

    async fn expand(&self, part: Part, level: u8) -> Result<Part, StoreError> {
        match part {
            Part::Pointer(pointer) if pointer.kind() == Kind::Node => {
                let mut page = Page::new_box();
                self.copy_node(Missing { pointer, level }, &mut page)
                    .await?;
                Ok(Part::Node(page))
            }
            other => Ok(other),
        }
    }
}
