//! Keeps a server's process on one core of the host, and its client off the question which.

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Does `work` on the first core that this thread may use; programs that it starts stay there.
///
/// All threads of a QEMU then see each other's writes in order. QEMU 7.2's NVMe controller needs that: it loses doorbells that
/// Linux rings through memory ("shadow doorbells") when both sides run at the same instant.
///
/// # Errors
/// Those of `work`, or when the system refuses.
pub fn pinned<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let usual = sched_getaffinity(None).context("cannot read this thread's cores")?;
    let first = (0..CpuSet::MAX_CPU).find(|&core| usual.is_set(core));
    let mut one = CpuSet::new();
    one.set(first.context("this thread may use no core")?);
    sched_setaffinity(None, &one).context("cannot choose a core")?;
    let result = work();
    sched_setaffinity(None, &usual).context("cannot give cores back")?;
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_come_back() {
        let count = || sched_getaffinity(None).unwrap().count();
        let usual = count();
        assert_eq!(pinned(|| Ok(count())).unwrap(), 1);
        assert_eq!(count(), usual);
    }
}
