//! Fragments: later ones follow their first.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use lb_common::{
    fragment::{self, Entry, FragmentKey, Way},
    header::{ICMP, ICMPV6},
    layout::{FRAGMENT_SETS, NO_VIP},
    reason::Reason,
    slot::Slot,
    table::{WAYS, Word as _},
};

use crate::{
    backends,
    deliver::Way as Found,
    flows, forward,
    maps::{flow_word, fragment_set},
    packet::{self, Packet},
    server,
    steer::{Verdict, for_address},
    word::MapWord,
};

#[inline(always)]
fn hash(packet: &Packet) -> u64 {
    // The number of an IPv6 packet's transport is not the same in all of its fragments' headers.
    let protocol = if packet.v6 { 0 } else { packet.protocol };
    FragmentKey { source: packet.source, destination: packet.destination, id: packet.id, protocol }
        .hash(flows::key())
}

#[inline(always)]
fn set_of(hash: u64) -> Option<&'static [MapWord; WAYS]> {
    fragment_set(fragment::set(hash, FRAGMENT_SETS as u32))
}

/// Remembers that the first fragment at hand goes to a backend.
#[inline(always)]
pub fn remember_to(backend: u16, found: Found) {
    match found {
        Found::Flow(number) => guidevane_remember(Way::Flow as u32, number),
        Found::Table => guidevane_remember(Way::Backend as u32, backend.into()),
    };
}

/// Remembers where the first fragment at hand goes. A global function: see [`crate::steer`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guidevane_remember(way: u32, number: u32) -> u32 {
    let Some(packet) = packet::current() else { return 0 };
    let (hash, now) = (hash(packet), flows::age_now());
    let Some(words) = set_of(hash) else { return 0 };
    let word = &words[fragment::place(words, now) & (WAYS - 1)];
    let way = match way {
        1 => Way::Backend,
        2 => Way::Flow,
        _ => Way::Client,
    };
    let entry = Entry::new(hash, way, number, now);
    // Whoever else has just taken the place keeps it: its packet is as good as this one.
    let found = word.load();
    u32::from(word.compare_exchange(found, entry.0) == found)
}

/// A later fragment. A global function: see [`crate::steer`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guidevane_fragment(ctx: *mut xdp_md) -> u64 {
    let Some(packet) = packet::current() else { return Verdict::INTERNAL.0 };
    match later(&XdpContext::new(ctx), packet) {
        Ok(verdict) => verdict.0,
        Err(reason) => Verdict::new(Err(reason), NO_VIP).0,
    }
}

#[inline(always)]
fn later(ctx: &XdpContext, packet: &mut Packet) -> Result<Verdict, Reason> {
    packet.hash = hash(packet);
    let entry = entry_of(packet.hash);
    let Some(way) = entry.way() else {
        // The first of an ICMP message's fragments was left to the stack, and so are the others.
        let left = matches!(packet.protocol, ICMP | ICMPV6);
        return Err(for_address(packet, if left { Reason::OtherProtocol } else { Reason::FragmentUnknown }));
    };
    packet.whole(ctx)?;
    let number = entry.number();
    let (id, found) = match way {
        Way::Backend => (number as u16, Found::Table),
        Way::Flow | Way::Client => {
            let slot = flow_word(number).map_or(Slot::EMPTY, |word| Slot(word.load()));
            // The flow is gone meanwhile.
            if slot.0 == Slot::EMPTY.0 {
                return Err(for_address(packet, Reason::FragmentUnknown));
            }
            (slot.backend(), Found::Flow(number))
        }
    };
    let (_, hop) = backends::backend(id).ok_or(Reason::Internal)?;
    if forward::may_go_on(packet).is_err() {
        return Ok(Verdict::new(Err(Reason::TtlExpired), hop.vip));
    }
    if matches!(way, Way::Client) {
        return Ok(Verdict::new(server::return_part(ctx, packet, id, hop, number), NO_VIP));
    }
    Ok(Verdict::deliver(hop.vip, id, found, Reason::Fragment))
}

#[inline(always)]
fn entry_of(hash: u64) -> Entry {
    let Some(words) = set_of(hash) else { return Entry(0) };
    let now = flows::age_now();
    let mut position = 0;
    while position < WAYS {
        let entry = Entry(words[position].load());
        if entry.is_for(hash, now) {
            return entry;
        }
        position += 1;
    }
    Entry(0)
}
