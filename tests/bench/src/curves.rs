//! `--curves`: operations in a second and instructions of each, as work grows.
//!
//! Each **axis** is gone along twice, once against the clock and once with instructions counted, on appliances of their own.
//! Random reads go to blocks that were written before, in the same order.

use anyhow::Result;
use clap::ValueEnum;
use serde_json::json;

use crate::client::{Kind, Load};
use crate::grid::Grid;
use crate::interrupt;
use crate::profile::Plan;
use crate::profile::rig::Rig;
use crate::report::Report;
use crate::target::{Bench, EXPORT, MEMORY_MIB, Route};

/// Operations at each point.
const OPERATIONS: u64 = 8000;
/// The part of the volume that is used where size is not the axis, filled first.
const SPAN: u64 = 256 << 20;
/// Operations in flight where depth is not the axis.
const DEPTH: u32 = 32;
/// Operations in flight on each of many connections.
const SHARED_DEPTH: u32 = 4;
/// Memory where many snapshots have to be kept in mind, in MiB.
const SNAPSHOT_MEMORY_MIB: u32 = 384;
/// Blocks written at random to a volume of each size. In a large one each has a map leaf of its own, so that they are over
/// eight times the leaves that 128 MiB of memory keep.
const SCATTERED: u64 = 26_000;

const DEPTHS: [u32; 7] = [1, 4, 16, 32, 64, 128, 256];
const CONNECTIONS: [u32; 6] = [1, 2, 8, 16, 32, 64];
const SIZES_GIB: [u64; 4] = [1, 64, 1024, 16_384];
const SNAPSHOTS: [u32; 4] = [0, 100, 1000, 10_000];
const MEMORIES_MIB: [u32; 4] = [48, 128, 512, 2048];

const KINDS: [(Kind, &str); 2] = [(Kind::Write, "random write"), (Kind::Read, "random read")];

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Axis {
    /// Operations in flight on one connection, 1 to 256
    Depth,
    /// Connections, 1 to 64, with 4 operations in flight on each
    Connections,
    /// Bytes of the volume, 1 GiB to 16 TiB, sparse
    Size,
    /// Snapshots of the volume, 0 to 10,000
    Snapshots,
    /// Memory of the machine, 48 MiB to 2 GiB
    Memory,
}

impl Axis {
    fn title(self) -> &'static str {
        match self {
            Self::Depth => "queue depth",
            Self::Connections => "connections, 4 in flight on each",
            Self::Size => "size of the volume in GiB, blocks scattered over all of it",
            Self::Snapshots => "snapshots of the volume",
            Self::Memory => "memory of the machine in MiB",
        }
    }
}

/// Goes along the axes; what was measured before a failure is in the report.
///
/// # Errors
/// When an appliance does not start or an operation fails.
pub fn measure(bench: &Bench, axes: &[Axis], report: &mut Report) -> Result<()> {
    let route = bench.best_route();
    for &axis in Axis::value_variants() {
        if !axes.is_empty() && !axes.contains(&axis) {
            continue;
        }
        for is_counted in [false, true] {
            let mut curve = Curve::new(bench, route, axis, is_counted);
            let result = curve.go();
            report.grids.push(curve.grid);
            result?;
        }
    }
    Ok(())
}

/// One axis, gone along once.
struct Curve<'a> {
    bench: &'a Bench,
    route: Route,
    axis: Axis,
    is_counted: bool,
    grid: Grid,
}

impl<'a> Curve<'a> {
    fn new(bench: &'a Bench, route: Route, axis: Axis, is_counted: bool) -> Self {
        let (what, unit) = match is_counted {
            true => ("instructions of each operation", "instructions"),
            false => ("operations", "1/s"),
        };
        let title = format!("{what} by {}", axis.title());
        let grid = Grid::new(&title, unit, &KINDS.map(|(_, name)| name)).remark(route.name());
        Self {
            bench,
            route,
            axis,
            is_counted,
            grid,
        }
    }

    fn go(&mut self) -> Result<()> {
        eprintln!("curves: {}", self.axis.title());
        match self.axis {
            Axis::Depth => {
                let rig = self.filled(MEMORY_MIB)?;
                for depth in DEPTHS {
                    self.point(&rig, EXPORT, &depth.to_string(), SPAN, depth, 1)?;
                }
                rig.finish()
            }
            Axis::Connections => {
                let rig = self.filled(MEMORY_MIB)?;
                for count in CONNECTIONS {
                    self.point(&rig, EXPORT, &count.to_string(), SPAN, SHARED_DEPTH, count)?;
                }
                rig.finish()
            }
            Axis::Size => self.sizes(),
            Axis::Snapshots => self.snapshots(),
            Axis::Memory => {
                for memory in MEMORIES_MIB {
                    let rig = self.filled(memory)?;
                    self.point(&rig, EXPORT, &memory.to_string(), SPAN, DEPTH, 1)?;
                    rig.finish()?;
                }
                Ok(())
            }
        }
    }

    fn rig(&self, memory_mib: u32) -> Result<Rig> {
        interrupt::check()?;
        Rig::bare(self.bench, self.route, memory_mib, self.is_counted)
    }

    fn filled(&self, memory_mib: u32) -> Result<Rig> {
        let rig = self.rig(memory_mib)?;
        rig.fill(SPAN)?;
        Ok(rig)
    }

    fn sizes(&mut self) -> Result<()> {
        let rig = self.rig(MEMORY_MIB)?;
        for gib in SIZES_GIB {
            let name = format!("of-{gib}-gib");
            let bytes = gib << 30;
            rig.api(|api| Ok(api.post("/v1/volumes", &json!({"name": name, "size": bytes}))?))?;
            let scatter = load(Kind::Write, bytes, DEPTH);
            rig.connect(&name, 1)?[0].run(scatter, SCATTERED)?;
            self.point(&rig, &name, &gib.to_string(), bytes, DEPTH, 1)?;
        }
        rig.finish()
    }

    fn snapshots(&mut self) -> Result<()> {
        let rig = self.filled(SNAPSHOT_MEMORY_MIB)?;
        let path = format!("/v1/volumes/{EXPORT}/snapshots");
        let mut made = 0;
        for wanted in SNAPSHOTS {
            rig.api(|api| {
                while made < wanted {
                    interrupt::check()?;
                    api.post(&path, &json!({"name": format!("s{made}")}))?;
                    made += 1;
                }
                Ok(())
            })?;
            self.point(&rig, EXPORT, &wanted.to_string(), SPAN, DEPTH, 1)?;
        }
        rig.finish()
    }

    /// Writes, then reads.
    fn point(
        &mut self,
        rig: &Rig,
        volume: &str,
        name: &str,
        span: u64,
        depth: u32,
        connections: u32,
    ) -> Result<()> {
        for (kind, column) in KINDS {
            interrupt::check()?;
            let plan = Plan {
                load: load(kind, span, depth),
                connections,
                operations: OPERATIONS,
                rows: 0,
            };
            let (rate, windows) = rig.measure(volume, &plan)?;
            if self.is_counted {
                let each = plan.mean(&windows, |counts| counts.instructions);
                self.grid.push(name, column, each);
            } else {
                self.grid.push(name, column, rate);
            }
        }
        Ok(())
    }
}

fn load(kind: Kind, span: u64, depth: u32) -> Load {
    Load {
        kind,
        bytes: 4096,
        depth,
        span,
    }
}
