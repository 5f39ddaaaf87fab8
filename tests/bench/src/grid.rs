//! Tables of samples: what is compared in columns, what was done in rows.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::report::{median, spread};

/// One table.
#[derive(Clone, Debug)]
pub struct Grid {
    title: String,
    unit: &'static str,
    columns: Vec<String>,
    /// The column that the others are divided by.
    base: Option<usize>,
    rows: Vec<Row>,
    remark: String,
}

#[derive(Clone, Debug)]
struct Row {
    name: String,
    /// For each column, in the order in which they were taken.
    samples: Vec<Vec<f64>>,
}

impl Grid {
    /// A table without samples yet.
    #[must_use]
    pub fn new(title: &str, unit: &'static str, columns: &[&str]) -> Self {
        Self {
            title: title.into(),
            unit,
            columns: columns.iter().map(ToString::to_string).collect(),
            base: None,
            rows: Vec::new(),
            remark: String::new(),
        }
    }

    /// The same with ratios to the medians of one column.
    #[must_use]
    pub fn relative_to(mut self, column: &str) -> Self {
        self.base = self.columns.iter().position(|name| name == column);
        self
    }

    /// The same with a remark on how it was measured.
    #[must_use]
    pub fn remark(mut self, remark: &str) -> Self {
        self.remark = remark.into();
        self
    }

    /// Adds a sample; rows appear in the order of their first samples.
    ///
    /// # Panics
    /// When there is no such column.
    pub fn push(&mut self, row: &str, column: &str, sample: f64) {
        let column = self.columns.iter().position(|name| name == column);
        let column = column.expect("a column of this table");
        let at = match self.rows.iter().position(|known| known.name == row) {
            Some(at) => at,
            None => {
                self.rows.push(Row {
                    name: row.into(),
                    samples: vec![Vec::new(); self.columns.len()],
                });
                self.rows.len() - 1
            }
        };
        self.rows[at].samples[column].push(sample);
    }

    /// Whether it has no samples.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// As Markdown: medians with spread, and ratios where there is a base.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut out = format!("\n{} in {}", self.title, self.unit);
        if let Some(base) = self.base {
            let _ = write!(out, " (least..most), × relative to {}", self.columns[base]);
        }
        if !self.remark.is_empty() {
            let _ = write!(out, "; {}", self.remark);
        }
        let _ = write!(out, "\n\n| |");
        for column in &self.columns {
            let _ = write!(out, " {column} |");
        }
        let _ = writeln!(out, "\n| --- |{}", " ---: |".repeat(self.columns.len()));
        for row in &self.rows {
            let _ = write!(out, "| {} |", row.name);
            let base = self.base.and_then(|base| median(&row.samples[base]));
            for (index, samples) in row.samples.iter().enumerate() {
                let _ = write!(out, " {}", spread(samples, ""));
                if let (Some(own), Some(base)) = (median(samples), base)
                    && self.base != Some(index)
                    && base > 0.0
                {
                    let _ = write!(out, " ×{:.2}", own / base);
                }
                out.push_str(" |");
            }
            out.push('\n');
        }
        out
    }

    /// Every sample.
    #[must_use]
    pub fn json(&self) -> Value {
        let row = |row: &Row| json!({"name": row.name, "samples": row.samples});
        json!({
            "title": self.title, "unit": self.unit, "columns": self.columns, "remark": self.remark,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_to_the_base_of_the_same_row() {
        let mut grid = Grid::new("rates", "IOPS", &["a", "b"]).relative_to("a");
        for (row, column, sample) in [
            ("read", "a", 100.0),
            ("read", "b", 300.0),
            ("read", "b", 500.0),
            ("write", "b", 7.0),
        ] {
            grid.push(row, column, sample);
        }
        let text = grid.markdown();
        assert!(
            text.contains("| read | 100 | 400 (300..500) ×4.00 |"),
            "{text}"
        );
        assert!(text.contains("| write | – | 7 |"), "{text}");
        assert_eq!(grid.json()["rows"][0]["samples"][1][1], 500.0);
    }
}
