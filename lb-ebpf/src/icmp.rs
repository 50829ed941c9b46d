//! ICMP for VIPs: echo requests are answered, and errors about a flow's packets reach the one who sent them.
//!
//! An error quotes the packet it is about: its network header and at least eight bytes behind it (RFC 792),
//! which is enough to find the flow.

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    programs::XdpContext,
};
use lb_common::{
    address::Address,
    checksum,
    header::{self, TCP, UDP},
    layout::{Hop, Mode, NO_VIP, Vip, backend_bits, vip_flags},
    reason::Reason,
    tunnel::OUTER_TTL,
};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::{
    backends,
    bytes::Bytes,
    client,
    deliver::{self, Way, identity_at, identity_of},
    flows::{self, Flow},
    forward::{self, End, Identity},
    neighbour, opening,
    packet::{self, IPV6_VERSION, Packet},
    ports, server,
    steer::{Outcome, Verdict, for_address},
};

/// Bytes of an ICMP header.
pub const ICMP_BYTES: usize = 8;
/// Bytes of the ports that a quote has at least.
const PORTS: usize = 4;
/// Where the checksum is in it.
const CHECKSUM: usize = 2;
/// Types of an echo reply.
const ECHO_REPLY: u8 = 0;
const ECHO_REPLY_V6: u8 = 129;

/// An ICMP or ICMPv6 message. A global function: see [`crate::steer`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guidevane_icmp(ctx: *mut xdp_md) -> u64 {
    let Some(packet) = packet::current() else { return Verdict::INTERNAL.0 };
    match message(&XdpContext::new(ctx), packet) {
        Ok(verdict) => verdict.0,
        Err(reason) => Verdict::new(Err(reason), NO_VIP).0,
    }
}

#[inline(always)]
fn message(ctx: &XdpContext, packet: &mut Packet) -> Result<Verdict, Reason> {
    if packet.v6 {
        let outcome = neighbour::solicitation(ctx, packet);
        if !matches!(outcome, Err(Reason::NotOurs)) {
            return Ok(Verdict::new(outcome, NO_VIP));
        }
    }
    let Ok(start) = Bytes::<ICMP_BYTES>::at(ctx, packet.transport()) else {
        return Err(for_address(packet, Reason::Truncated));
    };
    if packet.length < ICMP_BYTES as u32 {
        return Err(for_address(packet, Reason::Truncated));
    }
    let kind = start.u8::<0>();
    if header::is_echo_request(packet.v6, kind) {
        return Ok(Verdict::new(echo(ctx, packet), NO_VIP));
    }
    if !header::is_error(packet.v6, kind) {
        return Err(for_address(packet, Reason::OtherProtocol));
    }
    let quoted = packet::quoted().ok_or(Reason::Internal)?;
    if let Err(reason) = quote(ctx, packet, quoted) {
        return Err(for_address(packet, reason));
    }
    // An error goes to whoever sent what it quotes.
    if quoted.source != packet.destination {
        return Err(for_address(packet, Reason::OtherProtocol));
    }
    let Some((element, vip)) = client::vip_at(&quoted.from()) else {
        let outcome = to_client(ctx, packet, quoted);
        // About a packet from a VIP's address, but from no VIP: for the stack.
        let known = !matches!(outcome, Err(Reason::NotOurs));
        return Ok(Verdict::new(
            if known { outcome } else { Err(for_address(packet, Reason::OtherProtocol)) },
            NO_VIP,
        ));
    };
    Ok(to_backend(ctx, packet, quoted, element, vip)
        .unwrap_or_else(|reason| Verdict::new(Err(reason), vip.id)))
}

/// Answers an echo request for the address of a VIP.
#[inline(always)]
fn echo(ctx: &XdpContext, packet: &Packet) -> Outcome {
    if for_address(packet, Reason::Echo) as u8 != Reason::Echo as u8 {
        return Err(Reason::NotOurs);
    }
    packet.whole(ctx)?;
    let start = Bytes::<ICMP_BYTES>::at(ctx, packet.transport())?;
    let asked = start.u16::<0>();
    start.set_u8::<0>(if packet.v6 { ECHO_REPLY_V6 } else { ECHO_REPLY });
    // Addresses change places, so that a pseudo-header's sum stays.
    start.set_u16::<CHECKSUM>(checksum::replace(start.u16::<CHECKSUM>(), asked, start.u16::<0>()));
    if packet.v6 {
        let header = Bytes::<{ Ipv6Hdr::LEN }>::at(ctx, packet.network())?;
        let ([a, b], [c, d]) = (packet.source.halves(), packet.destination.halves());
        header.set_u8::<7>(OUTER_TTL);
        header.set_u64::<8>(c);
        header.set_u64::<16>(d);
        header.set_u64::<24>(a);
        header.set_u64::<32>(b);
    } else {
        let header = Bytes::<{ Ipv4Hdr::LEN }>::at(ctx, packet.network())?;
        let life = header.u16::<8>();
        header.set_u8::<8>(OUTER_TTL);
        header.set_u16::<10>(checksum::replace(header.u16::<10>(), life, header.u16::<8>()));
        header.set_u32::<12>(packet.destination.0[3]);
        header.set_u32::<16>(packet.source.0[3]);
    }
    let (own, from) = forward::frame_addresses(ctx)?;
    forward::address_frame(ctx, from, own)?;
    Ok((xdp_action::XDP_TX, Reason::Echo))
}

/// Reads what an error quotes.
#[inline(always)]
fn quote(ctx: &XdpContext, packet: &Packet, quoted: &mut Packet) -> Result<(), Reason> {
    let network = packet.transport() + ICMP_BYTES;
    let header = if packet.v6 { Ipv6Hdr::LEN } else { Ipv4Hdr::LEN };
    if packet.length < (ICMP_BYTES + header) as u32 {
        return Err(Reason::Truncated);
    }
    quoted.network = network as u16;
    quoted.part = packet::Part::Whole as u8;
    if packet.v6 {
        let header = Bytes::<{ Ipv6Hdr::LEN }>::at(ctx, network)?;
        if header.u8::<0>() >> 4 != IPV6_VERSION {
            return Err(Reason::OtherProtocol);
        }
        quoted.read_v6(header);
        quoted.protocol = header.u8::<6>();
        quoted.transport = (network + Ipv6Hdr::LEN) as u16;
    } else {
        let header = Bytes::<{ Ipv4Hdr::LEN }>::at(ctx, network)?;
        let start = header.u8::<0>();
        // A later fragment quotes no ports.
        if start >> 4 != 4 || start & 15 < 5 || header.u16::<6>() & packet::FRAGMENT_OFFSET != 0 {
            return Err(Reason::OtherProtocol);
        }
        quoted.read_v4(header, 0);
        quoted.protocol = header.u8::<9>();
        quoted.transport = (network + usize::from(start & 15) * 4) as u16;
    }
    if !matches!(quoted.protocol, TCP | UDP) {
        return Err(Reason::OtherProtocol);
    }
    quoted.read_ports(Bytes::<PORTS>::at(ctx, quoted.transport())?);
    // What lies behind the message is padding, and no quote.
    if quoted.transport() + PORTS > packet.transport() + packet.length as usize {
        return Err(Reason::Truncated);
    }
    packet.whole(ctx)
}

/// An error about a packet from a VIP to a client: the backend sent it.
#[inline(always)]
fn to_backend(
    ctx: &XdpContext,
    packet: &mut Packet,
    quoted: &mut Packet,
    element: u32,
    vip: &Vip,
) -> Result<Verdict, Reason> {
    forward::may_go_on(packet)?;
    let key = quoted.flow_back(vip.id);
    let hash = key.hash(flows::key());
    packet.hash = hash;
    let flow = flows::find(quoted, hash, vip);
    if vip.mode == Mode::Nat as u8 {
        if !flow.is_known() {
            return Err(Reason::UnknownNat);
        }
        let action = translate(ctx, packet, quoted, vip, &flow)?;
        return Ok(Verdict::new(Ok((action, Reason::IcmpError)), vip.id));
    }
    if flow.is_known() {
        let way = Way::Flow(flow.number);
        return Ok(Verdict::deliver(vip.id, flow.slot.backend(), way, Reason::IcmpError));
    }
    packet.element = element;
    packet.affinity = opening::affinity(vip, &key, hash);
    Ok(Verdict::guess(vip.id, Reason::IcmpError))
}

/// Sends an error about a `nat` flow to the flow's backend, in terms of what the backend has sent.
#[inline(always)]
fn translate(
    ctx: &XdpContext,
    packet: &Packet,
    quoted: &Packet,
    vip: &Vip,
    flow: &Flow,
) -> Result<u32, Reason> {
    let id = flow.slot.backend();
    let (control, hop) = backends::backend(id).ok_or(Reason::Internal)?;
    if control & backend_bits::REACHABLE == 0 {
        return Err(Reason::NoNextHop);
    }
    let (old, new) = (identity_of(vip), identity_at(hop));
    forward::decrement_ttl(ctx, packet)?;
    requote(ctx, packet, quoted, End::Source, &old, &new)?;
    if vip.flags & vip_flags::SOURCE_NAT != 0 {
        let new = ports::source(flow.number).ok_or(Reason::Internal)?;
        requote(ctx, packet, quoted, End::Destination, &destination_of(quoted), &new)?;
    }
    redirect(ctx, packet, &old.address, &new.address)?;
    deliver::send(ctx, packet, id, hop)
}

/// An error about a packet to a `nat` backend: a client sent it, to the VIP.
#[inline(always)]
fn to_client(ctx: &XdpContext, packet: &Packet, quoted: &mut Packet) -> Outcome {
    if let Ok(flow) = server::flow_at(&packet.destination, quoted.source_port_be) {
        let (_, hop) = backends::backend(flow.slot.backend()).ok_or(Reason::NotOurs)?;
        return give_back(ctx, packet, quoted, flow.slot.backend(), hop, &flow);
    }
    let (id, hop) = backends::backend_at(&quoted.to()).ok_or(Reason::NotOurs)?;
    let vip = backends::vip(hop.vip).ok_or(Reason::NotOurs)?;
    let hash = quoted.flow_to(hop.vip).hash(flows::key());
    let flow = flows::find(quoted, hash, vip);
    give_back(ctx, packet, quoted, id, hop, &flow)
}

#[inline(always)]
fn give_back(ctx: &XdpContext, packet: &Packet, quoted: &Packet, id: u16, hop: &Hop, flow: &Flow) -> Outcome {
    if !flow.is_known() || flow.slot.backend() != id || !backends::same(&hop.endpoint, &quoted.to()) {
        return Err(Reason::NotOurs);
    }
    forward::may_go_on(packet)?;
    let vip = backends::vip(hop.vip).ok_or(Reason::NotOurs)?;
    let line = server::line(flow.number).ok_or(Reason::Internal)?;
    forward::decrement_ttl(ctx, packet)?;
    requote(ctx, packet, quoted, End::Destination, &identity_at(hop), &identity_of(vip))?;
    if vip.flags & vip_flags::SOURCE_NAT != 0 {
        let old = Identity::new(quoted.source, quoted.source_port_be);
        let new = Identity::new(line.client, line.client_port_be);
        requote(ctx, packet, quoted, End::Source, &old, &new)?;
        redirect(ctx, packet, &old.address, &new.address)?;
    }
    Ok((server::send_back(ctx, packet, id, line)?, Reason::IcmpErrorReturned))
}

#[inline(always)]
fn destination_of(quoted: &Packet) -> Identity {
    Identity::new(quoted.destination, quoted.destination_port_be)
}

/// Gives one end of the quoted packet another address and port. Its transport's checksum, which is often cut
/// off and which nobody checks, is left as it was.
#[inline(always)]
fn requote(
    ctx: &XdpContext,
    packet: &Packet,
    quoted: &Packet,
    end: End,
    old: &Identity,
    new: &Identity,
) -> Result<(), Reason> {
    forward::readdress(ctx, quoted, end, &old.address, &new.address)?;
    forward::set_port(ctx, quoted, end, new.port_be)?;
    // The checksum of the quoted IPv4 header makes up for its addresses.
    let (gone, come) = if packet.v6 { (old.sum, new.sum) } else { (old.port_be, new.port_be) };
    replace_in_checksum(ctx, packet, gone, come)
}

/// Gives the error itself another destination.
#[inline(always)]
fn redirect(ctx: &XdpContext, packet: &Packet, old: &Address, new: &Address) -> Result<(), Reason> {
    forward::readdress(ctx, packet, End::Destination, old, new)?;
    if !packet.v6 {
        return Ok(());
    }
    // Only ICMPv6 has a pseudo-header (RFC 4443 section 2.3).
    replace_in_checksum(ctx, packet, checksum::sum_address(old), checksum::sum_address(new))
}

#[inline(always)]
fn replace_in_checksum(ctx: &XdpContext, packet: &Packet, gone: u16, come: u16) -> Result<(), Reason> {
    let field = Bytes::<2>::at(ctx, packet.transport() + CHECKSUM)?;
    field.set_u16::<0>(checksum::replace(field.u16::<0>(), gone, come));
    Ok(())
}
