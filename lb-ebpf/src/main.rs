//! Guidevane's kernel side.
//!
//! Entry points, parsing, flow table access and rewriting. It reads packets and maps and carries out what
//! `lb_common` decides; it must never hold a policy of its own.
//!
//! | module | owns |
//! |---|---|
//! | [`steer`] | the way of a packet through the parts, and the count of what became of it |
//! | [`packet`], [`headers`] | reading: plain packets, and all others |
//! | [`client`], [`opening`] | packets to VIPs: of known flows, and all others |
//! | [`server`] | packets back from backends (`nat`) |
//! | [`fragments`], [`icmp`], [`neighbour`] | what has no ports of its own |
//! | [`deliver`], [`forward`], [`tunnel`], [`too_big`] | sending on: by mode, rewriting, wrapping, refusing |
//! | [`flows`], [`backends`], [`ports`], [`quic`] | look-ups: the flow table, rows and the pick, source ports, server IDs |
//! | [`trace`] | reports of sampled new flows |
//! | [`bytes`], [`maps`], [`word`] | memory: the packet's and the maps' |

#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "BPF has the atomics, but only as intrinsics: see `word`")]

mod backends;
#[cfg(feature = "bench")]
mod bench;
mod bytes;
mod client;
mod deliver;
mod flows;
mod forward;
mod fragments;
mod headers;
mod icmp;
mod maps;
mod neighbour;
mod opening;
mod packet;
mod ports;
mod quic;
mod server;
mod steer;
mod too_big;
mod trace;
mod tunnel;
mod word;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use lb_common::layout::Clock;

/// Steers packets for VIPs, answers for their addresses, and passes everything else.
#[cfg_attr(feature = "legacy", xdp)]
#[cfg_attr(not(feature = "legacy"), xdp(frags))]
pub fn guidevane(ctx: XdpContext) -> u32 {
    steer::packet(&ctx)
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
