//! Reading blocks. On the walk: above is the public [`Store`](crate::Store), below are the drives.

use alloc::boxed::Box;
use alloc::vec::Vec;

use exec::join_all;
use world::{BLOCK_SIZE, Buf, Disk};

use crate::api::{Holes, Span, StoreError};
use crate::layout::{Kind, Pointer, data_tag};
use crate::lineage::Place;
use crate::map::Pointers;
use crate::shared::Shared;

/// How often a block that does not match is looked up again: it may have been replaced, freed and reused meanwhile.
const LOOKUPS_MAX: usize = 4;

/// Blocks of a buffer that are together in the pool, or all holes.
struct Piece<'a> {
    /// First block of the piece within the buffer.
    first: usize,
    pointers: &'a [Pointer],
    buf: Buf,
    result: Result<(), StoreError>,
}

impl<D: Disk> Shared<D> {
    /// Reads the blocks that `span` touches.
    pub async fn read_span(
        &self,
        place: Place,
        span: Span,
        into: Buf,
    ) -> (Buf, Result<Holes, StoreError>) {
        debug_assert_eq!(
            span.blocks(),
            into.blocks(),
            "a buffer of another size than its span"
        );
        let lba = span.offset / BLOCK_SIZE as u64;
        let mut pointers = self.pointers.take();
        let (lineage, found) = {
            let state = &mut *self.state.borrow_mut();
            let tree = state
                .require_open()
                .and_then(|()| state.check_range(place, span.offset, span.len.into()));
            let (tree, lineage) = match tree {
                Ok(tree) => (tree.id(), tree.entry.lineage_uuid),
                Err(error) => return (into, Err(error)),
            };
            pointers.clear();
            let found = state.find_blocks(tree, lba, into.blocks(), &mut pointers);
            (lineage, found.is_ok())
        };
        if !found {
            // Rare, and large: in a box it is no part of each read.
            let look_up = Box::pin(self.look_up(place, lba, into.blocks(), &mut pointers));
            if let Err(error) = look_up.await {
                return (into, Err(error));
            }
        }
        self.read_found(place, lineage, lba, into, pointers).await
    }

    /// Reads the blocks from `lba` on that fit into `into`, and verifies each.
    pub async fn read_blocks(
        &self,
        place: Place,
        lineage: [u8; 16],
        lba: u64,
        into: Buf,
    ) -> (Buf, Result<Holes, StoreError>) {
        let mut pointers = self.pointers.take();
        match self.look_up(place, lba, into.blocks(), &mut pointers).await {
            Ok(()) => self.read_found(place, lineage, lba, into, pointers).await,
            Err(error) => (into, Err(error)),
        }
    }

    /// Reads the blocks that these pointers lead to. Most reads are one command and right at once; all else goes other ways.
    async fn read_found(
        &self,
        place: Place,
        lineage: [u8; 16],
        lba: u64,
        mut into: Buf,
        pointers: Box<Pointers>,
    ) -> (Buf, Result<Holes, StoreError>) {
        let direct = match pointers.first() {
            Some(first) if together(&pointers) == pointers.len() => {
                if first.kind() == Kind::Remote {
                    self.pointers.put(pointers);
                    return (into, Err(StoreError::Absent));
                }
                if first.is_hole() {
                    into.zero();
                    let holes = Holes::new(0, pointers.len());
                    self.pointers.put(pointers);
                    return (into, Ok(holes));
                }
                self.first_place(first.addr(), pointers.len())
            }
            _ => None,
        };
        let Some((device, block, _)) = direct else {
            return Box::pin(self.read_pieces(place, lineage, lba, into, pointers)).await;
        };
        let (into, result) = self.disks[device].read(block, into).await;
        if result.is_err() || !self.are_right(lineage, lba, &pointers, &into) {
            let into = if into.blocks() < pointers.len() {
                Buf::from_heap(pointers.len())
            } else {
                into
            };
            return Box::pin(self.read_pieces(place, lineage, lba, into, pointers)).await;
        }
        self.pointers.put(pointers);
        (into, Ok(Holes::default()))
    }

    /// Whether each block is what its pointer promises.
    fn are_right(&self, lineage: [u8; 16], lba: u64, pointers: &[Pointer], buf: &Buf) -> bool {
        let mut blocks = (lba..).zip(pointers).zip(buf.pages());
        blocks.all(|((at, pointer), page)| is_block(lineage, at, pointer, &page.bytes))
            || self.config.mutants.read_unverified()
    }

    /// Reads what one command cannot, or did not.
    async fn read_pieces(
        &self,
        place: Place,
        lineage: [u8; 16],
        lba: u64,
        into: Buf,
        pointers: Box<Pointers>,
    ) -> (Buf, Result<Holes, StoreError>) {
        if pointers.iter().any(|one| one.kind() == Kind::Remote) {
            self.pointers.put(pointers);
            return (into, Err(StoreError::Absent));
        }
        let mut rest = into;
        let mut holes = Holes::default();
        let mut pieces = Vec::new();
        let mut first = 0;
        while first < pointers.len() {
            let count = together(&pointers[first..]);
            if pointers[first].is_hole() {
                holes = holes.and(Holes::new(first, count));
            }
            pieces.push(Piece {
                first,
                pointers: &pointers[first..first + count],
                buf: Buf::empty(),
                result: Ok(()),
            });
            first += count;
        }
        // From the end: no page is moved twice.
        for piece in pieces.iter_mut().rev() {
            piece.buf = rest.split_off(piece.first);
        }
        if let [piece] = &mut pieces[..] {
            self.read_piece(place, lineage, lba, piece).await;
        } else {
            let reads = pieces
                .iter_mut()
                .map(|piece| self.read_piece(place, lineage, lba, piece));
            join_all(reads).await;
        }
        let mut result = Ok(());
        for piece in pieces {
            result = result.and(piece.result);
            rest.append(piece.buf);
        }
        self.pointers.put(pointers);
        (rest, result.map(|()| holes))
    }

    async fn read_piece(&self, place: Place, lineage: [u8; 16], lba: u64, piece: &mut Piece<'_>) {
        if piece.pointers[0].is_hole() {
            piece.buf.zero();
            return;
        }
        let (wanted, addr) = (piece.pointers.len(), piece.pointers[0].addr());
        let first = lba + piece.first as u64;
        // What is rare is in a box: there may be as many of these as there are blocks.
        let is_read = if let Some((device, block, _)) = self.first_place(addr, wanted) {
            let buf = core::mem::take(&mut piece.buf);
            let (buf, result) = self.disks[device].read(block, buf).await;
            piece.buf = buf;
            result.is_ok()
        } else {
            let read = self.read_pointers(piece.pointers, &mut piece.buf);
            Box::pin(read).await.is_ok()
        };
        if is_read && self.are_right(lineage, first, piece.pointers, &piece.buf) {
            return;
        }
        Box::pin(self.read_singly(place, lineage, first, piece)).await;
    }

    /// Reads one block at a time, so that only the damaged one fails.
    async fn read_singly(
        &self,
        place: Place,
        lineage: [u8; 16],
        first: u64,
        piece: &mut Piece<'_>,
    ) {
        if piece.buf.blocks() < piece.pointers.len() {
            piece.buf = Buf::from_heap(piece.pointers.len());
        }
        for (index, pointer) in piece.pointers.iter().enumerate() {
            let at = first + index as u64;
            let result = self
                .read_one(place, lineage, at, *pointer, &mut piece.buf, index)
                .await;
            piece.result = piece.result.and(result);
        }
    }

    /// Reads blocks that are together from the first replica that answers.
    async fn read_pointers(&self, pointers: &[Pointer], buf: &mut Buf) -> Result<(), StoreError> {
        let addr = pointers[0].addr();
        let replica = self.replicas(addr)?[0];
        let (back, result) = self.read_replica(replica, addr, core::mem::take(buf)).await;
        *buf = back;
        Ok(result?)
    }

    /// Reads one block the careful way: every replica, and if none matches, look again where it is.
    async fn read_one(
        &self,
        place: Place,
        lineage: [u8; 16],
        lba: u64,
        mut pointer: Pointer,
        into: &mut Buf,
        index: usize,
    ) -> Result<(), StoreError> {
        let mut page = Buf::from_heap(1);
        let mut error = StoreError::Damaged { block: lba };
        for _ in 0..LOOKUPS_MAX {
            match pointer.kind() {
                Kind::Never | Kind::Hole => {
                    into.block_mut(index).fill(0);
                    return Ok(());
                }
                Kind::Data => {}
                Kind::Remote => return Err(StoreError::Absent),
                Kind::Node | Kind::Unknown => {
                    return Err(StoreError::Damaged { block: lba });
                }
            }
            for replica in self.replicas(pointer.addr())? {
                let (back, result) = self.read_replica(replica, pointer.addr(), page).await;
                page = if back.is_empty() {
                    Buf::from_heap(1)
                } else {
                    back
                };
                match result {
                    Ok(()) if is_block(lineage, lba, &pointer, page.block(0)) => {
                        into.block_mut(index).copy_from_slice(page.block(0));
                        return Ok(());
                    }
                    Ok(()) => error = StoreError::Damaged { block: lba },
                    Err(disk) => error = StoreError::Disk(disk),
                }
            }
            let again = self.lookup(place, lba, 1).await?[0];
            if again == pointer {
                break;
            }
            pointer = again;
        }
        self.damaged_reads.set(self.damaged_reads.get() + 1);
        log::error!("block {lba} of {place:?} at {:#x}: {error}", pointer.addr());
        Err(error)
    }
}

/// Whether these bytes are what the pointer promises.
pub fn is_block(lineage: [u8; 16], lba: u64, pointer: &Pointer, bytes: &[u8; BLOCK_SIZE]) -> bool {
    pointer.kind() == Kind::Data && data_tag(lineage, lba, pointer.birth(), bytes) == pointer.tag()
}

/// How many of these pointers, from the first on, one command can serve.
fn together(pointers: &[Pointer]) -> usize {
    let first = &pointers[0];
    if first.is_hole() {
        return pointers
            .iter()
            .take_while(|pointer| pointer.is_hole())
            .count();
    }
    if first.kind() == Kind::Remote {
        return pointers.iter().take_while(|one| *one == first).count();
    }
    let follows = |(index, pointer): &(u64, &Pointer)| {
        pointer.kind() == first.kind() && pointer.addr() == first.addr() + index
    };
    (0..).zip(pointers).take_while(follows).count()
}
