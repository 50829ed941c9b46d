//! Reports of sampled new flows: what their pick saw, and what became of them.
//!
//! A report is made in three steps around the pick that every flow gets: [`guidevane_trace_begin`] notes the
//! candidates, [`guidevane_trace_chosen`] compares them after the pick, [`outcome`] sends the report off. They
//! meet in this CPU's element of `TRACED`, since they are global functions of scalars: see
//! [`backends::guidevane_choose`]. Nobody waits for an event: without room it is counted as lost, and the
//! packet goes on.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use lb_common::{
    address::Address,
    event::{self, Event, Kind, Sight},
    pick::{CANDIDATES, Weighed},
    reason::{Action, Reason},
};

use crate::{
    backends::{self, Maps},
    flows::nanoseconds,
    maps::{CONTROL, EVENTS, EVENTS_LOST, TRACED, VIPS},
    packet::Packet,
};

/// Whether the flow of this hash is reported.
#[inline(always)]
pub fn wanted(hash: u64) -> bool {
    CONTROL.get(0).is_some_and(|control| event::sampled(hash, control.sample))
}

/// A report is of a packet long gone when it was begun so long ago: sampling ended in its midst.
const PATIENCE_NS: u64 = 10_000_000;

/// The event that this CPU is about to report.
#[inline(always)]
fn draft() -> Option<&'static mut Event> {
    let event = TRACED.get_ptr_mut(0)?;
    // SAFETY: this CPU's own element of the map, and one packet at a time.
    Some(unsafe { &mut *event })
}

/// Begins the report of a flow: notes what its pick is about to see.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guidevane_trace_begin(element: u32, policy: u32, hash: u64, flow_hash: u64) -> u32 {
    u32::from(begin(element, policy as u8, hash, flow_hash).is_some())
}

#[inline(always)]
fn begin(element: u32, policy: u8, hash: u64, flow_hash: u64) -> Option<()> {
    let event = draft()?;
    let vip = VIPS.get(element)?;
    let context = backends::context(vip, policy, hash, flow_hash)?;
    event.at_ns = nanoseconds();
    event.hash = flow_hash;
    event.total = context.total;
    event.opening_cap = context.opening_cap;
    event.duty = context.duty as u16;
    event.prompt = context.prompt as u16;
    event.rule = context.rule;
    event.silent = u16::from(context.silence >= context.patience);
    event.kind = Kind::Opened as u8;
    event.moved = 0;
    event.count = 0;
    let mut weighed = Weighed::of(&context);
    for number in 0..CANDIDATES as u32 {
        if number >= weighed.count {
            break;
        }
        let id = weighed.next(&context, &Maps { vip });
        event.seen[number as usize] = Sight::of(id, &backends::look(id)?);
        event.count = number as u8 + 1;
    }
    Some(())
}

/// Notes why the pick chose what it chose (0xffff_ffff: nothing), and whether what it saw was what was noted.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guidevane_trace_chosen(why: u32) -> u32 {
    let Some(event) = draft() else { return 0 };
    event.why = why as u8;
    let mut moved = 0;
    for (number, sight) in event.seen.iter().enumerate() {
        if number >= event.count as usize {
            break;
        }
        if let Some(now) = backends::look(sight.backend) {
            moved |= sight.differs(&Sight::of(sight.backend, &now));
        }
    }
    event.moved = (moved != 0) as u32;
    event.moved
}

/// Reports what became of a new flow, if it is [`wanted`]: to be called once after every pick of
/// [`backends::choose_new`], with the same packet.
#[inline(always)]
pub fn outcome(packet: &Packet, vip: u16, backend: u16, reason: Reason) {
    // Without a trace, this is all it costs.
    if CONTROL.get(0).is_none_or(|control| control.sample == 0) {
        return;
    }
    let kind = if matches!(reason.action(), Action::Drop) { Kind::Refused } else { Kind::Opened };
    let [high, low] = packet.source.halves();
    let ids = u64::from(packet.source_port_be)
        | u64::from(vip) << 16
        | u64::from(backend) << 32
        | (reason as u64) << 48
        | (kind as u64) << 56;
    guidevane_trace_end(high, low, ids);
}

/// Sends off the report that this CPU has begun, if any.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guidevane_trace_end(high: u64, low: u64, ids: u64) -> u32 {
    let Some(event) = draft() else { return 0 };
    if event.kind == 0 {
        return 0;
    }
    let current = nanoseconds().wrapping_sub(event.at_ns) < PATIENCE_NS;
    event.client = Address::from_halves([high, low]);
    event.client_port_be = ids as u16;
    event.vip = (ids >> 16) as u16;
    event.backend = (ids >> 32) as u16;
    event.reason = (ids >> 48) as u8;
    event.kind = (ids >> 56) as u8;
    // SAFETY: the helper takes nothing and has no preconditions.
    event.cpu = unsafe { bpf_get_smp_processor_id() } as u16;
    let sent = current && EVENTS.output_untyped::<Event>(&*event, 0).is_ok();
    event.kind = 0;
    if !sent && let Some(lost) = EVENTS_LOST.get_ptr_mut(0) {
        // SAFETY: this CPU's own element of the map.
        unsafe { *lost += 1 };
    }
    u32::from(sent)
}
