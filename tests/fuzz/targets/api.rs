//! HTTP sessions and JSON bodies of the API (`sim::decoders::api`).

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sim::decoders::api(bytes));
