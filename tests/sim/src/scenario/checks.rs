//! What must hold when nothing is under way, and at the end.

use core::time::Duration;
use std::rc::Rc;

use store::{PoolState, Store};
use world::{Clock, Instant};

use super::{Running, Scenario, Trouble};
use crate::client::records::RECORD_KEYS;
use crate::disk::{Faults, Latency, SimDisk};
use crate::machine::Machine;
use crate::model::Trust;
use crate::tally::Count;
use crate::verify;

impl Scenario {
    pub(super) fn verify(&mut self, running: &Running) -> Result<(), Trouble> {
        let Running { machine, store } = running;
        self.check_accounts(store)?;
        // Drives that lie may have brought back old contents anywhere.
        let all = self.profile.trust == Trust::DrivesLie || self.random.one_in(2);
        let task = verify::contents(store.clone(), self.model.clone(), all, RECORD_KEYS);
        match machine.block_on(self.late_deadline(), task) {
            Ok(result) => Ok(result?),
            Err(stop) => Err(Trouble::Wrong(format!("verifying: {stop:?}"))),
        }
    }

    /// What lies on the drives now must be a sound pool, whether it was closed or lost power.
    pub(super) fn check_at_rest(&mut self, machine: &Machine) -> Result<(), Trouble> {
        let verify_data = self.random.one_in(4);
        let closed = core::mem::take(&mut self.is_closed);
        let task = verify::at_rest(self.disks.clone(), verify_data, closed);
        match machine.block_on(self.late_deadline(), task) {
            Ok(Err(what)) if self.profile.trust == Trust::Full => Err(Trouble::Wrong(what)),
            Ok(_) => Ok(()),
            Err(stop) => Err(Trouble::Wrong(format!("check: {stop:?}"))),
        }
    }

    /// Nothing is under way: who uses how much must be what the model says, to the block.
    pub(super) fn check_usage(&self, running: &Running) -> Result<(), Trouble> {
        if self.profile.trust != Trust::Full {
            return Ok(());
        }
        let (store, model) = (running.store.clone(), self.model.clone());
        let task = async move { verify::usage(&store, &model).await };
        match running.machine.block_on(self.late_deadline(), task) {
            Ok(Ok(compared)) => {
                self.tally.borrow_mut().add(Count::Usages, compared);
                Ok(())
            }
            Ok(Err(what)) => Err(Trouble::Wrong(what)),
            Err(stop) => Err(Trouble::Wrong(format!("usage: {stop:?}"))),
        }
    }

    /// Nothing is under way: a scrub must find the rot that is put there, and nothing else.
    pub(super) fn check_scrub(&mut self, running: &Running) -> Result<(), Trouble> {
        let (store, model) = (running.store.clone(), self.model.clone());
        let (disks, mut random) = (self.disks.clone(), self.random.fork(8));
        let task = async move { verify::scrub(&store, &model, &disks, &mut random).await };
        match running.machine.block_on(self.late_deadline(), task) {
            Ok(Ok(found)) => {
                self.count(Count::Scrubs);
                self.tally.borrow_mut().add(Count::RotFound, found);
                Ok(())
            }
            Ok(Err(what)) => Err(Trouble::Wrong(what)),
            Err(stop) => Err(Trouble::Wrong(format!("scrub: {stop:?}"))),
        }
    }

    /// What lies on the drives when a recovery has just ended must be sound without any excuse: second copies are there
    /// again.
    pub(super) fn check_recovered(&mut self) -> Result<(), Trouble> {
        if self.profile.trust != Trust::Full || self.random.one_in(2) {
            return Ok(());
        }
        let clock = Rc::default();
        let disks = self.disks.iter().map(|disk| disk.copy(&clock));
        let disks: Vec<SimDisk> = disks.collect();
        let machine = Machine::new(clock, disks.clone(), Rc::default(), self.random.fork(9));
        let task = verify::at_rest(disks, false, true);
        match machine.block_on(self.late_deadline(), task) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(what)) => Err(Trouble::Wrong(format!("just recovered: {what}"))),
            Err(stop) => Err(Trouble::Wrong(format!("check of a copy: {stop:?}"))),
        }
    }

    /// What the store says of itself at any time must fit together.
    pub(super) fn check_accounts(&self, store: &Store<SimDisk>) -> Result<(), Trouble> {
        verify::catalog(store)?;
        let pool = store.pool();
        if pool.used_bytes + pool.free_bytes == pool.size_bytes {
            Ok(())
        } else {
            Err(Trouble::Wrong(format!("used + free is not size: {pool:?}")))
        }
    }

    /// Virtual time within which anything must finish on drives that work as they should: some time for what waits for
    /// timers, and the time of so many transfers and flushes one after the other.
    fn calm_deadline(&self) -> Instant {
        let Latency {
            transfer_max,
            flush_max,
            ..
        } = self.profile.latency;
        let work = Duration::from_nanos(5000 * transfer_max + 1000 * flush_max);
        self.clock.now() + Duration::from_secs(120) + work
    }

    /// Faults stop: everything must finish, all space must come back, and a last restart must find nothing amiss.
    pub(super) fn finish(&mut self, running: Running, free_at_first: u64) -> Result<(), Trouble> {
        self.set_faults(Faults::default());
        for disk in &self.disks {
            disk.set_latency(self.profile.latency.calm());
        }
        let read_only = running.store.pool().state != PoolState::Serving;
        let running = if read_only {
            self.crash(running.machine);
            self.recover()?
        } else {
            running
        };
        let Running { machine, store } = running;
        if self.profile.trust != Trust::DrivesLie {
            let emptied = machine.block_on(
                self.calm_deadline(),
                verify::empty(store.clone(), machine.exec.clone(), free_at_first),
            );
            match emptied {
                Ok(Ok(())) => {}
                Ok(Err(_)) if self.profile.trust != Trust::Full => {}
                Ok(Err(what)) => return Err(Trouble::Wrong(what)),
                Err(stop) => return Err(Trouble::Wrong(format!("emptying: {stop:?}"))),
            }
            self.check_accounts(&store)?;
        }
        let closed = machine.block_on(self.calm_deadline(), async move { store.close().await });
        match closed {
            Ok(Ok(())) => {}
            Ok(Err(_)) if self.profile.trust != Trust::Full => {}
            other => return Err(Trouble::Wrong(format!("last close: {other:?}"))),
        }
        self.reset(machine);
        self.is_closed = true;
        let machine = self.switch_on().machine;
        self.check_at_rest(&machine)?;
        machine.switch_off();
        Ok(())
    }
}
