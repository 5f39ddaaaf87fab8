//! Requests that come twice, with the same `Idempotency-Key`: done once, answered twice.
//!
//! Answers are remembered for an hour, in memory: a restart forgets them, and then a name that is taken tells that it was
//! done. What failed is not remembered, so it can be tried again.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::String;
use core::cell::RefCell;
use core::time::Duration;

use world::Instant;

use super::problem::Problem;
use super::router::Response;

/// The longest key.
const KEY_MAX: usize = 128;
/// The most requests that are remembered, and the most bytes of their answers.
const REPEATS_MAX: usize = 256;
const BYTES_MAX: usize = 256 << 10;
/// How long.
const MEMORY: Duration = Duration::from_secs(3600);

/// Requests with keys, oldest first.
#[derive(Default)]
pub(super) struct Repeats {
    all: RefCell<VecDeque<Known>>,
}

struct Known {
    /// Who asked, and the key.
    asked: (Rc<str>, String),
    /// What was asked.
    fingerprint: u64,
    at: Instant,
    /// `None` while it is being done.
    answer: Option<Response>,
}

/// What becomes of a request with a key.
pub(super) enum Repeat<'a> {
    /// It is new, and has to be done.
    New(Pending<'a>),
    /// It was done; this was the answer.
    Known(Response),
}

/// A request that is being done.
pub(super) struct Pending<'a> {
    of: &'a Repeats,
    asked: (Rc<str>, String),
}

impl Repeats {
    /// Looks whether `who` asked the same before, with the same `key`.
    ///
    /// # Errors
    /// 400 for what is no key; 409 while the first one is being done, or when it asked for something else.
    pub fn begin(
        &self,
        who: &Rc<str>,
        key: &str,
        fingerprint: u64,
        now: Instant,
    ) -> Result<Repeat<'_>, Problem> {
        let wrong = |status, detail| Err(Problem::of_field(status, "Idempotency-Key", detail));
        if !(1..=KEY_MAX).contains(&key.len()) || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return wrong(
                400,
                "`Idempotency-Key` must be 1 to 128 visible ASCII characters",
            );
        }
        let mut all = self.all.borrow_mut();
        all.retain(|known| now.since(known.at) < MEMORY);
        let asked = (who.clone(), String::from(key));
        if let Some(known) = all.iter().find(|known| known.asked == asked) {
            return match &known.answer {
                _ if known.fingerprint != fingerprint => {
                    wrong(409, "this `Idempotency-Key` was used for another request")
                }
                None => wrong(
                    409,
                    "the first request with this `Idempotency-Key` is not done yet",
                ),
                Some(answer) => Ok(Repeat::Known(answer.clone())),
            };
        }
        while all.len() >= REPEATS_MAX || bytes(&all) > BYTES_MAX {
            all.pop_front();
        }
        all.push_back(Known {
            asked: asked.clone(),
            fingerprint,
            at: now,
            answer: None,
        });
        Ok(Repeat::New(Pending { of: self, asked }))
    }
}

fn bytes(all: &VecDeque<Known>) -> usize {
    let answers = all.iter().filter_map(|known| known.answer.as_ref());
    answers.map(|answer| answer.body.len()).sum()
}

impl Pending<'_> {
    /// Remembers the answer.
    pub fn done(self, answer: &Response) {
        let mut all = self.of.all.borrow_mut();
        if let Some(known) = all.iter_mut().find(|known| known.asked == self.asked) {
            known.answer = Some(answer.clone());
        }
    }
}

/// What was not done is forgotten.
impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let mut all = self.of.all.borrow_mut();
        all.retain(|known| known.answer.is_some() || known.asked != self.asked);
    }
}
