//! Power cuts on a tape: behind which event, and which of the writes that no flush covers survive.

use super::tape::{Event, Image};

/// Up to this many unflushed commands all subsets survive in turn, beyond it some.
const ALL_SUBSETS: usize = 5;

/// What the drives held when the power failed, and what had happened by then.
pub struct Cut {
    /// Events that had happened.
    pub events: usize,
    /// Which subset it is, for a replay.
    pub subset: usize,
    pub image: Image,
    /// Operations that had begun, and those that were acknowledged.
    pub begun: usize,
    pub done: usize,
}

/// Calls `each` for every cut behind an event of `tape` from number `from` on; stops when that fails.
///
/// # Errors
/// That of `each`.
pub fn every_cut<E>(
    start: &Image,
    tape: &[Event],
    from: usize,
    mut each: impl FnMut(Cut) -> Result<(), E>,
) -> Result<(), E> {
    let mut stable = start.clone();
    let mut pending: Vec<&Event> = Vec::new();
    let (mut begun, mut done) = (0, 0);
    for (index, event) in tape.iter().enumerate() {
        let is_write = matches!(event, Event::Write(..));
        match event {
            Event::Write(..) => pending.push(event),
            Event::Flush(drive) => {
                let is_durable =
                    |event: &&&Event| matches!(event, Event::Write(on, ..) if on == drive);
                pending
                    .iter()
                    .filter(is_durable)
                    .for_each(|event| stable.apply(event));
                pending.retain(|event| !is_durable(&event));
            }
            Event::Operation(number, true) => done = done.max(number + 1),
            Event::Operation(number, false) => begun = begun.max(number + 1),
        }
        if index < from {
            continue;
        }
        // Whatever does not hold the newest write was there before.
        let older = pending.len() - usize::from(is_write);
        for (subset, mask) in subsets(older).into_iter().enumerate() {
            let mut image = stable.clone();
            for (at, event) in pending.iter().enumerate() {
                if at >= older || mask(at) {
                    image.apply(event);
                }
            }
            each(Cut {
                events: index + 1,
                subset,
                image,
                begun,
                done,
            })?;
            if !is_write && !matches!(event, Event::Operation(_, true)) {
                break;
            }
        }
    }
    Ok(())
}

type Mask = Box<dyn Fn(usize) -> bool>;

/// Subsets of so many: all, or none, each prefix, each but one and each alone.
fn subsets(count: usize) -> Vec<Mask> {
    let mut all: Vec<Mask> = Vec::new();
    if count <= ALL_SUBSETS {
        for mask in 0..1_usize << count {
            all.push(Box::new(move |at| mask & (1 << at) != 0));
        }
        return all;
    }
    all.push(Box::new(|_| false));
    for one in 0..count {
        all.push(Box::new(move |at| at <= one));
        all.push(Box::new(move |at| at != one));
        all.push(Box::new(move |at| at == one));
    }
    all
}
