//! See `mat_mapping::exercise::update`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| mat_mapping::exercise::update(octets));
