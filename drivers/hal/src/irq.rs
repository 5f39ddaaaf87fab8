//! Interrupts: the local APIC, vectors for message-signalled interrupts, and sleeping until one comes.
//!
//! Interrupts are unmasked only inside [`wait_for_interrupt`], around `hlt`. Their handlers (boot's traps.s) count and
//! acknowledge, so no handler ever meets running Rust: who waits for a device looks at the device.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};

use spin::Mutex;

use crate::cpu::{self, Feature};
use crate::reg::Registers;
use crate::{Mmio, acpi, clock, port};

/// Interrupts that came, by vector. Written by the handlers.
pub static COUNTS: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];
/// The register that acknowledges an interrupt; null where that is a model-specific register. Read by the handlers.
pub static END_OF_INTERRUPT: AtomicPtr<u32> = AtomicPtr::new(core::ptr::null_mut());

/// Vectors for devices; those below belong to the old interrupt controllers, those above to the local APIC.
const VECTOR_FIRST: u8 = 0x30;
const VECTOR_END: u8 = 0xf0;
const VECTOR_TIMER: u8 = 0xfe;
const VECTOR_SPURIOUS: u8 = 0xff;

static NEXT_VECTOR: AtomicU8 = AtomicU8::new(VECTOR_FIRST);

/// Registers of the local APIC (Intel SDM volume 3, table 12-1).
const ID: usize = 0x20;
const TASK_PRIORITY: usize = 0x80;
const END: usize = 0xb0;
const SPURIOUS: usize = 0xf0;
const LOCAL_TIMER: usize = 0x320;
const LOCAL_PIN_0: usize = 0x350;
const LOCAL_PIN_1: usize = 0x360;
const INITIAL_COUNT: usize = 0x380;
const CURRENT_COUNT: usize = 0x390;
const DIVIDE: usize = 0x3e0;

const MASKED: u32 = 1 << 16;
const DELIVER_NMI: u32 = 4 << 8;
const TIMER_DEADLINE: u32 = 2 << 17;
const DIVIDE_BY_1: u32 = 0xb;
const SOFTWARE_ENABLE: u32 = 1 << 8;

/// Model-specific registers.
const APIC_BASE: u32 = 0x1b;
const TSC_DEADLINE: u32 = 0x6e0;
const X2APIC_FIRST: u32 = 0x800;

/// How long the local timer is measured.
const CALIBRATION_NANOS: u64 = 500_000;

/// Where the local APIC's registers are.
enum LocalApic {
    Memory(Mmio),
    Msr,
}

static APIC: Mutex<Option<LocalApic>> = Mutex::new(None);
static TIMER: Mutex<Timer> = Mutex::new(Timer::IDLE);
static DEADLINE_MODE: AtomicBool = AtomicBool::new(false);
/// Rate of the one-shot timer in kHz.
static TIMER_KHZ: AtomicU32 = AtomicU32::new(0);
static APIC_ID: AtomicU32 = AtomicU32::new(0);

// SAFETY: one processor runs, and its local APIC is the same from everywhere.
unsafe impl Send for LocalApic {}

impl LocalApic {
    fn read(&self, register: usize) -> u32 {
        match self {
            Self::Memory(registers) => registers.read32(register),
            Self::Msr => cpu::read_msr(X2APIC_FIRST + (register >> 4) as u32) as u32,
        }
    }

    fn write(&self, register: usize, value: u32) {
        match self {
            Self::Memory(registers) => registers.write32(register, value),
            // SAFETY: a register of the local APIC in x2APIC mode; none of them touches memory.
            Self::Msr => unsafe {
                cpu::write_msr(X2APIC_FIRST + (register >> 4) as u32, value.into())
            },
        }
    }
}

/// Masks the old interrupt controllers, sets up the local APIC and its timer. Needs ACPI tables and the clock.
pub fn init() {
    mask_old_controllers();
    let base = cpu::read_msr(APIC_BASE);
    let apic = if cpu::has(Feature::X2apic) {
        // SAFETY: the processor has the mode; turning it on changes only how the local APIC is reached.
        unsafe { cpu::write_msr(APIC_BASE, base | 0xc00) };
        LocalApic::Msr
    } else {
        // SAFETY: as above, for the plain mode.
        unsafe { cpu::write_msr(APIC_BASE, base | 0x800) };
        let registers = Mmio::map(base & 0x000f_ffff_ffff_f000, 4096);
        END_OF_INTERRUPT.store(
            (registers.physical() + END as u64) as *mut u32,
            Ordering::Relaxed,
        );
        LocalApic::Memory(registers)
    };
    apic.write(LOCAL_PIN_0, MASKED);
    // The machine's "something is wrong" button: a report with a backtrace, also out of a hang.
    apic.write(LOCAL_PIN_1, DELIVER_NMI);
    apic.write(TASK_PRIORITY, 0);
    apic.write(SPURIOUS, SOFTWARE_ENABLE | u32::from(VECTOR_SPURIOUS));
    let id = apic.read(ID);
    APIC_ID.store(
        if matches!(apic, LocalApic::Msr) {
            id
        } else {
            id >> 24
        },
        Ordering::Relaxed,
    );
    init_timer(&apic);
    *APIC.lock() = Some(apic);
}

fn init_timer(apic: &LocalApic) {
    if cpu::has(Feature::TscDeadline) {
        apic.write(LOCAL_TIMER, TIMER_DEADLINE | u32::from(VECTOR_TIMER));
        DEADLINE_MODE.store(true, Ordering::Relaxed);
        return;
    }
    apic.write(DIVIDE, DIVIDE_BY_1);
    apic.write(LOCAL_TIMER, MASKED | u32::from(VECTOR_TIMER));
    apic.write(INITIAL_COUNT, u32::MAX);
    sample(apic); // an emulator needs longer for what it runs for the first time
    let (start, first) = sample(apic);
    clock::spin_nanos(CALIBRATION_NANOS);
    let (end, last) = sample(apic);
    let (passed, counts) = (end - start, u64::from(first - last));
    apic.write(INITIAL_COUNT, 0);
    let khz = (counts * 1_000_000).checked_div(passed).unwrap_or(0);
    TIMER_KHZ.store(
        u32::try_from(khz).unwrap_or(u32::MAX).max(1),
        Ordering::Relaxed,
    );
    apic.write(LOCAL_TIMER, u32::from(VECTOR_TIMER));
    log::debug!("local timer at {khz} kHz");
}

/// The clock and the local timer. Not inlined: each copy would run for the first time.
#[inline(never)]
fn sample(apic: &LocalApic) -> (u64, u32) {
    (clock::now_nanos(), apic.read(CURRENT_COUNT))
}

/// Masks every input of the 8259s (out of the way of exceptions first) and of the I/O APICs.
fn mask_old_controllers() {
    for (command, first) in [(0x20, 0x20), (0xa0, 0x28)] {
        port::write8(command, 0x11);
        port::write8(command + 1, first);
        port::write8(command + 1, if command == 0x20 { 4 } else { 2 });
        port::write8(command + 1, 1);
        port::write8(command + 1, 0xff);
    }
    for address in acpi::facts().io_apics {
        // Index and data register; entries of two words from index 0x10 on (82093AA data sheet, 3.2).
        let Some(registers) = Mmio::try_map(address, 0x20) else {
            continue;
        };
        registers.write32(0, 1);
        let last = registers.read32(0x10) >> 16 & 0xff;
        for entry in 0..=last {
            registers.write32(0, 0x10 + entry * 2);
            registers.write32(0x10, MASKED);
        }
    }
}

/// A vector for one message-signalled interrupt. Vectors are never given back.
#[derive(Debug, PartialEq, Eq)]
pub struct Vector {
    number: u8,
}

impl Vector {
    /// The next vector, or `None` when all 192 are taken.
    #[must_use]
    pub fn allocate() -> Option<Self> {
        let next = |number| (number < VECTOR_END).then(|| number + 1);
        let number = NEXT_VECTOR
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .ok()?;
        Some(Self { number })
    }

    /// Address and data of the message that raises it, edge triggered, on this processor (Intel SDM volume 3, 12.11).
    #[must_use]
    pub fn msi_message(&self) -> (u64, u32) {
        let id = u64::from(APIC_ID.load(Ordering::Relaxed) & 0xff);
        (0xfee0_0000 | id << 12, self.number.into())
    }

    /// How often it was raised.
    #[must_use]
    pub fn count(&self) -> u64 {
        COUNTS[usize::from(self.number)].load(Ordering::Relaxed)
    }
}

/// Sleeps until an interrupt comes or the clock reaches `deadline` (nanoseconds since the start).
///
/// An interrupt that came since the last call ends the sleep at once, so nothing is missed between looking at a device
/// and sleeping. It may also end early for no reason; callers look again.
pub fn wait_for_interrupt(deadline: Option<u64>) {
    if deadline.is_some_and(|deadline| deadline <= clock::now_nanos()) {
        return;
    }
    arm(deadline);
    // SAFETY: (1) `sti` takes effect after `hlt` began, so no interrupt slips in between; (2) handlers run on their own
    // stack and restore every register; (3) not `nomem`: devices write memory meanwhile.
    unsafe { asm!("sti", "hlt", "cli") };
}

/// What the local timer was last told.
struct Timer {
    /// When it fires, in nanoseconds since the start.
    deadline: u64,
    /// How often it had fired before.
    fired: u64,
}

impl Timer {
    const IDLE: Self = Self {
        deadline: u64::MAX,
        fired: 0,
    };

    /// Whether it has to be told of `deadline`; `fired` is how often it has fired by now.
    ///
    /// Under a hypervisor, telling it costs more than a sleep that ends too early; so an earlier deadline is left as it is.
    fn must_be_set(&mut self, deadline: u64, fired: u64) -> bool {
        let is_running = self.fired == fired;
        if is_running && self.deadline <= deadline {
            return false;
        }
        *self = Self { deadline, fired };
        deadline != u64::MAX
    }
}

/// Makes the timer fire at `deadline` or before.
fn arm(deadline: Option<u64>) {
    let fired = COUNTS[usize::from(VECTOR_TIMER)].load(Ordering::Relaxed);
    let deadline = deadline.unwrap_or(u64::MAX);
    if !TIMER.lock().must_be_set(deadline, fired) {
        return;
    }
    if DEADLINE_MODE.load(Ordering::Relaxed) {
        // SAFETY: the processor has the register; it only starts the timer.
        unsafe { cpu::write_msr(TSC_DEADLINE, clock::ticks_at(deadline)) };
        return;
    }
    let nanos = u128::from(deadline.saturating_sub(clock::now_nanos()));
    let counts = nanos * u128::from(TIMER_KHZ.load(Ordering::Relaxed)) / 1_000_000;
    // At least one, because zero stops the timer; a far deadline is reached in several sleeps.
    let count = u32::try_from(counts).unwrap_or(u32::MAX).max(1);
    if let Some(apic) = &*APIC.lock() {
        apic.write(INITIAL_COUNT, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_is_set_when_nothing_earlier_runs() {
        let mut timer = Timer::IDLE;
        assert!(!timer.must_be_set(u64::MAX, 0), "there is no deadline");
        assert!(timer.must_be_set(500, 0));
        assert!(!timer.must_be_set(500, 0));
        assert!(!timer.must_be_set(700, 0), "it fires before");
        assert!(!timer.must_be_set(u64::MAX, 0));
        assert!(timer.must_be_set(400, 0));
        assert!(timer.must_be_set(700, 1), "it has fired");
        assert!(!timer.must_be_set(u64::MAX, 2), "it has fired");
        assert!(timer.must_be_set(800, 2));
    }

    #[test]
    fn vectors_are_unique_and_run_out() {
        let vectors: alloc::vec::Vec<_> = core::iter::from_fn(Vector::allocate).collect();
        assert_eq!(vectors.len(), usize::from(VECTOR_END - VECTOR_FIRST));
        assert_eq!(vectors[0].msi_message(), (0xfee0_0000, 0x30));
        assert!(vectors.windows(2).all(|pair| pair[0] != pair[1]));
        assert_eq!(vectors[3].count(), 0);
    }
}
