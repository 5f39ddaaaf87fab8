//! Whether somebody writes to an image. QEMU tells by locks: it holds one on a certain byte of each file that it may write,
//! for as long as a machine has it (its `block/file-posix.c`: a permission is a byte from 100 on, writing the second).

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// The byte that is locked by whoever may write.
const WRITE_BYTE: libc::off_t = 101;

/// Who has `file` for writing, in words; `None` when nobody holds the lock.
pub fn writer(file: &File) -> Option<String> {
    is_locked(file).then(|| holder(file).unwrap_or_else(|| "another process".into()))
}

fn is_locked(file: &File) -> bool {
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: WRITE_BYTE,
        l_len: 1,
        l_pid: 0,
    };
    // A file system without locks has none.
    let asked = fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock));
    asked.is_ok() && lock.l_type != libc::F_UNLCK as libc::c_short
}

/// A process that has the file open, as far as we may see it. The lock itself does not say whose it is.
fn holder(file: &File) -> Option<String> {
    let wanted = file.metadata().ok()?;
    let is_it = |path: &Path| {
        let found = fs::metadata(path);
        found.is_ok_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()))
    };
    let own = std::process::id().to_string();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name().to_string_lossy().into_owned();
        if name == own || !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let files = fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten();
        if files.flatten().any(|file| is_it(&file.path())) {
            let program = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {name})", program.trim()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_the_lock_of_writers_is_noticed() {
        let path = std::env::temp_dir().join(format!("in-use-{}", std::process::id()));
        let writing = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        let looking = File::open(&path).unwrap();
        assert_eq!(writer(&looking), None);
        let lock = |l_start| libc::flock {
            l_type: libc::F_RDLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start,
            l_len: 1,
            l_pid: 0,
        };
        // Who only reads holds another one.
        fcntl(&writing, FcntlArg::F_OFD_SETLK(&lock(100))).unwrap();
        assert_eq!(writer(&looking), None);
        fcntl(&writing, FcntlArg::F_OFD_SETLK(&lock(101))).unwrap();
        assert_eq!(writer(&looking).as_deref(), Some("another process"));
        drop(writing);
        assert_eq!(writer(&looking), None);
        fs::remove_file(path).unwrap();
    }
}
