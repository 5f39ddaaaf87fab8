//! What was probably meant by a name that nothing has.

/// The candidate nearest to `name`, if one is near enough to have been meant.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = (name.chars().count() / 3).max(1);
    let distances = candidates
        .into_iter()
        .map(|other| (distance(name, other), other));
    let (least, nearest) = distances.min()?;
    (least <= most).then_some(nearest)
}

/// How many letters have to be added, removed, replaced, or swapped with their neighbour to make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // Distances of the first `i` letters of `a` to the first `j` of `b`: rows `i - 2`, `i - 1` and `i`.
    let mut older = Vec::new();
    let mut old: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = old[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(old[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                let before: &Vec<usize> = &older;
                least = least.min(before[j - 2] + 1);
            }
            row.push(least);
        }
        older = std::mem::replace(&mut old, row);
    }
    old[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_other_names_are_not() {
        let names = ["monday", "tuesday", "before-upgrade"];
        for (typed, meant) in [
            ("mondya", Some("monday")),
            ("mnday", Some("monday")),
            ("Tuesday", Some("tuesday")),
            ("before-upgrad", Some("before-upgrade")),
            ("before_upgarde", Some("before-upgrade")),
            ("friday", None),
            ("x", None),
        ] {
            assert_eq!(nearest(typed, names), meant, "{typed}");
        }
        assert_eq!(nearest("db", ["dp"]), Some("dp"));
        assert_eq!(nearest("db", []), None);
    }

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("abc", "acb", 1),
            ("abc", "axbc", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(
                (distance(a, b), distance(b, a)),
                (expected, expected),
                "{a} {b}"
            );
        }
    }
}
