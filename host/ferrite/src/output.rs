//! Tables for people.

/// Rows under headings, in columns as wide as their widest cell. A heading that begins with `>` aligns to the right.
#[must_use]
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = headings
        .iter()
        .map(|heading| heading.trim_start_matches('>').len())
        .collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for ((cell, &width), heading) in cells.zip(&widths).zip(headings) {
            let padded = match heading.starts_with('>') {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            };
            text.push_str(&padded);
            text.push_str("  ");
        }
        format!("{}\n", text.trim_end())
    };
    let mut text = line(
        &mut headings
            .iter()
            .map(|heading| heading.trim_start_matches('>')),
    );
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// One thing's properties, name and value in two columns.
#[must_use]
pub fn properties(pairs: &[(String, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    pairs
        .iter()
        .map(|(name, value)| format!("{name:<width$}  {value}\n"))
        .collect()
}

/// What of `new` was not shown yet, when `old` was shown before and lines are only ever added at the end.
#[must_use]
pub fn unseen<'a>(old: &[String], new: &'a [String]) -> &'a [String] {
    let longest = old.len().min(new.len());
    let overlap = (0..=longest)
        .rev()
        .find(|&n| old[old.len() - n..] == new[..n])
        .unwrap_or(0);
    &new[overlap..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.split_whitespace().map(ToOwned::to_owned).collect()
    }

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows = vec![lines("demo 1GiB up"), lines("database-main 10GiB up")];
        assert_eq!(
            table(&["NAME", ">SIZE", "STATE"], &rows),
            "NAME            SIZE  STATE\n\
             demo            1GiB  up\n\
             database-main  10GiB  up\n"
        );
    }

    #[test]
    fn a_log_that_moved_on_shows_only_what_is_new() {
        assert_eq!(unseen(&lines("a b c"), &lines("b c d e")), lines("d e"));
        assert_eq!(unseen(&lines("a b c"), &lines("a b c")), lines(""));
        assert_eq!(unseen(&[], &lines("a")), lines("a"));
        assert_eq!(unseen(&lines("a b"), &lines("x y")), lines("x y"));
    }
}
