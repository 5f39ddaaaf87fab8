//! Configuration files and kernel command lines (`sim::decoders::configuration`).

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sim::decoders::configuration(bytes));
