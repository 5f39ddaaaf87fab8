//! Answering other appliances.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use exec::Semaphore;
use net::Stream;
use peer::{Channel, MESSAGE_MAX, PublicKey};
use store::{Changes, Content, Extent, StoreError, seal};
use volume::{
    Access, OriginError, Settings, SnapshotId, SnapshotInfo, Source, Volume, VolumeError, VolumeId,
};
use world::{BLOCK_SIZE, Buf, Disk};

use crate::hearing::Terms;
use crate::moves::Shared;
use crate::origin::zero_from;
use crate::record::{Came, Id, Kept, Moment, News};
use crate::rules::{EPOCH_MAX, Epoch, Record};
use crate::wire::{
    Answer, Ask, EXTENTS_MAX, Failure, Kind, Part, Past, Question, Say, decode, encode_extents,
    encode_head,
};

/// Questions of one channel that are looked at.
const QUESTIONS_MAX: usize = 64;
/// Of those, for data.
const READS_AT_ONCE: usize = 8;
const BLOCK: u64 = BLOCK_SIZE as u64;

/// An answer and its data.
struct Reply {
    say: Say,
    data: Vec<u8>,
    blocks: Buf,
}

impl From<Say> for Reply {
    fn from(say: Say) -> Self {
        Self {
            say,
            data: Vec::new(),
            blocks: Buf::empty(),
        }
    }
}

impl<D: Disk + 'static> Shared<D> {
    /// Answers what a peer asks until its channel ends.
    pub async fn serve<S: Stream>(self: Rc<Self>, channel: Channel<S>) {
        let peer = channel.peer().key;
        let (slots, reads) = (Semaphore::new(QUESTIONS_MAX), Semaphore::new(READS_AT_ONCE));
        let mut message = vec![0; MESSAGE_MAX];
        loop {
            let slot = slots.acquire().await;
            let Ok(Some(len)) = channel.receive(&mut message).await else {
                break;
            };
            let Some((Question { number, ask }, _)) = decode(&message[..len]) else {
                log::warn!("{} says nonsense", channel.peer().name);
                channel.abort();
                return;
            };
            let (shared, channel, reads) = (self.clone(), channel.clone(), reads.clone());
            self.exec.spawn(async move {
                // What is not here is waited for before: two appliances that each read what the other one has would wait for each other.
                let absent = match &ask {
                    Ask::Read { of, offset, blocks } => {
                        shared.bring(peer, of, *offset, (*blocks).into()).await
                    }
                    _ => Ok(()),
                };
                // Who owns what is said while others read.
                let _read = match ask {
                    Ask::Extents { .. } | Ask::Read { .. } => Some(reads.acquire().await),
                    _ => None,
                };
                let Reply { say, data, blocks } = match absent {
                    Ok(()) => shared.reply(peer, ask).await,
                    Err(failure) => Say::Failed(failure).into(),
                };
                let head = encode_head(&Answer { number, say });
                let mut parts: Vec<&[u8]> = vec![&head, &data];
                parts.extend((0..blocks.blocks()).map(|index| &blocks.block(index)[..]));
                // Whoever asked has gone otherwise.
                let _ = channel.send(&parts).await;
                drop(slot);
            });
        }
        let _ = channel.finish().await;
    }

    async fn reply(self: &Rc<Self>, peer: PublicKey, ask: Ask) -> Reply {
        if ask.epoch() > EPOCH_MAX {
            return Say::Failed(Failure::Nonsense).into();
        }
        match ask {
            Ask::Offer(offer) => self.hear_offer(peer, offer).await.into(),
            Ask::Holds { id, nonce } => self.hear_holds(peer, id, nonce).into(),
            Ask::Cancel { id, nonce } => self.hear_cancel(peer, id, nonce).await.into(),
            Ask::Give {
                id,
                nonce,
                epoch,
                has_news,
                size_bytes,
                since,
                with_snapshots,
                rate,
                settings,
            } => {
                let given = (nonce, epoch, has_news.then_some(News::Written));
                let Some(settings) = Settings::decode(settings.as_bytes()) else {
                    return Say::NotNow("its settings cannot be read".into()).into();
                };
                let terms = Terms {
                    has_news,
                    size_bytes,
                    since,
                    with_snapshots,
                    rate,
                    settings,
                };
                self.hear_give(peer, id, given, terms).await.into()
            }
            Ask::Return { id, nonce, epoch } => {
                self.hear_return(peer, id, nonce, epoch).await.into()
            }
            Ask::TakenOver { id, epoch } => self.hear_taken_over(peer, id, epoch).await.into(),
            Ask::Progress { id, epoch } => {
                Say::Progress(self.tell_progress(peer, id, epoch).await).into()
            }
            Ask::Pace {
                id,
                epoch,
                is_paused,
                rate,
            } => self
                .set_pace(peer, (id, epoch), is_paused, rate)
                .await
                .into(),
            Ask::Heat { of } => {
                let heat = self.heat_of(peer, &of);
                heat.map_or_else(Say::Failed, Say::Heat).into()
            }
            Ask::Open { snapshot } => self.open(&snapshot).into(),
            Ask::Past { id, epoch, before } => self.past(peer, id, epoch, before).into(),
            Ask::Extents { of, offset, len } => {
                let extents = self.extents_of(peer, &of, offset, len).await;
                extents.map_or_else(
                    |failure| Say::Failed(failure).into(),
                    |extents| Reply {
                        data: encode_extents(&extents),
                        ..Say::Extents.into()
                    },
                )
            }
            Ask::Read { of, offset, blocks } => {
                let read = self.read(peer, &of, offset, blocks.into()).await;
                read.unwrap_or_else(|failure| Say::Failed(failure).into())
            }
        }
    }

    /// What a peer may read, and what it is compared with.
    fn attach(&self, peer: PublicKey, of: &Part) -> Result<(Volume<D>, Known), Failure> {
        match of {
            Part::Moved { id, epoch, since } => {
                let entry = self.find(*id).ok_or(Failure::NotThere)?;
                let kept = entry.kept.borrow();
                let (volume, came) = kept.lent_to(peer, *epoch).ok_or(Failure::NotThere)?;
                let is_known =
                    |since| came.is_some_and(|came| (came.from, came.epoch) == (peer, since));
                if since.is_some_and(|since| !is_known(since)) {
                    return Err(Failure::Nonsense);
                }
                let volume = VolumeId(volume);
                let attached = self.volumes.attach_inside(volume).map_err(failure)?;
                let known = since.map_or(Known::Nothing, |_| Known::Origin(volume));
                Ok((attached, known))
            }
            Part::Past {
                id,
                epoch,
                snapshot: (number, identity),
                from,
            } => {
                let entry = self.find(*id).ok_or(Failure::NotThere)?;
                let kept = entry.kept.borrow();
                let (volume, _) = kept.lent_to(peer, *epoch).ok_or(Failure::NotThere)?;
                let of_it = |number: u64| {
                    let info = self.volumes.store().snapshot(SnapshotId(number));
                    info.filter(|info| info.volume.0 == volume)
                };
                let info = of_it(*number).filter(|info| info.uuid == identity.0);
                let info = info.ok_or(Failure::NotThere)?;
                let from = match from {
                    Some(number) => of_it(*number).ok_or(Failure::NotThere)?.id.into(),
                    None => VolumeId(volume).into(),
                };
                let attached = self.volumes.attach_inside(info.id).map_err(failure)?;
                Ok((attached, Known::Other(from, info.id.into())))
            }
            Part::Snapshot { name, id } => {
                let found = self.snapshot(name).ok_or(Failure::NotThere)?;
                if found.1 != *id {
                    return Err(Failure::NotThere);
                }
                let attached = self.volumes.attach(name, Access::ReadOnly);
                Ok((attached.map_err(failure)?, Known::Nothing))
            }
        }
    }

    fn snapshot(&self, name: &str) -> Option<(u64, Id)> {
        let (volume, snapshot) = name.split_once('@')?;
        let info = self.volumes.snapshot(volume, snapshot).ok()?;
        Some((info.size_bytes, Id(info.uuid)))
    }

    fn open(&self, snapshot: &str) -> Say {
        match self.snapshot(snapshot) {
            Some((size_bytes, id)) => Say::Opened { size_bytes, id },
            None => Say::Failed(Failure::NotThere),
        }
    }

    async fn extents_of(
        &self,
        peer: PublicKey,
        of: &Part,
        offset: u64,
        len: u64,
    ) -> Result<Vec<Extent>, Failure> {
        let (volume, known) = self.attach(peer, of)?;
        let extents = match known {
            Known::Origin(id) => {
                let extents = self
                    .volumes
                    .extents_since_adoption(id, offset, len, EXTENTS_MAX);
                extents.await.map_err(VolumeError::from)
            }
            Known::Other(from, to) => {
                let max = EXTENTS_MAX / 2 - 1;
                let changes = self.volumes.diff(Some(from), to, offset, max);
                let end = offset.saturating_add(len).min(volume.size_bytes());
                changes.await.map(|changes| compared(&changes, offset..end))
            }
            Known::Nothing => volume
                .extents(None, offset, len, EXTENTS_MAX)
                .await
                .map(as_zeros),
        };
        extents.map_err(failure)
    }

    /// The newest snapshot of what was given to a peer, or the newest before one that it has.
    fn past(&self, peer: PublicKey, id: Id, epoch: Epoch, before: Option<Moment>) -> Say {
        let Some(entry) = self.find(id) else {
            return Say::Failed(Failure::NotThere);
        };
        let Some((volume, _)) = entry.kept.borrow().lent_to(peer, epoch) else {
            return Say::Failed(Failure::NotThere);
        };
        let mut all = self.volumes.store().snapshots(VolumeId(volume));
        if let Some(before) = before {
            let known = { all.iter() }.position(|info| info.uuid == before.snapshot.0);
            // That one may have been deleted.
            let older = |info: &SnapshotInfo| info.created_at_nanos <= before.created_at_nanos;
            all.truncate(known.unwrap_or_else(|| all.partition_point(older)));
        }
        Say::Past(all.pop().map(|info| Past {
            number: info.id.0,
            id: Id(info.uuid),
            name: info.name,
            size_bytes: info.size_bytes,
            created_at_nanos: info.created_at_nanos,
        }))
    }

    fn heat_of(&self, peer: PublicKey, of: &Part) -> Result<Vec<(u64, u64)>, Failure> {
        let (volume, _) = self.attach(peer, of)?;
        let hottest = volume.traffic().heat().hottest();
        Ok({ hottest.iter() }
            .map(|part| (part.start, part.end))
            .collect())
    }

    /// Waits until what a peer wants to read is here, as far as it is not what the peer has.
    async fn bring(
        &self,
        peer: PublicKey,
        of: &Part,
        offset: u64,
        blocks: usize,
    ) -> Result<(), Failure> {
        let (volume, known) = self.attach(peer, of)?;
        let len = volume.size_bytes().saturating_sub(offset);
        let len = len.min(blocks as u64 * BLOCK);
        // What clients changed here is here. What makes no sense is refused by who reads.
        if matches!(known, Known::Origin(_)) || len == 0 || blocks > Buf::PAGES_MAX {
            return Ok(());
        }
        let span = volume::Span {
            offset,
            len: u32::try_from(len).unwrap_or(u32::MAX),
        };
        volume.await_presence(span).await.map_err(failure)
    }

    async fn read(
        &self,
        peer: PublicKey,
        of: &Part,
        offset: u64,
        blocks: usize,
    ) -> Result<Reply, Failure> {
        if !offset.is_multiple_of(BLOCK) || !(1..=Buf::PAGES_MAX).contains(&blocks) {
            return Err(Failure::Nonsense);
        }
        let (volume, known) = self.attach(peer, of)?;
        let size = volume.size_bytes();
        let len = size.saturating_sub(offset).min((blocks as u64) * BLOCK);
        if len == 0 || len.div_ceil(BLOCK) != blocks as u64 {
            return Err(Failure::Nonsense);
        }
        let extents = match known {
            Known::Origin(id) => {
                let extents = self.volumes.extents_since_adoption(id, offset, len, blocks);
                extents.await.map_err(|error| failure(error.into()))?
            }
            // Who asks for blocks of the past has asked before what is the same.
            Known::Other(..) | Known::Nothing => vec![Extent {
                len,
                content: Content::Data,
            }],
        };
        let (identity, version) = match of {
            Part::Moved { id, epoch, .. } => (id.0, *epoch),
            Part::Snapshot { id, .. } => (id.0, 0),
            Part::Past { snapshot, .. } => (snapshot.1.0, 0),
        };
        let mut runs: Vec<(Kind, u16)> = Vec::new();
        let mut add = |kind, count: usize| {
            let count = u16::try_from(count).unwrap_or(0);
            match runs.last_mut() {
                Some(last) if last.0 == kind => last.1 += count,
                _ => runs.push((kind, count)),
            }
        };
        let (mut seals, mut data) = (Vec::new(), Buf::empty());
        let mut at = offset;
        for Extent { len, content } in extents {
            let count = usize::try_from(len.div_ceil(BLOCK)).unwrap_or(0);
            match content {
                Content::Same => add(Kind::Same, count),
                Content::Zero => add(Kind::Zero, count),
                Content::Data => {
                    let (buf, holes) = self.read_part(&volume, at, len).await?;
                    let mut rest = buf;
                    let mut index = 0;
                    while index < count {
                        let (is_hole, same) = holes.run(index, count);
                        let after = rest.split_off(same);
                        let part = core::mem::replace(&mut rest, after);
                        add(if is_hole { Kind::Zero } else { Kind::Data }, same);
                        if !is_hole {
                            for block in 0..same {
                                let lba = at / BLOCK + (index + block) as u64;
                                let seal = seal(identity, lba, version, part.block(block));
                                seals.extend_from_slice(&seal);
                            }
                            data.append(part);
                        }
                        index += same;
                    }
                }
            }
            at += len;
        }
        // The list of extents may end early.
        if at < offset + len {
            return Err(Failure::Damaged);
        }
        Ok(Reply {
            say: Say::Blocks(runs),
            data: seals,
            blocks: data,
        })
    }

    async fn read_part(
        &self,
        volume: &Volume<D>,
        offset: u64,
        len: u64,
    ) -> Result<(Buf, volume::Holes), Failure> {
        let blocks = usize::try_from(len.div_ceil(BLOCK)).unwrap_or(1);
        let buf = self.pages.take(blocks).await;
        let span = volume::Span {
            offset,
            len: u32::try_from(len).unwrap_or(u32::MAX),
        };
        let (mut buf, read) = volume.read(span, buf).await;
        let holes = read.map_err(failure)?;
        zero_from(&mut buf, len);
        Ok((buf, holes))
    }
}

/// What whoever asks has already.
enum Known {
    Nothing,
    /// What this volume was adopted from.
    Origin(VolumeId),
    /// The first of these; the second is wanted.
    Other(Source, Source),
}

/// What a difference says of a range; as far as it goes.
fn compared(changes: &Changes, range: Range<u64>) -> Vec<Extent> {
    let end = changes.next.map_or(range.end, |next| next.min(range.end));
    let mut extents = Vec::with_capacity(2 * changes.ranges.len() + 1);
    let mut at = range.start;
    let mut add = |until: u64, content| {
        let until = until.min(end);
        if until > at {
            let len = until - at;
            extents.push(Extent { len, content });
            at = until;
        }
    };
    for change in &changes.ranges {
        add(change.offset, Content::Same);
        let content = match change.is_zero {
            true => Content::Zero,
            false => Content::Data,
        };
        add(change.offset + change.len, content);
    }
    add(end, Content::Same);
    extents
}

/// What is not there reads as zeros, for whoever has nothing to compare with.
fn as_zeros(mut extents: Vec<Extent>) -> Vec<Extent> {
    for extent in &mut extents {
        if extent.content == Content::Same {
            extent.content = Content::Zero;
        }
    }
    extents
}

fn failure(error: VolumeError) -> Failure {
    match error {
        VolumeError::Origin(OriginError::Protocol | OriginError::Failed(_)) => Failure::Damaged,
        VolumeError::Origin(_) => Failure::Behind,
        VolumeError::OutOfRange | VolumeError::Unaligned => Failure::Nonsense,
        VolumeError::Store(StoreError::Closed) => Failure::NotThere,
        VolumeError::Store(_) => Failure::Damaged,
        other => {
            log::debug!("a peer cannot read: {other}");
            Failure::NotThere
        }
    }
}

impl Kept {
    /// The volume from which a peer may read what it was when it was given for an ownership, or what it is while it is offered; and where
    /// that came from.
    fn lent_to(&self, peer: PublicKey, of: Epoch) -> Option<(u64, Option<&Came>)> {
        if let Record::Offered { epoch, to, .. } = self.owner
            && (epoch + 1, to) == (of, peer)
        {
            return Some((self.volume?, self.came.as_ref()));
        }
        let copy = self.copy(of).filter(|copy| copy.to == peer)?;
        Some((copy.volume, copy.came.as_ref()))
    }
}
