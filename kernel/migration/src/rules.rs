//! Who owns a volume that moves: what an appliance answers and becomes, and nothing else. The program that visits every state of a
//! few appliances (`tests/models`) walks these very rules.
//!
//! ```text
//! A   Owned(e) ── offer ──► Offered(e) ── hand over ──► Given(e+1) ── wants back ──┐
//!                            │ cancel: Owned(e)           │ Give, again and again    │ Return
//!                            ▼ Offer                      ▼                          ▼
//! B   Nothing ───────────► Prepared(e+1) ────────────► Owned(e+1) ────────────► Given(e+2): A owns it again
//! ```
//!
//! 1. A record counts when it is durable. Nothing is said because of one that is not; but who begins to give stops taking writes at once.
//! 2. A hand-over needs the other side's word that it is prepared. Who is prepared takes no writes, and asks whether the offer still holds.
//! 3. What is given is told until it is known to have arrived, over restarts, too. An owner gives each epoch once, so who gives and which
//!    epoch identify it.
//! 4. Who has given and wants back asks. The other side gives with the next epoch, and says whether there is anything new; if it had not
//!    taken the volume yet, that is its promise never to take what it was given.
//! 5. Whoever has had anything to do with a volume remembers the epoch, also after a cancelled offer: what is older is history.

use serde::{Deserialize, Serialize};

/// Counts owners. Each is given by the one before, or taken by force.
pub type Epoch = u64;
/// Tells offers apart.
pub type Nonce = u64;

/// Who takes over by force begins so many epochs later: beyond all that the owner who was lost may have given since.
pub const FORCED: Epoch = 1 << 32;

/// No epoch that anybody comes to is larger.
pub const EPOCH_MAX: Epoch = 1 << 62;

/// What an appliance has to do with a volume. `P` names an appliance; `N` is what the new owner has to know of what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Record<P, N> {
    /// Nothing. Offers of this epoch and before are history.
    Nothing {
        /// The newest epoch that it heard of.
        floor: Epoch,
    },
    /// It is the owner.
    Owned {
        /// Since when.
        epoch: Epoch,
    },
    /// It is the owner, and the other one would be with the next epoch.
    Offered {
        /// Since when it is the owner.
        epoch: Epoch,
        /// To whom it is offered.
        to: P,
        /// Which offer this is.
        nonce: Nonce,
    },
    /// It will be the owner with `epoch`, if it is given the volume.
    Prepared {
        /// Of the ownership to come.
        epoch: Epoch,
        /// Who offered it.
        from: P,
        /// Which offer this is.
        nonce: Nonce,
    },
    /// The other one is the owner with `epoch`, whether it knows or not.
    Given {
        /// Of the other one's ownership.
        epoch: Epoch,
        /// Who that is.
        to: P,
        /// By which offer.
        nonce: Nonce,
        /// What was written while it was here. None: who gets it back has all there is.
        news: Option<N>,
    },
}

/// What appliances say to each other of one volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum What<N> {
    /// Be prepared to own the volume with this epoch.
    Offer(Epoch),
    /// I am prepared. Is it still so?
    Prepared,
    /// It is no longer so.
    Cancel,
    /// You own the volume with this epoch, and this is what was written; none: you have all there is.
    Give(Epoch, Option<N>),
    /// I want back what I gave you with this epoch.
    Return(Epoch),
}

/// Something said, by or to another appliance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Message<P, N> {
    /// Who says it, or to whom it is said.
    pub other: P,
    /// Of which offer.
    pub nonce: Nonce,
    /// What is said.
    pub what: What<N>,
}

/// What follows from something that was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction<P, N> {
    /// Nothing.
    None,
    /// The record is to become this.
    Become(Record<P, N>),
    /// This is to be said, at once.
    Say(Message<P, N>),
    /// The other side is prepared for the offer.
    Ready,
}

/// A deliberate mistake, for the program that looks whether it would be noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Who has nothing to do with a volume takes what it was ever given.
    TakeUnprepared,
    /// Who is prepared takes whatever it was ever given.
    TakeAnyEpoch,
    /// An offer is taken back after it was given.
    CancelAfterGiven,
    /// A cancelled offer leaves no memory of what was before.
    ForgetFloor,
    /// An offer that is older than what was given since is taken up again.
    OldOffers,
    /// What was written elsewhere does not come back.
    ReturnForgets,
    /// A return is granted for an ownership that ended.
    OldReturns,
    /// Who was prepared for an offer that was taken back does not take what it had asked for before.
    RefuseReturn,
}

/// The rules; with a flaw, if somebody wants to see it noticed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// What is wrong with them.
    pub flaw: Option<Flaw>,
}

impl<P, N> Default for Record<P, N> {
    fn default() -> Self {
        Self::Nothing { floor: 0 }
    }
}

impl<P: Copy + PartialEq, N: Copy + PartialEq> Record<P, N> {
    /// Whether it takes writes, unless it is about to change.
    #[must_use]
    pub fn is_owner(&self) -> bool {
        matches!(self, Self::Owned { .. } | Self::Offered { .. })
    }

    /// The newest epoch that it knows of.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        match *self {
            Self::Nothing { floor } => floor,
            Self::Owned { epoch }
            | Self::Offered { epoch, .. }
            | Self::Prepared { epoch, .. }
            | Self::Given { epoch, .. } => epoch,
        }
    }

    /// What it becomes when the volume is offered to another one.
    #[must_use]
    pub fn offer(&self, to: P, nonce: Nonce) -> Option<Self> {
        match *self {
            Self::Owned { epoch } => Some(Self::Offered { epoch, to, nonce }),
            _ => None,
        }
    }

    /// What it becomes when an offer is made good for which the other side is ready.
    #[must_use]
    pub fn hand_over(&self, news: N) -> Option<Self> {
        match *self {
            Self::Offered { epoch, to, nonce } => Some(Self::Given {
                epoch: epoch + 1,
                to,
                nonce,
                news: Some(news),
            }),
            _ => None,
        }
    }

    /// What it becomes when `by` has taken the volume over by force: its owner is no longer one as soon as it hears of that.
    #[must_use]
    pub fn supersede(&self, by: P, epoch: Epoch, news: N) -> Option<Self> {
        let is_older = self.is_owner() && self.epoch() < epoch;
        is_older.then_some(Self::Given {
            epoch,
            to: by,
            nonce: 0,
            news: Some(news),
        })
    }

    /// What it becomes when it takes over by force what it gave.
    #[must_use]
    pub fn take_over(&self) -> Option<Self> {
        match *self {
            Self::Given { epoch, .. } | Self::Nothing { floor: epoch } => Some(Self::Owned {
                epoch: epoch + FORCED,
            }),
            _ => None,
        }
    }

    /// What it tells another one because of what it is, again and again.
    #[must_use]
    pub fn says(&self) -> Option<Message<P, N>> {
        let (other, nonce, what) = match *self {
            Self::Offered { epoch, to, nonce } => (to, nonce, What::Offer(epoch + 1)),
            Self::Prepared { from, nonce, .. } => (from, nonce, What::Prepared),
            Self::Given {
                epoch,
                to,
                nonce,
                news,
            } => (to, nonce, What::Give(epoch, news)),
            Self::Nothing { .. } | Self::Owned { .. } => return None,
        };
        Some(Message { other, nonce, what })
    }

    /// What it says when it wants back what it gave.
    #[must_use]
    pub fn want_back(&self) -> Option<Message<P, N>> {
        match *self {
            Self::Given {
                epoch,
                to,
                nonce,
                news: Some(_),
            } => Some(Message {
                other: to,
                nonce,
                what: What::Return(epoch),
            }),
            _ => None,
        }
    }
}

impl Rules {
    fn has(self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// What a record becomes when an offer is taken back.
    #[must_use]
    pub fn cancel<P: Copy, N: Copy>(self, record: &Record<P, N>) -> Option<Record<P, N>> {
        match *record {
            Record::Offered { epoch, .. } => Some(Record::Owned { epoch }),
            Record::Given { epoch, .. } if self.has(Flaw::CancelAfterGiven) => {
                Some(Record::Owned { epoch: epoch - 1 })
            }
            _ => None,
        }
    }

    /// What follows from a message; `news` is what was written so far.
    #[must_use]
    pub fn hear<P: Copy + PartialEq, N: Copy + PartialEq>(
        self,
        record: &Record<P, N>,
        message: &Message<P, N>,
        news: N,
    ) -> Reaction<P, N> {
        let Message { other, nonce, what } = *message;
        match what {
            What::Offer(epoch) => self.hear_offer(record, epoch, other, nonce),
            What::Prepared => hear_prepared(record, other, nonce),
            What::Cancel => self.hear_cancel(record, other, nonce),
            What::Give(epoch, _) => self.hear_give(record, epoch, other),
            What::Return(epoch) => self.hear_return(record, epoch, (other, nonce), news),
        }
    }

    fn hear_offer<P: Copy, N>(
        self,
        record: &Record<P, N>,
        epoch: Epoch,
        from: P,
        nonce: Nonce,
    ) -> Reaction<P, N> {
        let is_news = match *record {
            Record::Nothing { floor } => epoch > floor,
            Record::Prepared {
                epoch: old,
                nonce: known,
                ..
            } => (epoch, nonce) > (old, known),
            Record::Given { epoch: given, .. } => epoch > given || self.has(Flaw::OldOffers),
            Record::Owned { .. } | Record::Offered { .. } => false,
        };
        match is_news {
            true => Reaction::Become(Record::Prepared { epoch, from, nonce }),
            false => Reaction::None,
        }
    }

    fn hear_cancel<P: Copy + PartialEq, N>(
        self,
        record: &Record<P, N>,
        other: P,
        nonce: Nonce,
    ) -> Reaction<P, N> {
        match *record {
            Record::Prepared {
                epoch,
                nonce: known,
                from,
            } if (nonce, other) == (known, from) => {
                // Another offer of the same epoch may come.
                let floor = match self.has(Flaw::ForgetFloor) {
                    true => 0,
                    false => epoch - 1,
                };
                Reaction::Become(Record::Nothing { floor })
            }
            _ => Reaction::None,
        }
    }

    /// An owner gives each epoch once, so who gives and which epoch is all that matters: a return and an offer may cross.
    fn hear_give<P: Copy + PartialEq, N>(
        self,
        record: &Record<P, N>,
        epoch: Epoch,
        from: P,
    ) -> Reaction<P, N> {
        let is_mine = match *record {
            Record::Prepared {
                epoch: mine,
                from: known,
                ..
            } => (epoch == mine && from == known) || self.has(Flaw::TakeAnyEpoch),
            // It comes back.
            Record::Given {
                epoch: given, to, ..
            } => epoch == given + 1 && from == to,
            // A return crossed an offer that was taken back. It is nobody else's, so it is taken. Who knows nothing takes nothing, and what is
            // not given with the epoch of that offer is of another time.
            Record::Nothing { floor } => {
                let is_crossed = floor > 0 && epoch == floor + 1;
                (is_crossed && !self.has(Flaw::RefuseReturn)) || self.has(Flaw::TakeUnprepared)
            }
            Record::Owned { .. } | Record::Offered { .. } => false,
        };
        match is_mine {
            true => Reaction::Become(Record::Owned { epoch }),
            false => Reaction::None,
        }
    }

    fn hear_return<P: Copy + PartialEq, N>(
        self,
        record: &Record<P, N>,
        epoch: Epoch,
        (to, nonce): (P, Nonce),
        news: N,
    ) -> Reaction<P, N> {
        let news = match *record {
            Record::Prepared {
                nonce: known, from, ..
            } if (nonce, to) == (known, from) => None,
            Record::Owned { epoch: mine } | Record::Offered { epoch: mine, .. }
                if mine == epoch || self.has(Flaw::OldReturns) =>
            {
                Some(news).filter(|_| !self.has(Flaw::ReturnForgets))
            }
            _ => return Reaction::None,
        };
        Reaction::Become(Record::Given {
            epoch: epoch + 1,
            to,
            nonce,
            news,
        })
    }
}

fn hear_prepared<P: Copy + PartialEq, N>(
    record: &Record<P, N>,
    from: P,
    nonce: Nonce,
) -> Reaction<P, N> {
    match record {
        Record::Offered {
            nonce: known, to, ..
        } if (*known, *to) == (nonce, from) => Reaction::Ready,
        // By this offer, or because it wanted back what it had given: it is told.
        Record::Given { to, .. } if *to == from => Reaction::None,
        _ => Reaction::Say(Message {
            other: from,
            nonce,
            what: What::Cancel,
        }),
    }
}
