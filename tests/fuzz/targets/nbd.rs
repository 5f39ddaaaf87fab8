//! NBD structures (`sim::decoders::nbd`).

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sim::decoders::nbd(bytes));
