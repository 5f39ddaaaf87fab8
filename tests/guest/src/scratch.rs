//! Temporary folders.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// A folder that goes away with the value, unless a test fails: then it stays for a look, and its name is printed.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// A new, empty folder.
    ///
    /// # Panics
    /// When the file system refuses.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self::inside(&std::env::temp_dir(), name)
    }

    /// A new, empty folder inside `parent`.
    ///
    /// # Panics
    /// When the file system refuses.
    #[must_use]
    pub fn inside(parent: &Path, name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = format!("ferrite-{name}-{}-{number}", std::process::id());
        let path = parent.join(folder);
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Self { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("left for a look: {}", self.path.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
