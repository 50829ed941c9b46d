//! The bytes of the maps' elements, and the histogram's buckets.

use std::mem::{align_of, offset_of, size_of};

use lb_common::{
    address::{Address, Endpoint, Mac},
    layout::{
        Backend, Clock, Control, FLOW_SETS, FlowInfo, HISTOGRAM_BUCKETS, Histogram, Hop, LINE, Load, Meta,
        TABLE_LINE, TABLE_LINES, Total, Traffic, VIP_IDS, Vip, backend_bits, vip_flags,
    },
    pick::Rule,
    slot::{Gauge, MAX_BACKENDS, State},
    table::WAYS,
    track::Track,
};
use proptest::prelude::{prop_assert, proptest};

/// Checks that the named fields, in this order, fill a struct without a gap.
macro_rules! assert_packed {
    ($type:ident { $($field:ident: $size:expr),* $(,)? }) => {{
        let mut at = 0;
        $(
            assert_eq!(offset_of!($type, $field), at, "{}.{}", stringify!($type), stringify!($field));
            at += $size;
        )*
        assert_eq!(size_of::<$type>(), at, "size of {}", stringify!($type));
    }};
}

#[test]
fn the_parts_of_elements_lie_byte_for_byte() {
    assert_eq!((size_of::<Address>(), size_of::<Mac>()), (16, 6));
    assert_packed!(Endpoint { address: 16, port_be: 2, protocol: 1, reserved: 1 });
    assert_packed!(Rule { policy: 1, awaiting_weight: 1, epsilon: 2 });
    assert_packed!(Track { high_sequence: 4, baseline: 4, flags: 4 });
    assert_packed!(Hop {
        endpoint: 20,
        mac: 6,
        source_mac: 6,
        interface: 4,
        checksum: 2,
        vip: 2,
        server_id: 8,
        mtu: 2,
        reserved: 6
    });
}

#[test]
fn elements_lie_byte_for_byte() {
    assert_packed!(Meta {
        layout: 8,
        key: 16,
        flow_sets: 4,
        table_lines: 4,
        hz: 4,
        age_shift: 4,
        port_sets: 4,
        reserved: 20
    });
    assert_packed!(Control {
        vip_index: 8,
        real_index: 8,
        heartbeat: 8,
        source_v6: 16,
        source_v4: 4,
        spread_v4: 4,
        spread_v6: 4,
        sample: 4,
        reserved: 8
    });
    assert_packed!(Clock { jiffies: 8, nanoseconds: 8 });
    assert_packed!(Vip {
        endpoint: 20,
        mode: 1,
        flags: 1,
        id: 2,
        table: 4,
        table_size: 4,
        members: 4,
        member_count: 2,
        skip_bytes: 2,
        rule: 4,
        checksum: 2,
        mac: 6,
        interface: 4,
        ports: 4,
        sources: 1,
        quic: 1,
        reserved: 2,
    });
    assert_packed!(Backend { control: 4, reserved: 4, hops: 112, padding: 8 });
    assert_packed!(Load {
        gauges: 20,
        limit: 4,
        steer: 8,
        nominal: 4,
        control: 4,
        opened: 8,
        requests: 8,
        progressed: 8,
    });
    assert_packed!(Total { gauges: 20, cursor: 4, opening_cap: 4, duty: 4, prompt: 4, reserved: 28 });
    assert_packed!(FlowInfo {
        client: 16,
        client_port_be: 2,
        vip: 2,
        client_mac: 6,
        own_mac: 6,
        interface: 4,
        track: 12,
        opened_at: 8,
        request_at: 4,
        reserved: 4,
    });
    assert_packed!(Histogram { counts: 512, sum_ns: 8, count: 8, reserved: 48 });
    assert_packed!(Traffic {
        packets: 8,
        bytes: 8,
        returned_packets: 8,
        returned_bytes: 8,
        evicted: 8,
        unanswered: 8,
        reserved: 16,
    });
}

#[test]
fn what_a_packet_reads_is_whole_cache_lines_and_aligned_words() {
    assert_eq!(size_of::<[u64; WAYS]>(), LINE);
    assert_eq!(size_of::<[u16; TABLE_LINE]>(), LINE);
    for (what, size) in [
        ("Meta", size_of::<Meta>()),
        ("Control", size_of::<Control>()),
        ("Vip", size_of::<Vip>()),
        ("Backend", size_of::<Backend>()),
        ("Load", size_of::<Load>()),
        ("Total", size_of::<Total>()),
        ("FlowInfo", size_of::<FlowInfo>()),
        ("Histogram", size_of::<Histogram>()),
        ("Traffic", size_of::<Traffic>()),
    ] {
        assert_eq!(size % LINE, 0, "{what}");
    }
    assert_eq!(align_of::<Load>(), align_of::<u64>());
    assert!(offset_of!(Load, steer).is_multiple_of(align_of::<u64>()));
    assert!(offset_of!(Backend, control).is_multiple_of(align_of::<u32>()));
    // The row a packet reads first shares the control word's line.
    assert!(offset_of!(Backend, hops) + size_of::<Hop>() <= LINE);
    assert!(FLOW_SETS.is_power_of_two() && VIP_IDS.is_power_of_two() && MAX_BACKENDS.is_power_of_two());
    assert!(TABLE_LINES.is_power_of_two());
}

#[test]
fn flags_and_bits_do_not_overlap() {
    let bits = [
        backend_bits::ROW,
        backend_bits::PRESENT,
        backend_bits::HEALTHY,
        backend_bits::ACTIVE,
        backend_bits::REACHABLE,
    ];
    assert_eq!(bits.iter().map(|b| b.count_ones()).sum::<u32>(), 5);
    assert_eq!(bits.iter().fold(0, |all, bit| all | bit).count_ones(), 5);
    assert_eq!(backend_bits::ELIGIBLE & backend_bits::ROW, 0, "either row may be live");
    assert_eq!(vip_flags::CLIENT_AFFINITY & vip_flags::ANSWER_NEIGHBOURS, 0);
}

#[test]
fn a_state_is_counted_by_the_gauge_of_its_name() {
    for (state, gauge) in [
        (State::Empty, None),
        (State::Closed, None),
        (State::Closing, None),
        (State::Stale, None),
        (State::Opening, Some(Gauge::Opening)),
        (State::Idle, Some(Gauge::Idle)),
        (State::Streaming, Some(Gauge::Streaming)),
        (State::Awaiting, Some(Gauge::Awaiting)),
    ] {
        assert_eq!(state.gauge(), gauge, "{state:?}");
    }
}

#[test]
fn buckets_begin_where_the_last_ended_and_are_no_wider_than_a_quarter() {
    assert_eq!((Histogram::bucket(0), Histogram::least(0)), (0, 0));
    for bucket in 1..HISTOGRAM_BUCKETS {
        let first = Histogram::least(bucket);
        assert_eq!(Histogram::bucket(first - 1), bucket - 1, "just below {first} ns");
        assert_eq!(Histogram::bucket(first), bucket, "{first} ns");
        let width = Histogram::least(bucket + 1) - first;
        assert!(bucket < 4 || width * 4 <= first, "{width} of {first} ns");
    }
    // Nobody waits for a day.
    assert!(Histogram::least(HISTOGRAM_BUCKETS - 1) > 86_400 * 1_000_000_000);
    assert_eq!(Histogram::bucket(u64::MAX), HISTOGRAM_BUCKETS - 1);
}

proptest! {
    #[test]
    fn longer_times_are_never_in_lower_buckets(a: u64, b: u64, shift in 0..64u32) {
        let (a, b) = (a >> shift, b >> shift);
        prop_assert!(Histogram::bucket(a.min(b)) <= Histogram::bucket(a.max(b)));
    }
}
