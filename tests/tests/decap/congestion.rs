//! ECN through the tunnel, against the table of RFC 6040, with right header checksums.

use etherparse::{IpEcn, Ipv4Header, Ipv6Header};
use lb_common::decap::Reason;

use crate::rig::{FRAMES, Outcome, Rig, link, tunnelled};

const NOT_ECT: u8 = 0b00;
const ECT_0: u8 = 0b10;
const ECT_1: u8 = 0b01;
const CE: u8 = 0b11;

/// Inner field, then what is left of it under an outer one of Not-ECT, ECT(0), ECT(1) and CE.
const TABLE: [(u8, [Option<u8>; 4]); 4] = [
    (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
    (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
    (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
    (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
];

/// The packet with another ECN field, and its checksum computed anew.
fn marked(packet: &[u8], ecn: u8) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        let (mut header, rest) = Ipv4Header::from_slice(packet).expect("an IPv4 packet");
        header.ecn = IpEcn::try_new(ecn).expect("two bits");
        header.header_checksum = header.calc_header_checksum();
        return [&header.to_bytes()[..], rest].concat();
    }
    let (mut header, rest) = Ipv6Header::from_slice(packet).expect("an IPv6 packet");
    header.traffic_class = header.traffic_class & !0b11 | ecn;
    [&header.to_bytes()[..], rest].concat()
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn marks_of_the_network_reach_the_inner_packet_or_drop_it() {
    let mut rig = Rig::new(FRAMES[0]);
    for (what, mut outer, inner) in tunnelled() {
        for (inner_field, row) in TABLE {
            let inner = marked(&inner, inner_field);
            for (outer_field, left) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                // The outer DSCP stays outside.
                outer.class = 0b1011_1000 | outer_field;
                let expected = match left {
                    Some(field) => Outcome {
                        reason: Reason::Decapsulated,
                        frame: Some(link().frame(&marked(&inner, field))),
                    },
                    None => Outcome { reason: Reason::CongestionLost, frame: None },
                };
                let outcome = rig.send(&link().frame(&outer.around(&inner)));
                assert_eq!(outcome, expected, "{what}: {outer_field:02b} over {inner_field:02b}");
            }
        }
    }
}
