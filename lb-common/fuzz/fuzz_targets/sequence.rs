//! See `lb_common::testing::fuzz::sequence`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lb_common::testing::fuzz::sequence(data));
