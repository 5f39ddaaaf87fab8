//! Appliances as origins: what is not here of a volume that moved, or of a snapshot that was adopted.
//!
//! Of a volume that comes back, only what is newer than what it was when it left is asked for; the rest is in the copy that stayed here.

use alloc::boxed::Box;
use alloc::rc::{Rc, Weak};
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use core::time::Duration;

use peer::{PeerError, PublicKey};
use store::{Content, Extent, Span, seal};
use volume::{Answer, Origin, OriginAddress, OriginError, OriginExtent, Origins, VolumeError};
use world::{BLOCK_SIZE, Buf, Disk};

use crate::links::{Answered, CallError};
use crate::moves::Shared;
use crate::record::Id;
use crate::rules::Epoch;
use crate::wire::{Ask, Failure, Kind, Part, Say, decode_extents};

const BLOCK: u64 = BLOCK_SIZE as u64;
const SEAL_LEN: usize = 16;
/// The first rest when nobody answers; each further one is twice as long.
const REST: Duration = Duration::from_millis(250);
/// The longest of them.
const REST_MAX: Duration = Duration::from_secs(2);

/// Opens what is on other appliances, and leaves the rest to somebody else.
pub struct AllOrigins<D> {
    shared: Weak<Shared<D>>,
    others: Rc<dyn Origins>,
}

impl<D: Disk + 'static> AllOrigins<D> {
    pub(crate) fn new(shared: Weak<Shared<D>>, others: Rc<dyn Origins>) -> Self {
        Self { shared, others }
    }
}

impl<D: Disk + 'static> Origins for AllOrigins<D> {
    fn open(&self, address: &OriginAddress) -> Answer<'_, Rc<dyn Origin>> {
        let address = address.clone();
        Box::pin(async move {
            let shared = || self.shared.upgrade().ok_or(OriginError::Unreachable);
            match address {
                OriginAddress::Nbd { .. } => self.others.open(&address).await,
                OriginAddress::Peer { peer, snapshot } => {
                    open_snapshot(shared()?, &peer, snapshot).await
                }
                OriginAddress::Moved { id, epoch } => open_moved(&shared()?, Id(id), epoch),
            }
        })
    }
}

fn open_moved<D: Disk + 'static>(
    shared: &Rc<Shared<D>>,
    id: Id,
    epoch: Epoch,
) -> Result<Rc<dyn Origin>, OriginError> {
    let entry = shared.find(id).ok_or(OriginError::Forgotten)?;
    let kept = entry.kept.borrow();
    let came = kept.came_for(epoch);
    let came = came.ok_or(OriginError::Forgotten)?;
    Ok(Rc::new(PeerOrigin {
        shared: Rc::downgrade(shared),
        from: came.from,
        of: Part::Moved {
            id,
            epoch,
            since: came.since.as_ref().map(|since| since.epoch),
        },
        copy: came.since.as_ref().map(|since| since.volume),
        identity: id.0,
        version: epoch,
        size_bytes: came.size_bytes,
    }))
}

async fn open_snapshot<D: Disk + 'static>(
    shared: Rc<Shared<D>>,
    peer: &str,
    snapshot: String,
) -> Result<Rc<dyn Origin>, OriginError> {
    let peer = shared.peer(peer).ok_or(OriginError::NoPeer)?;
    let ask = Ask::Open {
        snapshot: snapshot.clone(),
    };
    let answered = shared.ask(peer.key, ask, Buf::empty()).await;
    match answered.map_err(why)?.say {
        Say::Opened { size_bytes, id } => Ok(Rc::new(PeerOrigin {
            shared: Rc::downgrade(&shared),
            from: peer.key,
            of: Part::Snapshot { name: snapshot, id },
            copy: None,
            identity: id.0,
            version: 0,
            size_bytes,
        })),
        Say::Failed(failure) => Err(failure.into()),
        _ => Err(OriginError::Protocol),
    }
}

/// Something on another appliance.
pub(crate) struct PeerOrigin<D> {
    pub shared: Weak<Shared<D>>,
    pub from: PublicKey,
    pub of: Part,
    /// The volume here that has what did not change.
    pub copy: Option<u64>,
    /// What its blocks are sealed with.
    pub identity: [u8; 16],
    pub version: u64,
    pub size_bytes: u64,
}

impl<D: Disk + 'static> Origin for PeerOrigin<D> {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn extents(&self, offset: u64, len: u64) -> Answer<'_, Vec<OriginExtent>> {
        Box::pin(self.find_extents(offset, len))
    }

    fn read(&self, offset: u64, into: Buf) -> Answer<'_, Buf> {
        Box::pin(self.fetch(offset, into))
    }

    fn hottest(&self) -> Answer<'_, Vec<Range<u64>>> {
        Box::pin(self.ask_hottest())
    }
}

impl<D: Disk + 'static> PeerOrigin<D> {
    fn shared(&self) -> Result<Rc<Shared<D>>, OriginError> {
        self.shared.upgrade().ok_or(OriginError::Unreachable)
    }

    async fn ask_hottest(&self) -> Result<Vec<Range<u64>>, OriginError> {
        let ask = Ask::Heat {
            of: self.of.clone(),
        };
        match self.ask(ask, Buf::empty()).await?.say {
            Say::Heat(parts) => Ok(parts.into_iter().map(|(start, end)| start..end).collect()),
            Say::Failed(failure) => Err(failure.into()),
            _ => Err(OriginError::Protocol),
        }
    }

    /// Asks, and asks again while there is nobody there, for as long as clients may wait.
    async fn ask(&self, ask: Ask, mut into: Buf) -> Result<Answered, OriginError> {
        let shared = self.shared()?;
        let (exec, pages) = (&shared.exec, into.blocks());
        let deadline = exec.now() + shared.patience.get();
        let mut rest = REST;
        loop {
            let error = match shared.ask(self.from, ask.clone(), into).await {
                Ok(answered) => return Ok(answered),
                Err(error) => why(error),
            };
            if error != OriginError::Unreachable || exec.now() + rest >= deadline {
                return Err(error);
            }
            exec.sleep(rest).await;
            rest = (rest * 2).min(REST_MAX);
            // The one before went with the question.
            into = Buf::from_heap(pages);
        }
    }

    /// What lies there, compared with what this appliance has.
    pub(crate) async fn ask_extents(
        &self,
        offset: u64,
        len: u64,
    ) -> Result<Vec<Extent>, OriginError> {
        let ask = Ask::Extents {
            of: self.of.clone(),
            offset,
            len,
        };
        let answered = self.ask(ask, Buf::empty()).await?;
        let extents = match answered.say {
            Say::Extents => decode_extents(&answered.data, len).ok_or(OriginError::Protocol)?,
            Say::Failed(failure) => return Err(failure.into()),
            _ => return Err(OriginError::Protocol),
        };
        self.shared()?.count_metadata(&self.of, answered.data.len());
        Ok(extents)
    }

    async fn find_extents(&self, offset: u64, len: u64) -> Result<Vec<OriginExtent>, OriginError> {
        let shared = self.shared()?;
        let extents = self.ask_extents(offset, len).await?;
        let mut found = Vec::with_capacity(extents.len());
        let mut at = offset;
        for Extent { len, content } in extents {
            match content {
                Content::Data => found.push(extent(len, false)),
                Content::Zero => found.push(extent(len, true)),
                Content::Same => {
                    if !self.copied_extents(&shared, at, len, &mut found).await? {
                        return Ok(found);
                    }
                }
            }
            at += len;
        }
        Ok(found)
    }

    /// What the copy here has; without one it is zeros that were never written. False when it does not say all of it.
    async fn copied_extents(
        &self,
        shared: &Shared<D>,
        at: u64,
        len: u64,
        found: &mut Vec<OriginExtent>,
    ) -> Result<bool, OriginError> {
        let copy = match self.copy {
            Some(copy) => Some(shared.volume(copy).ok_or(OriginError::Forgotten)?),
            None => None,
        };
        // What lies behind its end was never written.
        let here = copy
            .as_ref()
            .map_or(0, |copy| copy.size_bytes.saturating_sub(at).min(len));
        if let Some(copy) = copy.filter(|_| here > 0) {
            let volume = shared.volumes.attach_inside(copy.id).map_err(damaged)?;
            let extents = volume.extents(None, at, here, crate::wire::EXTENTS_MAX);
            let mut said = 0;
            for Extent { len, content } in extents.await.map_err(damaged)? {
                said += len;
                found.push(extent(len, content != Content::Data));
            }
            if said < here {
                return Ok(false);
            }
        }
        if here < len {
            found.push(extent(len - here, true));
        }
        Ok(true)
    }

    /// Reads blocks, and verifies them.
    pub(crate) async fn fetch(&self, offset: u64, into: Buf) -> Result<Buf, OriginError> {
        let shared = self.shared()?;
        let wanted = into.blocks();
        let ask = Ask::Read {
            of: self.of.clone(),
            offset,
            blocks: u16::try_from(wanted).unwrap_or(u16::MAX),
        };
        let answered = self.ask(ask, into).await?;
        let runs = match answered.say {
            Say::Blocks(runs) => runs,
            Say::Failed(failure) => return Err(failure.into()),
            _ => return Err(OriginError::Protocol),
        };
        let count = |is_counted: fn(Kind) -> bool| {
            let counted = runs.iter().filter(|(kind, _)| is_counted(*kind));
            counted.map(|(_, count)| usize::from(*count)).sum::<usize>()
        };
        let mut seals = answered.data.chunks_exact(SEAL_LEN);
        if count(|_| true) != wanted || count(|kind| kind == Kind::Data) != seals.len() {
            return Err(OriginError::Protocol);
        }
        let mut blocks = answered.blocks;
        // Pages behind the data are for what is not.
        let mut spare = blocks.split_off(seals.len());
        let (mut done, mut at) = (Buf::empty(), offset);
        for (kind, count) in runs {
            let count = usize::from(count);
            let from = match kind {
                Kind::Data => &mut blocks,
                Kind::Zero | Kind::Same => &mut spare,
            };
            let rest = from.split_off(count);
            let mut part = core::mem::replace(from, rest);
            match kind {
                Kind::Data => self.verify(&part, at / BLOCK, seals.by_ref())?,
                Kind::Zero => part.zero(),
                Kind::Same => part = self.read_copy(&shared, at, part).await?,
            }
            done.append(part);
            at += count as u64 * BLOCK;
        }
        Ok(done)
    }

    /// Whether blocks are what they were where they come from.
    fn verify<'a>(
        &self,
        part: &Buf,
        lba: u64,
        seals: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), OriginError> {
        for (index, expected) in (0..part.blocks()).zip(seals) {
            let found = seal(
                self.identity,
                lba + index as u64,
                self.version,
                part.block(index),
            );
            if found[..] != *expected {
                log::error!("block {} arrived as something else", lba + index as u64);
                return Err(OriginError::Protocol);
            }
        }
        Ok(())
    }

    async fn read_copy(
        &self,
        shared: &Shared<D>,
        at: u64,
        mut part: Buf,
    ) -> Result<Buf, OriginError> {
        part.zero();
        let copy = self.copy.and_then(|copy| shared.volume(copy));
        let copy = copy.ok_or(OriginError::Forgotten)?;
        let len = copy.size_bytes.saturating_sub(at).min(part.len() as u64);
        if len == 0 {
            return Ok(part);
        }
        let volume = shared.volumes.attach_inside(copy.id).map_err(damaged)?;
        let span = Span {
            offset: at,
            len: u32::try_from(len).unwrap_or(u32::MAX),
        };
        let behind = part.split_off(usize::try_from(len.div_ceil(BLOCK)).unwrap_or(0));
        let (mut part, read) = volume.read(span, part).await;
        read.map_err(damaged)?;
        zero_from(&mut part, len);
        part.append(behind);
        Ok(part)
    }
}

fn extent(len: u64, is_zero: bool) -> OriginExtent {
    OriginExtent { len, is_zero }
}

fn why(error: CallError) -> OriginError {
    match error {
        CallError::NoPeer | CallError::Peer(PeerError::NotPaired) => OriginError::NoPeer,
        CallError::Peer(PeerError::Refused) => OriginError::Refused,
        CallError::Peer(PeerError::Protocol) | CallError::Nonsense => OriginError::Protocol,
        CallError::Peer(PeerError::Unreachable | PeerError::Lost | PeerError::TimedOut) => {
            OriginError::Unreachable
        }
    }
}

/// The copy here cannot be read.
fn damaged(error: VolumeError) -> OriginError {
    match error {
        VolumeError::Origin(error) => error,
        // As NBD says it.
        _ => OriginError::Failed(5),
    }
}

impl From<Failure> for OriginError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotThere => Self::NoExport,
            Failure::Behind => Self::Behind,
            Failure::Damaged => Self::Failed(5),
            Failure::Nonsense => Self::Protocol,
        }
    }
}

/// What lies behind the first `len` bytes of a buffer is zeros: its last block may be beyond the end of a volume.
pub(crate) fn zero_from(buf: &mut Buf, len: u64) {
    let rest = buf.len() as u64 - len.min(buf.len() as u64);
    let zeros = [0; BLOCK_SIZE];
    // Not more than a part of a block.
    let rest = usize::try_from(rest).unwrap_or(0).min(BLOCK_SIZE);
    buf.copy_from(buf.len() - rest, &zeros[..rest]);
}
