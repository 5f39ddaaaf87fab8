//! The appliance that adopts, and its volumes.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use guest::nbd::Nbd;
use guest::origin::Origin;
use guest::wire::Counts;
use guest::{READY_LIMIT, Station};
use qemu::{Appliance, Drive, sparse_file};
use serde_json::json;

use super::Place;
use crate::interrupt;
use crate::target::{Bench, finish, put_on_tap};

/// How long everything may take to arrive.
const LIMIT: Duration = Duration::from_secs(600);
const INTERVAL: Duration = Duration::from_millis(20);
const DRIVE_BYTES: u64 = 16 << 30;
const MEMORY_MIB: u32 = 256;
/// So many jobs bring something in at a time; others wait until one of these is over.
const JOBS_AT_ONCE: usize = 4;

/// An appliance with nothing in it.
#[derive(Debug)]
pub struct Ours {
    appliance: Appliance,
    station: Station,
    place: Place,
}

impl Ours {
    /// Starts it, in the caller's network namespace if it is on a tap.
    ///
    /// # Errors
    /// When it does not serve.
    pub fn start(bench: &Bench, place: Place) -> Result<Self> {
        let mut station = bench.station()?;
        if place.is_tap {
            put_on_tap(&mut station.options);
        }
        station.options.machine.memory_mib = MEMORY_MIB;
        let drive = sparse_file(station.scratch.file("drive1.raw"), DRIVE_BYTES)?;
        station.options.machine.drives = vec![Drive::new(drive)];
        Ok(Self {
            appliance: station.start()?,
            station,
            place,
        })
    }

    /// Turns it off.
    ///
    /// # Errors
    /// When it does not turn itself off.
    pub fn end(mut self) -> Result<()> {
        finish(&mut self.appliance)
    }

    /// The URI of an export.
    #[must_use]
    pub fn uri(&self, export: &str) -> String {
        self.station.uri(export)
    }

    /// A connection to an export.
    ///
    /// # Errors
    /// When it is refused.
    pub fn nbd(&self, export: &str) -> Result<Nbd> {
        Nbd::connect(self.station.options.nbd, export, READY_LIMIT)
    }

    /// Makes an empty volume.
    ///
    /// # Errors
    /// When the API refuses.
    pub fn create(&self, name: &str, size: u64) -> Result<()> {
        let wanted = json!({"name": name, "size": size});
        self.station.api().post("/v1/volumes", &wanted)?;
        Ok(())
    }

    /// Makes a volume of an origin; returns the number of the job that brings in the rest.
    ///
    /// # Errors
    /// When the API refuses.
    pub fn adopt(&self, name: &str, origin: &Origin) -> Result<u64> {
        let uri = origin.uri(self.place.host);
        let wanted = json!({"name": name, "origin": {"nbd": uri}});
        let volume = self.station.api().post("/v1/volumes", &wanted)?;
        let job = volume["hydration"]["job"].as_u64();
        job.with_context(|| format!("no job: {volume}"))
    }

    /// Deletes a volume.
    ///
    /// # Errors
    /// When the API refuses.
    pub fn delete(&self, name: &str) -> Result<()> {
        self.station.api().delete(&format!("/v1/volumes/{name}"))?;
        Ok(())
    }

    /// Waits until a job is done.
    ///
    /// # Errors
    /// When that takes too long, or it ends otherwise.
    pub fn wait(&self, job: u64) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            interrupt::check()?;
            let found = self.station.api().get(&format!("/v1/jobs/{job}"))?;
            match found["state"].as_str() {
                Some("done") => return Ok(()),
                Some("running" | "queued" | "waiting") => {}
                _ => bail!("the job ended: {found}"),
            }
            ensure!(Instant::now() < deadline, "it does not arrive: {found}");
            thread::sleep(INTERVAL);
        }
    }

    fn limit(&self, job: u64, rate: u64) -> Result<()> {
        let path = format!("/v1/jobs/{job}");
        self.station.api().patch(&path, &json!({"rate": rate}))?;
        Ok(())
    }

    /// Keeps all jobs from beginning until the value is let go: others have all the places and hardly get on.
    ///
    /// # Errors
    /// When the API refuses.
    pub fn hold<'a>(&'a self, origin: &Origin) -> Result<Held<'a>> {
        let mut held = Held {
            ours: self,
            jobs: Vec::new(),
        };
        for number in 0..JOBS_AT_ONCE {
            let name = format!("held-{number}");
            let job = self.adopt(&name, origin)?;
            held.jobs.push((name, job));
            self.limit(job, 1)?;
        }
        Ok(held)
    }
}

/// Jobs that have the places of others.
pub struct Held<'a> {
    ours: &'a Ours,
    jobs: Vec<(String, u64)>,
}

impl Held<'_> {
    /// Lets them go.
    ///
    /// # Errors
    /// When the API refuses.
    pub fn let_go(self) -> Result<()> {
        for (name, job) in &self.jobs {
            self.ours.limit(*job, 0)?;
            self.ours.delete(name)?;
        }
        Ok(())
    }
}

/// Fails unless each block came once, no hole, and hardly anything else.
///
/// # Errors
/// What came that should not have.
pub fn require_frugal(counts: &Counts, origin: &Origin) -> Result<()> {
    let holes = counts.read_bytes_outside(origin.data());
    let allocated = origin.allocated();
    ensure!(
        !counts.is_unclear
            && counts.repeated_bytes() == 0
            && holes == 0
            && counts.bytes() as f64 <= 1.05 * allocated as f64,
        "{} bytes moved of {allocated}, {} of them again, {holes} of holes",
        counts.bytes(),
        counts.repeated_bytes()
    );
    Ok(())
}
