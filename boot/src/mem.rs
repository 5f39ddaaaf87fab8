//! The memory functions that compiled code calls (mem.s). On a host they have other names than libc's, for the tests.

core::arch::global_asm!(include_str!("../mem.s"));
#[cfg(not(test))]
core::arch::global_asm!(include_str!("../names.s"));

#[cfg(test)]
mod tests {
    use core::ffi::c_int;
    use core::sync::atomic::{AtomicU8, Ordering};

    unsafe extern "C" {
        fn image_memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8;
        fn image_memset(to: *mut u8, value: c_int, len: usize) -> *mut u8;
        fn image_memcmp(left: *const u8, right: *const u8, len: usize) -> c_int;
        fn image_strlen(text: *const u8) -> usize;
        static image_wide: AtomicU8;
    }

    /// Every length up to some rounds of every loop.
    const LENGTHS: core::ops::Range<usize> = 0..800;

    /// Runs `check` without and, where the processor has it, with AVX.
    fn in_both_widths(check: impl Fn()) {
        let wide: &[u8] = if std::is_x86_feature_detected!("avx") {
            &[0, 1]
        } else {
            &[0]
        };
        for &width in wide {
            // SAFETY: the byte is there, and only ever accessed as a whole.
            unsafe { image_wide.store(width, Ordering::Relaxed) };
            check();
        }
    }

    fn pattern() -> Vec<u8> {
        (0..3000_u32).map(|at| (at * 7 + at / 256) as u8).collect()
    }

    #[test]
    fn copies_of_all_lengths_and_overlaps() {
        in_both_widths(copies);
    }

    fn copies() {
        for len in LENGTHS {
            for (to, from) in [
                (0, 1500),
                (1500, 3),
                (100, 100),
                (100, 101),
                (101, 100),
                (100, 163),
                (163, 100),
                (100, 355),
                (356, 100),
                (90, 350),
            ] {
                let (mut ours, mut right) = (pattern(), pattern());
                right.copy_within(from..from + len, to);
                let start = ours.as_mut_ptr();
                // SAFETY: both ranges lie in `ours`.
                let result = unsafe { image_memmove(start.add(to), start.add(from), len) };
                assert_eq!(result, start.wrapping_add(to));
                assert!(ours == right, "{len} bytes from {from} to {to}");
            }
        }
    }

    #[test]
    fn fills_of_all_lengths() {
        in_both_widths(fills);
    }

    fn fills() {
        for len in LENGTHS {
            let (mut ours, mut right) = (pattern(), pattern());
            right[33..33 + len].fill(0xa5);
            // SAFETY: the range lies in `ours`.
            unsafe { image_memset(ours.as_mut_ptr().add(33), 0x1a5, len) };
            assert!(ours == right, "{len} bytes");
        }
    }

    #[test]
    fn comparisons_order_by_the_first_difference() {
        let left = pattern();
        for len in LENGTHS {
            // SAFETY: both ranges lie in `left`.
            let same = unsafe { image_memcmp(left.as_ptr(), left.as_ptr(), len) };
            assert_eq!(same, 0);
            for at in 0..len {
                let mut right = left.clone();
                right[at] ^= 0x80;
                right[at + 1] ^= 1;
                // SAFETY: both ranges lie in their vectors.
                let order = unsafe { image_memcmp(left.as_ptr(), right.as_ptr(), len) };
                assert_eq!(
                    order.cmp(&0),
                    left[at].cmp(&right[at]),
                    "byte {at} of {len}"
                );
            }
        }
    }

    #[test]
    fn length_of_text() {
        // SAFETY: the text ends with a zero.
        assert_eq!(unsafe { image_strlen(c"some text".as_ptr().cast()) }, 9);
    }
}
