//! What was changed, by whom, and what came of it: the last few hundred changes.
//!
//! Entries are kept in records of the store, `audit/SLOT`, as many lines of JSON as fit in each; the oldest record is
//! overwritten. They are written a moment later, all of that moment together, so that a change costs no more because of
//! it; a power cut may take the last second's. The log has each of them at once.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::time::Duration;

use exec::{Exec, Notify, Semaphore};
use serde::{Deserialize, Serialize};
use store::{Store, StoreError};
use world::Disk;

/// What keys of records of entries begin with.
const KEY: &str = "audit/";
/// The most records.
const SLOTS: u64 = 32;
/// The most bytes of a record.
const RECORD_BYTES: usize = 3072;
/// The longest text of an entry in bytes; what is longer is cut.
const TEXT_MAX: usize = 256;
/// How long changes wait for others that are kept with them.
const DELAY: Duration = Duration::from_secs(1);

/// A change, or the attempt at one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// A number that only grows.
    pub id: u64,
    /// Nanoseconds since 1970; 0 when nobody knew.
    pub at_nanos: u64,
    /// The name of the token that was presented.
    pub who: String,
    /// The address from which it came.
    pub from: String,
    /// What was asked: method and target.
    pub what: String,
    /// With what: the body, cut if it is long.
    pub with: String,
    /// The answer's status.
    pub status: u16,
    /// Why it was refused; empty if it was not.
    pub error: String,
}

/// The audit log of one appliance; clones are the same one.
pub struct Audit<D> {
    shared: Rc<Shared<D>>,
}

impl<D> Clone for Audit<D> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

struct Shared<D> {
    exec: Exec,
    store: Option<Store<D>>,
    /// Oldest first; entries are added to the last one.
    pages: RefCell<VecDeque<Page>>,
    next_id: Cell<u64>,
    changed: Notify,
    /// One saves at a time.
    turn: Semaphore,
}

/// The entries of one record.
#[derive(Default)]
struct Page {
    slot: u64,
    entries: Vec<Entry>,
    bytes: usize,
    /// Entries that its record has.
    saved: usize,
}

impl<D: Disk + 'static> Audit<D> {
    /// Reads what was kept. Without a store entries end with the run.
    pub async fn open(exec: Exec, store: Option<Store<D>>) -> Self {
        let audit = Self {
            shared: Rc::new(Shared {
                exec: exec.clone(),
                store: store.clone(),
                pages: RefCell::default(),
                next_id: Cell::new(1),
                changed: Notify::default(),
                turn: Semaphore::new(1),
            }),
        };
        if let Some(store) = store {
            audit.shared.load(&store).await;
            exec.spawn(audit.clone().keep(store));
        }
        audit
    }

    /// Notes a change; its number and time are set here. Written a moment later.
    pub fn note(&self, entry: Entry) {
        let shared = &self.shared;
        let id = shared.next_id.get();
        shared.next_id.set(id + 1);
        let entry = Entry {
            id,
            at_nanos: shared.exec.clock().wall_nanos().unwrap_or(0),
            who: cut(entry.who),
            from: cut(entry.from),
            what: cut(entry.what),
            with: cut(entry.with),
            error: cut(entry.error),
            ..entry
        };
        log::info!(
            "{} from {}: {} {}: {}{}{}",
            entry.who,
            entry.from,
            entry.what,
            in_one(&entry.with),
            entry.status,
            if entry.error.is_empty() { "" } else { ", " },
            entry.error
        );
        shared.add(entry);
        shared.changed.notify();
    }

    /// The newest entries before number `before`, at most `limit`, newest first.
    #[must_use]
    pub fn list(&self, before: Option<u64>, limit: usize) -> Vec<Entry> {
        let pages = self.shared.pages.borrow();
        let entries = pages
            .iter()
            .rev()
            .flat_map(|page| page.entries.iter().rev());
        let wanted = entries.filter(|entry| before.is_none_or(|before| entry.id < before));
        wanted.take(limit).cloned().collect()
    }

    /// Writes what is not written yet; durable when this returns.
    ///
    /// # Errors
    /// What the store says.
    pub async fn save(&self) -> Result<(), StoreError> {
        match &self.shared.store {
            Some(store) => self.shared.save(store).await,
            None => Ok(()),
        }
    }

    async fn keep(self, store: Store<D>) {
        let mut is_told = false;
        loop {
            self.shared.changed.wait().await;
            self.shared.exec.sleep(DELAY).await;
            match self.shared.save(&store).await {
                Ok(()) => is_told = false,
                Err(error) if !is_told => {
                    log::warn!("the audit log cannot be kept: {error}");
                    is_told = true;
                }
                Err(_) => {}
            }
        }
    }
}

/// A text without its line ends and runs of spaces: what people send is often arranged for their eyes.
fn in_one(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split_ascii_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}

impl<D: Disk + 'static> Shared<D> {
    async fn load(&self, store: &Store<D>) {
        let mut pages = Vec::new();
        for key in store.record_keys() {
            let slot = key.strip_prefix(KEY).and_then(|slot| slot.parse().ok());
            let Some(slot) = slot.filter(|slot| *slot < SLOTS) else {
                continue;
            };
            match store.record(&key).await {
                Ok(Some(bytes)) => pages.push(Page::decode(slot, &bytes)),
                _ => log::warn!("a part of the audit log, {key}, cannot be read"),
            }
        }
        pages.retain(|page| !page.entries.is_empty());
        pages.sort_by_key(|page| page.entries[0].id);
        let last = pages.last().and_then(|page| page.entries.last());
        self.next_id.set(last.map_or(1, |entry| entry.id + 1));
        *self.pages.borrow_mut() = pages.into();
    }

    fn add(&self, entry: Entry) {
        let mut pages = self.pages.borrow_mut();
        let bytes = line(&entry).len();
        let has_room = |page: &Page| page.bytes + bytes <= RECORD_BYTES;
        if !pages.back().is_some_and(has_room) {
            let slot = pages.back().map_or(0, |page| (page.slot + 1) % SLOTS);
            // What that record had goes.
            pages.retain(|page| page.slot != slot);
            pages.push_back(Page {
                slot,
                ..Page::default()
            });
        }
        if let Some(page) = pages.back_mut() {
            page.bytes += bytes;
            page.entries.push(entry);
        }
    }

    async fn save(&self, store: &Store<D>) -> Result<(), StoreError> {
        let _turn = self.turn.acquire().await;
        loop {
            let unsaved = |page: &&Page| page.saved < page.entries.len();
            let next = self.pages.borrow().iter().find(unsaved).map(Page::encode);
            let Some((slot, first, count, bytes)) = next else {
                return Ok(());
            };
            store
                .set_record(&format!("{KEY}{slot}"), Some(&bytes))
                .await?;
            let mut pages = self.pages.borrow_mut();
            let written = |page: &&mut Page| page.entries.first().is_some_and(|e| e.id == first);
            if let Some(page) = pages.iter_mut().find(written) {
                page.saved = count;
            }
        }
    }
}

impl Page {
    /// Slot, first entry, number of entries, and the record.
    fn encode(&self) -> (u64, u64, usize, Vec<u8>) {
        let bytes: Vec<u8> = self.entries.iter().flat_map(line).collect();
        let first = self.entries.first().map_or(0, |entry| entry.id);
        (self.slot, first, self.entries.len(), bytes)
    }

    /// Lines that cannot be read are left out.
    fn decode(slot: u64, bytes: &[u8]) -> Self {
        let lines = bytes.split(|byte| *byte == b'\n');
        let entries: Vec<Entry> = lines
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect();
        Self {
            slot,
            saved: entries.len(),
            entries,
            bytes: bytes.len(),
        }
    }
}

fn line(entry: &Entry) -> Vec<u8> {
    let mut line = serde_json::to_vec(entry).expect("our own types become JSON");
    line.push(b'\n');
    line
}

/// `text` without control characters, not longer than an entry may have.
fn cut(mut text: String) -> String {
    if text.contains(char::is_control) {
        text = text.replace(char::is_control, " ");
    }
    if text.len() > TEXT_MAX {
        let mut ends = (0..=TEXT_MAX - '…'.len_utf8()).rev();
        let end = ends.find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_body_is_logged_in_one_line() {
        assert_eq!(
            in_one("{\n    \"name\":  \"db\"\n}\n"),
            "{ \"name\": \"db\" }"
        );
        assert_eq!(in_one(""), "");
    }

    #[test]
    fn texts_are_cut_between_characters_and_stay_on_one_line() {
        assert_eq!(cut("a\nb\u{7}".to_string()), "a b ");
        let long = cut("é".repeat(300));
        assert!(long.len() <= TEXT_MAX && long.ends_with("é…"), "{long}");
    }

    /// An entry of the longest texts fits in a record, whatever is escaped in it.
    #[test]
    fn the_longest_entry_fits() {
        let text = "\"".repeat(TEXT_MAX);
        let entry = Entry {
            id: u64::MAX,
            at_nanos: u64::MAX,
            who: text.clone(),
            from: text.clone(),
            what: text.clone(),
            with: text.clone(),
            status: 999,
            error: text,
        };
        assert!(line(&entry).len() <= RECORD_BYTES, "{}", line(&entry).len());
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let mut bytes = line(&Entry {
            id: 7,
            ..Entry::default()
        });
        bytes.extend(b"{\"id\":\n\xff\n");
        let page = Page::decode(3, &bytes);
        assert_eq!((page.slot, page.entries.len(), page.saved), (3, 1, 1));
        assert_eq!(page.entries[0].id, 7);
    }
}
