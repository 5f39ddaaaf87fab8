//! Whole connections of an NBD client to a server that says anything (`sim::decoders::nbd_origin`).

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sim::decoders::nbd_origin(bytes));
