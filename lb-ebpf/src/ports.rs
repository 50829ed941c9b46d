//! Source ports of one-armed `nat`: slots of `FLOWS` behind those of all other flows, each of which is a port
//! of a source address.

use aya_ebpf::programs::XdpContext;
use lb_common::{address::Address, reason::Reason, table::WAYS};

use crate::{
    forward::{self, End, Identity},
    maps::{SET_MASK, SOURCES},
    packet::{Packet, Part},
};

/// The source address and port that the slot with this number stands for.
#[inline(always)]
pub fn source(number: u32) -> Option<Identity> {
    let place = number.wrapping_sub((SET_MASK.load() + 1) * WAYS as u32);
    let address: &Address = SOURCES.get(place >> 16)?;
    Some(Identity::new(*address, (place as u16).to_be()))
}

/// Gives a client's packet the source of its flow.
#[inline(always)]
pub fn translate_source(ctx: &XdpContext, packet: &Packet, number: u32) -> Result<(), Reason> {
    let new = source(number).ok_or(Reason::Internal)?;
    if packet.part == Part::Later as u8 {
        return forward::readdress(ctx, packet, End::Source, &packet.source, &new.address);
    }
    let old = Identity::new(packet.source, packet.source_port_be);
    forward::translate(ctx, packet, End::Source, &old, &new)
}
