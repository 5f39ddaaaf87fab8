//! `--adoption`: a volume that is adopted beside copies of the same image, over the same line.
//!
//! The **origin** is a qcow2 image behind qemu-nbd; everybody reaches it over a line of their own where everything is counted
//! ([`guest::wire`]). A **way** is what is done with it. Bytes and counts hardly depend on the machine; seconds do.

mod copies;
mod image;
mod ours;
mod reads;

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use guest::Scratch;
use guest::origin::Origin;
use guest::wire::Counts;

use crate::grid::Grid;
use crate::interrupt;
use crate::namespace;
use crate::report::Report;
use crate::target::Bench;

use copies::Into;
use image::{SHAPES, Shape};
use ours::Ours;

/// How long a copy may take; one that takes longer is shown with what it had moved by then.
const COPY_LIMIT: Duration = Duration::from_secs(100);
/// Bytes that may come before the first read, and round trips.
const FIRST_BYTES_MAX: u64 = 1 << 20;
const FIRST_ROUND_TRIPS_MAX: u64 = 16;
const KIB: f64 = 1024.0;
const MIB: f64 = 1_048_576.0;

/// What is done with an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Adopted,
    CopyToFile,
    MirrorToFile,
    CopyToOurs,
    MirrorToOurs,
    /// What the origin gives.
    CopyToNothing,
}

impl Way {
    const ALL: [Self; 6] = [
        Self::Adopted,
        Self::CopyToFile,
        Self::MirrorToFile,
        Self::CopyToOurs,
        Self::MirrorToOurs,
        Self::CopyToNothing,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Adopted => "ferrite adoption",
            Self::CopyToFile => "nbdcopy → file",
            Self::MirrorToFile => "blockdev-mirror → file",
            Self::CopyToOurs => "nbdcopy → ferrite volume",
            Self::MirrorToOurs => "blockdev-mirror → ferrite volume",
            Self::CopyToNothing => "nbdcopy → nothing",
        }
    }
}

/// How the appliance and this host reach each other.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Where origins listen.
    ip: IpAddr,
    /// How that looks from the appliance.
    host: &'static str,
    is_tap: bool,
}

/// Measures, or only what clients notice while the rest arrives; what was measured before a failure is in the report.
///
/// # Errors
/// When a program is missing, something does not work, or adoption fetches what it should not.
pub fn measure(bench: &Bench, is_beside: bool, report: &mut Report) -> Result<()> {
    match bench.namespace() {
        Ok(inside) => {
            let place = Place {
                ip: namespace::HOST.parse()?,
                host: namespace::HOST,
                is_tap: true,
            };
            inside.within(|| measure_at(bench, place, is_beside, report))
        }
        Err(reason) => {
            report.notes.push(format!(
                "without a tap ({reason:#}): QEMU's user-mode network"
            ));
            let place = Place {
                ip: "127.0.0.1".parse()?,
                host: "10.0.2.2",
                is_tap: false,
            };
            measure_at(bench, place, is_beside, report)
        }
    }
}

fn measure_at(bench: &Bench, place: Place, is_beside: bool, report: &mut Report) -> Result<()> {
    report.notes.push(
        "origin: qcow2 behind qemu-nbd, over a line that counts; the appliance has 256 MiB and one NVMe drive in memory, \
         nbdcopy and blockdev-mirror their defaults (`--destination-is-zero`, `discard=unmap`)"
            .into(),
    );
    let scratch = Scratch::inside(&bench.folder, "bench-adoption");
    for shape in SHAPES {
        eprintln!("{}: making the image", shape.name);
        let image = shape.make(&scratch)?;
        let stage = Stage {
            bench,
            place,
            shape,
            image: &image,
            scratch: &scratch,
        };
        if is_beside {
            return reads::beside(&stage, report);
        }
        let mut grids = Grids::new(&shape);
        let result = stage.compare(&mut grids);
        report.grids.extend(grids.0);
        result?;
        if shape.size == SHAPES[0].size {
            reads::measure(&stage, report)?;
        }
        std::fs::remove_file(image)?;
    }
    Ok(())
}

/// One image, and where it is measured.
struct Stage<'a> {
    bench: &'a Bench,
    place: Place,
    shape: Shape,
    image: &'a Path,
    scratch: &'a Scratch,
}

/// What one way came to.
struct Outcome {
    /// What went over the line until the first read was answered, and how long that took.
    first: (Counts, Duration),
    all: (Counts, Duration),
    /// Bytes that were asked for and are in holes.
    holes: u64,
    is_done: bool,
}

impl Stage<'_> {
    fn origin(&self) -> Result<Origin> {
        Origin::of_image(self.image, self.place.ip)
    }

    /// A place with data that is not at the beginning.
    fn somewhere(&self) -> u64 {
        self.shape.places().last().unwrap_or(0) + (64 << 10)
    }

    fn compare(&self, grids: &mut Grids) -> Result<()> {
        for run in 1..=self.bench.runs {
            for way in Way::ALL {
                interrupt::check()?;
                // A mirror asks and clears 16 MiB at a time, a million times in 16 TiB: once is enough to see that.
                let is_long = matches!(way, Way::MirrorToFile) && run > 1;
                let is_longer = matches!(way, Way::MirrorToOurs);
                if self.shape.size > SHAPES[0].size && (is_long || is_longer) {
                    continue;
                }
                let outcome = self.go(way)?;
                eprintln!(
                    "{}, {}, run {run}: {:.2} s, {:.2} s in all",
                    self.shape.name,
                    way.name(),
                    outcome.first.1.as_secs_f64(),
                    outcome.all.1.as_secs_f64()
                );
                grids.push(way, &outcome);
            }
        }
        Ok(())
    }

    fn go(&self, way: Way) -> Result<Outcome> {
        let origin = self.origin()?;
        let file = self.scratch.file("copy");
        match way {
            Way::Adopted => self.adopt(),
            Way::CopyToNothing => self.copy(&origin, || {
                copies::nbdcopy(&origin, Into::Nothing, COPY_LIMIT)
            }),
            Way::CopyToFile | Way::MirrorToFile => {
                std::fs::File::create(&file)?.set_len(self.shape.size)?;
                let into = Into::File(&file);
                let outcome = self.copy(&origin, || self.run_copy(way, &origin, into));
                std::fs::remove_file(&file)?;
                outcome
            }
            Way::CopyToOurs | Way::MirrorToOurs => {
                let ours = Ours::start(self.bench, self.place)?;
                ours.create("copy", self.shape.size)?;
                let uri = ours.uri("copy");
                let outcome =
                    self.copy(&origin, || self.run_copy(way, &origin, Into::Export(&uri)))?;
                ours.end()?;
                Ok(outcome)
            }
        }
    }

    fn run_copy(&self, way: Way, origin: &Origin, into: Into<'_>) -> Result<bool> {
        match way {
            Way::CopyToFile | Way::CopyToOurs => copies::nbdcopy(origin, into, COPY_LIMIT),
            _ => copies::mirror(origin, into, COPY_LIMIT, self.scratch),
        }
    }

    /// A copy: nobody can read before its end.
    fn copy(&self, origin: &Origin, work: impl FnOnce() -> Result<bool>) -> Result<Outcome> {
        let begun = Instant::now();
        let is_done = work()?;
        let all = (origin.counts(), begun.elapsed());
        Ok(Outcome {
            first: all.clone(),
            holes: all.0.read_bytes_outside(origin.data()),
            all,
            is_done,
        })
    }

    fn adopt(&self) -> Result<Outcome> {
        let ours = Ours::start(self.bench, self.place)?;
        let mut block = [0; 4096];
        // The first read, with nothing else going on.
        let (quiet, other) = (self.origin()?, self.origin()?);
        let held = ours.hold(&other)?;
        let begun = Instant::now();
        ours.adopt("first", &quiet)?;
        ours.nbd("first")?.read(self.somewhere(), &mut block)?;
        let first = (quiet.counts(), begun.elapsed());
        ours.delete("first")?;
        held.let_go()?;
        ensure!(
            first.0.bytes() <= FIRST_BYTES_MAX && first.0.round_trips <= FIRST_ROUND_TRIPS_MAX,
            "before the first read: {:?}",
            first.0
        );
        // All of it.
        let origin = self.origin()?;
        let begun = Instant::now();
        let job = ours.adopt("all", &origin)?;
        ours.wait(job)?;
        let all = (origin.counts(), begun.elapsed());
        ours::require_frugal(&all.0, &origin)?;
        ours.end()?;
        Ok(Outcome {
            first,
            holes: all.0.read_bytes_outside(origin.data()),
            all,
            is_done: true,
        })
    }
}

/// Bytes, counts, seconds, and what they come to.
struct Grids([Grid; 5]);

impl Grids {
    fn new(shape: &Shape) -> Self {
        let columns = Way::ALL.map(Way::name);
        let grid = |what: &str, unit| Grid::new(&format!("{}: {what}", shape.name), unit, &columns);
        Self([
            grid("before the first read, over the line", "KiB"),
            grid("in all, over the line", "MiB"),
            grid("counts", "times").remark(
                "a round trip is a connection, or something said after an answer; more than one may be under way, so that \
                 these are the most",
            ),
            grid("time", "s"),
            grid("data in a second", "MiB/s"),
        ])
    }

    fn push(&mut self, way: Way, outcome: &Outcome) {
        let name = way.name();
        let [before, bytes, counts, time, rate] = &mut self.0;
        let (first, all) = (&outcome.first, &outcome.all);
        if !outcome.is_done {
            time.push("not done after", name, all.1.as_secs_f64());
            bytes.push(
                "both directions, not done",
                name,
                all.0.bytes() as f64 / MIB,
            );
            counts.push(
                "questions about holes, not done",
                name,
                all.0.questions as f64,
            );
            return;
        }
        before.push("both directions", name, first.0.bytes() as f64 / KIB);
        bytes.push("both directions", name, all.0.bytes() as f64 / MIB);
        bytes.push("asked for by reads", name, all.0.read_bytes() as f64 / MIB);
        bytes.push("of these again", name, all.0.repeated_bytes() as f64 / MIB);
        bytes.push("asked for in holes", name, outcome.holes as f64 / MIB);
        let mut count = |row: &str, count: u64| counts.push(row, name, count as f64);
        count("round trips before the first read", first.0.round_trips);
        count("reads", all.0.reads.len() as u64);
        count("questions about holes", all.0.questions);
        count("connections", all.0.connections);
        time.push("to the first read", name, first.1.as_secs_f64());
        time.push("in all", name, all.1.as_secs_f64());
        let seconds = all.1.as_secs_f64().max(1e-3);
        rate.push("in all", name, all.0.read_bytes() as f64 / MIB / seconds);
    }
}
