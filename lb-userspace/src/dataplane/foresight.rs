//! What the kernel would do with a client's next SYN or first datagram, by its own code over its own maps.
//!
//! It must agree with the kernel's pick in every case; nothing is decided here. QUIC server IDs are in packets that
//! nobody has seen yet, and whether one-armed `nat` has a port left is known when the packet comes.

use std::{net::SocketAddr, sync::Arc};

use lb_common::{
    event::{Event, Kind, Sight},
    flow::FlowKey,
    header::TCP,
    layout::{Vip, vip_flags},
    maglev::NOBODY,
    pick::{CANDIDATES, Pool as _, Weighed},
    reason::Reason,
    table,
};

use super::{
    clock,
    flows::{self, Found},
    loader::Maps,
    pool::VipPool,
};

/// What would become of a client's next SYN or first datagram.
#[derive(Clone, Copy, Debug)]
pub struct Foresight {
    /// The flow, if the table has it.
    pub known: Option<Found>,
    /// Whether the packet would go on with that flow, and not be picked a backend for.
    pub goes_on: bool,
    /// The pick of a new flow, as the kernel would report it.
    pub pick: Event,
}

impl Foresight {
    /// The backend that the packet would go to; none when it would be dropped.
    pub fn backend(&self) -> Option<u16> {
        match self.known {
            Some(found) if self.goes_on => Some(found.slot.backend()),
            _ => (self.pick.backend != NOBODY).then_some(self.pick.backend),
        }
    }
}

/// Foresees for a client of the VIP with this live row, when the kernel's tick counter is at `jiffies`.
pub fn foresee(maps: &Arc<Maps>, vip: Vip, client: SocketAddr, jiffies: u64) -> Foresight {
    let flow = FlowKey { client: client.ip().into(), client_port_be: client.port().to_be(), vip: vip.id };
    let key = maps.meta.read(0).key;
    let hash = flow.hash(key);
    let affinity = if vip.flags & vip_flags::CLIENT_AFFINITY == 0 { hash } else { flow.client_hash(key) };
    let known = flows::find(maps, &vip, hash);
    let goes_on = known.is_some_and(|Found { slot, .. }| {
        let control = maps.backends.read(usize::from(slot.backend())).control;
        !table::wants_another(slot, control, vip.endpoint.protocol != TCP)
    });
    Foresight { known, goes_on, pick: picked(maps, vip, &flow, hash, affinity, jiffies) }
}

fn picked(maps: &Arc<Maps>, vip: Vip, flow: &FlowKey, hash: u64, affinity: u64, jiffies: u64) -> Event {
    let pool = VipPool::new(Arc::clone(maps), vip);
    let context = pool.context(affinity, hash, pool.silence(jiffies));
    let mut seen = [Sight::default(); CANDIDATES];
    let mut weighed = Weighed::of(&context);
    for sight in seen.iter_mut().take(weighed.count as usize) {
        let id = weighed.next(&context, &pool);
        if let Some(candidate) = pool.look(id) {
            *sight = Sight::of(id, &candidate);
        }
    }
    let choice = pool.pick(affinity, hash, context.silence);
    let event = Event {
        at_ns: clock::monotonic_ns(),
        hash,
        total: context.total,
        client: flow.client,
        client_port_be: flow.client_port_be,
        vip: vip.id,
        backend: NOBODY,
        opening_cap: context.opening_cap,
        duty: context.duty as u16,
        prompt: context.prompt as u16,
        rule: context.rule,
        silent: u16::from(context.silence >= context.patience),
        kind: Kind::Refused as u8,
        reason: Reason::NoBackend as u8,
        count: weighed.count as u8,
        seen,
        ..Event::default()
    };
    match choice {
        None => event,
        Some(choice) => Event {
            backend: choice.backend,
            why: choice.why as u8,
            kind: Kind::Opened as u8,
            reason: Reason::NewFlow as u8,
            ..event
        },
    }
}
