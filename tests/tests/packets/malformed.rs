//! Frames that are cut short or lie about their lengths are passed or dropped, never rewritten.

use guidevane::dataplane::spec::VipSpec;
use guidevane_tests::packet::{Packet, flags};
use lb_common::{layout::Mode, reason::Reason};

use crate::plane::{Outcome, Plane, TCP, UDP, Verdict, arriving, at, service};

const ETHERNET: usize = 14;
const V4_VIP: &str = "10.200.1.1:80";
const V6_VIP: &str = "[fc00:1::1]:80";
const V4_CLIENT: &str = "192.168.1.7:31337";
const V6_CLIENT: &str = "[2001:db8::7]:31337";
const MODES: [Mode; 2] = [Mode::L2, Mode::Nat];

fn specs(mode: Mode) -> Vec<VipSpec> {
    vec![
        service(V4_VIP, TCP, mode, &["10.0.0.1:80"]),
        service(V6_VIP, TCP, mode, &["[fc00::1]:80"]),
        service(V4_VIP, UDP, mode, &["10.0.0.2:80"]),
        service(V6_VIP, UDP, mode, &["[fc00::2]:80"]),
    ]
}

/// Packets that open flows, by what they are.
fn valid() -> Vec<(&'static str, Packet)> {
    let tcp = |client, vip| {
        arriving(Packet::tcp(at(client), at(vip))).segment(flags::SYN, 1000, 0).payload(b"early data")
    };
    let udp = |client, vip| arriving(Packet::udp(at(client), at(vip))).payload(b"question");
    vec![
        ("TCP over IPv4", tcp(V4_CLIENT, V4_VIP)),
        ("TCP with options over IPv4 with options", {
            tcp(V4_CLIENT, V4_VIP).ip_options(&[1; 8]).tcp_options(&[1; 12])
        }),
        ("TCP over IPv6", tcp(V6_CLIENT, V6_VIP)),
        ("UDP over IPv4", udp(V4_CLIENT, V4_VIP)),
        ("UDP over IPv4 with options", udp(V4_CLIENT, V4_VIP).ip_options(&[1; 8])),
        ("UDP over IPv6", udp(V6_CLIENT, V6_VIP)),
    ]
}

/// A frame that is broken must be left alone or dropped, and no flow may come of it.
fn refuse(plane: &mut Plane, frame: &[u8], what: &str) -> Outcome {
    let outcome = plane.send(frame);
    match outcome.verdict {
        Verdict::Drop => {}
        Verdict::Pass => assert_eq!(outcome.frame, frame, "{what}: passed, but changed"),
        other => panic!("{what}: {other:?}, {:?}", outcome.reason),
    }
    assert!(plane.slots().is_empty(), "{what}: {:?}, but a flow was entered", outcome.reason);
    outcome
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn a_frame_cut_short_anywhere_goes_nowhere() {
    for mode in MODES {
        let mut plane = Plane::new(&specs(mode));
        for (what, packet) in valid() {
            let frame = packet.build();
            for length in ETHERNET..frame.len() {
                refuse(&mut plane, &frame[..length], &format!("{length} bytes of {what} under {mode:?}"));
            }
        }
        plane.check_gauges("after every cut");
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn an_answer_cut_short_anywhere_goes_nowhere() {
    let mut plane = Plane::new(&specs(Mode::Nat));
    for (what, packet) in valid() {
        assert_ne!(plane.reason(&packet).action(), lb_common::reason::Action::Drop, "{what}");
        let position = usize::from(!packet.source.is_ipv4()) + if what.starts_with("TCP") { 0 } else { 2 };
        let backend = plane.address_of(plane.backends()[position]);
        let answer = packet.clone().from(backend).to(packet.source);
        let frame = match what.starts_with("TCP") {
            true => answer.segment(flags::ACK, 500, 1001).build(),
            false => answer.build(),
        };
        for length in ETHERNET..frame.len() {
            let cut = &frame[..length];
            let outcome = plane.send(cut);
            match outcome.verdict {
                Verdict::Drop => {}
                Verdict::Pass => assert_eq!(outcome.frame, cut, "{length} bytes of an answer: {what}"),
                other => panic!("{length} bytes of an answer, {what}: {other:?}"),
            }
        }
        assert_eq!(plane.send(&frame).reason, Reason::Returned, "{what}: the whole answer");
    }
}

/// Sets bytes of a frame.
fn with(mut frame: Vec<u8>, place: usize, bytes: &[u8]) -> Vec<u8> {
    frame[place..place + bytes.len()].copy_from_slice(bytes);
    frame
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn a_length_that_lies_is_found_out() {
    const TOTAL_LENGTH: usize = ETHERNET + 2;
    const PAYLOAD_LENGTH: usize = ETHERNET + 4;
    for mode in MODES {
        let mut plane = Plane::new(&specs(mode));
        for (what, packet) in valid() {
            let frame = packet.build();
            let (place, network, counted) = match packet.source.is_ipv4() {
                true => (TOTAL_LENGTH, usize::from(frame[ETHERNET] & 0x0f) * 4, 0),
                false => (PAYLOAD_LENGTH, 40, 40),
            };
            let transport = match what.starts_with("TCP") {
                true => usize::from(frame[ETHERNET + network + 12] >> 4) * 4,
                false => 8,
            };
            let claim = |length: usize| with(frame.clone(), place, &(length as u16).to_be_bytes());
            let content = frame.len() - ETHERNET - counted;
            for short in 0..network + transport - counted {
                let what = format!("{what} under {mode:?} claims {short} of {content} bytes");
                refuse(&mut plane, &claim(short), &what);
            }
            for long in [content + 1, content + 2, 1500, 0x7fff, 0xffff] {
                let what = format!("{what} under {mode:?} claims {long} of {content} bytes");
                refuse(&mut plane, &claim(long), &what);
            }
            // Padding does not make it true.
            let mut padded = claim(content + 1000);
            padded.resize(frame.len() + 999, 0);
            refuse(&mut plane, &padded, &format!("{what}, one byte of padding missing"));
        }
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn a_header_length_or_version_that_lies_is_found_out() {
    const DATA_OFFSET: usize = 12;
    for mode in MODES {
        let mut plane = Plane::new(&specs(mode));
        for (what, packet) in valid() {
            let frame = packet.build();
            for version in (0..16).filter(|&version| version != frame[ETHERNET] >> 4) {
                let first = version << 4 | frame[ETHERNET] & 0x0f;
                let what = format!("{what} under {mode:?} with version {version}");
                refuse(&mut plane, &with(frame.clone(), ETHERNET, &[first]), &what);
            }
            if packet.source.is_ipv4() {
                for words in 0..5 {
                    let what = format!("{what} under {mode:?} with a header of {words} words");
                    let outcome = refuse(&mut plane, &with(frame.clone(), ETHERNET, &[0x40 | words]), &what);
                    assert_eq!(outcome.reason, Reason::Unreadable, "{what}");
                }
            }
            if what.starts_with("TCP") {
                let place = frame.len() - b"early data".len() - tcp_header(&packet) + DATA_OFFSET;
                for words in (0..5).chain((tcp_header(&packet) as u8 / 4 + 3)..16) {
                    let what = format!("{what} under {mode:?} with a TCP header of {words} words");
                    let outcome = refuse(&mut plane, &with(frame.clone(), place, &[words << 4]), &what);
                    assert_eq!(outcome.reason, Reason::Truncated, "{what}");
                }
            }
        }
    }
}

fn tcp_header(packet: &Packet) -> usize {
    let bare = packet.clone().payload(b"").tcp_options(b"").build().len();
    20 + packet.clone().payload(b"").build().len() - bare
}
