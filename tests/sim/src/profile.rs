//! What one seed is about: drives, faults, sizes and habits.

use store::Config;

use crate::disk::{Faults, Latency};
use crate::model::Trust;
use crate::network::Weather;
use crate::random::{Random, mix};

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;

/// Which seeds have adopted volumes: a third, and none of those that found something before there were any (`seeds.txt`).
const ADOPTING: u64 = 375_397;

/// The parts of a scenario that can be left out, to find out which of them a failure needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Power cuts, resets and orderly restarts.
    pub restarts: bool,
    /// Faults of drives other than power cuts.
    pub faults: bool,
    /// The way through a lossy network and the NBD server.
    pub network: bool,
    /// Snapshots, clones and rollbacks.
    pub snapshots: bool,
    /// Volumes whose blocks are elsewhere.
    pub adoption: bool,
}

impl Parts {
    /// Everything.
    pub const ALL: Self = Self {
        restarts: true,
        faults: true,
        network: true,
        snapshots: true,
        adoption: true,
    };
}

/// How often a client does what, as weights.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    pub write: u64,
    pub read: u64,
    pub discard: u64,
    pub flush: u64,
    pub record: u64,
    pub create: u64,
    pub delete: u64,
    pub grow: u64,
    pub pause: u64,
    /// Takes, reads, compares and deletes snapshots.
    pub snapshot: u64,
    /// Clones snapshots and rolls back to them.
    pub clone: u64,
    pub rename: u64,
    /// Adopts volumes.
    pub adopt: u64,
    /// Brings what origins have.
    pub fetch: u64,
    /// Looks at what is here.
    pub look: u64,
    /// Blocks of the largest adopted volume.
    pub adopted_blocks: u64,
    /// Volumes are larger than the pool and writes as large as can be, so that it is full soon and stays so.
    pub fills: bool,
    /// Parts per million of requests that are whole blocks.
    pub aligned: u32,
    /// Parts per million of requests that go to the few hot blocks.
    pub hot: u32,
    /// Hot blocks of a volume.
    pub hot_blocks: u64,
    /// The most sectors of a request.
    pub sectors_max: u64,
}

/// The drawn decisions of a seed.
#[derive(Clone, Debug)]
pub struct Profile {
    pub drive_blocks: Vec<u64>,
    pub latency: Latency,
    pub trust: Trust,
    pub faults: Faults,
    /// Each opening gets another amount of memory than the one before.
    pub memory_changes: bool,
    /// Small groups make the allocator come round soon.
    pub group_shift: Option<u8>,
    pub clients: usize,
    pub habits: Habits,
    pub volumes_max: usize,
    pub volume_bytes_max: u64,
    pub snapshots_max: usize,
    /// Drive operations between power cuts, about.
    pub cut_every: u64,
    /// Parts per million of recoveries that are cut themselves.
    pub nested: u32,
    /// Requests go through the network, and this is what it is like.
    pub weather: Option<Weather>,
}

impl Profile {
    /// Draws a profile.
    #[must_use]
    pub fn draw(seed: u64, random: &mut Random, parts: Parts) -> Self {
        let mut habits = draw_habits(random);
        if !parts.snapshots {
            (habits.snapshot, habits.clone) = (0, 0);
        }
        let fills = habits.fills;
        let drives = if !fills && random.one_in(4) { 2 } else { 1 };
        let huge = !fills && random.one_in(10);
        let drive_blocks: Vec<u64> = (0..drives)
            .map(|_| match (huge, random.below(4)) {
                (true, _) => (1 << 40) / BLOCK + random.below(1000),
                (false, 0) => 64 * MIB / BLOCK,
                _ if fills => (64 * MIB + random.below(8 * MIB)) / BLOCK,
                (false, _) => (64 * MIB + random.below(200 * MIB)) / BLOCK,
            })
            .collect();
        let pool_bytes = drive_blocks.iter().sum::<u64>() * BLOCK;
        let (trust, faults) = if parts.faults {
            draw_faults(random)
        } else {
            (Trust::Full, Faults::default())
        };
        let weather = (parts.network && random.one_in(5)).then(|| Weather {
            lost: random.pick(&[0, 1000, 20_000]),
            doubled: random.pick(&[0, 5000]),
            delayed: random.pick(&[0, 10_000, 200_000]),
            cut: random.pick(&[0, 0, 30]),
        });
        let profile = Self {
            latency: draw_latency(random),
            trust,
            faults,
            memory_changes: random.one_in(2),
            group_shift: (!huge)
                .then(|| random.pick(&[None, Some(8), Some(9)]))
                .flatten(),
            clients: random.pick(&[1, 2, 3, 5, 8]),
            habits,
            volumes_max: random.pick(&[1, 2, 4, 12]),
            volume_bytes_max: if fills {
                pool_bytes * 2
            } else {
                random.pick(&[MIB, 16 * MIB, pool_bytes * 2, pool_bytes / 2])
            },
            snapshots_max: random.pick(&[2, 10, 10, 60]),
            cut_every: random.pick(&[30, 200, 1000, 5000]),
            nested: random.pick(&[0, 200_000, 700_000]),
            drive_blocks,
            weather,
        };
        // Last, so that nothing else depends on it. Origins are not for those who come through the network.
        let adopts = mix(seed ^ ADOPTING).is_multiple_of(3) && profile.weather.is_none();
        if !(adopts && parts.adoption) {
            return profile;
        }
        let mut profile = profile;
        let habits = &mut profile.habits;
        habits.adopt = random.pick(&[1, 3, 8]);
        habits.fetch = random.pick(&[10, 40]);
        habits.look = random.pick(&[2, 8]);
        habits.adopted_blocks = random.pick(&[40, 300, 300, 300, 1500, 1500, 1500, 18_000]);
        profile
    }
}

/// What one opening has of memory.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub config: Config,
    /// Pages of the store's own pool.
    pub pool_pages: usize,
}

impl Memory {
    /// Draws amounts, from the least that the store promises to work with up to plenty. What opens with one amount
    /// opens with another if both have room for the changes of the largest journal frame.
    #[must_use]
    pub fn draw(random: &mut Random, changes: bool) -> Self {
        let deltas: &[usize] = if changes {
            &[4096, 8192, 16384]
        } else {
            &[256, 512, 1024, 4096, 16384]
        };
        Self {
            config: Config {
                deltas_max: random.pick(deltas),
                nodes_max: random.pick(&[128, 256, 1024]),
                groups_open_max: random.pick(&[16, 32, 64]),
                reclaim_blocks: random.pick(&[128, 300, 8192]),
                ..Config::for_memory(1 << 20)
            },
            pool_pages: random.pick(&[256, 512, 1024, 2048]),
        }
    }
}

fn draw_latency(random: &mut Random) -> Latency {
    let transfer_min = random.pick(&[1_000, 10_000, 80_000, 80_000, 4_000_000]);
    Latency {
        transfer_min,
        transfer_max: transfer_min * random.pick(&[1, 3, 30]),
        flush_max: transfer_min * random.pick(&[1, 10, 100]),
        outliers: random.pick(&[0, 0, 1000]),
        stalls: random.pick(&[0, 0, 0, 500]),
    }
}

fn draw_faults(random: &mut Random) -> (Trust, Faults) {
    let rare = |random: &mut Random| random.pick(&[0, 500, 5000]);
    let mut faults = Faults::default();
    let trust = match random.below(10) {
        0..=5 => Trust::Full,
        6 => {
            faults.read_error = rare(random);
            faults.write_error = rare(random);
            faults.flush_error = random.pick(&[0, 20_000]);
            Trust::ErrorsHappen
        }
        // A rotten block behind the last frame that another one vouches for looks like one that a power cut lost; so a
        // restart may go back to before it.
        7 => {
            faults.rot = rare(random);
            faults.unreadable = rare(random);
            faults.decay = random.pick(&[0, 300_000]);
            Trust::DrivesLie
        }
        8 => {
            faults.lying_flush = random.pick(&[5000, 100_000, 1_000_000]);
            faults.misdirected_read = rare(random);
            Trust::DrivesLie
        }
        _ => {
            faults.lost_write = rare(random);
            faults.misdirected_write = rare(random);
            faults.rot = rare(random);
            Trust::DrivesLie
        }
    };
    (trust, faults)
}

fn draw_habits(random: &mut Random) -> Habits {
    let mut habits = Habits {
        write: 50,
        read: 20,
        discard: 5,
        flush: 6,
        record: 2,
        create: 2,
        delete: 1,
        grow: 1,
        pause: 5,
        snapshot: random.pick(&[0, 4, 12, 40]),
        clone: random.pick(&[0, 1, 4]),
        rename: random.pick(&[0, 1]),
        adopt: 0,
        fetch: 0,
        look: 0,
        adopted_blocks: 0,
        fills: false,
        aligned: random.pick(&[0, 500_000, 1_000_000]),
        hot: random.pick(&[100_000, 800_000]),
        hot_blocks: random.pick(&[2, 16, 256]),
        sectors_max: random.pick(&[8, 64, 256]),
    };
    match random.below(6) {
        // Fills the pool.
        0 => {
            habits.fills = true;
            habits.write = 200;
            habits.sectors_max = 256;
            habits.aligned = 1_000_000;
            habits.hot = 0;
            habits.delete = 0;
        }
        // Flushes after nearly every write, or never.
        1 => habits.flush = 50,
        2 => habits.flush = 0,
        // Volumes come and go.
        3 => (habits.create, habits.delete, habits.grow) = (10, 9, 6),
        4 => habits.discard = 40,
        _ => {}
    }
    habits
}
