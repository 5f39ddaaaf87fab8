//! Images that are adopted and copied: data in pieces, holes between them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use guest::Scratch;
use guest::clients::run;
use guest::workload::pseudo_random;

/// How an image is made up.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Its name in tables.
    pub name: &'static str,
    /// Bytes of the disk.
    pub size: u64,
    /// Pieces of data, evenly over all of it.
    pub pieces: u64,
    /// Bytes of each.
    pub piece_bytes: usize,
}

/// What is adopted and copied.
pub const SHAPES: [Shape; 2] = [
    Shape {
        name: "1 GiB in 4 GiB",
        size: 4 << 30,
        pieces: 256,
        piece_bytes: 4 << 20,
    },
    Shape {
        name: "64 MiB in 16 TiB",
        size: 16 << 40,
        pieces: 64,
        piece_bytes: 1 << 20,
    },
];

impl Shape {
    /// Where the pieces begin.
    pub fn places(&self) -> impl Iterator<Item = u64> {
        let step = self.size / self.pieces;
        (0..self.pieces).map(move |piece| piece * step)
    }

    /// Makes it as qcow2.
    ///
    /// # Errors
    /// When there is no room or qemu-img is missing.
    pub fn make(&self, scratch: &Scratch) -> Result<PathBuf> {
        let raw = scratch.file(&format!("{}.raw", self.size));
        let image = scratch.file(&format!("{}.qcow2", self.size));
        let file = File::create(&raw)?;
        file.set_len(self.size)?;
        for (seed, at) in (1..).zip(self.places()) {
            file.write_all_at(&pseudo_random(seed, self.piece_bytes), at)?;
        }
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "-f", "raw", "-O", "qcow2"]);
        run("qemu-utils", convert.args([&raw, &image]))?;
        fs::remove_file(raw)?;
        Ok(image)
    }
}
