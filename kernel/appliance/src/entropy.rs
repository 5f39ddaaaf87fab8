//! Random bytes: a ChaCha generator, fed by everything in the machine that cannot be predicted.
//!
//! Each source is mixed into the key, so the bytes are as unpredictable as the best of the sources, and knowing the key
//! later does not tell what was drawn before it was last mixed.

use alloc::rc::Rc;
use core::cell::RefCell;
use core::time::Duration;

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use exec::Exec;
use virtio::{EntropySource, PciDevice};
use world::Entropy;

/// Bytes of the generator's key.
const KEY_BYTES: usize = 32;
/// How long the start waits for the machine's entropy device.
const PATIENCE: Duration = Duration::from_millis(100);
/// How often the device is looked at while it owes bytes; it never interrupts.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// How often fresh bytes are mixed in.
const RESEED_INTERVAL: Duration = Duration::from_secs(600);
/// Readings of the counter for a key.
const JITTER_SAMPLES: usize = 256;

/// The generator.
pub struct Generator {
    rng: RefCell<ChaCha20Rng>,
}

impl Entropy for Generator {
    fn fill(&self, bytes: &mut [u8]) {
        self.rng.borrow_mut().fill_bytes(bytes);
    }
}

impl Generator {
    /// A generator with a key out of the processor's random numbers, jitter, and `device`, which is waited for.
    pub fn seeded(device: Option<&mut EntropySource<PciDevice>>) -> Rc<Self> {
        let generator = Self {
            rng: RefCell::new(ChaCha20Rng::from_seed([0; KEY_BYTES])),
        };
        generator.mix_jitter();
        let has_instruction = generator.mix_processor();
        let has_device = device.is_some_and(|device| generator.wait_for(device));
        if !has_instruction && !has_device {
            log::warn!("entropy: no good source was found; identifiers may be guessable");
        }
        Rc::new(generator)
    }

    /// Mixes fresh bytes in from time to time, for ever.
    pub async fn stay_fresh(self: Rc<Self>, exec: Exec, device: Option<EntropySource<PciDevice>>) {
        let mut device = device;
        loop {
            self.mix_jitter();
            self.mix_processor();
            if let Some(device) = &mut device {
                self.mix_device(device);
            }
            exec.sleep(RESEED_INTERVAL).await;
        }
    }

    fn wait_for(&self, device: &mut EntropySource<PciDevice>) -> bool {
        let give_up = hal::clock::now_nanos() + nanos(PATIENCE);
        loop {
            if self.mix_device(device) {
                return true;
            }
            let now = hal::clock::now_nanos();
            if now >= give_up {
                log::warn!("entropy: the machine's entropy device gives nothing");
                return false;
            }
            hal::irq::wait_for_interrupt(Some(now + nanos(LOOK_INTERVAL)));
        }
    }

    /// Mixes in what the device has; whether that was a whole key's worth.
    fn mix_device(&self, device: &mut EntropySource<PciDevice>) -> bool {
        let mut bytes = [0; KEY_BYTES];
        let count = device.take(&mut bytes);
        self.mix(&bytes);
        count == KEY_BYTES
    }

    /// Mixes in the processor's own random numbers, if it has them.
    fn mix_processor(&self) -> bool {
        let mut bytes = [0; KEY_BYTES];
        let mut is_whole = true;
        for word in bytes.chunks_exact_mut(8) {
            match hal::cpu::random() {
                Some(random) => word.copy_from_slice(&random.to_le_bytes()),
                None => is_whole = false,
            }
        }
        self.mix(&bytes);
        is_whole
    }

    /// Mixes in readings of the counter, whose last bits nobody knows, and the time of day.
    fn mix_jitter(&self) {
        let wall = hal::clock::wall_nanos().unwrap_or(0);
        for sample in 0..JITTER_SAMPLES {
            let mut bytes = [0; KEY_BYTES];
            bytes[..8].copy_from_slice(&hal::cpu::tsc().to_le_bytes());
            bytes[8..16].copy_from_slice(&wall.to_le_bytes());
            bytes[16] = sample as u8;
            self.mix(&bytes);
        }
    }

    /// Makes a new key out of the generator's next bytes and `bytes`.
    fn mix(&self, bytes: &[u8; KEY_BYTES]) {
        let mut rng = self.rng.borrow_mut();
        let mut key = [0; KEY_BYTES];
        rng.fill_bytes(&mut key);
        for (key, byte) in key.iter_mut().zip(bytes) {
            *key ^= byte;
        }
        *rng = ChaCha20Rng::from_seed(key);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
