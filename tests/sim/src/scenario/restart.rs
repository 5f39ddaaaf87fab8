//! Power cuts, resets, and the way back.

use store::{Store, StoreError};
use world::Clock;

use super::{Powered, Running, Scenario, Trouble};
use crate::disk::{Faults, SimDisk};
use crate::machine::{Machine, Stop};
use crate::model::Trust;
use crate::tally::Count;

impl Scenario {
    pub(super) fn crash(&mut self, machine: Machine) {
        machine.cut_power();
        self.disks.iter().for_each(SimDisk::decay);
        self.model.borrow_mut().restart();
        self.count(Count::Crashes);
    }

    /// The appliance restarts, the drives keep power: what they were told to do they do before anything else.
    pub(super) fn reset(&mut self, machine: Machine) {
        machine.switch_off();
        self.disks.iter().for_each(SimDisk::reset);
        self.model.borrow_mut().restart();
        self.count(Count::Crashes);
    }

    /// Opens the pool again, perhaps cutting the power again meanwhile, and verifies it.
    pub(super) fn recover(&mut self) -> Result<Running, Trouble> {
        for depth in 0..3 {
            let cut = depth < 2 && self.random.per_million(self.profile.nested);
            match self.try_recover(cut) {
                Err(Trouble::Cut) => self.count(Count::Nested),
                other => return other,
            }
        }
        Err(Trouble::Wrong("more cuts than planned".to_string()))
    }

    fn try_recover(&mut self, cut: bool) -> Result<Running, Trouble> {
        let Powered {
            machine,
            environment,
            config,
        } = self.switch_on();
        self.check_at_rest(&machine)?;
        if cut {
            let exponent = self.random.between(1, 10);
            let points = 1 + self.random.below(1 << exponent);
            machine.cut_at.set(Some(machine.points.get() + points));
        }
        let disks = self.disks.clone();
        self.trace.note(self.clock.now(), "recover", [0; 3]);
        let opened = machine.block_on(self.deadline(), async move {
            Store::open(disks, environment, config).await
        });
        let store = match opened {
            Ok(Ok(store)) => store,
            Ok(Err(error)) => return self.refused(machine, error),
            Err(Stop::PowerCut) => {
                self.crash(machine);
                return Err(Trouble::Cut);
            }
            Err(stop) => return Err(Trouble::Wrong(format!("recovery: {stop:?}"))),
        };
        machine.cut_at.set(None);
        self.check_recovered()?;
        let running = Running { machine, store };
        self.verify(&running)?;
        self.count(Count::Recoveries);
        Ok(running)
    }

    /// The pool does not open. Passing errors may pass; lies may have destroyed it.
    fn refused(&mut self, machine: Machine, error: StoreError) -> Result<Running, Trouble> {
        if self.profile.trust == Trust::Full {
            return Err(Trouble::Wrong(format!("recovery failed: {error:?}")));
        }
        self.crash(machine);
        self.set_faults(Faults::default());
        let Powered {
            machine,
            environment,
            config,
        } = self.switch_on();
        let disks = self.disks.clone();
        let opened = machine.block_on(self.deadline(), async move {
            Store::open(disks, environment, config).await
        });
        match opened {
            Ok(Ok(store)) => {
                let running = Running { machine, store };
                self.verify(&running)?;
                self.count(Count::Recoveries);
                Ok(running)
            }
            Ok(Err(_)) => Err(Trouble::Excused),
            Err(stop) => Err(Trouble::Wrong(format!("second recovery: {stop:?}"))),
        }
    }
}
