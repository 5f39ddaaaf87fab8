//! The journal's writer: one task that turns waiting records into frames and flushes the drives.
//!
//! Every [`flush`](Shared::flush_to) that waits while it works shares the next frame and the next FLUSH.
//!
//! A record is pushed only after its data completed, and a FLUSH is submitted only after the frame completed; so one FLUSH
//! makes both durable. A failed frame or FLUSH is never tried again: the pool takes no more writes.

use world::Disk;

use crate::api::StoreError;
use crate::journal::Frame;
use crate::layout::FRAME_BLOCKS_MAX;
use crate::shared::{Mode, Shared, State};

/// Records are written out when this many bytes wait, flush or not.
const WRITE_AT: usize = 48 << 10;

/// What the writer does next.
enum Work {
    Wait,
    Write,
    Flush,
    End,
}

impl State {
    /// Whether records or a flush wait for the writer; otherwise there is no reason to wake it.
    pub fn has_work_for_writer(&self) -> bool {
        self.flush_wanted > self.journal.durable || self.journal.waiting() >= WRITE_AT
    }
}

impl<D: Disk> Shared<D> {
    /// Waits until all records pushed so far are durable.
    pub async fn flush_now(&self) -> Result<(), StoreError> {
        let mut target = self.state.borrow().journal.pushed;
        if self.config.mutants.flush_forgets_records() {
            target = self.state.borrow().journal.written;
        }
        self.flush_to(target).await
    }

    /// Waits until the first `target` bytes of records are durable.
    pub async fn flush_to(&self, target: u64) -> Result<(), StoreError> {
        {
            let mut state = self.state.borrow_mut();
            state.flush_wanted = state.flush_wanted.max(target);
        }
        self.writer_wanted.notify();
        loop {
            {
                let state = self.state.borrow();
                if state.journal.durable >= target {
                    return Ok(());
                }
                match state.mode {
                    Mode::ReadOnly(_) => return Err(StoreError::ReadOnly),
                    Mode::Closed => return Err(StoreError::Closed),
                    Mode::Serving | Mode::Closing => {}
                }
            }
            self.writer_done.wait().await;
        }
    }

    /// The writer's life.
    pub async fn run_writer(&self) {
        loop {
            let wait = self.writer_wanted.wait();
            let result = match self.next_work() {
                Work::End => return,
                Work::Wait => {
                    wait.await;
                    Ok(())
                }
                Work::Write => self.write_frame().await,
                Work::Flush => self.flush_frames().await,
            };
            if let Err(error) = result {
                self.fail(&alloc::format!("the journal could not be written: {error}"));
            }
            self.writer_done.notify();
        }
    }

    fn next_work(&self) -> Work {
        let state = self.state.borrow();
        if matches!(state.mode, Mode::Closed | Mode::ReadOnly(_)) {
            return Work::End;
        }
        let journal = &state.journal;
        let waiting = journal.waiting();
        if waiting > 0 && (state.flush_wanted > journal.written || waiting >= WRITE_AT) {
            // Only the cut of a checkpoint may use the reserve; otherwise no checkpoint could ever begin.
            let reserve = if journal.is_cutting() {
                0
            } else {
                journal.live_max / 8
            };
            if journal.has_room(reserve) {
                return Work::Write;
            }
            drop(state);
            self.want_checkpoint();
            return Work::Wait;
        }
        if state.flush_wanted > journal.durable {
            Work::Flush
        } else {
            Work::Wait
        }
    }

    async fn write_frame(&self) -> Result<(), StoreError> {
        let mut pages = self.environment.pool.take(FRAME_BLOCKS_MAX).await;
        let off_by_one = self.config.mutants.durable_off_by_one();
        let frame = self
            .state
            .borrow_mut()
            .journal
            .build_frame(&mut pages, off_by_one);
        let Some(Frame {
            ring_block,
            end,
            spare,
            ..
        }) = frame
        else {
            return Ok(());
        };
        drop(spare);
        let places = self.regions.iter().enumerate();
        let places: arrayvec::ArrayVec<(usize, u64), 32> = places
            .map(|(device, regions)| (device, regions.journal.get() + ring_block))
            .collect();
        self.write_places(&places, pages).await?;
        let mut state = self.state.borrow_mut();
        state.journal.written = end;
        if state.journal.live_blocks() * 4 > state.journal.live_max * 3 {
            drop(state);
            self.want_checkpoint();
        }
        Ok(())
    }

    async fn flush_frames(&self) -> Result<(), StoreError> {
        let (seq, bytes) = {
            let mut state = self.state.borrow_mut();
            state.journal.blocks_since_flush = 0;
            (state.journal.last_seq(), state.journal.written)
        };
        self.flush_disks().await?;
        self.state.borrow_mut().journal.set_durable(seq, bytes);
        Ok(())
    }
}
