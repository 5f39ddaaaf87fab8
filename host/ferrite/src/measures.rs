//! What `/metrics` says, read back (Prometheus text format 0.0.4, as far as the appliance writes it).

use std::collections::BTreeMap;

/// Samples by name.
#[derive(Debug, Default)]
pub struct Measures {
    families: BTreeMap<String, Vec<Sample>>,
}

/// One sample of a family.
#[derive(Debug, PartialEq)]
pub struct Sample {
    labels: Vec<(String, String)>,
    /// What was measured.
    pub value: f64,
}

impl Sample {
    /// The text of a label; empty when it has none of that name.
    pub fn label(&self, name: &str) -> &str {
        let found = self.labels.iter().find(|(label, _)| label == name);
        found.map_or("", |(_, text)| text)
    }
}

impl Measures {
    /// Reads a page; what is not understood is left out.
    pub fn read(page: &str) -> Self {
        let mut all = Self::default();
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, sample)) = sample(line) {
                all.families.entry(name).or_default().push(sample);
            }
        }
        all
    }

    /// The samples of a family.
    pub fn all(&self, name: &str) -> &[Sample] {
        self.families.get(name).map_or(&[], Vec::as_slice)
    }

    /// The only sample of a family.
    pub fn one(&self, name: &str) -> Option<f64> {
        self.all(name).first().map(|sample| sample.value)
    }

    /// The sum of the samples that have all these labels; `None` when none has.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has_all = |sample: &&Sample| {
            let mut wanted = labels.iter();
            wanted.all(|(label, text)| sample.label(label) == *text)
        };
        let mut found = self.all(name).iter().filter(has_all).peekable();
        found.peek()?;
        Some(found.map(|sample| sample.value).sum())
    }
}

fn sample(line: &str) -> Option<(String, Sample)> {
    let name_end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(name_end);
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value = value.trim().parse().ok()?;
    Some((name.to_owned(), Sample { labels, value }))
}

/// `name="text",…} rest`
fn labels(mut text: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = text.split_once("=\"")?;
        let (value, rest) = quoted(rest)?;
        labels.push((name.to_owned(), value));
        text = rest.strip_prefix(',').unwrap_or(rest);
    }
}

/// A text up to its closing quote, and what is behind that.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match letters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_appliance_writes_is_read() {
        let page = "# HELP up Is it?\n# TYPE up gauge\nup 1.5\n\
            bytes_total{volume=\"a\",operation=\"read\"} 4096\n\
            bytes_total{volume=\"a\",operation=\"write\"} 1\n\
            bytes_total{volume=\"b\",operation=\"read\"} 2\n\
            odd{text=\"x\\\"y\\\\z\\n}\"} 7\nle{le=\"+Inf\"} +Inf\nnonsense\nbroken{a=\"b 1\n";
        let all = Measures::read(page);
        assert_eq!(all.one("up"), Some(1.5));
        assert_eq!(all.sum("bytes_total", &[("volume", "a")]), Some(4097.0));
        let reads = [("volume", "b"), ("operation", "read")];
        assert_eq!(all.sum("bytes_total", &reads), Some(2.0));
        assert_eq!(all.sum("bytes_total", &[("volume", "c")]), None);
        assert_eq!(all.all("odd")[0].label("text"), "x\"y\\z\n}");
        assert_eq!(all.one("le"), Some(f64::INFINITY));
        assert!(all.all("nonsense").is_empty() && all.all("broken").is_empty());
    }
}
