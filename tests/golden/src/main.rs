//! Makes the golden pools of a new format: `cargo run -p golden -- FOLDER`.

#![forbid(unsafe_code)]

use std::path::Path;

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1);
    let folder = folder.context("say which new folder, e.g. tests/golden/images/format-2")?;
    golden::make::make(Path::new(&folder))
}
