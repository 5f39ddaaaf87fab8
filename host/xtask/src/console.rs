//! The web console in a headless browser: against an appliance that is not there, and against the image in QEMU.
//!
//! The test itself is `tests/console`, a program for Node; here is what it needs around it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use qemu::instance::{target_dir, workspace_dir};
use qemu::{ApplianceOptions, Drive, sparse_file};

use crate::steps::run;

/// How long the appliance may take until it answers.
const READY_LIMIT: Duration = Duration::from_secs(90);
const DRIVE_BYTES: u64 = 4 << 30;

/// Runs the test against `image`; pictures of what the browser showed stay in `target/console`.
///
/// # Errors
/// When it fails, or what it needs cannot be installed.
pub fn test(image: &Path) -> Result<()> {
    let source = workspace_dir().join("tests/console");
    if !source.join("node_modules").exists() {
        let mut install = Command::new("npm");
        install.args(["ci", "--no-audit", "--no-fund"]);
        run(install.current_dir(&source)).context("the browser's driver cannot be installed")?;
    }
    let folder = target_dir().join("console");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let drive = folder.join("drive0.raw");
    // What an earlier test left on it would be in the way.
    if drive.exists() {
        fs::remove_file(&drive)?;
    }
    let mut options = ApplianceOptions::new(image, &folder)?;
    options.set("pool.demo", true);
    options.machine.drives = vec![Drive::new(sparse_file(&drive, DRIVE_BYTES)?)];
    let mut appliance = options.start()?;
    appliance.wait_ready(READY_LIMIT)?;
    let mut test = Command::new("node");
    test.args(["--test", "--test-reporter=spec", "console.test.mjs"])
        .current_dir(&source)
        .env("FERRITE_API", appliance.api_url())
        .env("FERRITE_TOKEN", &appliance.token)
        .env("FERRITE_NBD", appliance.nbd.to_string())
        .env("PICTURES", &folder);
    run(&mut test)
}
