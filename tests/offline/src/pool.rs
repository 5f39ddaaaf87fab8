//! What one asks of a pool: is it sound, and what does it hold?

use store::{CheckOptions, Source, Span, Store, StoreError, Summary};
use world::{BLOCK_SIZE, Buf};

use crate::{RamDrive, run};

/// Findings that are told one by one.
const FINDINGS_MAX: usize = 10;

/// Checks the pool on these drives, data included, and returns what was counted.
///
/// # Errors
/// The first findings in words, or why it cannot even begin.
pub fn check_summary(drives: &[RamDrive]) -> Result<Summary, String> {
    let drives = drives.to_vec();
    let mut findings = Vec::new();
    let result = run(0, |_| async move {
        let options = CheckOptions { verify_data: true };
        let mut note = |finding: store::Finding| {
            if findings.len() < FINDINGS_MAX {
                findings.push(finding.to_string());
            }
        };
        let result = store::check(&drives, options, &mut note).await;
        (result, findings)
    });
    match result {
        Ok((Ok(summary), _)) if summary.is_clean() => Ok(summary),
        Ok((Ok(summary), findings)) => Err(format!(
            "{} findings: {}",
            summary.findings,
            findings.join("; ")
        )),
        Ok((Err(error), _)) => Err(format!("the checker cannot begin: {error}")),
        Err(stuck) => Err(format!("the checker: {stuck}")),
    }
}

/// As [`check_summary`], without the counts.
///
/// # Errors
/// As [`check_summary`].
pub fn check(drives: &[RamDrive]) -> Result<(), String> {
    check_summary(drives).map(drop)
}

/// Everything that a volume or snapshot of `size_bytes` holds; zeros behind its end up to a whole block.
///
/// # Errors
/// Where reading failed, and why.
pub async fn read_source(
    store: &Store<RamDrive>,
    source: Source,
    size_bytes: u64,
) -> Result<Vec<u8>, (u64, StoreError)> {
    let blocks = size_bytes.div_ceil(BLOCK_SIZE as u64);
    let mut contents = Vec::with_capacity(usize::try_from(blocks).unwrap_or(0) * BLOCK_SIZE);
    let mut buf = Buf::from_heap(Buf::PAGES_MAX);
    let step = buf.len() as u64;
    for offset in (0..size_bytes).step_by(buf.len()) {
        let len = step.min(size_bytes - offset) as u32;
        let span = Span { offset, len };
        if buf.blocks() > span.blocks() {
            drop(buf.split_off(span.blocks()));
        }
        let result;
        (buf, result) = store.read(source, span, buf).await;
        result.map_err(|error| (offset, error))?;
        buf.pages()
            .iter()
            .for_each(|page| contents.extend_from_slice(&page.bytes));
        // Bytes outside the span are arbitrary.
        contents.truncate(usize::try_from(offset).unwrap_or(0) + len as usize);
    }
    contents.resize(usize::try_from(blocks).unwrap_or(0) * BLOCK_SIZE, 0);
    Ok(contents)
}
