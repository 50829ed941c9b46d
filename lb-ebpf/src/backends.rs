//! Endpoint indexes, VIP and backend rows, and the pool that a pick reads.

use lb_common::{
    address::Endpoint,
    branchless::Hide,
    index::{Active, HANDLES, Handle},
    layout::{Hop, TABLE_LINE, Vip, backend_bits},
    maglev::NOBODY,
    pick::{Candidate, Choice, Context, Pool, Rule, live, pick_with},
};

use crate::{
    flows::jiffies,
    maps::{BACKENDS, CONTROL, LOADS, REAL_INDEX, STALE_AFTER, TABLE, TOTALS, VIP_INDEX, VIPS, WEIGHED},
    trace,
    word::{Opaque, fetch_add_u32},
};

/// The VIP, or the address of VIPs, at an endpoint, and its live row's element.
#[inline(always)]
pub fn vip_at(endpoint: &Endpoint) -> Option<(u32, &'static Vip)> {
    let active = Active(CONTROL.get(0)?.vip_index);
    let bucket = *VIP_INDEX.get(active.element(endpoint))?;
    for position in 0..HANDLES {
        let handle = Handle::of(bucket, position);
        if handle.is_some()
            && let Some(vip) = VIPS.get(handle.element())
            && same(&vip.endpoint, endpoint)
        {
            return Some((handle.element(), vip));
        }
    }
    None
}

/// A VIP by its id. Identity, mode and checksum are the same in both of its rows, so either will do.
#[inline(always)]
pub fn vip(id: u16) -> Option<&'static Vip> {
    VIPS.get(u32::from(id) * 2)
}

/// The backend of a `nat` VIP that listens at an endpoint.
#[inline(always)]
pub fn backend_at(endpoint: &Endpoint) -> Option<(u16, &'static Hop)> {
    indexed(endpoint, |hop| same(&hop.endpoint, endpoint))
}

/// The backend that QUIC connection IDs call `server`, given the endpoint that stands for it.
#[inline(always)]
pub fn named(endpoint: &Endpoint, server: u64) -> Option<u16> {
    indexed(endpoint, |hop| hop.server_id == server && hop.vip == endpoint.port_be).map(|(id, _)| id)
}

/// The backend in an endpoint's bucket that is the one looked for.
#[inline(always)]
fn indexed(endpoint: &Endpoint, is_it: impl Fn(&Hop) -> bool) -> Option<(u16, &'static Hop)> {
    let active = Active(CONTROL.get(0)?.real_index);
    // Without a `nat` VIP or a server ID there is no index, and nothing to look up.
    if active.0 == 0 {
        return None;
    }
    let bucket = *REAL_INDEX.get(active.element(endpoint))?;
    for position in 0..HANDLES {
        let handle = Handle::of(bucket, position);
        if handle.is_some()
            && let Some((_, hop)) = backend(handle.id())
            && is_it(hop)
        {
            return Some((handle.id(), hop));
        }
    }
    None
}

/// Whether two endpoints are one.
#[inline(always)]
pub fn same(a: &Endpoint, b: &Endpoint) -> bool {
    let differs = (a.address.0[0] ^ b.address.0[0])
        | (a.address.0[1] ^ b.address.0[1])
        | (a.address.0[2] ^ b.address.0[2])
        | (a.address.0[3] ^ b.address.0[3])
        | u32::from(a.port_be ^ b.port_be)
        | u32::from(a.protocol ^ b.protocol);
    differs == 0
}

/// A backend's control word and its live row.
#[inline(always)]
pub fn backend(id: u16) -> Option<(u32, &'static Hop)> {
    let backend = BACKENDS.get(u32::from(id))?;
    // SAFETY: a field of a map element; volatile because the daemon flips it.
    let control = unsafe { (&raw const backend.control).read_volatile() };
    let hop = if control & backend_bits::ROW == 0 { &backend.hops[0] } else { &backend.hops[1] };
    Some((control, hop))
}

/// Picks a backend of the VIP in `element` by `policy`; `hash` is that of the flow's affinity key.
#[inline(always)]
pub fn choose(element: u32, policy: u8, hash: u64, flow_hash: u64) -> Option<u16> {
    let choice = guidevane_choose(element, policy.into(), hash, flow_hash);
    (choice != NOTHING).then_some(choice as u16)
}

/// The same for a new flow; when it is to be reported, what the pick sees is noted.
#[inline(always)]
pub fn choose_new(element: u32, policy: u8, hash: u64, flow_hash: u64) -> Option<u16> {
    if !trace::wanted(flow_hash) {
        return choose(element, policy, hash, flow_hash);
    }
    trace::guidevane_trace_begin(element, policy.into(), hash, flow_hash);
    let choice = guidevane_choose(element, policy.into(), hash, flow_hash);
    trace::guidevane_trace_chosen((choice >> 16) as u32);
    (choice != NOTHING).then_some(choice as u16)
}

/// What [`guidevane_choose`] gives when no backend can take the flow.
const NOTHING: u64 = u64::MAX;

/// The pick, as a global function of scalars: the verifier walks it once, by itself, and not once more for
/// every state in which a packet may arrive here.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guidevane_choose(element: u32, policy: u32, hash: u64, flow_hash: u64) -> u64 {
    match choose_among(element, policy as u8, hash, flow_hash) {
        Some(choice) => u64::from(choice.backend) | (choice.why as u64) << 16,
        None => NOTHING,
    }
}

#[inline(always)]
fn choose_among(element: u32, policy: u8, hash: u64, flow_hash: u64) -> Option<Choice> {
    let vip = VIPS.get(element)?;
    let entries = WEIGHED.get_ptr_mut(0)?;
    // SAFETY: this CPU's own element of the map, and one pick at a time.
    let entries = unsafe { &mut *entries };
    pick_with(&context(vip, policy, hash, flow_hash)?, &Maps { vip }, entries)
}

/// What holds for all candidates of a VIP's pick.
#[inline(always)]
pub fn context(vip: &Vip, policy: u8, hash: u64, flow_hash: u64) -> Option<Context> {
    let total = TOTALS.get(u32::from(vip.id))?;
    let control = CONTROL.get(0)?;
    Some(Context {
        rule: Rule { policy, ..vip.rule },
        hash,
        flow_hash,
        table_size: vip.table_size,
        members: u32::from(vip.member_count),
        opening_cap: total.opening_cap,
        duty: total.duty,
        prompt: total.prompt,
        total: live::<Opaque>(&total.gauges, total.opening_cap, total.duty),
        silence: since(control.heartbeat),
        patience: u64::from(STALE_AFTER.load()),
    })
}

/// Jiffies since a heartbeat; the daemon's reckoning may be a tick ahead, and that is no silence at all.
#[inline(always)]
fn since(heartbeat: u64) -> u64 {
    let silence = jiffies().wrapping_sub(heartbeat) as i64;
    (silence & !(silence >> 63)) as u64
}

/// A VIP's backends as the maps hold them at this moment.
pub struct Maps {
    /// The VIP's live row.
    pub vip: &'static Vip,
}

impl Maps {
    #[inline(always)]
    fn entry(number: u32) -> u16 {
        let line = number / TABLE_LINE as u32;
        let Some(line) = TABLE.get(line) else { return NOBODY };
        line[number as usize & (TABLE_LINE - 1)]
    }
}

impl Hide for Maps {
    #[inline(always)]
    fn hide(x: u64) -> u64 {
        Opaque::hide(x)
    }
}

impl Pool for Maps {
    #[inline(always)]
    fn table(&self, slot: u32) -> u16 {
        Self::entry(self.vip.table + slot)
    }

    #[inline(always)]
    fn member(&self, position: u32) -> u16 {
        Self::entry(self.vip.members + position)
    }

    #[inline(always)]
    fn look(&self, id: u16) -> Option<Candidate> {
        look(id)
    }

    #[inline(always)]
    fn turn(&self) -> u32 {
        let Some(total) = TOTALS.get_ptr_mut(u32::from(self.vip.id)) else { return 0 };
        // SAFETY: a field of a map element, aligned.
        unsafe { fetch_add_u32(&raw mut (*total).cursor, 1) }
    }
}

/// A backend as it is now; none when there is no such id.
#[inline(always)]
pub fn look(id: u16) -> Option<Candidate> {
    Some(Candidate::of(LOADS.get(u32::from(id))?))
}
