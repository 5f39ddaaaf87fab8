//! An appliance: its drives, which take a while, its memory, which it loses, and the rules.

use super::Mutant;
use super::rules::{Message, Nonce, Reaction, Record, Rules, What};

pub type Version = u8;

type Owner = Record<usize, Version>;

/// An appliance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Side {
    pub record: Owner,
    /// On its way to the drives, with what it will have of the volume then.
    pending: Option<(Owner, Version)>,
    /// The newest write that it has, itself or through where it came from.
    pub version: Version,
    /// The other one said that it is prepared for the offer.
    is_ready: bool,
    /// Since it last changed its record; only a deliberate bug asks.
    pub was_restarted: bool,
}

/// Something that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Letter {
    pub to: usize,
    /// As whoever gets it hears it.
    heard: Message<usize, Version>,
}

impl Letter {
    /// What `from` says.
    fn new(from: usize, said: Message<usize, Version>) -> Self {
        let heard = Message {
            other: from,
            ..said
        };
        Self {
            to: said.other,
            heard,
        }
    }

    pub fn is_return(&self) -> bool {
        matches!(self.heard.what, What::Return(_))
    }
}

fn rules(mutant: Option<Mutant>) -> Rules {
    Rules {
        flaw: mutant.and_then(Mutant::flaw),
    }
}

impl Side {
    /// Whether it takes writes.
    pub fn serves(&self, mutant: Option<Mutant>) -> bool {
        let is_giving = matches!(self.pending, Some((Record::Given { .. }, _)));
        self.record.is_owner() && (!is_giving || mutant == Some(Mutant::ServeWhileGiving))
    }

    /// Begins to change its record, unless it is at that already.
    fn change(&mut self, record: Option<Owner>, version: Version) {
        if let Some(record) = record
            && self.pending.is_none()
            && record != self.record
        {
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
        let is_giver = matches!(self.record, Record::Given { .. });
        self.was_restarted |= self.pending.is_some() || self.is_ready || is_giver;
        self.pending = None;
        self.is_ready = false;
    }

    pub fn offer(&mut self, to: usize, nonce: Nonce) -> bool {
        let is_free = self.pending.is_none();
        let offered = self.record.offer(to, nonce);
        self.change(offered, self.version);
        offered.is_some() && is_free
    }

    pub fn hand_over(&mut self) {
        if self.is_ready {
            self.change(self.record.hand_over(self.version), self.version);
        }
    }

    pub fn cancel(&mut self, mutant: Option<Mutant>) {
        self.change(rules(mutant).cancel(&self.record), self.version);
    }

    pub fn want_back(&mut self, id: usize, mutant: Option<Mutant>) -> Option<Letter> {
        let said = self.record.want_back()?;
        if mutant == Some(Mutant::TakeBack) {
            let epoch = self.record.epoch() + 1;
            self.change(Some(Record::Owned { epoch }), self.version);
            return None;
        }
        Some(Letter::new(id, said))
    }

    /// What it tells others because of its record, again and again.
    pub fn says(&self, id: usize, mutant: Option<Mutant>) -> Option<Letter> {
        let record = match self.pending {
            Some((record, _)) if mutant == Some(Mutant::SendBeforeFlush) => record,
            _ => self.record,
        };
        record.says().map(|said| Letter::new(id, said))
    }

    /// Something arrives; what it answers at once.
    pub fn hear(&mut self, letter: &Letter, mutant: Option<Mutant>) -> Option<Letter> {
        let Letter { to: id, heard } = letter;
        match rules(mutant).hear(&self.record, heard, self.version) {
            Reaction::None => None,
            Reaction::Become(record) => {
                let version = match heard.what {
                    What::Give(_, Some(version)) => version,
                    _ => self.version,
                };
                self.change(Some(record), version);
                None
            }
            Reaction::Say(said) => Some(Letter::new(*id, said)),
            Reaction::Ready => {
                self.is_ready = true;
                None
            }
        }
    }
}
