//! Decapsulation: reasons, the keys of the maps, lengths and congestion marks.

use std::{collections::HashSet, net::IpAddr};

use lb_common::decap::{
    Action, Carries, Host, REASONS, Reason, carries, datagram, ecn, inner_v4, inner_v6, is_v6, payload,
};
use proptest::prelude::{any, prop_assert_eq, proptest};

#[test]
fn a_reasons_number_is_its_place_and_its_name_is_its_own() {
    for (number, &reason) in Reason::ALL.iter().enumerate() {
        assert_eq!(reason as usize, number, "{}", reason.name());
    }
    assert!(Reason::ALL.len() <= REASONS);
    let names: HashSet<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(names.len(), Reason::ALL.len());
    assert!(names.iter().all(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_')), "{names:?}");
}

#[test]
fn only_a_packet_that_ends_here_is_delivered_or_dropped() {
    for &reason in Reason::ALL {
        let expected = match reason {
            Reason::Decapsulated => Action::Deliver,
            Reason::Truncated
            | Reason::Malformed
            | Reason::TtlExpired
            | Reason::CongestionLost
            | Reason::Internal => Action::Drop,
            _ => Action::Pass,
        };
        assert_eq!(reason.action(), expected, "{}", reason.name());
    }
}

/// RFC 6040 section 4.2, figure 4, copied: rows are the inner field, columns the outer one.
#[test]
fn congestion_marks_follow_the_table_of_rfc_6040() {
    const NOT_ECT: u8 = 0b00;
    const ECT_0: u8 = 0b10;
    const ECT_1: u8 = 0b01;
    const CE: u8 = 0b11;
    const COLUMNS: [u8; 4] = [NOT_ECT, ECT_0, ECT_1, CE];
    const DROP: Result<u8, Reason> = Err(Reason::CongestionLost);
    let table = [
        (NOT_ECT, [Ok(NOT_ECT), Ok(NOT_ECT), Ok(NOT_ECT), DROP]),
        (ECT_0, [Ok(ECT_0), Ok(ECT_0), Ok(ECT_1), Ok(CE)]),
        (ECT_1, [Ok(ECT_1), Ok(ECT_1), Ok(ECT_1), Ok(CE)]),
        (CE, [Ok(CE), Ok(CE), Ok(CE), Ok(CE)]),
    ];
    for (inner, row) in table {
        for (outer, expected) in COLUMNS.into_iter().zip(row) {
            for class in [0, 0b1011_1000, 0b1111_1100] {
                assert_eq!(
                    ecn(outer | class, inner | !class & 0xfc),
                    expected,
                    "{outer:02b} over {inner:02b}"
                );
            }
        }
    }
}

#[test]
fn only_the_four_tunnels_and_udp_carry_anything() {
    for protocol in 0..=u8::MAX {
        let expected = match protocol {
            4 => Carries::V4,
            41 => Carries::V6,
            17 => Carries::Udp,
            _ => Carries::Other,
        };
        assert_eq!(carries(protocol), expected, "{protocol}");
    }
}

#[test]
fn the_first_byte_must_be_what_the_tunnel_announces() {
    for first in 0..=u8::MAX {
        let version = first >> 4;
        let only = |wanted: u8| if version == wanted { Ok(wanted == 6) } else { Err(Reason::Malformed) };
        assert_eq!(is_v6(Carries::V4, first), only(4), "{first:#04x} in IPv4's tunnel");
        assert_eq!(is_v6(Carries::V6, first), only(6), "{first:#04x} in IPv6's tunnel");
        let gue = match version {
            4 => Ok(false),
            6 => Ok(true),
            5 | 7 => Err(Reason::Malformed),
            _ => Err(Reason::OtherVariant),
        };
        assert_eq!(is_v6(Carries::Udp, first), gue, "{first:#04x} in GUE");
    }
}

#[test]
fn no_two_hosts_share_a_key_and_none_is_that_of_others() {
    let hosts: [IpAddr; 6] = ["0.0.0.0", "10.0.0.1", "::", "::ffff:10.0.0.1", "::10.0.0.1", "2001:db8::1"]
        .map(|text| text.parse().expect("an address"));
    let keys: HashSet<Host> = hosts.into_iter().map(Host::from).collect();
    assert_eq!(keys.len(), hosts.len());
    assert!(!keys.contains(&Host::OTHERS));
    assert_eq!(Host::OTHERS.address(), None);
    assert_eq!((Host::prefix(0), Host::prefix(128)), (32, Host::BITS));
}

proptest! {
    #[test]
    fn a_host_keeps_its_address_and_its_prefix_bits(octets: [u8; 16], v4: [u8; 4]) {
        for address in [IpAddr::from(octets), IpAddr::from(v4)] {
            let host = Host::from(address);
            prop_assert_eq!(host.address(), Some(address));
            // The trie compares bytes as they lie in memory, the family's first.
            let bytes: Vec<u8> = host.0.iter().flat_map(|word| word.to_ne_bytes()).collect();
            match address {
                IpAddr::V4(v4) => prop_assert_eq!(&bytes[4..8], &v4.octets()),
                IpAddr::V6(v6) => prop_assert_eq!(&bytes[4..], &v6.octets()),
            }
        }
    }

    #[test]
    fn whatever_is_accepted_fits_into_the_frame(
        claimed in 0u32..70_000,
        there in 0u32..70_000,
        datagram_length: u16,
        first in any::<u8>(),
        total: u16,
        ttl: u8,
    ) {
        if let Ok(room) = payload(claimed, there) {
            prop_assert_eq!(room, claimed);
            let rooms = [Some(room), datagram(datagram_length, room).ok()];
            prop_assert_eq!(rooms[1].is_some(), (8..=room).contains(&u32::from(datagram_length)));
            for room in rooms.into_iter().flatten() {
                assert!(room <= there);
                let header = u32::from(first & 0x0f) * 4;
                let total32 = u32::from(total);
                let v4 = inner_v4(first, total, ttl, room);
                let right = room >= 20 && header >= 20 && total32 >= header && total32 <= room && ttl > 0;
                prop_assert_eq!(v4.ok(), right.then_some(total32));
                let v6 = inner_v6(total, room);
                prop_assert_eq!(v6.ok(), (total32 + 40 <= room).then_some(total32 + 40));
            }
        } else {
            prop_assert_eq!(claimed > there, true);
        }
    }
}
