//! The other end of `tunnel` mode: strips the outer header on a backend.

#![no_std]
#![no_main]

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

/// Passes everything.
#[xdp]
pub fn guidevane_decap(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// The licence of the kernel side; the kernel offers some helpers to GPL-compatible programs alone.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Nothing here can panic: what could would not pass the verifier.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
