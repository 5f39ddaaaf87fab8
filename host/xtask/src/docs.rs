//! `docs`: writes the documents that are made of the source.
//!
//! The API's reference is made of its OpenAPI document, which only a server can make; the test that says whether the
//! reference is up to date has one, and writes it when asked to.

use anyhow::Result;

use crate::steps::{cargo, run, step};

/// Asks the test to write.
const WRITE: &str = "FERRITE_WRITE_DOCS";

/// Runs `docs`.
///
/// # Errors
/// When the server does not build or the file cannot be written.
pub fn command() -> Result<()> {
    step("docs/api.md", || {
        let mut test = cargo();
        test.args(["test", "--quiet", "--package", "serve", "--test", "api"]);
        run(test.arg("the_reference_is_up_to_date").env(WRITE, "1"))
    })
}
