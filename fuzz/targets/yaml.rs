//! See `src/yaml.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trunkline_fuzz::yaml::run(data));
