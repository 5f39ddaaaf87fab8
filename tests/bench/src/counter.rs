//! Instructions that a guest executes, counted by a plugin of QEMU's translator (`plugin/count.c`).
//!
//! The plugin is compiled where it is used, because QEMU's plugin interface has a version that must fit. It keeps a file of
//! **records**, one for each translated block of code; a **sample** is a copy of that file, and the difference of two
//! samples is what the guest did between them.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use guest::clients::run;
use qemu::{Accel, Machine, PROGRAM};

const SOURCE: &str = include_str!("../plugin/count.c");
/// First word of the file.
const MAGIC: u64 = 0x3154_4e4f_4345_5246;
/// Words before the first record.
const HEAD_WORDS: usize = 4;
/// Words of a record before its instructions' distances.
const RECORD_WORDS: usize = 4;

/// A compiled plugin and the file that it counts into.
#[derive(Debug)]
pub struct Counter {
    library: PathBuf,
    counts: PathBuf,
}

impl Counter {
    /// Compiles the plugin into `folder`.
    ///
    /// # Errors
    /// Without a C compiler, or when it does not compile.
    pub fn build(folder: &Path) -> Result<Self> {
        let source = folder.join("count.c");
        fs::write(&source, SOURCE)?;
        let library = folder.join("count.so");
        let version = interface_version(&run(
            "qemu-system-x86",
            Command::new(PROGRAM).arg("--version"),
        )?)?;
        let mut compiler = Command::new("cc");
        compiler
            .args(["-O2", "-Wall", "-shared", "-fPIC", "-fvisibility=hidden"])
            .arg(format!("-DPLUGIN_VERSION={version}"))
            .arg("-o")
            .arg(&library)
            .arg(&source);
        run("gcc", &mut compiler).context(
            "instructions are counted by a plugin of QEMU that is written in C and cannot be compiled here",
        )?;
        Ok(Self {
            library,
            counts: folder.join("counts"),
        })
    }

    /// Makes `machine` count from its start on; it is translated even where the host has virtualisation.
    pub fn attach(&self, machine: &mut Machine) {
        machine.accel = Accel::Tcg;
        let option = format!("{},out={}", self.library.display(), self.counts.display());
        machine.extra.extend(["-plugin".into(), option]);
    }

    /// What the guest has executed so far.
    ///
    /// # Errors
    /// When no machine has started with this plugin.
    pub fn sample(&self) -> Result<Sample> {
        let file = File::open(&self.counts)
            .context("QEMU did not load the plugin; it may be built without plugins")?;
        let word = |index: u64| -> Result<u64> {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, index * 8)?;
            Ok(u64::from_ne_bytes(bytes))
        };
        ensure!(word(0)? == MAGIC, "the plugin has not begun to count");
        let mut bytes = vec![0; usize::try_from(word(1)?)? * 8];
        file.read_exact_at(&mut bytes, 0)?;
        let words = bytes
            .chunks_exact(8)
            .map(|chunk| u64::from_ne_bytes(chunk.try_into().expect("eight bytes")));
        Ok(Sample(words.collect()))
    }
}

/// QEMU takes plugins of version 1 up to QEMU 8 and of version 2 from QEMU 9 on.
fn interface_version(said: &str) -> Result<u32> {
    let version = said
        .split_once("version ")
        .and_then(|(_, rest)| rest.split('.').next());
    match version.and_then(|major| major.parse::<u32>().ok()) {
        Some(major) if major >= 9 => Ok(2),
        Some(_) => Ok(1),
        None => bail!("{PROGRAM} does not say its version: {said}"),
    }
}

/// The plugin's file at one moment.
#[derive(Clone, Debug)]
pub struct Sample(Vec<u64>);

/// One record: code that is executed as a whole.
struct Block<'a> {
    address: u64,
    executed: u64,
    repeated: u64,
    instructions: u64,
    /// Four 16-bit distances in each.
    distances: &'a [u64],
}

impl Block<'_> {
    fn addresses(&self) -> impl Iterator<Item = u64> {
        (0..self.instructions).map(|index| {
            let word = self.distances[(index / 4) as usize].to_ne_bytes();
            let at = (index % 4 * 2) as usize;
            self.address + u64::from(u16::from_ne_bytes([word[at], word[at + 1]]))
        })
    }
}

impl Sample {
    fn blocks(&self) -> impl Iterator<Item = Block<'_>> {
        let mut rest = self.0.get(HEAD_WORDS..).unwrap_or_default();
        std::iter::from_fn(move || {
            let (head, tail) = rest.split_at_checked(RECORD_WORDS)?;
            let (distances, tail) = tail.split_at_checked(head[1].div_ceil(4) as usize)?;
            rest = tail;
            Some(Block {
                address: head[0],
                instructions: head[1],
                executed: head[2],
                repeated: head[3],
                distances,
            })
        })
    }

    /// What was executed between `earlier` and this sample.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Counts {
        let mut counts = Counts::default();
        let mut before = earlier.blocks();
        for block in self.blocks() {
            let (executed, repeated) = before
                .next()
                .map_or((0, 0), |old| (old.executed, old.repeated));
            let executed = block.executed - executed;
            counts.repeats += block.repeated - repeated;
            if executed == 0 {
                continue;
            }
            counts.blocks += executed;
            counts.instructions += executed * block.instructions;
            for address in block.addresses() {
                *counts.by_address.entry(address).or_default() += executed;
            }
        }
        counts.unplaced = self.0[2] - earlier.0[2];
        counts.instructions += counts.unplaced;
        counts
    }
}

/// What a guest executed in some time.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// All of it, without `repeats`.
    pub instructions: u64,
    /// Blocks of code that were entered.
    pub blocks: u64,
    /// Rounds of string instructions after the first.
    pub repeats: u64,
    /// Instructions whose address was not kept.
    pub unplaced: u64,
    /// Executions by the address of the instruction.
    pub by_address: HashMap<u64, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(records: &[(u64, u64, u64)]) -> Sample {
        let mut words = vec![MAGIC, 0, 0, 0];
        for (address, executed, repeated) in records {
            // Two instructions, the second of which is 3 bytes on.
            words.extend([*address, 2, *executed, *repeated, 3 << 16]);
        }
        Sample(words)
    }

    #[test]
    fn counts_are_differences_and_add_up() {
        let before = sample(&[(0x1000, 5, 1)]);
        let after = sample(&[(0x1000, 7, 4), (0x2000, 10, 0)]);
        let counts = after.since(&before);
        assert_eq!(
            (counts.instructions, counts.blocks, counts.repeats),
            (24, 12, 3)
        );
        assert_eq!(counts.by_address[&0x1003], 2);
        assert_eq!(counts.by_address[&0x2000], 10);
        assert_eq!(counts.by_address.values().sum::<u64>(), counts.instructions);
    }

    #[test]
    fn the_interface_follows_the_version() {
        assert_eq!(
            interface_version("QEMU emulator version 7.2.22 (D)").unwrap(),
            1
        );
        assert_eq!(
            interface_version("QEMU emulator version 10.0.2").unwrap(),
            2
        );
        assert!(interface_version("QEMU").is_err());
    }
}
