//! Points in time as dates (UTC).

use alloc::format;
use alloc::string::String;

/// Seconds of a day.
pub const DAY: u64 = 86400;
/// Days of 400 years.
const ERA: u64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const TO_1970: u64 = 719_468;

/// A point in time of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    /// Year.
    pub year: u64,
    /// Month, 1 to 12.
    pub month: u64,
    /// Day of the month, from 1.
    pub day: u64,
    /// Hour, 0 to 23.
    pub hour: u64,
    /// Minute.
    pub minute: u64,
    /// Second.
    pub second: u64,
}

/// The date of the point `seconds` after 1970.
#[must_use]
pub fn date(seconds: u64) -> Date {
    let (year, month, day) = civil(seconds / DAY);
    let second = seconds % DAY;
    Date {
        year,
        month,
        day,
        hour: second / 3600,
        minute: second / 60 % 60,
        second: second % 60,
    }
}

/// The seconds from 1970 to a date, if there is such a date and it is not before.
#[must_use]
pub fn seconds(of: Date) -> Option<u64> {
    // As in `civil`: years begin in March.
    let (year, month) = match of.month {
        1..=2 => (of.year.checked_sub(1)?, of.month + 9),
        3..=12 => (of.year, of.month - 3),
        _ => return None,
    };
    let (eras, rest) = (year / 400, year % 400);
    let day = (153 * month + 2) / 5 + of.day.checked_sub(1)?;
    let days = eras * ERA + rest * 365 + rest / 4 - rest / 100 + day;
    let days = days.checked_sub(TO_1970)?;
    let seconds = days * DAY + of.hour * 3600 + of.minute * 60 + of.second;
    // The 31st of April is another day in truth.
    (date(seconds) == of).then_some(seconds)
}

/// `nanos` since 1970 as RFC 3339 text, `YYYY-MM-DDThh:mm:ss.mmmZ`.
#[must_use]
pub fn rfc3339(nanos: u64) -> String {
    let (seconds, millis) = (nanos / 1_000_000_000, nanos / 1_000_000 % 1000);
    let Date {
        year,
        month,
        day,
        hour,
        minute,
        second,
    } = date(seconds);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Year, month and day of the day `days` after 1970-01-01.
///
/// Years are counted from 1 March, so that the leap day is the last of its year, and in eras of 400 years, which all
/// have 146,097 days.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + TO_1970;
    let (era, day) = (days / ERA, days % ERA);
    let year = (day - day / 1460 + day / 36524 - day / (ERA - 1)) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // From March on, months of 31 and 30 days alternate in groups of five with 153 days.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(seconds * 1_000_000_000), text);
            assert_eq!(super::seconds(date(seconds)), Some(seconds));
        }
        assert_eq!(rfc3339(1_500_000), "1970-01-01T00:00:00.001Z");
    }

    #[test]
    fn what_is_no_date_is_no_time() {
        let good = date(951_782_400);
        for wrong in [
            Date { day: 30, ..good },
            Date { day: 0, ..good },
            Date { month: 0, ..good },
            Date { month: 13, ..good },
            Date { year: 1969, ..good },
            Date { year: 0, ..good },
            Date { year: 2100, ..good },
            Date { hour: 24, ..good },
            Date { minute: 60, ..good },
            Date { second: 60, ..good },
        ] {
            assert_eq!(seconds(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn days_follow_each_other() {
        let mut before = civil(0);
        for day in 1..200_000 {
            let now = civil(day);
            let next_day = (before.0, before.1, before.2 + 1);
            let next_month = (before.0, before.1 + 1, 1);
            let next_year = (before.0 + 1, 1, 1);
            assert!(
                now == next_day
                    || (now == next_month && before.2 >= 28)
                    || (now == next_year && (before.1, before.2) == (12, 31)),
                "{before:?} {now:?}"
            );
            before = now;
        }
    }
}
