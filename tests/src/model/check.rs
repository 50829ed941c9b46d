//! What must hold of any frame at all, for fuzzing: the model reads as `etherparse` does, and what it makes of
//! a frame can be read again.

use etherparse::{IpNumber, LaxLinkExtSlice, LaxNetSlice, LaxSlicedPacket, TransportSlice};

use super::{
    decide::{Act, Decision, Model},
    read::{Packet, read},
};

/// The frames of one input of the fuzz target, each behind its length in two bytes, so that an input can hold a
/// flow. What is too short for an Ethernet header never gets to a program, and is left out.
pub fn frames(mut input: &[u8]) -> impl Iterator<Item = &[u8]> {
    const ETHERNET: usize = 14;
    let all = std::iter::from_fn(move || {
        let (length, rest) = input.split_first_chunk::<2>()?;
        let (frame, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        input = rest;
        Some(frame)
    });
    all.filter(|frame| frame.len() >= ETHERNET)
}

/// Decides on a frame.
///
/// # Panics
/// The model contradicts itself or `etherparse`.
pub fn check(model: &mut Model, frame: &[u8]) -> Decision {
    let packet = read(frame);
    if let Ok(packet) = &packet {
        reads_alike(packet);
    }
    let decision = model.decide(frame, None);
    match decision.act {
        Act::Pass | Act::Drop => assert_eq!(decision.frame, frame, "{}: changed", decision.reason),
        Act::Answer | Act::Forward => {
            let out = read(&decision.frame);
            let arp = matches!(decision.reason, "arp");
            assert!(arp || out.is_ok(), "{}: left a frame that is {out:?}", decision.reason);
            if let (Ok(before), Ok(after)) = (&packet, &out) {
                assert!(after.is_whole(), "{}: left a packet that is cut short", decision.reason);
                keeps_checksums(before, after, &decision);
            }
        }
    }
    decision
}

/// Addresses, protocol and ports are what `etherparse` finds.
fn reads_alike(packet: &Packet<'_>) {
    let Ok(sliced) = LaxSlicedPacket::from_ethernet(packet.frame) else {
        panic!("etherparse reads no Ethernet")
    };
    if sliced.link_exts.iter().any(|tag| !matches!(tag, LaxLinkExtSlice::Vlan(_))) {
        return;
    }
    let (source, destination, payload) = match &sliced.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            (header.source_addr().into(), header.destination_addr().into(), ip.payload())
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            (header.source_addr().into(), header.destination_addr().into(), ip.payload())
        }
        // Cut short within its options, say.
        None if sliced.stop_err.is_some() => return,
        other => panic!("etherparse finds {other:?} where the model finds {packet:?}"),
    };
    assert_eq!((packet.source, packet.destination), (source, destination));
    // A payload length of zero is "all there is" to `etherparse` (a jumbogram), and nothing to the model.
    let endless = packet.is_v6() && packet.end == packet.l3 + 40;
    if sliced.stop_err.is_some() || packet.is_later() || endless {
        return;
    }
    if !matches!(IpNumber(packet.protocol), IpNumber::TCP | IpNumber::UDP) {
        return;
    }
    assert_eq!(IpNumber(packet.protocol), payload.ip_number, "upper protocol");
    let ports = match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
        Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
        _ => return,
    };
    assert_eq!(packet.ports(), Some(ports), "ports");
}

/// The sum of what a checksum of the packet covers is what it was, unless the frame is another packet altogether.
fn keeps_checksums(before: &Packet<'_>, after: &Packet<'_>, decision: &Decision) {
    if before.is_v6() || after.is_v6() || decision.reason == "too_big" {
        return;
    }
    let header = |packet: &Packet<'_>| crate::packet::internet(&[&packet.frame[packet.l3..packet.l4]]);
    let right = header(before) == [0, 0];
    assert!(!right || header(after) == [0, 0], "{}: the IPv4 header's checksum is wrong", decision.reason);
}
