//! A year of schedules, and the borders of each rule.

use alloc::vec;

use super::*;

const HOUR: u64 = 3600;
/// 2024-01-01, a Monday.
const MONDAY_2024: u64 = 1_704_067_200;

fn staying(keep: Keep, times: &[u64]) -> Vec<u64> {
    let gone = surplus(&keep, times);
    let stays = (0..times.len()).filter(|index| !gone.contains(index));
    stays.map(|index| times[index]).collect()
}

#[test]
fn times_between_snapshots_are_read_and_written() {
    let keep = Keep {
        last: 1,
        ..Keep::default()
    };
    for (text, seconds, back) in [
        ("1s", 1, "1s"),
        ("90s", 90, "90s"),
        ("15m", 900, "15m"),
        ("60m", 3600, "1h"),
        ("24h", DAY, "1d"),
        ("2w", 14 * DAY, "2w"),
        ("366d", 366 * DAY, "366d"),
    ] {
        assert_eq!(Schedule::new(text, keep).unwrap().every, seconds, "{text}");
        assert_eq!(every_text(seconds), back);
    }
    for bad in [
        "",
        "h",
        "1",
        "0h",
        "-1h",
        "+1h",
        "1.5h",
        "1y",
        "367d",
        "1 h",
        "99999999999999999999s",
        "1ä",
    ] {
        assert_eq!(
            Schedule::new(bad, keep),
            Err(PolicyError::BadEvery),
            "{bad}"
        );
    }
    assert_eq!(
        Schedule::new("1h", Keep::default()),
        Err(PolicyError::KeepsNothing)
    );
}

#[test]
fn snapshots_fall_on_round_times_and_what_was_missed_is_made_up_for_once() {
    let keep = Keep {
        last: 1,
        ..Keep::default()
    };
    let hourly = Schedule::new("1h", keep).unwrap();
    let at = MONDAY_2024;
    assert!(hourly.is_due(None, at));
    assert!(!hourly.is_due(Some(at), at + HOUR - 1));
    assert!(hourly.is_due(Some(at), at + HOUR));
    assert!(hourly.is_due(Some(at), at + 50 * HOUR));
    assert_eq!(hourly.next(at), at + HOUR);
    assert_eq!(hourly.next(at + HOUR - 1), at + HOUR);
    // The clock was set back.
    assert!(hourly.is_due(Some(at), at - 5 * HOUR));
    let weekly = Schedule::new("1w", keep).unwrap();
    assert_eq!(weekly.next(at), at + 7 * DAY);
    assert_eq!(weekly.next(at - 1), at);
}

#[test]
fn names_tell_the_time_and_who_made_it() {
    let at = MONDAY_2024 + 3 * HOUR + 5;
    let name = name_at(at);
    assert_eq!(name, "auto-2024-01-01-030005");
    assert_eq!(volume::check_name(&name), Ok(()));
    let nanos = at * 1_000_000_000;
    assert_eq!(made_at(&name, nanos), Some(at));
    assert_eq!(made_at(&name, nanos + 2_999_999_999), Some(at));
    // A pool that hung for long, and longer than one may.
    assert_eq!(made_at(&name, nanos + 900 * 1_000_000_000), Some(at));
    assert_eq!(made_at(&name, nanos + 901 * 1_000_000_000), None);
    for (name, created) in [
        // Made by hand, long before or after.
        ("auto-2024-01-01-030005", nanos + 3600 * 1_000_000_000),
        ("auto-2024-01-01-030005", nanos - 1_000_000_000),
        ("auto-2024-01-01-030005", 0),
        ("monday", nanos),
        ("auto-monday", nanos),
        ("auto-2024-01-01-030005x", nanos),
        ("auto-2024-01-00-030005", nanos),
        ("auto-2024-01-01-+30005", nanos),
        ("auto-2024-01-01-03000ä", nanos),
    ] {
        assert_eq!(made_at(name, created), None, "{name} {created}");
    }
}

#[test]
fn last_keeps_the_newest() {
    let keep = Keep {
        last: 2,
        ..Keep::default()
    };
    assert_eq!(staying(keep, &[30, 10, 20, 40]), [30, 40]);
    assert_eq!(
        surplus(&keep, &[30, 10, 20, 40]),
        vec![1, 2],
        "oldest first"
    );
    assert_eq!(surplus(&keep, &[]), Vec::<usize>::new());
}

#[test]
fn a_rule_keeps_the_newest_of_each_period() {
    let keep = Keep {
        daily: 2,
        ..Keep::default()
    };
    let at = |day: u64, hour: u64| MONDAY_2024 + day * DAY + hour * HOUR;
    let times = [at(0, 1), at(0, 23), at(1, 0), at(1, 5), at(2, 7)];
    assert_eq!(staying(keep, &times), [at(1, 5), at(2, 7)]);
    // Days without any do not count: what was made before a long pause stays.
    let times = [at(0, 1), at(300, 2), at(300, 3)];
    assert_eq!(staying(keep, &times), [at(0, 1), at(300, 3)]);
}

#[test]
fn weeks_begin_on_monday_and_months_on_the_first() {
    let weekly = Keep {
        weekly: 2,
        ..Keep::default()
    };
    let sunday = MONDAY_2024 - 1;
    let times = [sunday - DAY, sunday, MONDAY_2024, MONDAY_2024 + 6 * DAY];
    assert_eq!(staying(weekly, &times), [sunday, MONDAY_2024 + 6 * DAY]);
    let monthly = Keep {
        monthly: 3,
        ..Keep::default()
    };
    // Dec 31, Jan 1, Jan 31, Feb 1.
    let times = [
        sunday,
        MONDAY_2024,
        MONDAY_2024 + 30 * DAY,
        MONDAY_2024 + 31 * DAY,
    ];
    assert_eq!(staying(monthly, &times), [sunday, times[2], times[3]]);
    let yearly = Keep {
        yearly: 9,
        ..Keep::default()
    };
    assert_eq!(staying(yearly, &times), [sunday, times[3]]);
}

/// A year of hourly snapshots, thinned after each: what a user expects to find.
#[test]
fn a_year_of_hourly_snapshots() {
    let keep = Keep {
        hourly: 24,
        daily: 7,
        weekly: 4,
        monthly: 12,
        ..Keep::default()
    };
    let mut times: Vec<u64> = Vec::new();
    for hour in 0..366 * 24 {
        times.push(MONDAY_2024 + hour * HOUR);
        let mut gone = surplus(&keep, &times);
        assert!(gone.len() <= 4, "each rule lets go of one at most");
        gone.sort_unstable();
        for index in gone.into_iter().rev() {
            times.remove(index);
        }
    }
    let now = *times.last().unwrap();
    let within = |span: u64| times.iter().filter(|at| now - **at < span).count();
    assert_eq!(within(24 * HOUR), 24);
    assert!(
        (24 + 6..=24 + 7).contains(&within(7 * DAY)),
        "{}",
        within(7 * DAY)
    );
    // Rules share snapshots, so there are a few fewer than their sum.
    assert!(
        (38..=24 + 7 + 4 + 12).contains(&times.len()),
        "{}",
        times.len()
    );
    assert!(now - times[0] > 330 * DAY, "the oldest month is there");
}
