//! What does not end here, or comes from elsewhere, goes to the host's stack as it came.

use std::collections::BTreeSet;

use etherparse::IpNumber;
use guidevane::decap::Prefix;
use guidevane_tests::packet::tunnel::Outer;
use lb_common::decap::Reason;

use crate::rig::{
    FRAMES, OWN_V4, OWN_V6, Outcome, Rig, SOURCE_V4, SOURCE_V6, inners, ip, link, links, tunnelled,
};

fn assert_passes(rig: &mut Rig, frame: Vec<u8>, reason: Reason, what: &str) {
    let outcome = rig.send(&frame);
    assert_eq!(outcome, Outcome { reason, frame: Some(frame) }, "{what}");
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn traffic_that_is_in_no_tunnel_passes() {
    let mut rig = Rig::new(FRAMES[0]);
    for link in links() {
        for (what, inner) in inners() {
            assert_passes(&mut rig, link.frame(&inner), Reason::NoTunnel, what);
        }
        let tcp = Outer::ip(ip(SOURCE_V4), ip(OWN_V4)).around_as(IpNumber::TCP, &inners()[0].1);
        assert_passes(&mut rig, link.frame(&tcp), Reason::NoTunnel, "another protocol");
        let other_port = Outer { port: Some(6081), ..Outer::gue(ip(SOURCE_V6), ip(OWN_V6)) };
        let frame = link.frame(&other_port.around(&inners()[0].1));
        assert_passes(&mut rig, frame, Reason::NoTunnel, "another port");
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn only_the_own_addresses_end_a_tunnel() {
    let mut rig = Rig::new(FRAMES[0]);
    for (what, outer, inner) in tunnelled() {
        let others: &[&str] = match outer.destination.is_ipv4() {
            true => &["10.1.0.3", "10.1.0.0", "0.0.0.0", "255.255.255.255", "198.51.100.10"],
            // No IPv6 packet is for an IPv4 address, however it is written.
            false => &["fd01::3", "fd01::", "::", "::ffff:10.1.0.2", "::10.1.0.2", "ff02::1"],
        };
        for destination in others {
            let other = Outer { destination: ip(destination), ..outer.clone() };
            let frame = link().frame(&other.around(&inner));
            assert_passes(&mut rig, frame, Reason::OtherDestination, &format!("{what} to {destination}"));
        }
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn only_accepted_sources_may_inject() {
    let mut rig = Rig::new(FRAMES[0]);
    for (what, outer, inner) in tunnelled() {
        let (inside, outside): (&[&str], &[&str]) = match outer.source.is_ipv4() {
            true => (&["10.9.0.0", "10.9.255.255"], &["10.8.255.255", "10.10.0.0", "203.0.113.5"]),
            false => (&["fd09::", "fd09::ffff:ffff:ffff:ffff"], &["fd09:0:0:1::", "::ffff:10.9.0.1"]),
        };
        let from = |source: &str| link().frame(&Outer { source: ip(source), ..outer.clone() }.around(&inner));
        for source in inside {
            assert_eq!(rig.send(&from(source)).reason, Reason::Decapsulated, "{what} from {source}");
        }
        for source in outside {
            assert_passes(&mut rig, from(source), Reason::OtherSource, &format!("{what} from {source}"));
        }
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn a_prefix_of_one_family_accepts_nothing_of_the_other() {
    for (prefix, accepted) in [("0.0.0.0/0", 4), ("::/0", 6)] {
        let sources = [prefix.parse().expect("a prefix")];
        let mut rig = Rig::accepting(FRAMES[0], &[ip(OWN_V4), ip(OWN_V6)], &sources);
        for (what, outer, inner) in tunnelled() {
            let right = outer.source.is_ipv4() == (accepted == 4);
            let expected = if right { Reason::Decapsulated } else { Reason::OtherSource };
            let frame = link().frame(&outer.around(&inner));
            assert_eq!(rig.send(&frame).reason, expected, "{what} with {prefix}");
        }
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn the_own_addresses_can_change_under_way() {
    let mut rig = Rig::accepting(FRAMES[0], &[ip(OWN_V4)], &Prefix::ANY);
    let inner = &inners()[0].1;
    let to = |own: &str, source: &str| link().frame(&Outer::ip(ip(source), ip(own)).around(inner));
    let [v4, v6] = [to(OWN_V4, SOURCE_V4), to(OWN_V6, SOURCE_V6)];
    assert_eq!(rig.send(&v4).reason, Reason::Decapsulated);
    assert_eq!(rig.send(&v6).reason, Reason::OtherDestination);
    rig.kernel().set_locals(&BTreeSet::from([ip(OWN_V6)])).expect("set the outer destinations");
    assert_eq!(rig.send(&v4).reason, Reason::OtherDestination);
    assert_eq!(rig.send(&v6).reason, Reason::Decapsulated);
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn outer_fragments_pass_and_are_counted() {
    let mut rig = Rig::new(FRAMES[0]);
    for (what, outer, inner) in tunnelled() {
        for fragment in [(0, true), (1, true), (185, false)] {
            let part = Outer { fragment: Some(fragment), ..outer.clone() };
            // A later fragment of UDP does not say that it is GUE's.
            let known = outer.port.is_none() || fragment.0 == 0;
            let reason = if known { Reason::OuterFragment } else { Reason::NoTunnel };
            let frame = link().frame(&part.around(&inner));
            assert_passes(&mut rig, frame, reason, &format!("{what}, fragment {fragment:?}"));
        }
    }
}
