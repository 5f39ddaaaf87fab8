//! `ferrite check` on a pool that the store itself has made, sound and damaged.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time;

use exec::Exec;
use store::{Config, Environment, FormatOptions, Span, Store};
use world::{BlockAddr, Buf, Clock, Disk, DiskError, DiskInfo, Entropy, Geometry, Instant, Pool};

const BLOCK: u64 = 4096;
const DRIVE_BYTES: u64 = 256 << 20;
/// Rounds of the executor that one operation may take.
const ROUNDS_MAX: usize = 100_000;

/// An image that can be written.
struct Image(File);

impl Disk for Image {
    fn geometry(&self) -> Geometry {
        Geometry {
            blocks: DRIVE_BYTES / BLOCK,
            sector_bytes: 512,
            transfer_blocks_max: 32,
            can_discard: false,
        }
    }

    fn info(&self) -> DiskInfo {
        DiskInfo::default()
    }

    async fn read(&self, at: BlockAddr, mut into: Buf) -> (Buf, Result<(), DiskError>) {
        for (block, page) in (at..).zip(into.pages_mut()) {
            self.0
                .read_exact_at(&mut page.bytes, block * BLOCK)
                .unwrap();
        }
        (into, Ok(()))
    }

    async fn write(&self, at: BlockAddr, from: Buf) -> (Buf, Result<(), DiskError>) {
        for (block, page) in (at..).zip(from.pages()) {
            self.0.write_all_at(&page.bytes, block * BLOCK).unwrap();
        }
        (from, Ok(()))
    }

    async fn flush(&self) -> Result<(), DiskError> {
        Ok(())
    }

    async fn discard(&self, _: &[Range<BlockAddr>]) -> Result<(), DiskError> {
        Ok(())
    }
}

struct HostClock(time::Instant);

impl Clock for HostClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.0.elapsed().as_nanos()).unwrap())
    }

    fn wall_nanos(&self) -> Option<u64> {
        None
    }
}

struct Counter(std::cell::Cell<u8>);

impl Entropy for Counter {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0.set(self.0.get().wrapping_mul(5).wrapping_add(3));
            *byte = self.0.get();
        }
    }
}

/// Runs one story to its end on `exec`.
fn finish<T: 'static>(exec: &Exec, story: impl Future<Output = T> + 'static) -> T {
    let slot = Rc::new(std::cell::RefCell::new(None));
    let result = slot.clone();
    exec.spawn(async move {
        let value = story.await;
        *result.borrow_mut() = Some(value);
    });
    for _ in 0..ROUNDS_MAX {
        exec.run_ready();
        if let Some(value) = slot.borrow_mut().take() {
            return value;
        }
    }
    panic!("it does not end");
}

/// Makes a pool with a volume of which the first 64 blocks are written, closed in order.
fn make_pool(path: &Path) {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .unwrap();
    file.set_len(DRIVE_BYTES).unwrap();
    let exec = Exec::new(Rc::new(HostClock(time::Instant::now())));
    let environment = Environment {
        exec: exec.clone(),
        entropy: Rc::new(Counter(1.into())),
        pool: Pool::new(512),
    };
    finish(&exec.clone(), async move {
        let disks = vec![Image(file)];
        Store::format(&disks, &environment, FormatOptions::default())
            .await
            .unwrap();
        let config = Config::for_memory(16 << 20);
        let store = Store::open(disks, environment, config).await.unwrap();
        let volume = store.create_volume("db", 64 << 20).await.unwrap();
        for index in 0..4 {
            let mut buf = Buf::from_heap(16);
            for block in 0..16 {
                buf.block_mut(block).fill(0x40 + index as u8);
            }
            let span = Span {
                offset: index * 16 * BLOCK,
                len: 16 * 4096,
            };
            store.write(volume.id, span, buf).await.unwrap();
        }
        store.close().await.unwrap();
    });
}

/// Runs the tool and returns its exit code and what it printed.
fn tool(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ferrite"))
        .args(arguments)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(text).unwrap(),
    )
}

#[test]
fn a_sound_pool_is_clean_and_a_flipped_bit_is_found() {
    let path: PathBuf = std::env::temp_dir().join(format!("check-{}", std::process::id()));
    make_pool(&path);
    let image = path.to_str().unwrap();

    let (code, text) = tool(&["check", image]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("data blocks      64\n") && text.ends_with("clean\n"),
        "{text}"
    );

    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut block = [0; 4096];
    let damaged = (0..DRIVE_BYTES / BLOCK).find(|at| {
        file.read_exact_at(&mut block, at * BLOCK).unwrap();
        block == [0x42; 4096]
    });
    block[99] ^= 1;
    file.write_all_at(&block, damaged.expect("the data is on the drive") * BLOCK)
        .unwrap();

    let (code, text) = tool(&["check", image]);
    assert_eq!(code, 4, "{text}");
    assert!(
        text.contains("damaged\n") && text.contains("1 problem found"),
        "{text}"
    );
    // The data is not looked at when only the maps are.
    assert_eq!(tool(&["check", "--fast", image]).0, 0);
    let (code, text) = tool(&["check", "--json", image]);
    assert_eq!(code, 4);
    assert!(text.contains("\"damaged\": 1"), "{text}");
    std::fs::remove_file(path).unwrap();
}
