//! The hand-over of a volume: every state of small worlds, and every deliberate bug.

use models::handover::{MUTANTS, SMALL, explore};

#[test]
fn there_is_never_a_second_owner_and_always_a_way_to_one() {
    for bounds in SMALL {
        match explore(bounds, None) {
            Ok(visited) => eprintln!("{bounds:?}: {visited}"),
            Err(what) => panic!("{bounds:?}: {what}"),
        }
    }
}

#[test]
fn every_mutant_is_noticed() {
    let survives = |mutant| {
        SMALL
            .into_iter()
            .all(|bounds| explore(bounds, Some(mutant)).is_ok())
    };
    let survivors: Vec<_> = MUTANTS
        .into_iter()
        .filter(|mutant| survives(*mutant))
        .collect();
    assert_eq!(survivors, []);
}
