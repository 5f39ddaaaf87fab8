//! The house rules as a test: `cargo test -p tidy`.
//!
//! Here is only what finds the files; each rule is a test in `tests/`. A rule that makes the code worse is changed
//! there, in the commit that needs it.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold nothing written by people.
const GENERATED: [&str; 6] = [
    ".git",
    "target",
    "corpus",
    "artifacts",
    "node_modules",
    "coverage",
];

/// A text file of the tree.
#[derive(Debug)]
pub struct Text {
    /// Its path from the top of the tree, with `/`.
    pub path: String,
    /// Its contents.
    pub text: String,
}

impl Text {
    /// Whether its name ends so.
    #[must_use]
    pub fn is(&self, ending: &str) -> bool {
        self.path.ends_with(ending)
    }

    /// Lines with their numbers, from 1.
    pub fn numbered(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }
}

/// The top of the tree.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All text files of the tree, in the order of their paths.
///
/// # Panics
/// When the tree cannot be read.
#[must_use]
pub fn texts() -> Vec<Text> {
    let mut texts = Vec::new();
    collect(&root(), "", &mut texts);
    texts.sort_by(|a, b| a.path.cmp(&b.path));
    texts
}

fn collect(folder: &Path, prefix: &str, texts: &mut Vec<Text>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let entry = entry.expect("a readable folder");
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        let kind = entry.file_type().expect("a file's type");
        if kind.is_dir() {
            if !GENERATED.contains(&name.as_str()) {
                collect(&entry.path(), &format!("{path}/"), texts);
            }
        } else if let Ok(text) = fs::read_to_string(entry.path()) {
            texts.push(Text { path, text });
        }
    }
}
