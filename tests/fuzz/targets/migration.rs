//! What paired appliances say of volumes that move (`sim::decoders::migration`).

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sim::decoders::migration(bytes));
