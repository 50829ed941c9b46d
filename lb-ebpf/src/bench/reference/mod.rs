//! A balancer in the shape that everyone uses, to hold ours against: the five-tuple of an established flow in
//! an LRU hash map of the CPU's own, a Maglev ring for new ones, VIPs in a hash map, backends in an array.
//!
//! It takes after Katran: an array of per-CPU `LRU_HASH` maps, 65,537 ring entries a VIP, counters per VIP and
//! backend, time stamps for datagrams. It is as lean as that shape allows: no state of a connection, no load, no
//! extension headers. For `nat` the answer's flow is looked up in the same table.

mod maps;
mod rewrite;
mod ring;

use aya_ebpf::{
    bindings::{BPF_ANY, xdp_action, xdp_md},
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
    programs::XdpContext,
};
use lb_common::{
    address::{Address, Endpoint},
    layout::Mode,
};

use lb_common::header::{TCP, UDP};

use self::maps::{BENCH_BACKENDS, BENCH_FLOWS, BENCH_REALS, BENCH_RINGS, BENCH_VIPS};
use super::layout::{Entry, RING, ReferenceBackend, ReferenceVip, Seen, Tuple};
use crate::{
    bytes::Bytes,
    packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6},
};

/// Where the network header starts: no frame here is tagged.
pub const L3: usize = 14;

/// A datagram's flow is forgotten after so many nanoseconds, as in Katran.
const DATAGRAMS_LIVE: u64 = 30_000_000_000;

/// SYN and ACK as they stand in TCP's 14th byte.
const SYN: u8 = 0x02;

/// The headers of a packet, as far as they are looked at.
#[derive(Clone, Copy)]
pub struct Headers {
    source: Address,
    destination: Address,
    ports: [u16; 2],
    protocol: u8,
    v6: bool,
    transport: usize,
    syn: bool,
}

/// The reference's packet path, called as ours is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bench_reference_steer(ctx: *mut xdp_md) -> u32 {
    let ctx = XdpContext::new(ctx);
    let (seen, action) = match steer(&ctx) {
        Ok((seen, action)) => (seen, action),
        Err(Seen::NotOurs) => (Seen::NotOurs, xdp_action::XDP_PASS),
        Err(seen) => (seen, xdp_action::XDP_DROP),
    };
    maps::count(seen);
    action
}

#[inline(always)]
fn steer(ctx: &XdpContext) -> Result<(Seen, u32), Seen> {
    let headers = read(ctx)?;
    let destination = headers.destination();
    // SAFETY: nothing writes the map while programs run.
    let Some(vip) = (unsafe { BENCH_VIPS.get(&destination) }) else { return give_back(ctx, &headers) };
    let (number, seen) = pick(&headers, vip)?;
    let backend = BENCH_BACKENDS.get(number).ok_or(Seen::Dropped)?;
    maps::count_traffic(ctx, vip.number, number);
    forward(ctx, &headers, vip, backend).ok_or(Seen::Dropped)?;
    Ok((seen, xdp_action::XDP_TX))
}

/// Looks the flow up; a SYN, and a datagram that is new, goes by the ring and into the table.
#[inline(always)]
fn pick(headers: &Headers, vip: &ReferenceVip) -> Result<(u32, Seen), Seen> {
    let tuple = headers.tuple();
    // SAFETY: the helper takes nothing and has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let flows = BENCH_FLOWS.get(cpu).ok_or(Seen::Dropped)?;
    let datagram = headers.protocol == UDP;
    let mut now = 0;
    if datagram {
        // SAFETY: the helper takes nothing and has no preconditions.
        now = unsafe { bpf_ktime_get_ns() };
    }
    if !headers.syn
        && let Some(entry) = flows.get_ptr_mut(&tuple)
    {
        // SAFETY: an entry of this CPU's own map.
        let Entry { seen_at, backend, .. } = unsafe { entry.read() };
        if !datagram {
            return Ok((backend, Seen::Hit));
        }
        if now - seen_at < DATAGRAMS_LIVE {
            // SAFETY: as above.
            unsafe { (&raw mut (*entry).seen_at).write(now) };
            return Ok((backend, Seen::Hit));
        }
    }
    let place = vip.number * RING + ring::hash(&tuple) % RING;
    let backend = *BENCH_RINGS.get(place).ok_or(Seen::Dropped)?;
    if !headers.syn && !datagram {
        return Ok((backend, Seen::Miss));
    }
    let entry = Entry { seen_at: now, backend, reserved: 0 };
    flows.insert(&tuple, &entry, u64::from(BPF_ANY)).map_err(|_| Seen::Dropped)?;
    Ok((backend, Seen::New))
}

#[inline(always)]
fn forward(
    ctx: &XdpContext,
    headers: &Headers,
    vip: &ReferenceVip,
    backend: &ReferenceBackend,
) -> Option<()> {
    if vip.mode == Mode::Tunnel as u32 {
        return rewrite::encapsulate(ctx, headers, backend);
    }
    rewrite::decrement_ttl(ctx, headers.v6)?;
    if vip.mode == Mode::Nat as u32 {
        let sums = (vip.checksum as u16, backend.checksum as u16);
        rewrite::translate(ctx, headers, false, &backend.endpoint, sums)?;
    }
    rewrite::address_frame(ctx, backend.mac, backend.source_mac)
}

/// An answer on its way to the client, if it is one of a flow in the table.
#[inline(always)]
fn give_back(ctx: &XdpContext, headers: &Headers) -> Result<(Seen, u32), Seen> {
    let source = headers.source();
    // SAFETY: nothing writes the map while programs run.
    let real = unsafe { BENCH_REALS.get(&source) }.ok_or(Seen::NotOurs)?;
    let tuple = Tuple {
        client: headers.destination,
        vip: real.vip.address,
        ports: [headers.ports[1], real.vip.port_be],
        protocol: headers.protocol.into(),
    };
    // SAFETY: the helper takes nothing and has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let flows = BENCH_FLOWS.get(cpu).ok_or(Seen::Dropped)?;
    let entry = flows.get_ptr_mut(&tuple).ok_or(Seen::NotOurs)?;
    // SAFETY: an entry of this CPU's own map.
    if unsafe { (&raw const (*entry).backend).read() } != real.backend {
        return Err(Seen::NotOurs);
    }
    maps::count_traffic(ctx, real.number, real.backend);
    let sums = (real.checksum as u16, real.vip_checksum as u16);
    rewrite::decrement_ttl(ctx, headers.v6).ok_or(Seen::Dropped)?;
    rewrite::translate(ctx, headers, true, &real.vip, sums).ok_or(Seen::Dropped)?;
    rewrite::address_frame(ctx, real.mac, real.source_mac).ok_or(Seen::Dropped)?;
    Ok((Seen::Returned, xdp_action::XDP_TX))
}

/// Takes a flow out of the table, so that it can be new once more.
#[inline(always)]
pub fn forget(ctx: &XdpContext) -> u32 {
    let Ok(headers) = read(ctx) else { return xdp_action::XDP_ABORTED };
    // SAFETY: the helper takes nothing and has no preconditions.
    let Some(flows) = BENCH_FLOWS.get(unsafe { bpf_get_smp_processor_id() }) else {
        return xdp_action::XDP_ABORTED;
    };
    // Whether it was there is of no interest.
    let _ = flows.remove(&headers.tuple());
    xdp_action::XDP_PASS
}

impl Headers {
    #[inline(always)]
    fn tuple(&self) -> Tuple {
        Tuple {
            client: self.source,
            vip: self.destination,
            ports: self.ports,
            protocol: self.protocol.into(),
        }
    }

    #[inline(always)]
    fn destination(&self) -> Endpoint {
        Endpoint { address: self.destination, port_be: self.ports[1], protocol: self.protocol, reserved: 0 }
    }

    #[inline(always)]
    fn source(&self) -> Endpoint {
        Endpoint { address: self.source, port_be: self.ports[0], protocol: self.protocol, reserved: 0 }
    }
}

/// Reads what Katran reads: no IPv4 options, no fragments, no extension headers.
#[inline(always)]
fn read(ctx: &XdpContext) -> Result<Headers, Seen> {
    /// Offset and "more fragments" bit (RFC 791).
    const FRAGMENT: u16 = 0x3fffu16.to_be();
    const IPV4_PLAIN: u8 = 0x45;
    let ether_type = Bytes::<14>::at(ctx, 0).map_err(|_| Seen::Dropped)?.u16::<12>();
    let (source, destination, protocol, v6, transport) = match ether_type {
        ETHERTYPE_IPV4 => {
            let ip = Bytes::<20>::at(ctx, L3).map_err(|_| Seen::Dropped)?;
            if ip.u8::<0>() != IPV4_PLAIN || ip.u16::<6>() & FRAGMENT != 0 {
                return Err(Seen::Dropped);
            }
            let (source, destination) = (ip.u32::<12>(), ip.u32::<16>());
            let mapped = Address::from_v4_word;
            (mapped(source), mapped(destination), ip.u8::<9>(), false, L3 + 20)
        }
        ETHERTYPE_IPV6 => {
            let ip = Bytes::<40>::at(ctx, L3).map_err(|_| Seen::Dropped)?;
            const FRAGMENT_HEADER: u8 = 44;
            if ip.u8::<6>() == FRAGMENT_HEADER {
                return Err(Seen::Dropped);
            }
            let source = Address::from_halves([ip.u64::<8>(), ip.u64::<16>()]);
            let destination = Address::from_halves([ip.u64::<24>(), ip.u64::<32>()]);
            (source, destination, ip.u8::<6>(), true, L3 + 40)
        }
        _ => return Err(Seen::NotOurs),
    };
    let mut syn = false;
    let ports = match protocol {
        TCP => {
            let tcp = Bytes::<20>::at(ctx, transport).map_err(|_| Seen::Dropped)?;
            syn = tcp.u8::<13>() & SYN != 0;
            [tcp.u16::<0>(), tcp.u16::<2>()]
        }
        UDP => {
            let udp = Bytes::<8>::at(ctx, transport).map_err(|_| Seen::Dropped)?;
            [udp.u16::<0>(), udp.u16::<2>()]
        }
        _ => return Err(Seen::NotOurs),
    };
    Ok(Headers { source, destination, ports, protocol, v6, transport, syn })
}
