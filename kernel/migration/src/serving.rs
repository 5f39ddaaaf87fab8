//! Answering other appliances.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

use exec::Semaphore;
use net::Stream;
use peer::{Channel, MESSAGE_MAX, PublicKey};
use store::{Content, Extent, StoreError, seal};
use volume::{Access, OriginError, Settings, Volume, VolumeError, VolumeId};
use world::{BLOCK_SIZE, Buf, Disk};

use crate::hearing::Terms;
use crate::moves::Shared;
use crate::origin::zero_from;
use crate::record::{Came, Id, Kept, News};
use crate::rules::{EPOCH_MAX, Epoch, Record};
use crate::wire::{
    Answer, Ask, EXTENTS_MAX, Failure, Kind, Part, Question, Say, decode, encode_extents,
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
                // Who owns what is said while reads wait for somebody else.
                let _read = match ask {
                    Ask::Extents { .. } | Ask::Read { .. } => Some(reads.acquire().await),
                    _ => None,
                };
                let Reply { say, data, blocks } = shared.reply(peer, ask).await;
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

    /// What a peer may read, and what of it it has already.
    fn attach(&self, peer: PublicKey, of: &Part) -> Result<(Volume<D>, Option<VolumeId>), Failure> {
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
                Ok((attached, since.map(|_| volume)))
            }
            Part::Snapshot { name, id } => {
                let found = self.snapshot(name).ok_or(Failure::NotThere)?;
                if found.1 != *id {
                    return Err(Failure::NotThere);
                }
                let attached = self.volumes.attach(name, Access::ReadOnly);
                Ok((attached.map_err(failure)?, None))
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
        let (volume, since) = self.attach(peer, of)?;
        let extents = match since {
            Some(id) => {
                let extents = self
                    .volumes
                    .extents_since_adoption(id, offset, len, EXTENTS_MAX);
                extents.await.map_err(VolumeError::from)
            }
            None => volume
                .extents(None, offset, len, EXTENTS_MAX)
                .await
                .map(as_zeros),
        };
        extents.map_err(failure)
    }

    fn heat_of(&self, peer: PublicKey, of: &Part) -> Result<Vec<(u64, u64)>, Failure> {
        let (volume, _) = self.attach(peer, of)?;
        let hottest = volume.traffic().heat().hottest();
        Ok({ hottest.iter() }
            .map(|part| (part.start, part.end))
            .collect())
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
        let (volume, since) = self.attach(peer, of)?;
        let size = volume.size_bytes();
        let len = size.saturating_sub(offset).min((blocks as u64) * BLOCK);
        if len == 0 || len.div_ceil(BLOCK) != blocks as u64 {
            return Err(Failure::Nonsense);
        }
        let extents = match since {
            Some(id) => {
                let extents = self.volumes.extents_since_adoption(id, offset, len, blocks);
                extents.await.map_err(|error| failure(error.into()))?
            }
            None => vec![Extent {
                len,
                content: Content::Data,
            }],
        };
        let (identity, version) = match of {
            Part::Moved { id, epoch, .. } => (id.0, *epoch),
            Part::Snapshot { id, .. } => (id.0, 0),
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
