//! Small Linux machines: the distribution's kernel, and an initial file system put together from programs of this host.
//!
//! Nothing is installed: the kernel package is downloaded and unpacked below a folder, programs are the host's own with the
//! libraries they need, and those that the host lacks come from packages that are unpacked in the same way.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Where programs of a file system are.
const PROGRAM_FOLDERS: [&str; 4] = ["usr/sbin", "usr/bin", "sbin", "bin"];
/// Where libraries of a file system are.
const LIBRARY_FOLDERS: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
/// Folders that every machine has.
const FOLDERS: [&str; 11] = [
    "bin",
    "sbin",
    "proc",
    "sys",
    "dev",
    "modules",
    "lib",
    "lib64",
    "lib/x86_64-linux-gnu",
    "usr",
    "usr/lib",
];

/// A kernel of the distribution, unpacked.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Kernel image for `qemu -kernel`.
    pub image: PathBuf,
    modules: PathBuf,
}

impl Kernel {
    /// Downloads and unpacks it below `folder`; what is there from an earlier call is used again.
    ///
    /// # Errors
    /// When the package cannot be downloaded.
    pub fn fetch(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let root = folder.join("kernel-package");
        if !root.join("boot").is_dir() {
            unpack(folder, &kernel_package()?, &root)?;
        }
        Ok(Self {
            image: only_entry(&root.join("boot"), "vmlinuz-")?,
            modules: only_entry(&root.join("lib/modules"), "")?,
        })
    }
}

fn kernel_package() -> Result<String> {
    let depends = Command::new("apt-cache")
        .args(["depends", "linux-image-amd64"])
        .output()?;
    let text = String::from_utf8_lossy(&depends.stdout);
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .map(String::from)
        .context("the package lists name no kernel (linux-image-amd64); run `apt-get update`")
}

/// Downloads a package into `folder` and unpacks it as `root`.
fn unpack(folder: &Path, package: &str, root: &Path) -> Result<()> {
    let status = Command::new("apt-get")
        // Its own user could not write into most folders; then it says so and goes on.
        .args(["-qq", "-o", "APT::Sandbox::User=root", "download", package])
        .current_dir(folder)
        .status()
        .context("packages come from apt-get, which this host lacks")?;
    ensure!(status.success(), "cannot download the package {package}");
    let archive = only_entry(folder, &format!("{package}_"))?;
    // Unpacked aside and renamed, so that an interrupted run is not taken for a finished one.
    let partial = root.with_extension("partial");
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

/// One file, folder or link of the file system.
#[derive(Debug)]
struct Entry {
    name: String,
    mode: u32,
    content: Vec<u8>,
}

/// An initial file system in the making.
#[derive(Debug)]
pub struct Initramfs {
    kernel: Kernel,
    entries: Vec<Entry>,
    modules: Vec<PathBuf>,
}

impl Initramfs {
    /// One with busybox and the script that it runs first.
    ///
    /// # Errors
    /// When busybox is not installed.
    pub fn new(kernel: &Kernel, init: &[u8]) -> Result<Self> {
        let mut system = Self {
            kernel: kernel.clone(),
            entries: Vec::new(),
            modules: Vec::new(),
        };
        for name in FOLDERS {
            system.add(name, 0o040_755, Vec::new());
        }
        system.add("init", 0o100_755, init.to_vec());
        system.file("/bin/busybox".as_ref(), "bin/busybox")?;
        Ok(system)
    }

    fn add(&mut self, name: &str, mode: u32, content: Vec<u8>) {
        let name = name.into();
        self.entries.push(Entry {
            name,
            mode,
            content,
        });
    }

    /// Adds a file under a path without the slash in front; folders on the way to it must be there.
    ///
    /// # Errors
    /// When it is not readable.
    pub fn file(&mut self, from: &Path, name: &str) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.add(name, 0o100_755, content);
        Ok(())
    }

    /// Adds an empty folder.
    pub fn folder(&mut self, name: &str) {
        self.add(name, 0o040_755, Vec::new());
    }

    /// Adds a program of this host as `sbin/NAME` with its libraries.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn program(&mut self, name: &str) -> Result<()> {
        let from = find_program("/".as_ref(), name)
            .with_context(|| format!("the program {name} is not installed"))?;
        self.program_at(&from, name, "")
    }

    /// The same for a program that may have to be downloaded: from `packages` (its own first, then those with libraries),
    /// which are unpacked below `folder`.
    ///
    /// # Errors
    /// When it is neither installed nor in the packages.
    pub fn program_of(&mut self, name: &str, packages: &[&str], folder: &Path) -> Result<()> {
        if let Some(from) = find_program("/".as_ref(), name) {
            return self.program_at(&from, name, "");
        }
        let mut libraries = String::new();
        for package in packages {
            let root = folder.join(format!("package-{package}"));
            if !root.is_dir() {
                unpack(folder, package, &root)?;
            }
            for place in LIBRARY_FOLDERS {
                libraries.push_str(&format!("{}:", root.join(place).display()));
            }
        }
        let own = packages.first().context("no package named")?;
        let from = find_program(&folder.join(format!("package-{own}")), name)
            .with_context(|| format!("the package {own} has no program {name}"))?;
        self.program_at(&from, name, &libraries)
    }

    fn program_at(&mut self, from: &Path, name: &str, library_path: &str) -> Result<()> {
        self.file(from, &format!("sbin/{name}"))?;
        self.libraries_of(from, library_path)
    }

    /// Adds the shared libraries that a program or a plugin loads.
    ///
    /// # Errors
    /// When they are not to be found.
    pub fn libraries_of(&mut self, program: &Path, library_path: &str) -> Result<()> {
        let output = Command::new("ldd")
            .arg(program)
            .env("LD_LIBRARY_PATH", library_path)
            .output()?;
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
        for library in text.lines().filter_map(path) {
            let file = library.rsplit('/').next().unwrap_or_default();
            let name = match file.starts_with("ld-linux") {
                true => format!("lib64/{file}"),
                false => format!("lib/x86_64-linux-gnu/{file}"),
            };
            if !self.entries.iter().any(|entry| entry.name == name) {
                self.file(library.as_ref(), &name)?;
            }
        }
        Ok(())
    }

    /// Adds a module after the modules it depends on.
    ///
    /// # Errors
    /// When the kernel package has none of this name.
    pub fn module(&mut self, name: &str) -> Result<()> {
        let file = find_module(&self.kernel.modules.join("kernel"), name)?
            // Built into the kernel, or a name of this kernel version only.
            .with_context(|| format!("the kernel package has no module {name}"))?;
        if self.modules.contains(&file) {
            return Ok(());
        }
        for dependency in dependencies(&fs::read(&file)?) {
            self.module(&dependency)?;
        }
        self.modules.push(file);
        Ok(())
    }

    /// Adds a module that only some kernels have or need.
    ///
    /// # Errors
    /// When it is there and one that it depends on is not.
    pub fn module_if_any(&mut self, name: &str) -> Result<()> {
        match find_module(&self.kernel.modules.join("kernel"), name)? {
            Some(_) => self.module(name),
            None => Ok(()),
        }
    }

    /// Writes it for `qemu -initrd`. The modules are in `modules/`, in the order of `modules/list`.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write(mut self, path: &Path) -> Result<()> {
        let mut list = String::new();
        for module in std::mem::take(&mut self.modules) {
            let name = module.file_name().context("a module without a name")?;
            let name = name.to_string_lossy();
            list.push_str(&format!("{name}\n"));
            self.file(&module, &format!("modules/{name}"))?;
        }
        self.add("modules/list", 0o100_644, list.into());
        let inputs = self
            .entries
            .into_iter()
            .zip(1_u32..)
            .map(|(entry, number)| {
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
}

fn find_program(root: &Path, name: &str) -> Option<PathBuf> {
    PROGRAM_FOLDERS
        .iter()
        .map(|folder| root.join(folder).join(name))
        .find(|path| path.is_file())
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
