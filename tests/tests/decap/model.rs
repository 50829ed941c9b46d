//! A plain model of the program over byte slices, and random frames on which both must agree.
//!
//! It is written from the RFCs and shares nothing with the program but the names of reasons.

use std::net::IpAddr;

use lb_common::decap::Reason;
use proptest::{
    collection::vec,
    prelude::{Strategy, any, prop_oneof},
    sample::{Index, select},
    test_runner::{Config, TestCaseError, TestRunner},
};

use crate::rig::{FRAMES, OWN_V4, OWN_V6, Outcome, Rig, SOURCE_V4, SOURCE_V6, ip, links, tunnelled};

/// Big-endian halfword at an offset.
fn half(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?)))
}

/// Bytes of the link layer's headers, and the EtherType after them.
fn link(frame: &[u8]) -> Option<(usize, usize)> {
    let is_tag = |kind: usize| kind == 0x8100 || kind == 0x88a8;
    let mut length = 14;
    let mut kind = half(frame, 12)?;
    while is_tag(kind) && length < 22 {
        kind = half(frame, length + 2)?;
        length += 4;
    }
    Some((length, kind))
}

/// What matters of an outer header.
struct Outer {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ecn: u8,
    fragment: bool,
    first: bool,
    start: usize,
    end: usize,
}

fn outer_v4(frame: &[u8], at: usize) -> Option<Outer> {
    let header = frame.get(at..at + 20)?;
    let (length, total) = (usize::from(header[0] & 15) * 4, half(header, 2)?);
    if header[0] >> 4 != 4 || length < 20 || total < length {
        return None;
    }
    let address = |place: usize| <[u8; 4]>::try_from(&header[place..place + 4]).map(IpAddr::from).ok();
    let fragment = half(header, 6)?;
    Some(Outer {
        source: address(12)?,
        destination: address(16)?,
        protocol: header[9],
        ecn: header[1] & 3,
        fragment: fragment % 0x4000 != 0,
        first: fragment % 0x2000 == 0,
        start: at + length,
        end: at + total,
    })
}

fn outer_v6(frame: &[u8], at: usize) -> Option<Outer> {
    let header = frame.get(at..at + 40)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let address = |place: usize| <[u8; 16]>::try_from(&header[place..place + 16]).map(IpAddr::from).ok();
    let mut outer = Outer {
        source: address(8)?,
        destination: address(24)?,
        protocol: header[6],
        ecn: header[1] >> 4 & 3,
        fragment: false,
        first: true,
        start: at + 40,
        end: at + 40 + half(header, 4)?,
    };
    if outer.protocol == 44 {
        let extension = frame.get(at + 40..at + 48)?;
        outer.protocol = extension[0];
        (outer.fragment, outer.first) = (true, half(extension, 2)? < 8);
        outer.start += 8;
        outer.end += 8;
    }
    Some(outer)
}

fn accepted(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(v4) => v4.octets()[..2] == [10, 9],
        IpAddr::V6(v6) => v6.segments()[..4] == [0xfd09, 0, 0, 0],
    }
}

/// The frame as the stack gets it, or why it does not get another one.
fn unpack(frame: &[u8]) -> Result<Vec<u8>, Reason> {
    let (at, kind) = link(frame).ok_or(Reason::Unreadable)?;
    let outer = match kind {
        0x0800 => outer_v4(frame, at),
        0x86dd => outer_v6(frame, at),
        _ => return Err(Reason::NoTunnel),
    };
    let outer = outer.ok_or(Reason::Unreadable)?;
    let gue = outer.protocol == 17;
    if gue {
        if !outer.first {
            return Err(Reason::NoTunnel);
        }
        frame.get(outer.start..outer.start + 4).ok_or(Reason::Unreadable)?;
        if half(frame, outer.start + 2) != Some(6080) {
            return Err(Reason::NoTunnel);
        }
    } else if ![4, 41].contains(&outer.protocol) {
        return Err(Reason::NoTunnel);
    }
    if ![ip(OWN_V4), ip(OWN_V6)].contains(&outer.destination) {
        return Err(Reason::OtherDestination);
    }
    if !accepted(outer.source) {
        return Err(Reason::OtherSource);
    }
    if outer.fragment {
        return Err(Reason::OuterFragment);
    }
    let mut inner = outer.start..outer.end;
    if frame.len() < inner.end {
        return Err(Reason::Truncated);
    }
    if gue {
        let length = half(&frame[inner.clone()], 4).ok_or(Reason::Truncated)?;
        if !(8..=inner.len()).contains(&length) {
            return Err(Reason::Truncated);
        }
        inner = inner.start + 8..inner.start + length;
    }
    let version = frame[inner.clone()].first().ok_or(Reason::Truncated)? >> 4;
    let (kind, packet) = match (outer.protocol, version) {
        (4 | 17, 4) => (0x0800u16, inner_v4(&frame[inner.clone()], outer.ecn)?),
        (41 | 17, 6) => (0x86dd, inner_v6(&frame[inner.clone()], outer.ecn)?),
        (17, 0..=3 | 8..) => return Err(Reason::OtherVariant),
        _ => return Err(Reason::Malformed),
    };
    // What follows the inner packet in the frame stays behind it.
    Ok([&frame[..at - 2], &kind.to_be_bytes(), &packet, &frame[inner.start + packet.len()..]].concat())
}

/// The inner ECN field: congestion marks come in, and the outer ECT(1) replaces ECT(0).
fn marked(inner: u8, outer: u8) -> Result<u8, Reason> {
    match (inner, outer) {
        (0, 3) => Err(Reason::CongestionLost),
        (1 | 2, 3) => Ok(3),
        (2, 1) => Ok(1),
        _ => Ok(inner),
    }
}

fn inner_v4(inner: &[u8], ecn: u8) -> Result<Vec<u8>, Reason> {
    let header = inner.get(..20).ok_or(Reason::Truncated)?;
    let (length, total) =
        (usize::from(header[0] & 15) * 4, usize::from(header[2]) << 8 | usize::from(header[3]));
    if length < 20 || total < length {
        return Err(Reason::Malformed);
    }
    let mut packet = inner.get(..total).ok_or(Reason::Truncated)?.to_vec();
    if packet[8] == 0 {
        return Err(Reason::TtlExpired);
    }
    let before = packet[1];
    packet[1] = before & 0xfc | marked(before & 3, ecn)?;
    if packet[1] != before {
        // The checksum is the complement of the header's sum; what was wrong with it stays wrong.
        let old = u32::from(!u16::from_be_bytes([packet[10], packet[11]]));
        let sum = old + 0xffff - u32::from(before) + u32::from(packet[1]);
        let folded = (sum & 0xffff) + (sum >> 16);
        packet[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    }
    Ok(packet)
}

fn inner_v6(inner: &[u8], ecn: u8) -> Result<Vec<u8>, Reason> {
    let total = 40 + half(inner, 4).ok_or(Reason::Truncated)?;
    let mut packet = inner.get(..total).ok_or(Reason::Truncated)?.to_vec();
    packet[1] = packet[1] & 0xcf | marked(packet[1] >> 4 & 3, ecn)? << 4;
    Ok(packet)
}

/// A change of a frame.
#[derive(Clone, Debug)]
enum Change {
    /// A byte somewhere in the headers or behind them.
    Byte(Index, u8),
    /// The end is cut off.
    Cut(Index),
    /// Zeros follow.
    Padding(usize),
}

fn change() -> impl Strategy<Value = Change> {
    let telling = select(&[0u8, 1, 2, 3, 4, 5, 6, 8, 17, 20, 40, 41, 44, 45, 0x45, 0x60, 0x81, 0xff][..]);
    prop_oneof![
        6 => (any::<Index>(), prop_oneof![any::<u8>(), telling]).prop_map(|(at, byte)| Change::Byte(at, byte)),
        1 => any::<Index>().prop_map(Change::Cut),
        1 => (0usize..80).prop_map(Change::Padding),
    ]
}

/// Bytes that changes fall on: what lies behind is nothing but payload.
const HEADERS: usize = 150;

fn apply(frame: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Byte(at, byte) => {
            let place = at.index(frame.len().min(HEADERS));
            frame[place] = *byte;
        }
        Change::Cut(at) => frame.truncate(at.index(frame.len()).max(14)),
        Change::Padding(count) => frame.resize(frame.len() + count, 0),
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn the_program_agrees_with_the_model_on_changed_frames() {
    let packets = tunnelled();
    let links = links();
    for frames in FRAMES {
        let rig = std::cell::RefCell::new(Rig::new(frames));
        let cases = (select(packets.clone()), select(links.clone()), 0u8..4, vec(change(), 0..4));
        TestRunner::new(Config {
            cases: 4 * Config::default().cases,
            failure_persistence: None,
            ..Config::default()
        })
        .run(&cases, |((what, mut outer, inner), link, class, changes)| {
            outer.class = class;
            let mut frame = link.frame(&outer.around(&inner));
            changes.iter().for_each(|change| apply(&mut frame, change));
            let expected = match unpack(&frame) {
                Ok(left) => Outcome { reason: Reason::Decapsulated, frame: Some(left) },
                Err(reason) => {
                    let passes = reason.action() == lb_common::decap::Action::Pass;
                    Outcome { reason, frame: passes.then(|| frame.clone()) }
                }
            };
            let outcome = rig.borrow_mut().send(&frame);
            if outcome == expected {
                return Ok(());
            }
            Err(TestCaseError::fail(format!("{what}: {frame:02x?}\n{outcome:02x?}\n{expected:02x?}")))
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    }
}

#[test]
fn the_model_unpacks_a_known_packet() {
    let (_, outer, inner) = tunnelled().swap_remove(0);
    let frame = links()[0].frame(&outer.around(&inner));
    assert_eq!((outer.source, outer.destination), (ip(SOURCE_V4), ip(OWN_V4)));
    assert_eq!(unpack(&frame), Ok(links()[0].frame(&inner)));
    assert_eq!(unpack(&frame[..40]), Err(Reason::Truncated));
    assert!(accepted(ip(SOURCE_V6)));
}
