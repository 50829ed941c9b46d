//! Flow keys, their hashes, and the two ways in which hashes are spread.

use std::{collections::HashSet, net::IpAddr};

use lb_common::{
    address::Address,
    flow::{FlowKey, mix, reduce},
    siphash::Key,
    slot, table,
};
use proptest::prelude::{any, prop_assert, prop_assert_eq, prop_assert_ne, prop_assume, proptest};

use crate::{siphash::siphash_1_3, support::assert_uniform};

const KEY: Key = Key { k0: 0x0123_4567_89ab_cdef, k1: 0xfedc_ba98_7654_3210 };

fn flow(client: IpAddr, port: u16, vip: u16) -> FlowKey {
    FlowKey { client: client.into(), client_port_be: port.to_be(), vip }
}

/// The bytes of the client that a flow's hash covers.
fn message(client: IpAddr, port: u16) -> Vec<u8> {
    match client {
        IpAddr::V4(v4) => [&v4.octets()[..], &port.to_be_bytes()].concat(),
        IpAddr::V6(v6) => [&v6.octets()[..], &port.to_be_bytes()].concat(),
    }
}

proptest! {
    #[test]
    fn a_flow_hashes_as_its_bytes_on_the_wire(client: IpAddr, port: u16, vip: u16) {
        let client = client.to_canonical();
        let salt = (u64::from(vip) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        prop_assert_eq!(flow(client, port, vip).hash(KEY), siphash_1_3(KEY, &message(client, port)) ^ salt);
    }

    #[test]
    fn address_port_and_vip_each_make_another_flow(client: IpAddr, other: IpAddr, ports: [u16; 2], vips: [u16; 2]) {
        prop_assume!(client.to_canonical() != other.to_canonical() && ports[0] != ports[1] && vips[0] != vips[1]);
        let hash = flow(client, ports[0], vips[0]).hash(KEY);
        prop_assert_ne!(hash, flow(other, ports[0], vips[0]).hash(KEY));
        prop_assert_ne!(hash, flow(client, ports[1], vips[0]).hash(KEY));
        prop_assert_ne!(hash, flow(client, ports[0], vips[1]).hash(KEY));
        prop_assert_ne!(hash, flow(client, ports[0], vips[0]).hash(Key { k0: KEY.k0 ^ 1, ..KEY }));
    }

    #[test]
    fn port_and_vip_do_not_stand_in_for_each_other(client: IpAddr, a: u16, b: u16) {
        prop_assume!(a != b && a.to_be() != b.to_le());
        prop_assert_ne!(flow(client, a, b).hash(KEY), flow(client, b, a).hash(KEY));
    }

    #[test]
    fn a_clients_hash_is_the_same_for_all_its_ports(client: IpAddr, ports: [u16; 2], vip: u16) {
        let hash = flow(client, ports[0], vip).client_hash(KEY);
        prop_assert_eq!(hash, flow(client, ports[1], vip).client_hash(KEY));
        prop_assert_ne!(hash, flow(client, ports[0], vip ^ 1).client_hash(KEY));
    }

    #[test]
    fn the_set_and_the_fingerprint_share_no_bit_up_to_2_pow_28_sets(hash: u64, noise: u64) {
        const SETS: u32 = 1 << 28;
        let low = u64::from(SETS - 1);
        prop_assert_eq!(slot::tag(hash), slot::tag(hash ^ (noise & low)));
        prop_assert_eq!(table::first_set(hash, SETS - 1), table::first_set(hash ^ (noise & !low), SETS - 1));
    }

    #[test]
    fn reduce_stays_in_range_and_keeps_order(bits: [u32; 2], n in 1..=u32::MAX) {
        let [low, high] = [bits[0].min(bits[1]), bits[0].max(bits[1])];
        prop_assert!(reduce(low, n) <= reduce(high, n));
        prop_assert!(reduce(high, n) < n);
        prop_assert_eq!((reduce(0, n), reduce(u32::MAX, n)), (0, n - 1));
    }

    #[test]
    fn one_bit_in_changes_about_half_the_bits_of_a_mix(x in any::<u64>(), bit in 0..64u32) {
        let changed = (mix(x) ^ mix(x ^ 1 << bit)).count_ones();
        prop_assert!((6..=58).contains(&changed), "{changed} bits changed");
    }
}

#[test]
fn a_clients_hash_is_none_of_its_flows() {
    for client in ["192.0.2.7", "2001:db8::7"] {
        let client: IpAddr = client.parse().unwrap();
        let alone = flow(client, 1, 3).client_hash(KEY);
        let hashes: HashSet<u64> = (1..=u16::MAX).map(|port| flow(client, port, 3).hash(KEY)).collect();
        assert_eq!(hashes.len(), usize::from(u16::MAX), "two ports of {client} share a hash");
        assert!(!hashes.contains(&alone), "{client}'s own hash is one of its flows'");
    }
}

#[test]
fn mix_gives_the_published_numbers_of_splitmix64() {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let drawn = [1, 2, 3, 4, 5u64].map(|n| mix(1_234_567u64.wrapping_add(GOLDEN.wrapping_mul(n))));
    assert_eq!(
        drawn,
        [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821
        ]
    );
}

#[test]
fn neighbouring_clients_and_ports_spread_evenly_over_sets_and_fingerprints() {
    const CELLS: usize = 1 << 10;
    let mut counts = [const { [0u64; CELLS] }; 4];
    for host in 0..256u32 {
        for port in 0..256u16 {
            let client = Address::from_v4([10, 0, 0, host as u8]);
            let key = FlowKey { client, client_port_be: (32_768 + port).to_be(), vip: 1 };
            let hash = key.hash(KEY);
            let tag = slot::tag(hash);
            let set = table::first_set(hash, (1 << 20) - 1);
            let cells = [
                set as usize % CELLS,
                set as usize >> 10,
                (tag >> 54) as usize,
                (tag >> 29) as usize % CELLS,
            ];
            for (counts, cell) in counts.iter_mut().zip(cells) {
                counts[cell] += 1;
            }
        }
    }
    let [low_set, high_set, high_tag, low_tag] = counts;
    assert_uniform(&low_set, "low bits of the set");
    assert_uniform(&high_set, "high bits of the set");
    assert_uniform(&high_tag, "high bits of the fingerprint");
    assert_uniform(&low_tag, "low bits of the fingerprint");
}

#[test]
fn the_set_says_nothing_of_the_fingerprint() {
    let mut counts = [0u64; 1 << 12];
    for n in 0..1u32 << 17 {
        let key = FlowKey { client: Address::from_v4_word(n), client_port_be: 80, vip: 0 };
        let hash = key.hash(KEY);
        counts[(table::first_set(hash, 63) as usize) << 6 | (slot::tag(hash) >> 29) as usize & 63] += 1;
    }
    assert_uniform(&counts, "set and fingerprint together");
}

#[test]
fn reduce_gives_every_number_its_fair_share_of_2_pow_32_bit_patterns() {
    for n in [1u64, 2, 3, 7, 100, 4093, 65_537] {
        // The patterns that map to k are those from ceil(k * 2^32 / n) up to the next such border.
        let border = |k: u64| (k << 32).div_ceil(n);
        for k in [0, 1, n / 2, n - 1].into_iter().filter(|&k| k < n) {
            let (first, end) = (border(k), border(k + 1));
            assert_eq!(u64::from(reduce(first as u32, n as u32)), k, "first pattern of {k} of {n}");
            assert_eq!(u64::from(reduce((end - 1) as u32, n as u32)), k, "last pattern of {k} of {n}");
            assert!((end - first).abs_diff((1 << 32) / n) <= 1, "{k} of {n} has {} patterns", end - first);
        }
    }
}
