//! Sizes as people write them.
//!
//! `10GiB`, `10G` and `10g` mean 10 × 2³⁰; `10GB` means 10 × 10⁹; a bare number is bytes.

use anyhow::{Context, Result, bail};

const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];

/// Reads a size in bytes.
///
/// # Errors
/// When the text is not a number with a known unit, or is beyond 2⁶⁴.
pub fn parse(text: &str) -> Result<u64> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = scale_of(unit.trim()).with_context(|| {
        format!("`{text}` is not a size; write for example 10GiB, 512MiB or 4096")
    })?;
    // Exact for whole numbers, which is nearly every size there is.
    if let Ok(whole) = number.parse::<u64>() {
        return whole
            .checked_mul(scale)
            .with_context(|| format!("`{text}` is too large"));
    }
    let Some((whole, fraction)) = number.split_once('.') else {
        bail!("`{text}` is not a size; write for example 10GiB, 512MiB or 4096");
    };
    let parts = (
        whole.parse::<u64>(),
        fraction.parse::<u64>(),
        u32::try_from(fraction.len()),
    );
    let (Ok(whole), Ok(part), Ok(places @ 1..=9)) = parts else {
        bail!("`{text}` is not a size; write for example 1.5GiB");
    };
    let bytes = u128::from(whole) * u128::from(scale)
        + u128::from(part) * u128::from(scale) / 10u128.pow(places);
    u64::try_from(bytes).with_context(|| format!("`{text}` is too large"))
}

fn scale_of(unit: &str) -> Option<u64> {
    let lower = unit.to_ascii_lowercase();
    let power = match lower.chars().next() {
        None => return Some(1),
        Some('b') if lower.len() == 1 => return Some(1),
        Some('k') => 1,
        Some('m') => 2,
        Some('g') => 3,
        Some('t') => 4,
        Some('p') => 5,
        Some(_) => return None,
    };
    match &lower[1..] {
        "" | "ib" => Some(1 << (10 * power)),
        "b" => Some(1000u64.pow(power)),
        _ => None,
    }
}

/// Writes a number of bytes for people: exact where that is short, else with one decimal.
#[must_use]
pub fn human(bytes: u64) -> String {
    let mut power = 0;
    while power < UNITS.len() && bytes >> (10 * (power + 1)) != 0 {
        power += 1;
    }
    if power == 0 {
        return format!("{bytes} B");
    }
    let scale = 1u128 << (10 * power);
    let tenths = (u128::from(bytes) * 10 + scale / 2) / scale;
    match tenths % 10 {
        0 => format!("{} {}", tenths / 10, UNITS[power - 1]),
        part => format!("{}.{part} {}", tenths / 10, UNITS[power - 1]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in [
            ("4096", 4096),
            ("512b", 512),
            ("1k", 1024),
            ("10GiB", 10 << 30),
            ("10 gib", 10 << 30),
            ("10GB", 10_000_000_000),
            ("1.5M", 3 << 19),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(parse(text).unwrap(), bytes, "{text}");
        }
        for text in [
            "",
            "G",
            "ten",
            "1.G",
            "1..2G",
            "5XB",
            "1 GiBs",
            "-1",
            "99999999PiB",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn writes_what_people_read() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (10 << 30, "10 GiB"),
            ((1 << 40) + (1 << 37), "1.1 TiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }
}
