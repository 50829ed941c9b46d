//! Guidevane's kernel side.
//!
//! Entry points, parsing, flow table access and rewriting. It reads packets and maps and carries out what
//! `lb_common` decides; it must never hold a policy of its own.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "BPF has the atomics, but only as intrinsics: see `word`")]

mod backends;
mod bytes;
mod flows;
mod forward;
mod maps;
mod neighbour;
mod packet;
mod steer;
mod word;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use lb_common::layout::{self, Clock};

/// Steers packets for VIPs, answers for their addresses, and passes everything else.
#[xdp]
pub fn guidevane(ctx: XdpContext) -> u32 {
    let mut owner = layout::NO_VIP;
    let (action, reason) = match steer::packet(&ctx, &mut owner) {
        Ok(done) => done,
        Err(reason) => (steer::action_of(reason), reason),
    };
    if let Some(seen) = maps::REASONS_SEEN.get_ptr_mut(layout::reason_element(owner, reason)) {
        // SAFETY: this CPU's own element of the map.
        unsafe { *seen += 1 };
    }
    action
}

/// Never attached: test-run by the daemon, to learn how the kernel's tick relates to its own clock.
#[xdp]
pub fn clock(_: XdpContext) -> u32 {
    if let Some(clock) = maps::CLOCK.get_ptr_mut(0) {
        let now = Clock { jiffies: flows::jiffies(), nanoseconds: flows::nanoseconds() };
        // SAFETY: the pointer is to a whole element of the map.
        unsafe { clock.write(now) };
    }
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
