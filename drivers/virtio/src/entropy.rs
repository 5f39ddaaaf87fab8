//! Entropy devices (virtio 1.2, 5.4): a small reserve of random bytes from the host.
//!
//! One buffer goes back and forth; the device fills it at its own pace, and nobody ever waits for it.

use alloc::rc::Rc;

use hal::dma::DmaBuf;
use log::warn;

use crate::queue::{Queue, Segment};
use crate::transport::{self, Transport, VirtioError};

const QUEUE: u16 = 0;
/// Bytes of the reserve: a generous seed, and little enough to be given without effort.
const RESERVE: usize = 256;

/// An entropy device.
pub struct EntropySource<T: Transport> {
    transport: T,
    queue: Queue,
    /// Shared so that it can be given up: see [`Queue::quarantine`].
    memory: Rc<DmaBuf>,
    reserve: [u8; RESERVE],
    /// Bytes of the reserve that were not taken yet.
    left: usize,
    asked: bool,
    broken: bool,
}

impl<T: Transport> EntropySource<T> {
    /// Starts the device and asks it for bytes.
    ///
    /// # Errors
    /// When the device refuses or is gone; it is not running then.
    pub fn open(mut transport: T) -> Result<Self, VirtioError> {
        let features = transport::negotiate(&mut transport, 0)?;
        let mut queue = transport::open_queue(&mut transport, QUEUE, 1, 1, features)?;
        queue.disable_interrupts();
        transport::go(&mut transport)?;
        let mut source = Self {
            transport,
            queue,
            memory: Rc::new(DmaBuf::new(1)),
            reserve: [0; RESERVE],
            left: 0,
            asked: false,
            broken: false,
        };
        source.poll();
        Ok(source)
    }

    /// Moves what the device gave into the reserve and, when that is empty, asks for more. Returns whether bytes came.
    pub fn poll(&mut self) -> bool {
        if self.broken {
            return false;
        }
        let mut came = false;
        if self.asked {
            match self.queue.pop() {
                Ok(Some(used)) => {
                    self.asked = false;
                    self.left = used.written as usize;
                    self.memory.read_bytes(0, &mut self.reserve[..self.left]);
                    self.memory.zero(0, RESERVE);
                    came = self.left > 0;
                }
                Ok(None) => {}
                Err(_) => {
                    warn!("virtio-rng: the device broke the protocol and is shut down");
                    self.stop();
                    return false;
                }
            }
        }
        if self.left == 0 && !self.asked {
            self.ask();
        }
        came
    }

    fn ask(&mut self) {
        let segment = Segment {
            address: self.memory.device_address(),
            len: RESERVE as u32,
            writable: true,
        };
        self.asked = self.queue.push(&[segment]).is_some();
        if self.queue.publish() {
            self.transport.notify(QUEUE);
        }
    }

    /// Takes up to `into.len()` random bytes, each of which is given out once. Returns how many there were.
    pub fn take(&mut self, into: &mut [u8]) -> usize {
        self.poll();
        let count = into.len().min(self.left);
        let start = self.left - count;
        let taken = &mut self.reserve[start..self.left];
        into[..count].copy_from_slice(taken);
        taken.fill(0);
        self.left = start;
        if self.left == 0 {
            self.poll();
        }
        count
    }

    fn stop(&mut self) {
        self.broken = true;
        self.left = 0;
        if !transport::shut_down(&mut self.transport) {
            self.queue.quarantine();
            core::mem::forget(self.memory.clone());
        }
    }
}

impl<T: Transport> Drop for EntropySource<T> {
    fn drop(&mut self) {
        if !self.broken {
            self.stop();
        }
    }
}

#[cfg(test)]
mod tests;
