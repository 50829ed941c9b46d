//! What every timed program does around its work: the packet anew, and its length as it was.

use aya_ebpf::{
    bindings::xdp_action, btf_maps::Array, helpers::bpf_xdp_adjust_head, macros::btf_map,
    programs::XdpContext,
};
use lb_common::branchless::Hide as _;

use super::layout::{PORT_BASE, PORT_BITS, Run, SHORT_WORDS, TEMPLATE_WORDS, flow_of};
use crate::{bytes::Bytes, word::Opaque};

#[btf_map]
pub static BENCH_RUN: Array<Run, 1> = Array::new();

/// Offsets of the frame that a run may name: for the verifier, which needs a bound.
const OFFSETS: u32 = 127;

/// Writes the next packet over the last one; none when the frame is too short.
///
/// Checksums stay the template's: what follows a rewrite never reads the packet.
#[inline(always)]
pub fn prepare(ctx: &XdpContext) -> Option<&'static Run> {
    let place = BENCH_RUN.get_ptr_mut(0)?;
    // SAFETY: a field of a map element, of which this program is the only user at the time.
    let number = unsafe { (&raw const (*place).next).read() };
    // SAFETY: as above.
    unsafe { (&raw mut (*place).next).write(number + 1) };
    // SAFETY: a whole element, which nothing changes until the next packet.
    let run = unsafe { &*place };
    restore(ctx, &run.template)?;
    let flow = flow_of(run, number);
    let port = PORT_BASE + (flow & ((1 << PORT_BITS) - 1)) as u16;
    field::<2>(ctx, run.port_at)?.set_u16::<0>(port.to_be());
    let client = (run.client + (flow >> PORT_BITS)) as u16;
    field::<2>(ctx, run.client_at)?.set_u16::<0>(client.to_be());
    if run.numbers_at != 0 {
        let lap = (number >> (run.flow_bits & 31)) as u32;
        let after = |[first, step]: [u32; 2]| first.wrapping_add(lap.wrapping_mul(step)).to_be();
        let numbers = field::<8>(ctx, run.numbers_at)?;
        numbers.set_u32::<0>(after(run.sequence));
        numbers.set_u32::<4>(after(run.acknowledged));
    }
    Some(run)
}

#[inline(always)]
fn field<const LENGTH: usize>(ctx: &XdpContext, offset: u32) -> Option<Bytes<LENGTH>> {
    Bytes::at(ctx, (offset & OFFSETS) as usize).ok()
}

#[inline(always)]
fn restore(ctx: &XdpContext, template: &[u64; TEMPLATE_WORDS]) -> Option<()> {
    let start = Bytes::<{ SHORT_WORDS * 8 }>::at(ctx, 0).ok()?;
    start.set_u64::<0>(template[0]);
    start.set_u64::<8>(template[1]);
    start.set_u64::<16>(template[2]);
    start.set_u64::<24>(template[3]);
    start.set_u64::<32>(template[4]);
    start.set_u64::<40>(template[5]);
    start.set_u64::<48>(template[6]);
    start.set_u64::<56>(template[7]);
    if let Ok(rest) = Bytes::<{ (TEMPLATE_WORDS - SHORT_WORDS) * 8 }>::at(ctx, SHORT_WORDS * 8) {
        rest.set_u64::<0>(template[8]);
        rest.set_u64::<8>(template[9]);
    }
    Some(())
}

/// Makes room for a header of the run's size.
#[inline(always)]
pub fn push(ctx: &XdpContext, run: &Run) -> bool {
    run.push == 0 || adjust(ctx, -(run.push as i32))
}

/// Takes off what the program has pushed, and gives `action`.
#[inline(always)]
pub fn undo(ctx: &XdpContext, run: &Run, action: u32) -> u32 {
    // Hidden, or the compiler takes one pointer from the length first, in 32 bits, which no pointer fits.
    let length = Opaque::hide((ctx.data_end() - ctx.data()) as u64);
    let grown = length as i32 - run.length as i32;
    if run.length == 0 || grown == 0 || adjust(ctx, grown) {
        return action;
    }
    xdp_action::XDP_ABORTED
}

#[inline(always)]
fn adjust(ctx: &XdpContext, by: i32) -> bool {
    // SAFETY: the context is the program's own; the helper checks the distance.
    unsafe { bpf_xdp_adjust_head(ctx.ctx, by) == 0 }
}
