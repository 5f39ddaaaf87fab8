//! The model `handover`: who owns a volume while it moves from one appliance to another.
//!
//! Every state that two or three appliances can come into is visited, not a sample of them: clients write, users offer, hand over,
//! cancel and want back, appliances restart at any moment, and the network delivers whatever was ever sent, in any order and as often as it likes,
//! or never. In each state at most one appliance takes writes, and it has all that were acknowledged. From each state there is a way on which drives finish and
//! what appliances say *now* arrives, and nobody does anything, to one where some appliance takes them: that an old message comes once more is no help.
//!
//! The rules are those of `kernel/migration`, the same file.

#[expect(
    dead_code,
    reason = "taking over by force makes a second history on purpose"
)]
#[path = "../../../../kernel/migration/src/rules.rs"]
mod rules;
mod side;

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use anyhow::{Result, bail};

use rules::{Flaw, Nonce, Record};
use side::{Letter, Side, Version};

/// How far the model goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Appliances; the first has the volume.
    pub sides: usize,
    /// Offers in all.
    pub offers: Nonce,
    /// Times that somebody wants back what he gave.
    pub returns: usize,
    /// Writes in all.
    pub writes: Version,
}

/// Worlds that every test run visits, and deliberate bugs show themselves in.
pub const SMALL: [Bounds; 2] = [Bounds::new(2, 2, 1, 2), Bounds::new(3, 2, 1, 1)];

/// Larger ones, for the program.
pub const WORLDS: [Bounds; 3] = [
    Bounds::new(2, 3, 2, 2),
    Bounds::new(3, 2, 2, 1),
    Bounds::new(3, 3, 1, 1),
];

impl Bounds {
    const fn new(sides: usize, offers: Nonce, returns: usize, writes: Version) -> Self {
        Self {
            sides,
            offers,
            returns,
            writes,
        }
    }
}

/// What was visited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Visited {
    /// States.
    pub states: usize,
    /// Ways from one to another.
    pub steps: usize,
}

impl fmt::Display for Visited {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} states, {} steps", self.states, self.steps)
    }
}

/// A deliberate bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Who gives goes on to take writes until that is durable.
    ServeWhileGiving,
    /// What is not durable yet is told to others.
    SendBeforeFlush,
    /// Who was not prepared takes what it is given.
    TakeUnprepared,
    /// Who is prepared takes whatever it was ever given.
    TakeAnyEpoch,
    /// An offer is taken back after it was given.
    CancelAfterGiven,
    /// A cancelled offer leaves no memory of what was before.
    ForgetFloor,
    /// An offer that is older than what was given since is taken up again.
    OldOffers,
    /// Who wants back what it gave takes it without being given it.
    TakeBack,
    /// What was written elsewhere does not come back.
    ReturnForgets,
    /// A return is granted for an ownership that ended.
    OldReturns,
    /// What was given is told once only.
    GiveOnce,
    /// Who was prepared for an offer that was taken back does not take what it had asked for before.
    RefuseReturn,
}

/// All of them.
pub const MUTANTS: [Mutant; 12] = [
    Mutant::ServeWhileGiving,
    Mutant::SendBeforeFlush,
    Mutant::TakeUnprepared,
    Mutant::TakeAnyEpoch,
    Mutant::CancelAfterGiven,
    Mutant::ForgetFloor,
    Mutant::OldOffers,
    Mutant::TakeBack,
    Mutant::ReturnForgets,
    Mutant::OldReturns,
    Mutant::GiveOnce,
    Mutant::RefuseReturn,
];

impl Mutant {
    /// What of it is a mistake in the rules.
    fn flaw(self) -> Option<Flaw> {
        Some(match self {
            Self::TakeUnprepared => Flaw::TakeUnprepared,
            Self::TakeAnyEpoch => Flaw::TakeAnyEpoch,
            Self::CancelAfterGiven => Flaw::CancelAfterGiven,
            Self::ForgetFloor => Flaw::ForgetFloor,
            Self::OldOffers => Flaw::OldOffers,
            Self::ReturnForgets => Flaw::ReturnForgets,
            Self::OldReturns => Flaw::OldReturns,
            Self::RefuseReturn => Flaw::RefuseReturn,
            Self::ServeWhileGiving | Self::SendBeforeFlush | Self::TakeBack | Self::GiveOnce => {
                return None;
            }
        })
    }
}

/// All appliances, and all that was ever sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    sides: Vec<Side>,
    sent: BTreeSet<Letter>,
    offers: Nonce,
    /// The newest write that was acknowledged.
    newest: Version,
}

/// A step, and whether it happens by itself.
struct Step {
    name: String,
    is_by_itself: bool,
    to: State,
}

impl State {
    fn start(bounds: Bounds) -> Self {
        let mut sides = vec![Side::default(); bounds.sides];
        sides[0].record = Record::Owned { epoch: 1 };
        Self {
            sides,
            sent: BTreeSet::new(),
            offers: 0,
            newest: 0,
        }
    }

    fn owners(&self, mutant: Option<Mutant>) -> impl Iterator<Item = usize> + '_ {
        let sides = self.sides.iter().enumerate();
        let owners = sides.filter(move |(_, side)| side.serves(mutant));
        owners.map(|(id, _)| id)
    }

    fn check(&self, mutant: Option<Mutant>) -> Result<()> {
        let owners: Vec<usize> = self.owners(mutant).collect();
        if owners.len() > 1 {
            bail!("{owners:?} take writes at the same time");
        }
        if let Some(owner) = owners.first()
            && self.sides[*owner].version != self.newest
        {
            bail!("{owner} takes writes, but lacks some");
        }
        Ok(())
    }

    /// Everything that can happen next.
    fn steps(&self, bounds: Bounds, mutant: Option<Mutant>) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut add = |name: String, is_by_itself, to: State| {
            if to != *self {
                steps.push(Step {
                    name,
                    is_by_itself,
                    to,
                });
            }
        };
        for id in 0..self.sides.len() {
            for (name, to) in self.wishes(id, bounds, mutant) {
                add(name, false, to);
            }
            let mut to = self.clone();
            to.sides[id].restart();
            add(format!("{id} restarts"), false, to);
            let mut to = self.clone();
            to.sides[id].flush();
            add(format!("{id} flushes"), true, to);
            let mut to = self.clone();
            to.sent.extend(self.sides[id].says(id, mutant));
            let once = mutant == Some(Mutant::GiveOnce) && self.sides[id].was_restarted;
            if !once {
                add(format!("{id} says where it is"), true, to);
            }
        }
        for letter in &self.sent {
            let mut to = self.clone();
            let answer = to.sides[letter.to].hear(letter, mutant);
            to.sent.extend(answer);
            add(
                format!("{letter:?} arrives"),
                self.is_fresh(letter, mutant),
                to,
            );
        }
        steps
    }

    /// Whether somebody says this now, or would answer it to what somebody says now.
    fn is_fresh(&self, letter: &Letter, mutant: Option<Mutant>) -> bool {
        let mut sides = self.sides.iter().enumerate();
        sides.any(|(id, side)| {
            side.says(id, mutant).is_some_and(|said| {
                let answer = || self.sides[said.to].clone().hear(&said, mutant);
                said == *letter || answer() == Some(*letter)
            })
        })
    }

    /// What clients and users may want of an appliance.
    fn wishes(&self, id: usize, bounds: Bounds, mutant: Option<Mutant>) -> Vec<(String, State)> {
        let mut wishes = Vec::new();
        let side = &self.sides[id];
        if side.serves(mutant) && self.newest < bounds.writes {
            let mut to = self.clone();
            to.newest += 1;
            to.sides[id].version = to.newest;
            wishes.push((format!("{id} is written to"), to));
        }
        if self.offers < bounds.offers {
            for other in (0..self.sides.len()).filter(|other| *other != id) {
                let mut to = self.clone();
                to.offers += 1;
                if to.sides[id].offer(other, to.offers) {
                    wishes.push((format!("{id} offers to {other}"), to));
                }
            }
        }
        let mut to = self.clone();
        to.sides[id].hand_over();
        wishes.push((format!("{id} hands over"), to));
        let mut to = self.clone();
        to.sides[id].cancel(mutant);
        wishes.push((format!("{id} cancels"), to));
        let returns = self.sent.iter().filter(|letter| letter.is_return());
        if returns.count() < bounds.returns {
            let mut to = self.clone();
            let letter = to.sides[id].want_back(id, mutant);
            to.sent.extend(letter);
            wishes.push((format!("{id} wants back"), to));
        }
        wishes
    }
}

/// Visits every state.
///
/// # Errors
/// The first state that must not be, and the way there.
pub fn explore(bounds: Bounds, mutant: Option<Mutant>) -> Result<Visited> {
    let start = State::start(bounds);
    let mut numbers: HashMap<State, usize> = HashMap::from([(start.clone(), 0)]);
    let mut states = vec![start];
    // From where each state was reached first, and how.
    let mut came: Vec<(usize, String)> = vec![(0, String::new())];
    // The ways that are gone by themselves, backwards.
    let mut back: Vec<Vec<usize>> = vec![Vec::new()];
    let mut visited = Visited::default();
    let mut next = 0;
    while next < states.len() {
        let state = states[next].clone();
        if let Err(what) = state.check(mutant) {
            bail!("{what}:{}\n  {:?}", way(&came, next), state.sides);
        }
        for Step {
            name,
            is_by_itself,
            to,
        } in state.steps(bounds, mutant)
        {
            visited.steps += 1;
            let number = *numbers.entry(to).or_insert_with_key(|to| {
                states.push(to.clone());
                came.push((next, name));
                back.push(Vec::new());
                states.len() - 1
            });
            if is_by_itself {
                back[number].push(next);
            }
        }
        next += 1;
    }
    visited.states = states.len();
    // Backwards from where somebody takes writes.
    let mut is_fine: Vec<bool> = states
        .iter()
        .map(|state| state.owners(mutant).next().is_some())
        .collect();
    let mut waiting: Vec<usize> = (0..states.len()).filter(|at| is_fine[*at]).collect();
    while let Some(at) = waiting.pop() {
        for from in &back[at] {
            if !std::mem::replace(&mut is_fine[*from], true) {
                waiting.push(*from);
            }
        }
    }
    if let Some(stuck) = is_fine.iter().position(|is_fine| !is_fine) {
        let sides = &states[stuck].sides;
        bail!(
            "nobody ever takes writes again:{}\n  {sides:?}",
            way(&came, stuck)
        );
    }
    Ok(visited)
}

/// The steps from the beginning to a state.
fn way(came: &[(usize, String)], mut at: usize) -> String {
    let mut names = Vec::new();
    while at != 0 {
        let (from, name) = &came[at];
        names.push(format!("\n  {name}"));
        at = *from;
    }
    names.reverse();
    names.concat()
}
