//! HTTP request heads (`sim::decoders::http`).

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sim::decoders::http(bytes));
