//! Frames that are cut short or lie are dropped or passed as they came, and never unpacked.

use etherparse::IpNumber;
use guidevane_tests::packet::tunnel::Outer;
use lb_common::decap::{Action, Reason};

use crate::rig::{
    FRAMES, OWN_V4, OWN_V6, Outcome, Rig, SOURCE_V4, SOURCE_V6, inners, ip, link, links, tunnelled,
};

const ETHERNET: usize = 14;

/// A frame that is broken is left alone or dropped.
fn refuse(rig: &mut Rig, frame: &[u8], what: &str) -> Reason {
    let Outcome { reason, frame: left } = rig.send(frame);
    match reason.action() {
        Action::Drop => {}
        Action::Pass => assert_eq!(left.as_deref(), Some(frame), "{what}: passed, but changed"),
        Action::Deliver => panic!("{what}: unpacked"),
    }
    reason
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn a_frame_cut_short_anywhere_is_dropped_or_passed() {
    for frames in FRAMES {
        let mut rig = Rig::new(frames);
        for (what, outer, inner) in tunnelled() {
            for link in links() {
                let frame = link.frame(&outer.around(&inner));
                let header = frame.len() - inner.len();
                for length in ETHERNET..frame.len() {
                    let what = format!("{length} of {} bytes of {what} under {:?}", frame.len(), link.tags);
                    let reason = refuse(&mut rig, &frame[..length], &what);
                    // From the end of the outer header on it is known to be ours.
                    let ours = length >= header;
                    let expected = if ours { Reason::Truncated } else { reason };
                    assert_eq!(reason, expected, "{what}");
                    assert!(matches!(reason, Reason::Truncated | Reason::Unreadable), "{what}: {reason:?}");
                }
            }
        }
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn a_frame_cut_short_and_padded_is_still_short() {
    let mut rig = Rig::new(FRAMES[0]);
    for (what, outer, inner) in tunnelled() {
        for length in 0..inner.len() {
            // The outer lengths are right for what is left; zeros of the frame's padding follow.
            let mut frame = link().frame(&outer.around_as(announced(&outer, &inner), &inner[..length]));
            frame.extend([0; 100]);
            let what = format!("{length} of {} bytes of {what}, padded", inner.len());
            assert_eq!(refuse(&mut rig, &frame, &what), Reason::Truncated, "{what}");
        }
    }
}

fn announced(outer: &Outer, inner: &[u8]) -> IpNumber {
    match (outer.port, inner[0] >> 4) {
        (Some(_), _) => IpNumber::UDP,
        (None, 4) => IpNumber::IPV4,
        _ => IpNumber::IPV6,
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn an_inner_length_that_lies_is_found_out() {
    let mut rig = Rig::new(FRAMES[0]);
    for (what, outer, mut inner) in tunnelled() {
        let (place, counted, shortest) = match inner[0] >> 4 {
            4 => (2, 0, usize::from(inner[0] & 0x0f) * 4),
            _ => (4, 40, 0),
        };
        let right = inner.len() - counted;
        for (claims, expected) in (0..shortest)
            .map(|short| (short, Reason::Malformed))
            .chain([right + 1, right + 8, 1500, 0xffff].map(|long| (long, Reason::Truncated)))
        {
            inner[place..place + 2].copy_from_slice(&(claims as u16).to_be_bytes());
            let what = format!("{what} claims {claims} for {right} bytes");
            let mut frame = link().frame(&outer.around(&inner));
            frame.extend([0; 8]);
            assert_eq!(refuse(&mut rig, &frame, &what), expected, "{what}");
        }
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn an_outer_length_that_lies_is_found_out() {
    let mut rig = Rig::new(FRAMES[0]);
    for (what, outer, inner) in tunnelled() {
        let packet = outer.around(&inner);
        let header = packet.len() - inner.len();
        let (place, counted) = if outer.source.is_ipv4() { (2, 0) } else { (4, 40) };
        let claim = |length: usize| {
            let mut packet = packet.clone();
            packet[place..place + 2].copy_from_slice(&((length - counted) as u16).to_be_bytes());
            link().frame(&packet)
        };
        for short in header..packet.len() {
            let what = format!("{what}, outer length {short} of {}", packet.len());
            assert_eq!(refuse(&mut rig, &claim(short), &what), Reason::Truncated, "{what}");
        }
        for long in [packet.len() + 1, packet.len() + 9, 9000, 0xffff] {
            let what = format!("{what}, outer length {long} of {}", packet.len());
            assert_eq!(refuse(&mut rig, &claim(long), &what), Reason::Truncated, "{what}");
        }
        if outer.port.is_some() {
            let length_place = header - 4;
            for length in (0..8 + inner.len()).chain([9 + inner.len(), 0xffff]) {
                let mut packet = packet.clone();
                packet[length_place..length_place + 2].copy_from_slice(&(length as u16).to_be_bytes());
                let what = format!("{what}, datagram of {length} bytes");
                assert_eq!(refuse(&mut rig, &link().frame(&packet), &what), Reason::Truncated, "{what}");
            }
        }
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn a_version_or_header_length_that_lies_is_found_out() {
    let mut rig = Rig::new(FRAMES[0]);
    for (what, outer, mut inner) in tunnelled() {
        let (version, words) = (inner[0] >> 4, inner[0] & 0x0f);
        let announced = announced(&outer, &inner);
        // In GUE the version says what it is: the other one is as good.
        let as_good: &[u8] = if outer.port.is_some() { &[4, 6] } else { &[version] };
        for other in (0..16).filter(|other| !as_good.contains(other)) {
            inner[0] = other << 4 | words;
            let frame = link().frame(&outer.around_as(announced, &inner));
            let what = format!("{what} as version {other}");
            let reason = refuse(&mut rig, &frame, &what);
            match (outer.port, other) {
                (None, _) | (Some(_), 5 | 7) => assert_eq!(reason, Reason::Malformed, "{what}"),
                (Some(_), _) => assert_eq!(reason, Reason::OtherVariant, "{what}"),
            }
        }
        if version == 4 {
            for words in 0..5 {
                inner[0] = 0x40 | words;
                let what = format!("{what} with a header of {words} words");
                let frame = link().frame(&outer.around(&inner));
                assert_eq!(refuse(&mut rig, &frame, &what), Reason::Malformed, "{what}");
            }
        }
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn an_outer_header_that_lies_is_left_to_the_host() {
    let mut rig = Rig::new(FRAMES[0]);
    let inner = &inners()[0].1;
    for (own, source) in [(OWN_V4, SOURCE_V4), (OWN_V6, SOURCE_V6)] {
        let frame = link().frame(&Outer::ip(ip(source), ip(own)).around(inner));
        let right = frame[ETHERNET];
        for first in
            (0..=u8::MAX).filter(|first| first >> 4 != right >> 4 || right == 0x45 && first & 0x0f < 5)
        {
            let mut frame = frame.clone();
            frame[ETHERNET] = first;
            let what = format!("an outer header that starts with {first:#04x}");
            assert_eq!(refuse(&mut rig, &frame, &what), Reason::Unreadable, "{what}");
        }
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn an_inner_ttl_of_zero_ends_ipv4_and_not_ipv6() {
    let mut rig = Rig::new(FRAMES[0]);
    for (what, outer, mut inner) in tunnelled() {
        let v4 = inner[0] >> 4 == 4;
        let place = if v4 { 8 } else { 7 };
        for (ttl, expected) in [
            (0, if v4 { Reason::TtlExpired } else { Reason::Decapsulated }),
            (1, Reason::Decapsulated),
            (255, Reason::Decapsulated),
        ] {
            inner[place] = ttl;
            let outcome = rig.send(&link().frame(&outer.around(&inner)));
            assert_eq!(outcome.reason, expected, "{what} with {ttl} hops left");
            if expected == Reason::Decapsulated {
                assert_eq!(outcome.frame, Some(link().frame(&inner)), "{what} with {ttl} hops left");
            }
        }
    }
}
