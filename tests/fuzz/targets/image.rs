//! Opening a damaged pool (`sim::decoders::image`).

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sim::decoders::image(bytes));
