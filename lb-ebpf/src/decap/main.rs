//! The other end of `tunnel` mode: takes outer headers off on a backend, so that its kernel needs no tunnel device.
//!
//! An object of its own. It reads packets and maps and carries out what `lb_common::decap` decides; it must never
//! hold a policy of its own.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "BPF has the atomics, but only as intrinsics: see `word`")]

#[path = "../bytes.rs"]
#[expect(dead_code, reason = "the steering program needs all of it")]
mod bytes;
mod link;
mod maps;
mod outer;
mod strip;
#[path = "../word.rs"]
#[expect(dead_code, reason = "the steering program needs all of it")]
mod word;

use aya_ebpf::{
    bindings::xdp_action, helpers::generated::bpf_xdp_get_buff_len, macros::xdp, programs::XdpContext,
};
use lb_common::decap::{Action, Reason};

/// Delivers the inner packet of a tunnel that ends here, and passes everything else.
#[xdp(frags)]
pub fn decap(ctx: XdpContext) -> u32 {
    // SAFETY: the context is the one that this program was called with.
    let length = unsafe { bpf_xdp_get_buff_len(ctx.ctx) };
    verdict(&ctx, length as u32)
}

/// The same for kernels without multi-buffer XDP (before Linux 5.18), where a frame is one piece.
#[xdp]
pub fn decap_linear(ctx: XdpContext) -> u32 {
    verdict(&ctx, bytes::readable(&ctx) as u32)
}

#[inline(always)]
fn verdict(ctx: &XdpContext, length: u32) -> u32 {
    let reason = match strip::packet(ctx, length) {
        Ok(()) => Reason::Decapsulated,
        Err(reason) => reason,
    };
    maps::count_reason(reason);
    match reason.action() {
        Action::Deliver | Action::Pass => xdp_action::XDP_PASS,
        Action::Drop => xdp_action::XDP_DROP,
    }
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
