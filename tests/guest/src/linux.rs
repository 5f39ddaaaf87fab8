//! A Linux machine as a client: a second QEMU that attaches a volume through `nbd.ko` and keeps an ext4 file system on it.
//!
//! Kernel and modules come from the distribution's kernel package, unpacked below the target folder and never installed;
//! programs are the host's own with the libraries they need. Everything is put into one initramfs.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Modules to load, without what they depend on.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_net", "crc32c_generic", "ext4", "nbd"];

/// Programs of the client, taken from the host.
const PROGRAMS: [&str; 3] = ["nbd-client", "mke2fs", "e2fsck"];

/// A kernel and an initramfs, ready to boot.
pub struct LinuxClient {
    /// Kernel image for `qemu -kernel`.
    pub kernel: PathBuf,
    /// Initial file system for `qemu -initrd`.
    pub initrd: PathBuf,
}

impl LinuxClient {
    /// Builds the client below `folder`; what is there from an earlier call is used again.
    ///
    /// # Errors
    /// A package that cannot be downloaded, a program that is missing.
    pub fn prepare(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let root = folder.join("kernel-package");
        if !root.join("boot").is_dir() {
            unpack_kernel(folder, &root)?;
        }
        let kernel = only_entry(&root.join("boot"), "vmlinuz-")?;
        let modules = only_entry(&root.join("lib/modules"), "")?;
        let initrd = folder.join("client.cpio");
        write_initramfs(&initrd, &modules).context("cannot assemble the Linux client")?;
        Ok(Self { kernel, initrd })
    }

    /// The kernel's command line for a phase of the test script (`linux/init`).
    #[must_use]
    pub fn command_line(phase: &str, port: u16, export: &str, files: u32) -> String {
        format!(
            "console=ttyS0 quiet panic=-1 t.phase={phase} t.port={port} t.export={export} t.files={files}"
        )
    }
}

fn unpack_kernel(folder: &Path, root: &Path) -> Result<()> {
    let depends = Command::new("apt-cache")
        .args(["depends", "linux-image-amd64"])
        .output()?;
    let text = String::from_utf8_lossy(&depends.stdout);
    let package = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .context("the package lists name no kernel (linux-image-amd64); run `apt-get update`")?;
    let status = Command::new("apt-get")
        .args(["-qq", "download", package])
        .current_dir(folder)
        .status()?;
    ensure!(status.success(), "cannot download the package {package}");
    let archive = only_entry(folder, &format!("{package}_"))?;
    // Unpacked aside and renamed, so that an interrupted run is not taken for a finished one.
    let partial = folder.join("kernel-package.partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    let status = Command::new("dpkg")
        .arg("-x")
        .arg(&archive)
        .arg(&partial)
        .status()?;
    ensure!(status.success(), "cannot unpack {}", archive.display());
    fs::rename(&partial, root)?;
    fs::remove_file(&archive)?;
    Ok(())
}

fn only_entry(folder: &Path, prefix: &str) -> Result<PathBuf> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            return Ok(entry.path());
        }
    }
    bail!("nothing named {prefix}… in {}", folder.display())
}

/// One file, folder or link of the initramfs.
struct Entry {
    name: String,
    mode: u32,
    content: Vec<u8>,
}

fn write_initramfs(path: &Path, modules: &Path) -> Result<()> {
    let mut entries = Vec::new();
    for name in [
        "bin",
        "sbin",
        "proc",
        "sys",
        "dev",
        "modules",
        "lib",
        "lib64",
        "lib/x86_64-linux-gnu",
    ] {
        entries.push(Entry {
            name: name.into(),
            mode: 0o040_755,
            content: Vec::new(),
        });
    }
    let init = include_bytes!("../linux/init").to_vec();
    entries.push(Entry {
        name: "init".into(),
        mode: 0o100_755,
        content: init,
    });
    entries.push(program("/bin/busybox".as_ref(), "bin/busybox")?);
    for name in PROGRAMS {
        let from = find_program(name)?;
        entries.push(program(&from, &format!("sbin/{name}"))?);
        for library in libraries_of(&from)? {
            let name = library.trim_start_matches('/').to_string();
            if !entries.iter().any(|entry| entry.name == name) {
                entries.push(program(library.as_ref(), &name)?);
            }
        }
    }
    let mut order = Vec::new();
    for name in MODULES {
        add_module(modules, name, &mut order)?;
    }
    let mut list = String::new();
    for module in order {
        let name = module
            .file_name()
            .context("a module without a name")?
            .to_string_lossy();
        list.push_str(&format!("{name}\n"));
        let content = fs::read(&module)?;
        entries.push(Entry {
            name: format!("modules/{name}"),
            mode: 0o100_644,
            content,
        });
    }
    entries.push(Entry {
        name: "modules/list".into(),
        mode: 0o100_644,
        content: list.into(),
    });

    let inputs = entries.into_iter().zip(1_u32..).map(|(entry, number)| {
        let builder = cpio::newc::Builder::new(&entry.name)
            .ino(number)
            .mode(entry.mode)
            .nlink(1);
        (builder, std::io::Cursor::new(entry.content))
    });
    let mut out = cpio::write_cpio(inputs, fs::File::create(path)?)?;
    out.flush()?;
    Ok(())
}

fn program(from: &Path, name: &str) -> Result<Entry> {
    let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    Ok(Entry {
        name: name.into(),
        mode: 0o100_755,
        content,
    })
}

fn find_program(name: &str) -> Result<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("the program {name} is not installed"))
}

/// Absolute paths of the shared libraries that `program` loads.
fn libraries_of(program: &Path) -> Result<Vec<String>> {
    let output = Command::new("ldd").arg(program).output()?;
    ensure!(
        output.status.success(),
        "ldd fails on {}",
        program.display()
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let path = |line: &str| {
        line.split_whitespace()
            .find(|word| word.starts_with('/'))
            .map(String::from)
    };
    Ok(text.lines().filter_map(path).collect())
}

/// Adds a module after the modules it depends on.
fn add_module(modules: &Path, name: &str, order: &mut Vec<PathBuf>) -> Result<()> {
    let file = find_module(&modules.join("kernel"), name)?
        // Built into the kernel, or a name of this kernel version only.
        .with_context(|| format!("the kernel package has no module {name}"))?;
    if order.contains(&file) {
        return Ok(());
    }
    for dependency in dependencies(&fs::read(&file)?) {
        add_module(modules, &dependency, order)?;
    }
    order.push(file);
    Ok(())
}

fn find_module(folder: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = find_module(&path, name)? {
                return Ok(Some(found));
            }
        } else if path.extension().is_some_and(|extension| extension == "ko")
            && path
                .file_stem()
                .is_some_and(|stem| stem.to_string_lossy().replace('-', "_") == name)
        {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// The `depends=` entry of a module's `.modinfo` section.
fn dependencies(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(start) = module.windows(key.len()).position(|window| window == key) else {
        return Vec::new();
    };
    let rest = &module[start + key.len()..];
    let end = rest
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(rest.len());
    String::from_utf8_lossy(&rest[..end])
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::dependencies;

    #[test]
    fn module_dependencies_are_read_from_modinfo() {
        assert_eq!(
            dependencies(b"x\0depends=jbd2,mb-cache\0name=ext4\0"),
            ["jbd2", "mb_cache"]
        );
        assert!(dependencies(b"x\0depends=\0").is_empty());
        assert!(dependencies(b"nothing").is_empty());
    }
}
