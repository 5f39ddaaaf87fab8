//! Whole NBD sessions (`sim::decoders::nbd_session`).

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sim::decoders::nbd_session(bytes));
