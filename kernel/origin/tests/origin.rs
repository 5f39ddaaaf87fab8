//! An origin as the store sees it: against our own server, and against one that knows little, lies, stalls or goes away.

#[path = "origin/fake.rs"]
mod fake;
#[path = "../../volume/tests/ram/mod.rs"]
mod ram;

#[path = "origin/forms.rs"]
mod forms;
#[path = "origin/honest.rs"]
mod honest;
#[path = "origin/liars.rs"]
mod liars;
#[path = "origin/lost.rs"]
mod lost;

use std::rc::Rc;
use std::time::Duration;

use fake::{Fake, byte_at};
use origin::NbdOrigins;
use ram::Bench;
use volume::{Origin, OriginAddress, OriginError, Origins};
use world::Buf;

fn address(export: &str) -> OriginAddress {
    OriginAddress::Nbd {
        host: "10.0.0.7".to_owned(),
        port: 10809,
        export: export.to_owned(),
    }
}

/// The bytes of a buffer.
fn bytes(buf: &Buf) -> Vec<u8> {
    let mut bytes = vec![0; buf.len()];
    buf.copy_to(0, &mut bytes);
    bytes
}

/// A buffer of noise: whatever is not written is noticed.
fn dirty(pages: usize) -> Buf {
    let mut buf = Buf::from_heap(pages);
    for page in buf.pages_mut() {
        page.bytes.fill(0xee);
    }
    buf
}

/// What a [`Fake`] has there.
fn expected(size: u64, offset: u64, pages: usize) -> Vec<u8> {
    let range = offset..offset + pages as u64 * 4096;
    let there = |at| if at < size { byte_at(at) } else { 0 };
    range.map(there).collect()
}

async fn open(bench: &Bench, fake: &Fake) -> Result<Rc<dyn Origin>, OriginError> {
    let origins = NbdOrigins::new(bench.exec.clone(), fake.clone());
    origins.open(&address("demo")).await
}

/// Reads and compares with what a [`Fake`] has.
async fn read_well(origin: &dyn Origin, offset: u64, pages: usize) {
    let buf = origin.read(offset, dirty(pages)).await.expect("a read");
    let expected = expected(origin.size_bytes(), offset, pages);
    assert!(bytes(&buf) == expected, "wrong bytes at {offset}");
}

/// Lengths and kinds of the extents.
async fn extents(
    origin: &dyn Origin,
    offset: u64,
    len: u64,
) -> Result<Vec<(u64, bool)>, OriginError> {
    let extents = origin.extents(offset, len).await?;
    Ok(extents.iter().map(|one| (one.len, one.is_zero)).collect())
}

/// Runs a story with a bench of its own; returns how long it took.
fn story<F: Future<Output = ()> + 'static>(story: impl FnOnce(Bench) -> F) -> Duration {
    let bench = Bench::with_blocks(1);
    let start = bench.exec.now();
    bench.run(story(bench.clone()));
    bench.exec.now() - start
}
