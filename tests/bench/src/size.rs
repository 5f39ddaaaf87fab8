//! Sizes of the image.

use std::fs;

use anyhow::Result;

use crate::report::Figure;
use crate::target::Bench;

/// The ELF as QEMU loads it and, where it was built, the disk image around it.
///
/// # Errors
/// When the file system refuses.
pub fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (name, what) in [
        ("ferrite.elf", "with its packed table of functions"),
        ("ferrite.img", "flashable, BIOS + UEFI"),
    ] {
        let figure = Figure::new(format!("size of {name}"), "KiB");
        let path = bench.dist.join(name);
        figures.push(match fs::metadata(path) {
            Ok(meta) => {
                let mut figure = figure.remark(what);
                figure.samples.push(meta.len() as f64 / 1024.0);
                figure
            }
            Err(_) => figure.remark("not built; `cargo xtask image` does"),
        });
    }
    Ok(figures)
}
