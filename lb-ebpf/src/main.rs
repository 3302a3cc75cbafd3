//! berrylb's BPF programs: map statics, `impl Packet` for an skb, `impl Tables` over the maps, and entry points that
//! turn a verdict of `lb-common` into their hook's action. Nothing is decided here that could be decided there.
#![no_std]
#![no_main]

mod fib;
mod frame;
mod globals;
mod maps;
mod pods;
mod skb;
mod sock;
mod tc;
mod xdp;

/// The licence section: `fib_lookup` and `redirect_neigh` are GPL-only helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The verifier proves that no panic is reachable: a panic's loop would not load.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
