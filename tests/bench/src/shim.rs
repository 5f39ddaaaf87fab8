//! A lossy cable: every frame between a machine's interface and its network passes through here, and some do not arrive.
//!
//! QEMU hands frames over through `filter-redirector` objects, one for each direction, each with a pair of Unix sockets; on
//! them a frame is its length (32 bits, big-endian) and its bytes. Segmentation offload is off behind such a cable, so that
//! a frame is a packet and not a train of them. No kernel needs to know how to lose packets for this.

use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use qemu::Machine;

/// Directions, as QEMU names the queues of the network's side.
const QUEUES: [&str; 2] = ["tx", "rx"];
/// Features of virtio-net that would put many packets into one frame.
const OFFLOADS: [&str; 6] = [
    "host_tso4",
    "host_tso6",
    "host_ufo",
    "guest_tso4",
    "guest_tso6",
    "guest_ufo",
];
/// Frames that wait at most in one direction; more are lost, as in a switch.
const QUEUE_MAX: usize = 4096;
/// The longest frame that is believed.
const FRAME_MAX: usize = 1 << 17;
/// How long QEMU may take to make its sockets.
const LIMIT: Duration = Duration::from_secs(10);

/// A connected cable.
#[derive(Debug)]
pub struct Shim {
    state: Arc<State>,
    // Closing them ends the threads.
    sockets: Vec<UnixStream>,
}

#[derive(Debug, Default)]
struct State {
    /// Of a million frames, how many are lost.
    loss_ppm: AtomicU64,
    arrived: AtomicU64,
    lost: AtomicU64,
    /// Lost because the queue was full, which is the other side's doing.
    overrun: AtomicU64,
}

/// What happened to frames, both directions together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frames {
    /// Frames that were handed on.
    pub arrived: u64,
    /// Frames that were lost on purpose.
    pub lost: u64,
    /// Frames that found the queue full.
    pub overrun: u64,
}

impl Shim {
    /// Puts a cable between the first interface of `machine` and its network; [`connect`](Self::connect) it after the start.
    pub fn lay(machine: &mut Machine) {
        let mut add = |words: [String; 2]| machine.extra.extend(words);
        for offload in OFFLOADS {
            let off = format!("virtio-net-pci.{offload}=off");
            add(["-global".into(), off]);
        }
        for queue in QUEUES {
            for way in ["in", "out"] {
                let name = socket_name(queue, way);
                let chardev = format!("socket,id={name},path={name},server=on,wait=off");
                add(["-chardev".into(), chardev]);
            }
            let (from, to) = (socket_name(queue, "in"), socket_name(queue, "out"));
            let filter = format!(
                "filter-redirector,id=cable-{queue},netdev=net0,queue={queue},indev={from},outdev={to}"
            );
            add(["-object".into(), filter]);
        }
    }

    /// Connects the cable of a machine that runs in `folder`. Nothing is lost yet.
    ///
    /// # Errors
    /// When QEMU does not make the sockets.
    pub fn connect(folder: &Path) -> Result<Self> {
        let mut shim = Self {
            state: Arc::default(),
            sockets: Vec::new(),
        };
        for (seed, queue) in (1..).zip(QUEUES) {
            let into = dial(&folder.join(socket_name(queue, "in")))?;
            let out = dial(&folder.join(socket_name(queue, "out")))?;
            shim.sockets.extend([into.try_clone()?, out.try_clone()?]);
            let (sender, receiver) = sync_channel(QUEUE_MAX);
            let state = Arc::clone(&shim.state);
            thread::spawn(move || take(out, &sender, &state, seed));
            thread::spawn(move || give(into, &receiver));
        }
        Ok(shim)
    }

    /// From now on so many frames of a million are lost in each direction.
    pub fn lose(&self, ppm: u64) {
        self.state.loss_ppm.store(ppm, Relaxed);
    }

    /// What happened so far.
    #[must_use]
    pub fn frames(&self) -> Frames {
        Frames {
            arrived: self.state.arrived.load(Relaxed),
            lost: self.state.lost.load(Relaxed),
            overrun: self.state.overrun.load(Relaxed),
        }
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        for socket in &self.sockets {
            // It is gone already when the machine is.
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn socket_name(queue: &str, way: &str) -> String {
    format!("cable-{queue}-{way}")
}

fn dial(path: &Path) -> Result<UnixStream> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("no {}", path.display()));
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Takes frames from QEMU at once, for it waits until they are taken.
fn take(out: UnixStream, sender: &SyncSender<Vec<u8>>, state: &State, seed: u64) {
    let mut out = BufReader::with_capacity(1 << 18, out);
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    while let Ok(frame) = read_frame(&mut out) {
        if random.below(1_000_000) < state.loss_ppm.load(Relaxed) {
            state.lost.fetch_add(1, Relaxed);
            continue;
        }
        match sender.try_send(frame) {
            Ok(()) => state.arrived.fetch_add(1, Relaxed),
            Err(TrySendError::Full(_)) => state.overrun.fetch_add(1, Relaxed),
            Err(TrySendError::Disconnected(_)) => return,
        };
    }
}

/// Hands frames on until one side is gone.
fn give(mut into: UnixStream, receiver: &Receiver<Vec<u8>>) {
    while let Ok(frame) = receiver.recv() {
        if into.write_all(&frame).is_err() {
            return;
        }
    }
}

/// A frame with its length in front, as it is handed on.
fn read_frame(from: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut head = [0; 4];
    from.read_exact(&mut head)?;
    let length = u32::from_be_bytes(head) as usize;
    if length > FRAME_MAX {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0; 4 + length];
    frame[..4].copy_from_slice(&head);
    from.read_exact(&mut frame[4..])?;
    Ok(frame)
}

/// A fixed sequence (splitmix64), so that the same frames are lost each time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loses_as_many_as_asked_and_keeps_the_rest_whole() {
        let (far, near) = UnixStream::pair().unwrap();
        let state = State::default();
        state.loss_ppm.store(100_000, Relaxed);
        let (sender, receiver) = sync_channel(QUEUE_MAX);
        let feeder = thread::spawn(move || {
            let mut far = far;
            for number in 0..1000_u32 {
                far.write_all(&4_u32.to_be_bytes()).unwrap();
                far.write_all(&number.to_be_bytes()).unwrap();
            }
        });
        take(near, &sender, &state, 1);
        feeder.join().unwrap();
        drop(sender);
        let frames: Vec<Vec<u8>> = receiver.iter().collect();
        let lost = state.lost.load(Relaxed);
        assert!((70..130).contains(&lost), "{lost}");
        assert_eq!(frames.len() as u64 + lost, 1000);
        assert!(frames.iter().all(|frame| frame.starts_with(&[0, 0, 0, 4])));
        assert!(frames.is_sorted_by_key(|frame| frame[4..].to_vec()));
    }
}
