//! Time: the time-stamp counter against whichever steady clock the machine has, and the wall clock.
//!
//! The counter's rate comes from the hypervisor (kvmclock), or is measured against the HPET or the ACPI timer for a few
//! milliseconds at boot; [`refine`] later measures it over the whole time since then. [`now_nanos`] never goes back.

mod rtc;

use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;

use crate::reg::Registers;
use crate::{Mmio, acpi, cpu, port};

/// How long the first measurement takes.
const CALIBRATION_NANOS: u64 = 4_000_000;
/// A measurement over less than this is not worth anything.
const REFINE_NANOS_MIN: u64 = 100_000_000;
/// Tries to read a clock and the counter at the same moment.
const SAMPLES: usize = 8;
/// Polls of a clock that stands still before it is given up.
const POLLS_MAX: u32 = 10_000_000;
/// The ACPI timer's rate (ACPI 6.5, 4.8.2.1).
const ACPI_TIMER_HZ: u64 = 3_579_545;

/// The counter and the time at a common moment.
static BASE_TICKS: AtomicU64 = AtomicU64::new(0);
static BASE_NANOS: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds per tick, times 2^32; zero while the rate is unknown.
static SCALE: AtomicU64 = AtomicU64::new(0);
/// Wall time at the start of the clock, in nanoseconds since 1970; zero when unknown.
static WALL_START: AtomicU64 = AtomicU64::new(0);

/// The steady clock and its first sample.
static REFERENCE: Mutex<Option<(Reference, Sample)>> = Mutex::new(None);

#[derive(Clone, Copy)]
struct Sample {
    ticks: u64,
    reference: u64,
}

/// A steady clock of known rate.
enum Reference {
    /// High precision event timer (IA-PC HPET Specification 1.0a).
    Hpet { registers: Mmio, period_fs: u64 },
    /// ACPI timer.
    AcpiTimer { port: u16, mask: u64 },
}

/// Starts the clock at zero. Until [`init`] it stands still.
pub fn mark_start() {
    BASE_TICKS.store(cpu::tsc(), Ordering::Relaxed);
}

/// Finds out how fast the counter runs and what the wall clock says. Needs ACPI tables; takes some milliseconds.
pub fn init() {
    let century = acpi::fixed().map_or(0, |fixed| fixed.century);
    let (name, hz) = if let Some(hz) = hypervisor_hz() {
        ("the hypervisor", hz)
    } else if let Some(reference) = Reference::find() {
        let name = reference.name();
        let first = reference.sample();
        let hz = reference.measure(first);
        *REFERENCE.lock() = Some((reference, first));
        (name, hz)
    } else {
        ("nothing", 0)
    };
    let hz = if hz == 0 {
        log::warn!("the counter's rate is a guess: no steady clock was found");
        guess_hz()
    } else {
        hz
    };
    SCALE.store(scale(hz), Ordering::Relaxed);
    log::info!("counter at {} kHz by {name}", hz / 1000);
    if let Some(seconds) = rtc::read(century) {
        let start = (seconds * 1_000_000_000).saturating_sub(now_nanos());
        WALL_START.store(start, Ordering::Relaxed);
    }
}

/// Nanoseconds since the start, at the resolution of the counter.
#[must_use]
pub fn now_nanos() -> u64 {
    let ticks = cpu::tsc().saturating_sub(BASE_TICKS.load(Ordering::Relaxed));
    BASE_NANOS.load(Ordering::Relaxed) + scaled(ticks, SCALE.load(Ordering::Relaxed))
}

/// Nanoseconds since 1970-01-01 UTC, or `None` where there is no working real-time clock.
#[must_use]
pub fn wall_nanos() -> Option<u64> {
    match WALL_START.load(Ordering::Relaxed) {
        0 => None,
        start => Some(start + now_nanos()),
    }
}

/// Waits actively; for devices that need a moment.
pub fn spin_nanos(nanos: u64) {
    let start = now_nanos();
    while now_nanos() - start < nanos {
        core::hint::spin_loop();
    }
}

/// Measures the counter's rate over all the time since boot. Worth calling once or twice, some seconds after boot and
/// less than four seconds after where the clock is the ACPI timer (it wraps around).
pub fn refine() {
    let Some((reference, first)) = &*REFERENCE.lock() else {
        return;
    };
    let last = reference.sample();
    let passed = reference.nanos(reference.elapsed(first.reference, last.reference));
    let wraps = reference.wraps_after_nanos();
    let believed = scaled(last.ticks - first.ticks, SCALE.load(Ordering::Relaxed));
    if passed < REFINE_NANOS_MIN || believed > wraps / 8 * 7 {
        return;
    }
    let hz = rate(last.ticks - first.ticks, passed);
    let (now, ticks) = (now_nanos(), cpu::tsc());
    BASE_NANOS.store(now, Ordering::Relaxed);
    BASE_TICKS.store(ticks, Ordering::Relaxed);
    SCALE.store(scale(hz), Ordering::Relaxed);
    log::debug!("counter at {} Hz by {}", hz, reference.name());
}

/// The counter's value at `nanos` since the start.
pub(crate) fn ticks_at(nanos: u64) -> u64 {
    let after = u128::from(nanos.saturating_sub(BASE_NANOS.load(Ordering::Relaxed)));
    let ticks = (after << 32) / u128::from(SCALE.load(Ordering::Relaxed).max(1));
    BASE_TICKS
        .load(Ordering::Relaxed)
        .saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX))
}

fn scaled(ticks: u64, scale: u64) -> u64 {
    ((u128::from(ticks) * u128::from(scale)) >> 32) as u64
}

fn scale(hz: u64) -> u64 {
    (1_000_000_000_u64 << 32).checked_div(hz).unwrap_or(0)
}

fn rate(ticks: u64, nanos: u64) -> u64 {
    (u128::from(ticks) * 1_000_000_000 / u128::from(nanos.max(1))) as u64
}

// SAFETY: registers of the machine are the same from everywhere.
unsafe impl Send for Reference {}

impl Reference {
    fn find() -> Option<Self> {
        let facts = acpi::facts();
        if let Some(registers) = facts.hpet.and_then(|at| Mmio::try_map(at, 0x400)) {
            // Capabilities: the period in femtoseconds is the upper half; at most 100 ns (2.3.4).
            let period_fs = u64::from(registers.read32(4));
            if (1..=100_000_000).contains(&period_fs) {
                // Bit 0 of the configuration lets the counter run.
                registers.write32(0x10, registers.read32(0x10) | 1);
                return Some(Self::Hpet {
                    registers,
                    period_fs,
                });
            }
        }
        let fixed = facts.fixed.filter(|fixed| fixed.timer != 0)?;
        let mask = if fixed.timer_32_bits {
            0xffff_ffff
        } else {
            0xff_ffff
        };
        Some(Self::AcpiTimer {
            port: fixed.timer,
            mask,
        })
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Hpet { .. } => "HPET",
            Self::AcpiTimer { .. } => "ACPI timer",
        }
    }

    fn read(&self) -> u64 {
        match self {
            Self::Hpet { registers, .. } => registers.read32(0xf0).into(),
            Self::AcpiTimer { port, .. } => port::read32(*port).into(),
        }
    }

    /// Counts from `earlier` to `later`, less than one turn of the clock apart.
    const fn elapsed(&self, earlier: u64, later: u64) -> u64 {
        later.wrapping_sub(earlier) & self.mask()
    }

    const fn mask(&self) -> u64 {
        match self {
            Self::Hpet { .. } => 0xffff_ffff,
            Self::AcpiTimer { mask, .. } => *mask,
        }
    }

    const fn nanos(&self, counts: u64) -> u64 {
        match self {
            Self::Hpet { period_fs, .. } => {
                (counts as u128 * *period_fs as u128 / 1_000_000) as u64
            }
            Self::AcpiTimer { .. } => {
                (counts as u128 * 1_000_000_000 / ACPI_TIMER_HZ as u128) as u64
            }
        }
    }

    const fn wraps_after_nanos(&self) -> u64 {
        self.nanos(self.mask())
    }

    /// Reads both clocks as close together as they ever come in a few tries.
    fn sample(&self) -> Sample {
        let mut best = (
            u64::MAX,
            Sample {
                ticks: 0,
                reference: 0,
            },
        );
        for _ in 0..SAMPLES {
            let before = cpu::tsc();
            let reference = self.read();
            let width = cpu::tsc() - before;
            if width < best.0 {
                best = (
                    width,
                    Sample {
                        ticks: before + width / 2,
                        reference,
                    },
                );
            }
        }
        best.1
    }

    /// The counter's rate in Hz, or zero when this clock stands still.
    fn measure(&self, first: Sample) -> u64 {
        for _ in 0..POLLS_MAX {
            if self.nanos(self.elapsed(first.reference, self.read())) >= CALIBRATION_NANOS {
                let last = self.sample();
                let passed = self.nanos(self.elapsed(first.reference, last.reference));
                return rate(last.ticks - first.ticks, passed);
            }
        }
        0
    }
}

/// The rate that KVM tells through its paravirtual clock (Linux, Documentation/virt/kvm/x86/msr.rst).
fn hypervisor_hz() -> Option<u64> {
    const SYSTEM_TIME: u32 = 0x4b56_4d01;
    const FEATURE_CLOCK_2: u32 = 1 << 3;

    /// `struct pvclock_vcpu_time_info`.
    #[repr(C, align(32))]
    struct Page {
        words: [u32; 8],
    }

    if cpu::hypervisor()? != *b"KVMKVMKVM\0\0\0" {
        return None;
    }
    // Newer hypervisors say it in a leaf of cpuid, in kHz.
    let told = u64::from(cpu::cpuid(0x4000_0010, 0).eax);
    if told != 0 {
        return Some(told * 1000);
    }
    if cpu::cpuid(0x4000_0001, 0).eax & FEATURE_CLOCK_2 == 0 {
        return None;
    }
    let page = Page { words: [0; 8] };
    let at = &raw const page;
    // SAFETY: (1) the feature bit promises the register; (2) the page is mapped one to one, aligned so that it does not
    // cross a page, and the hypervisor stops writing to it before it is given up.
    let words = unsafe {
        cpu::write_msr(SYSTEM_TIME, at as u64 | 1);
        let words = at.read_volatile().words;
        cpu::write_msr(SYSTEM_TIME, 0);
        words
    };
    kvm_hz(words[6], words[7] as u8 as i8)
}

/// The counter's rate from kvmclock's factor: nanoseconds = (ticks << shift) * factor / 2^32.
fn kvm_hz(factor: u32, shift: i8) -> Option<u64> {
    if factor == 0 || !(-32..=31).contains(&shift) {
        return None;
    }
    let hz = (1_000_000_000_u128 << 32) / u128::from(factor);
    Some(if shift >= 0 {
        hz >> shift
    } else {
        hz << -shift
    } as u64)
}

/// What the processor says about itself, or 1 GHz.
fn guess_hz() -> u64 {
    let crystal = cpu::cpuid(0x15, 0);
    if crystal.eax != 0 && crystal.ebx != 0 && crystal.ecx != 0 {
        return u64::from(crystal.ecx) * u64::from(crystal.ebx) / u64::from(crystal.eax);
    }
    match cpu::cpuid(0x16, 0).eax & 0xffff {
        0 => 1_000_000_000,
        mhz => u64::from(mhz) * 1_000_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling_is_exact_enough_for_years() {
        let scale = scale(2_893_202_000);
        let year = 365 * 24 * 3600_u64;
        let nanos = scaled(2_893_202_000 * year, scale);
        let off = nanos.abs_diff(year * 1_000_000_000);
        assert!(
            off < year * 1000,
            "{off} ns off in a year: more than one in a million"
        );
    }

    #[test]
    fn rates_come_out_of_measurements() {
        assert_eq!(rate(2_000_000, 1_000_000), 2_000_000_000);
        // Of a 2.4 GHz machine: 2^32 / 2.4 at shift 0 is 1789569706.
        assert_eq!(
            kvm_hz(1_789_569_706, 0).map(|hz| hz / 1_000_000),
            Some(2400)
        );
        assert_eq!(
            kvm_hz(3_579_139_413, -1).map(|hz| hz / 1_000_000),
            Some(2400)
        );
        assert_eq!(kvm_hz(0, 0), None);
    }

    #[test]
    fn a_clock_may_wrap_between_two_readings() {
        let timer = Reference::AcpiTimer {
            port: 0,
            mask: 0xff_ffff,
        };
        assert_eq!(timer.elapsed(0xff_fff0, 0x10), 0x20);
        assert_eq!(timer.nanos(3_579_545), 1_000_000_000);
        assert_eq!(timer.wraps_after_nanos() / 1_000_000, 4686);
    }
}
