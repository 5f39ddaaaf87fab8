//! The real-time clock of a PC (MC146818A).

use crate::port;

/// Registers.
const SECONDS: u8 = 0;
const MINUTES: u8 = 2;
const HOURS: u8 = 4;
const DAY: u8 = 7;
const MONTH: u8 = 8;
const YEAR: u8 = 9;
const STATUS_A: u8 = 0xa;
const STATUS_B: u8 = 0xb;

/// Status A: the registers are about to change.
const UPDATING: u8 = 1 << 7;
/// Status B: hours count to 24.
const HOURS_24: u8 = 1 << 1;
/// Status B: numbers are binary, not decimal digits.
const BINARY: u8 = 1 << 2;
/// Hour register: afternoon.
const AFTERNOON: u8 = 1 << 7;

/// Readings before the clock is given up for restless.
const TRIES_MAX: usize = 1000;

/// The registers at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reading {
    seconds: u8,
    minutes: u8,
    hours: u8,
    day: u8,
    month: u8,
    year: u8,
    century: Option<u8>,
    status_b: u8,
}

/// Seconds since 1970-01-01, or `None` when the clock shows nonsense. `century` is its register, zero for none.
pub fn read(century: u8) -> Option<u64> {
    let mut last = None;
    for _ in 0..TRIES_MAX {
        if register(STATUS_A) & UPDATING != 0 {
            continue;
        }
        let reading = Reading {
            seconds: register(SECONDS),
            minutes: register(MINUTES),
            hours: register(HOURS),
            day: register(DAY),
            month: register(MONTH),
            year: register(YEAR),
            century: (century != 0).then(|| register(century)),
            status_b: register(STATUS_B),
        };
        // Two equal readings: no update came between their registers.
        if last == Some(reading) {
            return decode(&reading);
        }
        last = Some(reading);
    }
    None
}

fn register(index: u8) -> u8 {
    port::write8(0x70, index);
    port::read8(0x71)
}

fn decode(reading: &Reading) -> Option<u64> {
    let number = |value: u8| {
        let digits = value >> 4 <= 9 && value & 15 <= 9;
        if reading.status_b & BINARY != 0 {
            Some(u64::from(value))
        } else {
            digits.then(|| u64::from(value >> 4) * 10 + u64::from(value & 15))
        }
    };
    let hours = if reading.status_b & HOURS_24 != 0 {
        number(reading.hours)?
    } else {
        let noon = if reading.hours & AFTERNOON != 0 {
            12
        } else {
            0
        };
        number(reading.hours & !AFTERNOON)? % 12 + noon
    };
    let year = number(reading.year)?;
    let year = match reading
        .century
        .and_then(number)
        .filter(|century| (19..=29).contains(century))
    {
        Some(century) => century * 100 + year,
        None if year < 70 => 2000 + year,
        None => 1900 + year,
    };
    let (month, day) = (number(reading.month)?, number(reading.day)?);
    let (minutes, seconds) = (number(reading.minutes)?, number(reading.seconds)?);
    let sane = (1970..3000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hours < 24
        && minutes < 60
        && seconds < 61;
    sane.then(|| ((days(year, month, day) * 24 + hours) * 60 + minutes) * 60 + seconds)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
const fn days(year: u64, month: u64, day: u64) -> u64 {
    // Years that begin in March, so that the leap day is the last one.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let leap_days = year / 4 - year / 100 + year / 400;
    year * 365 + leap_days + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECIMAL: Reading = Reading {
        seconds: 0x56,
        minutes: 0x34,
        hours: 0x12,
        day: 0x29,
        month: 0x02,
        year: 0x24,
        century: Some(0x20),
        status_b: HOURS_24,
    };

    #[test]
    fn digits_and_binary_say_the_same() {
        assert_eq!(decode(&DECIMAL), Some(1_709_210_096));
        let binary = Reading {
            seconds: 56,
            minutes: 34,
            hours: 12,
            day: 29,
            month: 2,
            year: 24,
            century: Some(20),
            status_b: HOURS_24 | BINARY,
        };
        assert_eq!(decode(&binary), decode(&DECIMAL));
    }

    #[test]
    fn twelve_hour_clocks() {
        let at = |hours| {
            decode(&Reading {
                hours,
                status_b: 0,
                ..DECIMAL
            })
            .unwrap()
                % 86_400
                / 3600
        };
        assert_eq!([at(0x12), at(0x01), at(0x92), at(0x91)], [0, 1, 12, 23]);
    }

    #[test]
    fn without_a_century_the_year_decides() {
        let of = |year| {
            decode(&Reading {
                year,
                century: None,
                day: 1,
                month: 1,
                ..DECIMAL
            })
            .unwrap()
                / 86_400
        };
        assert_eq!(of(0x70), 0);
        assert_eq!(of(0x69), days(2069, 1, 1));
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(
            decode(&Reading {
                month: 0x13,
                ..DECIMAL
            }),
            None
        );
        assert_eq!(
            decode(&Reading {
                minutes: 0x5f,
                ..DECIMAL
            }),
            None
        );
        assert_eq!(
            decode(&Reading {
                hours: 0x24,
                ..DECIMAL
            }),
            None
        );
    }

    #[test]
    fn days_are_counted_over_centuries() {
        assert_eq!(days(1970, 1, 1), 0);
        assert_eq!(days(2000, 2, 29), 11_016);
        assert_eq!(days(2100, 3, 1) - days(2100, 2, 28), 1);
    }
}
