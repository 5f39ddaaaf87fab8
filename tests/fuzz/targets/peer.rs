//! Strangers at the port for peers, and at addresses of peers (`sim::decoders::peer`).

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sim::decoders::peer(bytes));
