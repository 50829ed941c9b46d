//! ARP and neighbour discovery for VIPs that are announced by the program itself.

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    programs::XdpContext,
};
use lb_common::{
    address::{Address, Endpoint, Mac},
    checksum,
    header::ICMPV6,
    layout::{NO_VIP, vip_flags},
    reason::Reason,
};
use network_types::arp::ArpHdr;

use crate::{
    backends,
    bytes::Bytes,
    forward::{address_frame, frame_addresses},
    headers::kind,
    packet::{self, ETHERTYPE_IPV4, Packet},
    steer::{Outcome, Verdict, for_address},
};

/// Hardware and protocol of an ARP packet, and the lengths of their addresses: Ethernet and IPv4 (RFC 826).
const ETHERNET: u16 = 1u16.to_be();
const LENGTHS: u16 = u16::from_ne_bytes([6, 4]);
const REQUEST: u16 = 1u16.to_be();
const REPLY: u16 = 2u16.to_be();

/// ICMPv6 type and code (RFC 4861 sections 4.3 and 4.4).
const SOLICITATION: u16 = u16::from_ne_bytes([135, 0]);
const ADVERTISEMENT: u16 = u16::from_ne_bytes([136, 0]);
/// The first half of an advertisement's flags: solicited and override.
const SOLICITED_OVERRIDE: u16 = u16::from_ne_bytes([0x60, 0]);
/// Source and target link-layer address options, one unit of eight bytes long.
const SOURCE_OPTION: u16 = u16::from_ne_bytes([1, 1]);
const TARGET_OPTION: u16 = u16::from_ne_bytes([2, 1]);

/// The hop limit of what has passed no router (RFC 4861 section 7.1.1).
const ON_LINK: u8 = 255;

/// A solicitation, or advertisement, with one link-layer option.
const MESSAGE: usize = 32;
const TARGET: usize = 8;
const OPTION: usize = 24;

/// The MAC address that answers for `address` on the interface the packet came in on, if one does.
#[inline(always)]
fn announced(ctx: &XdpContext, address: &Address) -> Option<Mac> {
    let (_, vip) = backends::vip_at(&Endpoint::address_only(*address))?;
    let here = vip.flags & vip_flags::ANSWER_NEIGHBOURS != 0 && vip.interface == ctx.ingress_ifindex() as u32;
    here.then_some(vip.mac)
}

/// What is neither TCP, UDP, ICMP nor a fragment, by its [`kind`]. A global function: see [`crate::steer`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guidevane_other(ctx: *mut xdp_md, which: u32) -> u64 {
    let Some(packet) = packet::current() else { return Verdict::INTERNAL.0 };
    let outcome = match which {
        kind::ARP => arp(&XdpContext::new(ctx), packet),
        kind::OTHER | kind::TRUNCATED => Err(for_address(packet, kind::reason(which))),
        _ => Err(kind::reason(which)),
    };
    Verdict::new(outcome, NO_VIP).0
}

/// Answers a request for the address of a VIP.
#[inline(always)]
fn arp(ctx: &XdpContext, packet: &Packet) -> Outcome {
    let packet = Bytes::<{ ArpHdr::LEN }>::at(ctx, packet.network()).map_err(|_| Reason::Unreadable)?;
    let shape = (packet.u16::<0>(), packet.u16::<2>(), packet.u16::<4>(), packet.u16::<6>());
    if shape != (ETHERNET, ETHERTYPE_IPV4, LENGTHS, REQUEST) {
        return Err(Reason::NotOurs);
    }
    let (asker, asked_by) =
        (Mac([packet.u16::<8>(), packet.u16::<10>(), packet.u16::<12>()]), packet.u32::<14>());
    let target = packet.u32::<24>();
    let own = announced(ctx, &Address::from_v4_word(target)).ok_or(Reason::NotOurs)?;
    packet.set_u16::<6>(REPLY);
    packet.set_u16::<8>(own.0[0]);
    packet.set_u16::<10>(own.0[1]);
    packet.set_u16::<12>(own.0[2]);
    packet.set_u32::<14>(target);
    packet.set_u16::<18>(asker.0[0]);
    packet.set_u16::<20>(asker.0[1]);
    packet.set_u16::<22>(asker.0[2]);
    packet.set_u32::<24>(asked_by);
    address_frame(ctx, asker, own)?;
    Ok((xdp_action::XDP_TX, Reason::Arp))
}

/// Answers a solicitation for the address of a VIP. One that is not, that comes from beyond a router, or that
/// another host sends to find out whether the address is free, is left to the stack.
#[inline(always)]
pub fn solicitation(ctx: &XdpContext, packet: &Packet) -> Outcome {
    let Ok(message) = Bytes::<MESSAGE>::at(ctx, packet.transport()) else { return Err(Reason::NotOurs) };
    let shape = (message.u16::<0>(), message.u16::<OPTION>(), packet.length as usize);
    if shape != (SOLICITATION, SOURCE_OPTION, MESSAGE) || packet.source == Address::default() {
        return Err(Reason::NotOurs);
    }
    if packet.ttl != ON_LINK {
        return Err(Reason::NotOurs);
    }
    let target = Address::from_halves([message.u64::<TARGET>(), message.u64::<16>()]);
    let own = announced(ctx, &target).ok_or(Reason::NotOurs)?;
    let (_, asker) = frame_addresses(ctx)?;
    message.set_u16::<0>(ADVERTISEMENT);
    message.set_u16::<2>(!checksum::fold(advertisement_sum(&target, &packet.source, own)));
    message.set_u32::<4>(u32::from(SOLICITED_OVERRIDE));
    message.set_u16::<OPTION>(TARGET_OPTION);
    message.set_u16::<26>(own.0[0]);
    message.set_u16::<28>(own.0[1]);
    message.set_u16::<30>(own.0[2]);
    let addresses = Bytes::<32>::at(ctx, packet.network() + IPV6_ADDRESSES)?;
    let ([high, low], [to_high, to_low]) = (target.halves(), packet.source.halves());
    addresses.set_u64::<0>(high);
    addresses.set_u64::<8>(low);
    addresses.set_u64::<16>(to_high);
    addresses.set_u64::<24>(to_low);
    address_frame(ctx, asker, own)?;
    Ok((xdp_action::XDP_TX, Reason::Neighbour))
}

/// Where the two addresses lie in an IPv6 header.
const IPV6_ADDRESSES: usize = 8;

/// The sum of the advertisement and its pseudo-header (RFC 8200 section 8.1), halfword by halfword: the
/// target stands in both.
#[inline(always)]
fn advertisement_sum(target: &Address, to: &Address, own: Mac) -> u32 {
    let addresses = u32::from(checksum::sum_address(target)) * 2 + u32::from(checksum::sum_address(to));
    let pseudo = u32::from((MESSAGE as u16).to_be()) + u32::from(u16::from(ICMPV6).to_be());
    let header = u32::from(ADVERTISEMENT) + u32::from(SOLICITED_OVERRIDE);
    let option = u32::from(TARGET_OPTION) + u32::from(own.0[0]) + u32::from(own.0[1]) + u32::from(own.0[2]);
    addresses + pseudo + header + option
}
