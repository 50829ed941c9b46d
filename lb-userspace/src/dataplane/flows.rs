//! The flow table, read: where one flow lies, and what lies in a range of slots.
//!
//! It reads the mapping while packets change it, and changes nothing.

use lb_common::{
    flow::FlowKey,
    layout::{FlowInfo, Vip},
    slot::{self, Slot, State},
    table::{self, WAYS},
};

use super::{loader::Maps, mapping::FlowWord};

/// A flow as its slot has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The slot's number.
    pub number: usize,
    /// Its word.
    pub slot: Slot,
}

/// The flow of a VIP with this hash; none when it is not in the table.
pub fn find(maps: &Maps, vip: &Vip, hash: u64) -> Option<Found> {
    table::sets(hash, vip, maps.meta.read(0).flow_sets - 1).into_iter().find_map(|set| {
        let set = set as usize;
        let words: [FlowWord<'_>; WAYS] = std::array::from_fn(|way| FlowWord(maps.flows.word(set, way * 8)));
        let table::Found { position, slot } = table::find(&words, slot::tag(hash));
        (slot != Slot::EMPTY).then_some(Found { number: set * WAYS + position, slot })
    })
}

/// Slots of the table, ports of one-armed `nat` included.
pub fn slots(maps: &Maps) -> usize {
    maps.flows.len() * WAYS
}

/// The flow in slot `number`, below [`slots`]; none when it is empty.
pub fn at(maps: &Maps, number: usize) -> Option<Found> {
    let slot = Slot(maps.flows.read(number / WAYS)[number % WAYS]);
    (slot.state() != State::Empty).then_some(Found { number, slot })
}

/// The id of the VIP that a flow is of.
pub fn vip_of(maps: &Maps, found: &Found) -> u16 {
    maps.backends.read(usize::from(found.slot.backend())).hops[0].vip
}

/// A flow's cold line; none while it is not the flow's: in `l2` and `tunnel` it is written with the client's first
/// packet after its SYN, and holds what an earlier flow left there until then.
pub fn line(maps: &Maps, found: &Found) -> Option<FlowInfo> {
    let line = maps.flow_info.read(found.number);
    let key = FlowKey { client: line.client, client_port_be: line.client_port_be, vip: line.vip };
    let is_its_own = found.slot.is_tagged(slot::tag(key.hash(maps.meta.read(0).key)));
    (is_its_own && line.vip == vip_of(maps, found)).then_some(line)
}
