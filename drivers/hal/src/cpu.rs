//! What the processor can do, and instructions that have no safe name.

use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, _rdtsc, CpuidResult};

/// Runs `cpuid` for `leaf` and `subleaf`; all zero for a leaf that the processor does not have.
#[must_use]
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    let range = leaf & 0xf000_0000;
    let last = __cpuid_count(range, 0).eax;
    if (leaf > last || last & 0xf000_0000 != range) && leaf != range {
        return CpuidResult {
            eax: 0,
            ebx: 0,
            ecx: 0,
            edx: 0,
        };
    }
    __cpuid_count(leaf, subleaf)
}

/// Abilities this program asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// RDRAND.
    Rdrand,
    /// RDSEED.
    Rdseed,
    /// Pages of 1 GiB.
    GiantPages,
    /// x2APIC mode of the local interrupt controller.
    X2apic,
    /// The TSC-deadline mode of its timer.
    TscDeadline,
    /// The processor is a hypervisor's.
    Hypervisor,
}

/// Whether the processor has `feature`.
#[must_use]
pub fn has(feature: Feature) -> bool {
    let (register, bit) = match feature {
        Feature::Rdrand => (cpuid(1, 0).ecx, 30),
        Feature::Rdseed => (cpuid(7, 0).ebx, 18),
        Feature::GiantPages => (cpuid(0x8000_0001, 0).edx, 26),
        Feature::X2apic => (cpuid(1, 0).ecx, 21),
        Feature::TscDeadline => (cpuid(1, 0).ecx, 24),
        Feature::Hypervisor => (cpuid(1, 0).ecx, 31),
    };
    register & (1 << bit) != 0
}

/// The signature of the hypervisor, if there is one, e.g. `KVMKVMKVM\0\0\0`.
#[must_use]
pub fn hypervisor() -> Option<[u8; 12]> {
    if !has(Feature::Hypervisor) {
        return None;
    }
    let id = cpuid(0x4000_0000, 0);
    let mut name = [0; 12];
    name[..4].copy_from_slice(&id.ebx.to_le_bytes());
    name[4..8].copy_from_slice(&id.ecx.to_le_bytes());
    name[8..].copy_from_slice(&id.edx.to_le_bytes());
    Some(name)
}

/// The time-stamp counter.
#[must_use]
pub fn tsc() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and this program runs where it is allowed.
    unsafe { _rdtsc() }
}

/// Tries RDSEED, then RDRAND: 64 unpredictable bits, or `None` where the processor has neither or is exhausted.
#[must_use]
pub fn random() -> Option<u64> {
    const TRIES_MAX: u32 = 32;
    if has(Feature::Rdseed) {
        for _ in 0..TRIES_MAX {
            let (value, ok): (u64, u8);
            // SAFETY: `has` found the instruction; it touches registers only.
            unsafe {
                asm!("rdseed {}", "setc {}", out(reg) value, out(reg_byte) ok, options(nomem, nostack))
            };
            if ok != 0 {
                return Some(value);
            }
        }
    }
    if has(Feature::Rdrand) {
        for _ in 0..TRIES_MAX {
            let (value, ok): (u64, u8);
            // SAFETY: `has` found the instruction; it touches registers only.
            unsafe {
                asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) ok, options(nomem, nostack))
            };
            if ok != 0 {
                return Some(value);
            }
        }
    }
    None
}

/// Forgets all translations of addresses that the processor keeps; it finds them again in the page tables.
pub fn forget_translations() {
    // SAFETY: the same tables stay in use, so every address means what it meant.
    unsafe { asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack, preserves_flags)) }
}

/// Stops this processor for good: interrupts off, halted.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: masking interrupts and halting touches no memory; nothing runs afterwards.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}

/// Reads a model-specific register.
///
/// # Panics
/// The processor faults when it does not have the register.
#[must_use]
pub(crate) fn read_msr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading changes nothing that this program relies on; callers checked that the register exists.
    unsafe {
        asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register.
///
/// # Safety
/// The register exists, and its new value does not change how memory is addressed or protected.
pub(crate) unsafe fn write_msr(register: u32, value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: the caller vouches for register and value. Not `nomem`: a write may start a device that reads memory.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") low, in("edx") high, options(nostack, preserves_flags))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_that_do_not_exist_read_as_zero() {
        let none = cpuid(0x0fff_ffff, 0);
        assert_eq!((none.eax, none.ebx, none.ecx, none.edx), (0, 0, 0, 0));
    }

    #[test]
    fn random_bits_differ() {
        if has(Feature::Rdrand) {
            assert_ne!(random(), random());
        }
    }
}
