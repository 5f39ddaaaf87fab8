//! `ferrite check`: the store's own checker on drive images.

use std::path::PathBuf;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use serde_json::{Value, json};
use store::{CheckOptions, Summary};

use crate::Failure;
use crate::file_disk::FileDisk;
use crate::output::properties;

/// Findings that are listed one by one; the rest is counted.
const FINDINGS_MAX: usize = 1000;

/// What a check found.
#[derive(Debug)]
pub struct Report {
    /// The counts.
    pub summary: Summary,
    /// What is wrong, in words; at most the first thousand.
    pub findings: Vec<String>,
}

/// Checks the pool on these images: all drives of it, in any order. Writes nothing. The appliance must not run on them.
///
/// With `verify_data` every block of data is read and compared with its tag.
///
/// # Errors
/// [`Failure::Here`] when it cannot begin: an image that cannot be read, no pool, drives missing.
pub fn check(images: &[PathBuf], verify_data: bool) -> Result<Report, Failure> {
    let disks: Vec<FileDisk> = images
        .iter()
        .map(|path| FileDisk::open(path))
        .collect::<Result<_, _>>()?;
    let mut findings = Vec::new();
    let mut note = |finding: store::Finding| {
        if findings.len() < FINDINGS_MAX {
            findings.push(finding.to_string());
        }
    };
    let result = ready(store::check(
        &disks,
        CheckOptions { verify_data },
        &mut note,
    ));
    let summary = result.map_err(|error| {
        let names: Vec<_> = images
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        Failure::Here(format!("{}: {error}", names.join(", ")))
    })?;
    Ok(Report { summary, findings })
}

impl Report {
    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        let summary = &self.summary;
        let counts = [
            ("volumes", summary.volumes),
            ("snapshots", summary.snapshots),
            ("being deleted", summary.hidden),
            ("data blocks", summary.data_blocks),
            ("map blocks", summary.node_blocks),
            ("journal frames", summary.frames),
            ("blocks verified", summary.verified),
            ("problems", summary.findings),
        ];
        let pairs: Vec<_> = counts
            .iter()
            .map(|(name, count)| ((*name).to_owned(), count.to_string()))
            .collect();
        let lines: String = self
            .findings
            .iter()
            .map(|finding| format!("{finding}\n"))
            .collect();
        let verdict = if summary.is_clean() {
            "clean\n"
        } else {
            "damaged\n"
        };
        format!("{lines}{}{verdict}", properties(&pairs))
    }

    /// The report for scripts.
    #[must_use]
    pub fn json(&self) -> Value {
        let summary = &self.summary;
        json!({
            "clean": summary.is_clean(),
            "volumes": summary.volumes,
            "snapshots": summary.snapshots,
            "hidden": summary.hidden,
            "data_blocks": summary.data_blocks,
            "node_blocks": summary.node_blocks,
            "frames": summary.frames,
            "journal_blocks": summary.journal_blocks,
            "verified": summary.verified,
            "leaked": summary.leaked,
            "dangling": summary.dangling,
            "used_twice": summary.used_twice,
            "damaged": summary.damaged,
            "problems": summary.findings,
            "findings": self.findings,
        })
    }
}

/// The value of a future that never waits, as all of a [`FileDisk`] are.
///
/// # Panics
/// When it does wait: nothing would ever wake it.
pub(crate) fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a file does not make anyone wait"),
    }
}
