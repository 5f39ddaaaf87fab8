//! `ferrite check`: the store's own checker on drive images.

use std::path::PathBuf;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use serde_json::{Value, json};
use store::{CheckOptions, Contents, Store, StoreError, Summary};

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

/// How to check.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    /// Every block of data is read and compared with its tag.
    pub verify_data: bool,
    /// Images are read even while somebody writes to them; what is reported then need not be so.
    pub force: bool,
}

impl Mode {
    /// All of it, of a pool that nobody has in use.
    pub const WHOLE: Self = Self {
        verify_data: true,
        force: false,
    };
}

/// Checks the pool on these images: all drives of it, in any order. Writes nothing.
///
/// # Errors
/// [`Failure::Here`] when it cannot begin: an image that cannot be read or that a machine has in use, no pool, drives missing.
pub fn check(images: &[PathBuf], mode: Mode) -> Result<Report, Failure> {
    let disks: Vec<FileDisk> = images
        .iter()
        .map(|path| FileDisk::open(path))
        .collect::<Result<_, _>>()?;
    if !mode.force {
        disks.iter().try_for_each(refuse_written)?;
    }
    let mut findings = Vec::new();
    let mut note = |finding: store::Finding| {
        if findings.len() < FINDINGS_MAX {
            findings.push(finding.to_string());
        }
    };
    let options = CheckOptions {
        verify_data: mode.verify_data,
    };
    let result = ready(store::check(&disks, options, &mut note));
    // A machine that was started meanwhile looks like damage.
    if !mode.force && !result.as_ref().is_ok_and(Summary::is_clean) {
        disks.iter().try_for_each(refuse_written)?;
        if let Some(disk) = disks.iter().find(|disk| disk.was_written()) {
            return Err(Failure::Here(format!(
                "{} was written to while it was checked, which looks like damage; check it again",
                disk.name()
            )));
        }
    }
    let summary = result.map_err(|error| no_pool(&disks, error))?;
    Ok(Report { summary, findings })
}

/// Refuses an image that a machine has in use.
fn refuse_written(disk: &FileDisk) -> Result<(), Failure> {
    let Some(who) = disk.writer() else {
        return Ok(());
    };
    Err(Failure::Here(format!(
        "{} is in use by {who}: what is written during a check looks like damage. End the machine first (`cargo xtask stop`), \
         or have a running pool verified by `ferrite scrub`; --force reads the image all the same",
        disk.name()
    )))
}

/// Says why there is no pool to check, and of which image.
fn no_pool(disks: &[FileDisk], error: StoreError) -> Failure {
    let mut members = 0;
    let mut given = 0;
    for disk in disks {
        let name = disk.name();
        let what = match ready(Store::inspect(disk)) {
            Ok(Contents::Member { members: all, .. }) => {
                (members, given) = (all, given + 1);
                continue;
            }
            Ok(Contents::Blank) => "it is blank".into(),
            Ok(Contents::Foreign(what)) => format!("it holds {what}"),
            Err(StoreError::TooSmall) => "it is smaller than one block".into(),
            Err(error) => error.to_string(),
        };
        return Failure::Here(format!("{name} is no drive of a Ferrite pool: {what}"));
    }
    match error {
        StoreError::Incomplete if given < members => Failure::Here(format!(
            "the pool has {members} drives, and {given} of them {} given; a check needs all",
            if given == 1 { "was" } else { "were" }
        )),
        StoreError::Incomplete => {
            Failure::Here("these drives are not of one pool, or one of them was given twice".into())
        }
        error => {
            let names: Vec<_> = disks.iter().map(FileDisk::name).collect();
            Failure::Here(format!("{}: {error}", names.join(", ")))
        }
    }
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
