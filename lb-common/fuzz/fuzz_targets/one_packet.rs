//! See `lb_common::testing::fuzz::one_packet`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lb_common::testing::fuzz::one_packet(data));
