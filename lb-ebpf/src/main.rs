//! x
#![no_std]
#![no_main]
#[panic_handler]
fn panic(_i: &core::panic::PanicInfo<'_>) -> ! { loop {} }
