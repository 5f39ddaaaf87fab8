//! BLOCK_STATUS: what the contexts say of a range.

use net::Stream;
use volume::{Access, Extent};
use wire::nbd::*;
use world::Disk;

use super::Session;
use super::contexts::{CONTEXTS_MAX, Context};

/// The most descriptors for one context; the client asks again behind them.
const EXTENTS_MAX: usize = 1024;
/// Descriptors that are sent at a time.
const SENT_AT_ONCE: usize = 32;
/// The longest payload that chooses contexts.
pub(super) const FILTER_MAX: usize = 8 + 4 * CONTEXTS_MAX;

/// Contexts of a connection: a bit for each id.
#[derive(Clone, Copy)]
pub(super) struct Chosen(u32);

const _: () = assert!(CONTEXTS_MAX <= u32::BITS as usize);

impl<D: Disk + 'static, S: Stream> Session<D, S> {
    /// All contexts.
    pub(super) fn all_contexts(&self) -> Chosen {
        Chosen((1 << self.contexts.len()) - 1)
    }

    /// What a payload chooses: the range's length and the contexts.
    pub(super) fn choose(&self, payload: &[u8]) -> Result<(u64, Chosen), Errno> {
        let filter = StatusFilter::decode(payload).map_err(|_| NBD_EINVAL)?;
        let mut chosen = 0;
        for id in filter.ids() {
            let bit = 1_u32.checked_shl(id).unwrap_or(0);
            if id as usize >= self.contexts.len() || chosen & bit != 0 {
                return Err(NBD_EINVAL);
            }
            chosen |= bit;
        }
        if chosen == 0 {
            return Err(NBD_EINVAL);
        }
        Ok((filter.len, Chosen(chosen)))
    }

    /// Checks the range that is asked for.
    pub(super) fn admit_status(&self, request: Request) -> Result<(), Errno> {
        if request.len == 0 {
            // There is no reply without a descriptor, and no descriptor of nothing.
            return Err(NBD_EINVAL);
        }
        let checked = self
            .volume
            .check(Access::ReadOnly, request.offset, request.len);
        checked.map_err(|error| self.explain(error, request.command))
    }

    /// Answers with one chunk for each chosen context.
    pub(super) async fn block_status(&self, request: Request, chosen: Chosen) {
        let _one_at_a_time = self.status.acquire().await;
        let max = match request.flags & NBD_CMD_FLAG_REQ_ONE {
            0 => EXTENTS_MAX,
            _ => 1,
        };
        let mut left = chosen.0;
        while left != 0 && !self.line.is_dead() {
            let id = left.trailing_zeros();
            left &= left - 1;
            let context = self.contexts[id as usize];
            let (since, offset) = (context.since(), request.offset);
            match self.volume.extents(since, offset, request.len, max).await {
                Ok(extents) => {
                    self.send_status(request, left == 0, id, context, &extents)
                        .await;
                }
                Err(error) => {
                    let error = self.explain(error, request.command);
                    let mut turn = self.line.turn().await;
                    turn.send(&self.reply_to(request).error(error)).await;
                    return;
                }
            }
        }
    }

    async fn send_status(
        &self,
        request: Request,
        done: bool,
        id: u32,
        context: Context,
        extents: &[Extent],
    ) {
        let to = self.reply_to(request);
        let mut turn = self.line.turn().await;
        let count = u32::try_from(extents.len()).expect("a bounded list");
        turn.send(&to.block_status(done, id, count)).await;
        for some in extents.chunks(SENT_AT_ONCE) {
            let mut bytes = [0; SENT_AT_ONCE * 16];
            let mut len = 0;
            for extent in some {
                let descriptor = to.descriptor(extent.len, context.flags(extent.content));
                bytes[len..len + descriptor.len()].copy_from_slice(&descriptor);
                len += descriptor.len();
            }
            turn.send(&bytes[..len]).await;
        }
    }
}
