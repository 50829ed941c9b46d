//! Programs that time the packet path from within the kernel's test run (`cargo xtask bench packet`).
//!
//! A test run never gives a program its packet back as it was: one that encapsulates would see its own output
//! from the second repeat on. So each of these writes the packet anew, does its work and takes off what was
//! pushed; [`bench_harness`] does all of that but the work, so that the difference is the work. Built with the
//! feature `bench` alone: none of this may reach the committed object.

mod harness;
mod layout;
mod reference;
mod storm;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

/// What entering and leaving a program costs.
#[xdp]
pub fn bench_nop(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// What the harness itself costs: a packet is prepared, room for the outer header made and taken back.
#[xdp]
pub fn bench_harness(ctx: XdpContext) -> u32 {
    let Some(run) = harness::prepare(&ctx) else { return xdp_action::XDP_ABORTED };
    if !harness::push(&ctx, run) {
        return xdp_action::XDP_ABORTED;
    }
    harness::undo(&ctx, run, xdp_action::XDP_TX)
}

/// Guidevane's packet path.
#[xdp]
pub fn bench_guidevane(ctx: XdpContext) -> u32 {
    let Some(run) = harness::prepare(&ctx) else { return xdp_action::XDP_ABORTED };
    let action = crate::steer::packet(&ctx);
    harness::undo(&ctx, run, action)
}

/// The packet path of a balancer in the shape that everyone uses.
#[xdp]
pub fn bench_reference(ctx: XdpContext) -> u32 {
    let Some(run) = harness::prepare(&ctx) else { return xdp_action::XDP_ABORTED };
    let action = reference::bench_reference_steer(ctx.ctx);
    harness::undo(&ctx, run, action)
}

/// Takes the packet's flow out of the reference's table.
#[xdp]
pub fn bench_forget(ctx: XdpContext) -> u32 {
    if harness::prepare(&ctx).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    reference::forget(&ctx)
}

/// Guidevane's packet path on traffic of [`storm`]; live frames are sent on.
#[xdp]
pub fn bench_storm(ctx: XdpContext) -> u32 {
    storm::steer(&ctx)
}
