//! What an appliance does. A record counts when it is durable: nothing is said, and no write taken, because of one that is not.
//!
//! ```text
//! A   Owned ──offer──► Offered ──hand over──► Given ─────────────────────────► (Given; or Owned again, if B gives back)
//!                        │ ╲ cancel ► Owned     │ Give, as often as it takes
//!                        │ Offer                ▼
//! B   Nothing ───────► Prepared ────────────► Owned
//! ```
//! Who is `Prepared` does not take writes, but everything else is as it will be. Who is `Given` may want back: then B gives with the next epoch, whether
//! it had taken or not, and so promises never to take what it was given first.

use super::Mutant;

pub type Epoch = u8;
pub type Nonce = u8;
pub type Version = u8;

/// What is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Record {
    /// It has nothing to do with the volume. Offers of this epoch and before are history.
    Nothing {
        floor: Epoch,
    },
    Owned {
        epoch: Epoch,
    },
    /// It is the owner, and says so with `epoch`; the other one would be with the next.
    Offered {
        epoch: Epoch,
        to: usize,
        nonce: Nonce,
    },
    /// It will be the owner with `epoch`, if it is given the volume.
    Prepared {
        epoch: Epoch,
        from: usize,
        nonce: Nonce,
    },
    /// The other one is the owner with `epoch`, whether it knows or not, and this is the newest write. None: it is given back what was never
    /// taken, and has all there is.
    Given {
        epoch: Epoch,
        to: usize,
        nonce: Nonce,
        version: Option<Version>,
    },
}

impl Default for Record {
    fn default() -> Self {
        Self::Nothing { floor: 0 }
    }
}

/// An appliance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Side {
    pub record: Record,
    /// On its way to the drives, with what it will have of the volume then.
    pending: Option<(Record, Version)>,
    /// The newest write that it has, itself or through where it came from.
    pub version: Version,
    /// The other one said that it is prepared for the offer.
    is_ready: bool,
    /// Since it last changed its record; only a deliberate bug asks.
    pub was_restarted: bool,
}

/// Something that was sent, to appliance `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Message {
    pub to: usize,
    from: usize,
    nonce: Nonce,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum What {
    /// Be prepared to own the volume with this epoch.
    Offer(Epoch),
    /// I am prepared. Is it still so?
    Prepared,
    /// It is no longer so.
    Cancel,
    /// You own the volume with this epoch, and this is the newest write; none: you have all there is.
    Give(Epoch, Option<Version>),
    /// I want back what I gave you with this epoch.
    Return(Epoch),
}

impl Message {
    pub fn is_return(&self) -> bool {
        matches!(self.what, What::Return(_))
    }
}

impl Side {
    /// Whether it takes writes.
    pub fn serves(&self, mutant: Option<Mutant>) -> bool {
        let is_owner = matches!(self.record, Record::Owned { .. } | Record::Offered { .. });
        let is_giving = matches!(self.pending, Some((Record::Given { .. }, _)));
        is_owner && (!is_giving || mutant == Some(Mutant::ServeWhileGiving))
    }

    /// Begins to change its record, unless it is at that already.
    fn change(&mut self, record: Record, version: Version) {
        if self.pending.is_none() && record != self.record {
            self.pending = Some((record, version));
        }
    }

    pub fn flush(&mut self) {
        if let Some((record, version)) = self.pending.take() {
            if let Record::Owned { .. } = record
                && !self.serves(None)
            {
                self.version = version;
            }
            self.record = record;
            self.is_ready = false;
            self.was_restarted = false;
        }
    }

    pub fn restart(&mut self) {
        self.was_restarted |= self.pending.is_some() || self.is_ready || self.is_giver();
        self.pending = None;
        self.is_ready = false;
    }

    fn is_giver(&self) -> bool {
        matches!(self.record, Record::Given { .. })
    }

    pub fn offer(&mut self, to: usize, nonce: Nonce) -> bool {
        let Record::Owned { epoch } = self.record else {
            return false;
        };
        let is_free = self.pending.is_none();
        self.change(Record::Offered { epoch, to, nonce }, self.version);
        is_free
    }

    pub fn hand_over(&mut self) {
        if let Record::Offered { epoch, to, nonce } = self.record
            && self.is_ready
        {
            self.give(epoch + 1, to, nonce, Some(self.version));
        }
    }

    fn give(&mut self, epoch: Epoch, to: usize, nonce: Nonce, version: Option<Version>) {
        let record = Record::Given {
            epoch,
            to,
            nonce,
            version,
        };
        self.change(record, self.version);
    }

    pub fn cancel(&mut self, mutant: Option<Mutant>) {
        match self.record {
            Record::Offered { epoch, .. } => self.change(Record::Owned { epoch }, self.version),
            Record::Given { epoch, .. } if mutant == Some(Mutant::CancelAfterGiven) => {
                self.change(Record::Owned { epoch: epoch - 1 }, self.version);
            }
            _ => {}
        }
    }

    pub fn want_back(&mut self, id: usize, mutant: Option<Mutant>) -> Option<Message> {
        let Record::Given {
            epoch,
            to,
            nonce,
            version: Some(_),
        } = self.record
        else {
            return None;
        };
        if mutant == Some(Mutant::TakeBack) {
            self.change(Record::Owned { epoch: epoch + 1 }, self.version);
            return None;
        }
        let what = What::Return(epoch);
        Some(Message {
            to,
            from: id,
            nonce,
            what,
        })
    }

    /// What it tells others because of its record, again and again.
    pub fn says(&self, id: usize, mutant: Option<Mutant>) -> Option<Message> {
        let record = match self.pending {
            Some((record, _)) if mutant == Some(Mutant::SendBeforeFlush) => record,
            _ => self.record,
        };
        let (to, nonce, what) = match record {
            Record::Offered { epoch, to, nonce } => (to, nonce, What::Offer(epoch + 1)),
            Record::Prepared { from, nonce, .. } => (from, nonce, What::Prepared),
            Record::Given {
                epoch,
                to,
                nonce,
                version,
            } => (to, nonce, What::Give(epoch, version)),
            Record::Nothing { .. } | Record::Owned { .. } => return None,
        };
        Some(Message {
            to,
            from: id,
            nonce,
            what,
        })
    }

    /// Something arrives; what it answers at once.
    pub fn hear(&mut self, message: &Message, mutant: Option<Mutant>) -> Option<Message> {
        let Message {
            to: id,
            from,
            nonce,
            what,
        } = *message;
        match what {
            What::Offer(epoch) => self.hear_offer(epoch, from, nonce, mutant),
            What::Prepared => return self.hear_prepared(id, from, nonce),
            What::Cancel => self.hear_cancel(nonce, mutant),
            What::Give(epoch, version) => self.hear_give(epoch, from, version, mutant),
            What::Return(epoch) => self.hear_return(epoch, from, nonce, mutant),
        }
        None
    }

    fn hear_offer(&mut self, epoch: Epoch, from: usize, nonce: Nonce, mutant: Option<Mutant>) {
        let is_news = match self.record {
            Record::Nothing { floor } => epoch > floor,
            Record::Prepared {
                epoch: old,
                nonce: known,
                ..
            } => (epoch, nonce) > (old, known),
            Record::Given { epoch: given, .. } => {
                epoch > given || mutant == Some(Mutant::OldOffers)
            }
            Record::Owned { .. } | Record::Offered { .. } => false,
        };
        if is_news {
            self.change(Record::Prepared { epoch, from, nonce }, self.version);
        }
    }

    fn hear_prepared(&mut self, id: usize, from: usize, nonce: Nonce) -> Option<Message> {
        let known = match self.record {
            Record::Offered { nonce, .. } | Record::Given { nonce, .. } => Some(nonce),
            _ => None,
        };
        if known == Some(nonce) {
            self.is_ready |= matches!(self.record, Record::Offered { .. });
            return None;
        }
        let what = What::Cancel;
        Some(Message {
            to: from,
            from: id,
            nonce,
            what,
        })
    }

    fn hear_cancel(&mut self, nonce: Nonce, mutant: Option<Mutant>) {
        if let Record::Prepared {
            epoch,
            nonce: known,
            ..
        } = self.record
            && nonce == known
        {
            // Another offer of the same epoch may come.
            let floor = match mutant {
                Some(Mutant::ForgetFloor) => 0,
                _ => epoch - 1,
            };
            self.change(Record::Nothing { floor }, self.version);
        }
    }

    /// An owner gives each epoch once, so who gives and which epoch is all that matters: a return and an offer may cross.
    fn hear_give(
        &mut self,
        epoch: Epoch,
        from: usize,
        version: Option<Version>,
        mutant: Option<Mutant>,
    ) {
        let is_mine = match self.record {
            Record::Prepared {
                epoch: mine,
                from: known,
                ..
            } => (epoch, from) == (mine, known) || mutant == Some(Mutant::TakeAnyEpoch),
            // It comes back.
            Record::Given {
                epoch: given, to, ..
            } => (epoch, from) == (given + 1, to),
            Record::Nothing { .. } => mutant == Some(Mutant::TakeUnprepared),
            Record::Owned { .. } | Record::Offered { .. } => false,
        };
        if is_mine {
            self.change(Record::Owned { epoch }, version.unwrap_or(self.version));
        }
    }

    fn hear_return(&mut self, epoch: Epoch, to: usize, nonce: Nonce, mutant: Option<Mutant>) {
        let version = match self.record {
            Record::Prepared { nonce: known, .. } if nonce == known => None,
            Record::Owned { epoch: mine } | Record::Offered { epoch: mine, .. }
                if mine == epoch || mutant == Some(Mutant::OldReturns) =>
            {
                Some(self.version).filter(|_| mutant != Some(Mutant::ReturnForgets))
            }
            _ => return,
        };
        self.give(epoch + 1, to, nonce, version);
    }
}
