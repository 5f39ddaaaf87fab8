//! fio jobs and what they say.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guest::clients::run;
use serde_json::Value;

/// The part of the volume that jobs touch; it is filled first, so that reads meet data.
pub const SPAN_MIB: u32 = 256;

/// Longest run of the job that fills a volume, and of jobs that end by count.
const FILL_LIMIT: Duration = Duration::from_secs(150);

/// One kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its name in tables and JSON.
    pub name: &'static str,
    /// fio's `rw`.
    pattern: &'static str,
    /// Bytes of one operation in KiB.
    block_kib: u32,
    /// Operations in flight.
    depth: u32,
    /// Whether a flush follows each operation.
    is_flushed: bool,
    /// Whether throughput is what people look at, and not operations.
    pub is_stream: bool,
}

impl Job {
    /// The same under another name, for another moment.
    #[must_use]
    pub const fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }
}

/// What is measured on every target.
pub const JOBS: [Job; 7] = [
    job("4 KiB random read, QD 1", "randread", 4, 1),
    job("4 KiB random read, QD 32", "randread", 4, 32),
    job("4 KiB random write, QD 1", "randwrite", 4, 1),
    job("4 KiB random write, QD 32", "randwrite", 4, 32),
    job("128 KiB sequential read, QD 8", "read", 128, 8),
    job("128 KiB sequential write, QD 8", "write", 128, 8),
    Job {
        is_flushed: true,
        ..job("4 KiB random write and flush, QD 1", "randwrite", 4, 1)
    },
];

const fn job(name: &'static str, pattern: &'static str, block_kib: u32, depth: u32) -> Job {
    Job {
        name,
        pattern,
        block_kib,
        depth,
        is_flushed: false,
        is_stream: block_kib > 4,
    }
}

/// What one run of a job came to.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Operations done.
    pub operations: u64,
    /// Operations in a second.
    pub iops: f64,
    /// MiB in a second.
    pub mib_per_s: f64,
    /// Completion latency in µs of the median operation.
    pub p50_us: f64,
    /// Completion latency in µs that one operation of a hundred exceeds.
    pub p99_us: f64,
    /// Completion latency in µs of the slowest operation.
    pub longest_us: f64,
}

/// Runs `job` against `uri` for `time`.
///
/// # Errors
/// When fio is missing or an operation fails.
pub fn timed(uri: &str, job: Job, time: Duration) -> Result<Outcome> {
    timed_over(uri, job, time, SPAN_MIB)
}

/// The same on the first `mib` MiB.
///
/// # Errors
/// As [`timed`].
pub fn timed_over(uri: &str, job: Job, time: Duration, mib: u32) -> Result<Outcome> {
    let runtime = format!("--runtime={}", time.as_secs());
    fio(uri, job, mib, &["--time_based", &runtime])
}

/// Does `count` operations of `job`.
///
/// # Errors
/// When fio is missing, an operation fails, or they are not all done within `limit`.
pub fn counted(uri: &str, job: Job, count: u64, limit: Duration) -> Result<Outcome> {
    let number = format!("--number_ios={count}");
    let runtime = format!("--runtime={}", limit.as_secs());
    let outcome = fio(uri, job, SPAN_MIB, &[&number, &runtime])?;
    ensure!(
        outcome.operations >= count,
        "{} of {count} operations within {limit:?}",
        outcome.operations
    );
    Ok(outcome)
}

/// Writes the whole span once.
///
/// # Errors
/// As [`counted`].
pub fn fill(uri: &str) -> Result<()> {
    fill_mib(uri, SPAN_MIB)
}

/// Writes the first `mib` MiB once.
///
/// # Errors
/// As [`counted`].
pub fn fill_mib(uri: &str, mib: u32) -> Result<()> {
    let job = JOBS[5];
    let count = u64::from(mib) * 1024 / u64::from(job.block_kib);
    let runtime = format!("--runtime={}", FILL_LIMIT.as_secs());
    let outcome = fio(uri, job, mib, &[&runtime])?;
    ensure!(
        outcome.operations >= count,
        "{} of {count} operations within {FILL_LIMIT:?}",
        outcome.operations
    );
    Ok(())
}

fn fio(uri: &str, job: Job, mib: u32, more: &[&str]) -> Result<Outcome> {
    let mut command = Command::new("fio");
    command
        .args([
            "--name=bench",
            "--ioengine=nbd",
            "--norandommap",
            "--randrepeat=0",
            "--output-format=json",
        ])
        .arg(format!("--uri={uri}"))
        .arg(format!("--size={mib}m"))
        .arg(format!("--rw={}", job.pattern))
        .arg(format!("--bs={}k", job.block_kib))
        .arg(format!("--iodepth={}", job.depth))
        .args(more);
    if job.is_flushed {
        command.arg("--fsync=1");
    }
    outcome(&run("fio", &mut command)?)
}

/// Reads fio's JSON, before which it may print warnings.
fn outcome(text: &str) -> Result<Outcome> {
    let json = text.find('{').map_or("", |at| &text[at..]);
    let answer: Value = serde_json::from_str(json).context("fio printed no JSON")?;
    let job = &answer["jobs"][0];
    ensure!(job["error"] == 0, "fio met error {}", job["error"]);
    let side = ["read", "write"]
        .map(|side| &job[side])
        .into_iter()
        .max_by_key(|side| side["total_ios"].as_u64())
        .context("fio did nothing")?;
    let number = |value: &Value| value.as_f64().context("fio left a number out");
    let latency = |percentile: &str| {
        let value = &side["clat_ns"]["percentile"][percentile];
        value.as_f64().map_or(0.0, |nanos| nanos / 1000.0)
    };
    Ok(Outcome {
        operations: side["total_ios"].as_u64().context("fio counts nothing")?,
        iops: number(&side["iops"])?,
        mib_per_s: number(&side["bw_bytes"])? / f64::from(1 << 20),
        p50_us: latency("50.000000"),
        p99_us: latency("99.000000"),
        longest_us: side["clat_ns"]["max"].as_f64().unwrap_or(0.0) / 1000.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_side_that_did_something() {
        let text = r#"note: old
            {"jobs": [{"error": 0,
              "read": {"total_ios": 0, "iops": 0.0, "bw_bytes": 0, "clat_ns": {}},
              "write": {"total_ios": 50, "iops": 12.5, "bw_bytes": 2097152,
                        "clat_ns": {"percentile": {"50.000000": 1500, "99.000000": 8000}}}}]}"#;
        let outcome = outcome(text).unwrap();
        assert_eq!(
            (outcome.operations, outcome.iops, outcome.mib_per_s),
            (50, 12.5, 2.0)
        );
        assert_eq!((outcome.p50_us, outcome.p99_us), (1.5, 8.0));
    }

    #[test]
    fn an_error_of_the_job_is_an_error() {
        assert!(outcome(r#"{"jobs": [{"error": 5, "read": {"total_ios": 9}}]}"#).is_err());
        assert!(outcome("fio: engine nbd not loadable").is_err());
    }
}
