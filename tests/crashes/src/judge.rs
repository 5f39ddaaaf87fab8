//! What must be there at a crash point.

use crate::story::{Action, State, Story};

/// What a story promises, on its way through the record. Moves forward only.
#[derive(Debug)]
pub struct Promise<'a> {
    story: &'a Story,
    /// What certainly survives.
    durable: State,
    /// Events that this includes.
    events: usize,
}

impl<'a> Promise<'a> {
    /// The beginning of a story: nothing.
    #[must_use]
    pub fn new(story: &'a Story) -> Self {
        Self {
            story,
            durable: State::default(),
            events: 0,
        }
    }

    /// Judges what is found when the power fails with the first `length` bytes of the record done.
    ///
    /// It must be what some prefix of the client's requests made: at least those up to the last one whose answer promised
    /// that, at most all that were sent, and of the last one any part: a request is many records of the journal.
    ///
    /// # Errors
    /// What differs, from the prefix that is most like it.
    pub fn judge(&mut self, length: u64, found: &State) -> Result<(), String> {
        let events = &self.story.events;
        let acknowledged = events.partition_point(|event| event.acknowledged <= length);
        let under_way = events.get(acknowledged).filter(|event| event.sent < length);
        let last_durable = (self.events..acknowledged)
            .rev()
            .find(|&at| events[at].action.is_durable());
        let durable = last_durable.map_or(self.events, |at| at + 1);
        for (at, event) in (self.events..).zip(&events[self.events..durable]) {
            self.durable.apply(stamp_of(at), &event.action);
        }
        self.events = durable;

        let mut state = self.durable.clone();
        let mut nearest = (usize::MAX, String::new());
        let mut compare = |state: &State, at: usize| match difference(state, found) {
            None => true,
            Some((count, what)) => {
                if count <= nearest.0 {
                    nearest = (count, format!("after {at} requests {what}"));
                }
                false
            }
        };
        let sent = acknowledged + usize::from(under_way.is_some());
        if compare(&state, durable) {
            return Ok(());
        }
        for (at, event) in (durable..).zip(&events[durable..sent]) {
            let before = state.clone();
            state.apply(stamp_of(at), &event.action);
            if is_data(&event.action) {
                let mut part = state.clone();
                take_over_part(&mut part, &before, found);
                if difference(&part, found).is_none() {
                    return Ok(());
                }
            }
            if compare(&state, at + 1) {
                return Ok(());
            }
        }
        Err(format!(
            "client {}: {durable} requests are durable, {acknowledged} acknowledged, {sent} sent; {}",
            self.story.client, nearest.1
        ))
    }
}

/// Stamps count from 1; 0 means zeros.
fn stamp_of(event: usize) -> u32 {
    u32::try_from(event + 1).expect("stories are short")
}

/// Whether the request may be done in part.
fn is_data(action: &Action) -> bool {
    matches!(action, Action::Write { .. } | Action::Zero { .. })
}

/// Makes each sector that is found as it was `before` so in `state`, too.
fn take_over_part(state: &mut State, before: &State, found: &State) {
    for (name, volume) in &mut state.volumes {
        let (Some(old), Some(there)) = (before.volumes.get(name), found.volumes.get(name)) else {
            continue;
        };
        let stamps = std::sync::Arc::make_mut(&mut volume.stamps);
        for (new, (old, there)) in stamps
            .iter_mut()
            .zip(old.stamps.iter().zip(there.stamps.iter()))
        {
            if there == old {
                *new = *old;
            }
        }
    }
}

/// How many things differ, and the first of them.
fn difference(expected: &State, found: &State) -> Option<(usize, String)> {
    let mut count = 0;
    let mut first = None;
    let mut note = |weight: usize, text: &dyn Fn() -> String| {
        count += weight;
        first.get_or_insert_with(text);
    };
    let names = |state: &State| {
        let mut names = Vec::new();
        for (name, volume) in &state.volumes {
            names.push((name.clone(), None));
            let snapshots = volume.snapshots.keys();
            names.extend(snapshots.map(|snapshot| (name.clone(), Some(snapshot.clone()))));
        }
        names
    };
    let shown = |(volume, snapshot): &(String, Option<String>)| match snapshot {
        Some(snapshot) => format!("{volume}@{snapshot}"),
        None => volume.clone(),
    };
    for name in names(found) {
        if stamps(expected, &name).is_none() {
            note(1000, &|| format!("{} should not be there", shown(&name)));
        }
    }
    for name in names(expected) {
        let wanted = stamps(expected, &name).unwrap_or_default();
        let Some(there) = stamps(found, &name) else {
            note(1000, &|| format!("{} is missing", shown(&name)));
            continue;
        };
        if there.len() != wanted.len() {
            note(1000, &|| {
                format!(
                    "{} has {} sectors, not {}",
                    shown(&name),
                    there.len(),
                    wanted.len()
                )
            });
        }
        for (sector, (wanted, there)) in wanted.iter().zip(there).enumerate() {
            if wanted != there {
                note(1, &|| {
                    format!(
                        "sector {sector} of {} holds {}, not {}",
                        shown(&name),
                        stamp_text(*there),
                        stamp_text(*wanted)
                    )
                });
            }
        }
    }
    first.map(|first| (count, format!("{count} things differ: {first}")))
}

fn stamps<'a>(state: &'a State, name: &(String, Option<String>)) -> Option<&'a [u32]> {
    let volume = state.volumes.get(&name.0)?;
    Some(match &name.1 {
        Some(snapshot) => volume.snapshots.get(snapshot)?,
        None => &volume.stamps,
    })
}

fn stamp_text(stamp: u32) -> String {
    match stamp {
        0 => "zeros".into(),
        stamp => format!("what request {stamp} wrote"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::story::Event;

    /// A volume `v` of 8 sectors: written whole, flushed; then two sectors, and three more under way.
    fn story() -> Story {
        let write = |first, count| Action::Write {
            volume: "v".into(),
            first,
            count,
            durable: false,
        };
        let event = |sent, action| Event {
            sent,
            acknowledged: sent + 5,
            action,
        };
        let create = Action::Create {
            volume: "v".into(),
            sectors: 8,
        };
        let flush = Action::Flush { volume: "v".into() };
        Story {
            client: 0,
            events: vec![
                event(0, create),
                event(10, write(0, 8)),
                event(20, flush),
                event(30, write(0, 2)),
                event(40, write(1, 3)),
            ],
        }
    }

    fn state(stamps: [u32; 8]) -> State {
        let mut state = State::default();
        let volume = crate::story::Volume {
            stamps: std::sync::Arc::new(stamps.to_vec()),
            ..Default::default()
        };
        state.volumes.insert("v".into(), volume);
        state
    }

    #[test]
    fn a_prefix_and_any_part_of_what_is_under_way_may_be_there() {
        let story = story();
        let judge = |length, stamps| Promise::new(&story).judge(length, &state(stamps));
        let (old, new) = ([2; 8], [4, 4, 2, 2, 2, 2, 2, 2]);
        for (length, stamps, is_fine) in [
            (25, old, true),
            // Not sent yet.
            (25, new, false),
            (29, [0; 8], false),
            // Sent, then acknowledged, not durable.
            (31, [2, 4, 2, 2, 2, 2, 2, 2], true),
            (36, old, true),
            (36, new, true),
            (36, [2, 4, 2, 2, 2, 2, 2, 2], true),
            (36, [4, 4, 4, 2, 2, 2, 2, 2], false),
            // The next is under way.
            (41, [4, 4, 2, 5, 2, 2, 2, 2], true),
            (41, [4, 5, 5, 5, 2, 2, 2, 2], true),
            (41, [2, 5, 5, 5, 2, 2, 2, 2], false),
            (41, [4, 9, 5, 5, 2, 2, 2, 2], false),
        ] {
            let verdict = judge(length, stamps);
            assert_eq!(verdict.is_ok(), is_fine, "{length} {stamps:?}: {verdict:?}");
        }
        // Before the flush: the write is there in part, or not at all, or the volume is not there either.
        assert!(judge(12, [0, 2, 0, 0, 0, 0, 0, 0]).is_ok());
        assert!(Promise::new(&story).judge(3, &State::default()).is_ok());
        assert!(Promise::new(&story).judge(5, &State::default()).is_err());
    }
}
