//! Frames from the wire (`sim::decoders::frame`).

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sim::decoders::frame(bytes));
