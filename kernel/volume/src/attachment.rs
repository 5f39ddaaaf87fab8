//! Who is attached to what, and how attachments end.
//!
//! ```text
//!           delete, rollback              done
//! Open ───────────────────────► Ending ─────────► Ended (its clients are told, nobody else can reach it)
//!   ▲                              │ failed
//!   └──────────────────────────────┘
//! ```
//!
//! From `Ending` on every new operation is refused, so whoever ends an attachment only has to wait until those under way
//! are through ([`Ending::quiet`]).

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::net::IpAddr;

use exec::Notify;
use store::Source;

use crate::{Standing, VolumeError};

/// Why an attachment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Deleted,
    RolledBack,
}

impl End {
    /// What operations fail with then.
    fn error(self) -> VolumeError {
        match self {
            Self::Deleted => VolumeError::Deleted,
            Self::RolledBack => VolumeError::RolledBack,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Ending(End),
    Ended(End),
}

/// What all clients of one volume or snapshot share.
pub(crate) struct Attachment {
    pub source: Source,
    /// What it was called when the first of them came.
    pub name: String,
    pub size_bytes: Cell<u64>,
    /// Users want no writes to it.
    pub read_only: Cell<bool>,
    clients: Cell<usize>,
    /// From where they come, as far as that is known, and how many from each.
    peers: RefCell<BTreeMap<IpAddr, usize>>,
    /// Operations of clients under way.
    busy: Cell<usize>,
    /// Those of nobody's under way: they read whosever it is, and hold up no change of that.
    inside: Cell<usize>,
    state: Cell<State>,
    /// Whose the volume is.
    pub standing: Cell<Standing>,
    /// The last operation is through, or the end has come.
    changed: Notify,
}

impl Attachment {
    /// Whether it still serves.
    ///
    /// # Errors
    /// Why not.
    pub fn require_open(&self) -> Result<(), VolumeError> {
        match self.state.get() {
            State::Open => Ok(()),
            State::Ending(end) | State::Ended(end) => Err(end.error()),
        }
    }

    /// Waits until no client's operation is under way. For who refuses new ones.
    pub async fn quiet(&self) {
        while self.busy.get() > 0 {
            self.changed.wait().await;
        }
    }

    /// Waits until it is about to end, and tells why.
    pub async fn ending(&self) -> VolumeError {
        loop {
            if let Err(end) = self.require_open() {
                return end;
            }
            self.changed.wait().await;
        }
    }

    /// Waits until it has ended, and tells why.
    pub async fn ended(&self) -> VolumeError {
        loop {
            if let State::Ended(end) = self.state.get() {
                return end.error();
            }
            self.changed.wait().await;
        }
    }
}

/// All attachments; what nobody is attached to has no entry.
#[derive(Default)]
pub(crate) struct Attachments {
    table: RefCell<BTreeMap<Source, Rc<Attachment>>>,
    /// Operations that were begun so far.
    operations: Cell<u64>,
}

impl Attachments {
    /// The attachment of `source`, made when there is none.
    fn entry(&self, source: Source, name: &str, size_bytes: u64) -> Rc<Attachment> {
        let mut table = self.table.borrow_mut();
        let entry = table.entry(source).or_insert_with(|| {
            Rc::new(Attachment {
                source,
                name: name.into(),
                size_bytes: Cell::new(size_bytes),
                read_only: Cell::new(false),
                clients: Cell::new(0),
                peers: RefCell::default(),
                busy: Cell::new(0),
                inside: Cell::new(0),
                state: Cell::new(State::Open),
                standing: Cell::default(),
                changed: Notify::default(),
            })
        });
        entry.clone()
    }

    /// Attaches a client at `peer`, if that is known.
    ///
    /// # Errors
    /// While it is ending: why.
    pub fn attach(
        &self,
        source: Source,
        name: &str,
        size_bytes: u64,
        peer: Option<IpAddr>,
    ) -> Result<Rc<Attachment>, VolumeError> {
        let attachment = self.entry(source, name, size_bytes);
        attachment.require_open()?;
        attachment.clients.set(attachment.clients.get() + 1);
        if let Some(peer) = peer {
            *attachment.peers.borrow_mut().entry(peer).or_default() += 1;
        }
        Ok(attachment)
    }

    /// Detaches a client.
    pub fn detach(&self, attachment: &Rc<Attachment>, peer: Option<IpAddr>) {
        attachment.clients.set(attachment.clients.get() - 1);
        if let Some(peer) = peer {
            let mut peers = attachment.peers.borrow_mut();
            let left = peers.get(&peer).map_or(0, |count| count - 1);
            match left {
                0 => peers.remove(&peer),
                left => peers.insert(peer, left),
            };
        }
        self.forget_unused(attachment);
    }

    /// From where clients of `source` come, as far as that is known.
    pub fn peers(&self, source: Source) -> Vec<IpAddr> {
        let entry = self.get(source);
        entry.map_or_else(Vec::new, |entry| {
            entry.peers.borrow().keys().copied().collect()
        })
    }

    /// Clients attached to `source`.
    pub fn clients(&self, source: Source) -> usize {
        self.get(source).map_or(0, |entry| entry.clients.get())
    }

    /// The attachment of `source`, if there is one.
    pub fn get(&self, source: Source) -> Option<Rc<Attachment>> {
        self.table.borrow().get(&source).cloned()
    }

    /// Operations that were begun so far.
    pub fn operations(&self) -> u64 {
        self.operations.get()
    }

    /// Counts a client's operation until the result is dropped.
    pub fn operate<'a>(&self, attachment: &'a Attachment) -> Operation<'a> {
        self.operations.set(self.operations.get() + 1);
        Operation::begin(attachment, &attachment.busy)
    }

    /// The same for what is no client's.
    pub fn operate_inside(attachment: &Attachment) -> Operation<'_> {
        Operation::begin(attachment, &attachment.inside)
    }

    /// Begins to end `first`, and those of `others` that have clients and are not ending already.
    ///
    /// # Errors
    /// `first` is ending already, or one of them has clients and it is not forced.
    pub fn end(
        &self,
        first: (Source, &str, u64),
        others: impl Iterator<Item = Source>,
        why: End,
        force: bool,
    ) -> Result<Ending<'_>, VolumeError> {
        let (source, name, size_bytes) = first;
        // It gets an entry even without clients, so that nobody attaches meanwhile.
        let first = self.entry(source, name, size_bytes);
        first.require_open()?;
        let others = others.filter_map(|source| self.get(source));
        let others = others.filter(|entry| entry.require_open().is_ok());
        let all: Vec<_> = [first].into_iter().chain(others).collect();
        let clients: usize = all.iter().map(|entry| entry.clients.get()).sum();
        if clients > 0 && !force {
            self.forget_unused(&all[0]);
            return Err(VolumeError::Attached(clients));
        }
        for entry in &all {
            entry.state.set(State::Ending(why));
            entry.changed.notify();
        }
        Ok(Ending {
            attachments: self,
            entries: all,
            why,
        })
    }

    fn forget_unused(&self, attachment: &Rc<Attachment>) {
        let is_used =
            attachment.clients.get() > 0 || matches!(attachment.state.get(), State::Ending(_));
        if is_used {
            return;
        }
        let mut table = self.table.borrow_mut();
        // After a rollback the place may be that of a newer attachment.
        if (table.get(&attachment.source)).is_some_and(|entry| Rc::ptr_eq(entry, attachment)) {
            table.remove(&attachment.source);
        }
    }
}

/// An operation under way.
pub(crate) struct Operation<'a> {
    attachment: &'a Attachment,
    /// Where it is counted.
    counter: &'a Cell<usize>,
}

impl<'a> Operation<'a> {
    fn begin(attachment: &'a Attachment, counter: &'a Cell<usize>) -> Self {
        counter.set(counter.get() + 1);
        Self {
            attachment,
            counter,
        }
    }
}

impl Drop for Operation<'_> {
    fn drop(&mut self) {
        let left = self.counter.get() - 1;
        self.counter.set(left);
        let is_open = self.attachment.state.get() == State::Open;
        if left == 0 && !(is_open && self.attachment.standing.get() == Standing::Owner) {
            self.attachment.changed.notify();
        }
    }
}

/// Attachments that are ending; open again when dropped before [`confirm`](Self::confirm).
pub(crate) struct Ending<'a> {
    attachments: &'a Attachments,
    entries: Vec<Rc<Attachment>>,
    why: End,
}

impl Ending<'_> {
    /// Waits until no operation is under way.
    pub async fn quiet(&self) {
        for entry in &self.entries {
            entry.quiet().await;
            while entry.inside.get() > 0 {
                entry.changed.wait().await;
            }
        }
    }

    /// It is done: their clients are told.
    pub fn confirm(self) {
        for entry in &self.entries {
            entry.state.set(State::Ended(self.why));
            self.attachments.table.borrow_mut().remove(&entry.source);
            entry.changed.notify();
        }
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        for entry in &self.entries {
            if matches!(entry.state.get(), State::Ending(_)) {
                entry.state.set(State::Open);
                self.attachments.forget_unused(entry);
            }
        }
    }
}
