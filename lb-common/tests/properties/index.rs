//! Endpoint indexes: handles, the active word, and the daemon's search for a seed.

use std::{
    collections::{BTreeSet, HashSet},
    net::Ipv6Addr,
};

use lb_common::{
    address::{Address, Endpoint},
    index::{Active, BUCKETS, HANDLES, Handle, bucket},
    layout::VIP_IDS,
    slot::MAX_BACKENDS,
};
use proptest::prelude::{prop_assert, prop_assert_eq, proptest};
use rand::Rng as _;

use crate::support::{assert_uniform, seeded};

/// The first seed under which no bucket overflows, among those that the daemon would try.
fn seed_for(endpoints: &[Endpoint]) -> Option<u32> {
    const TRIES: u32 = 64;
    (0..TRIES).find(|&seed| {
        let mut filled = vec![0; BUCKETS as usize];
        endpoints.iter().all(|endpoint| {
            let filled = &mut filled[bucket(seed, endpoint) as usize];
            *filled += 1;
            *filled <= HANDLES
        })
    })
}

#[test]
fn no_two_handles_are_the_same_and_none_is_none() {
    let mut seen = HashSet::from([Handle::NONE.0]);
    for id in 0..(1 << 15) - 1 {
        for row in [0, 1] {
            let handle = Handle::new(id, row);
            assert!(seen.insert(handle.0), "handle of id {id}, row {row} is another's");
            assert!(handle.is_some());
            assert_eq!(handle.id(), id);
            assert_eq!(handle.element(), u32::from(id) * 2 + u32::from(row));
        }
    }
    assert!(!Handle::NONE.is_some());
}

proptest! {
    #[test]
    fn a_bucket_holds_four_handles(handles: [u16; HANDLES]) {
        let word = handles.iter().rev().fold(0, |word, &handle| word << 16 | u64::from(handle));
        for (position, handle) in handles.into_iter().enumerate() {
            prop_assert_eq!(Handle::of(word, position), Handle(handle));
        }
    }

    #[test]
    fn the_active_word_keeps_generation_and_seed(generation in 0..2u32, seed: u32, octets: [u8; 16], port: u16) {
        let (active, endpoint) = (Active::new(generation, seed), Endpoint::new(Address::from_v6(octets), port, 6));
        prop_assert_eq!((active.generation(), active.seed()), (generation, seed));
        prop_assert!(bucket(seed, &endpoint) < BUCKETS);
        prop_assert_eq!(active.element(&endpoint), generation * BUCKETS + bucket(seed, &endpoint));
    }
}

#[test]
fn a_full_configuration_of_random_endpoints_finds_a_seed() {
    for round in 0..8 {
        let mut random = seeded(round);
        let mut endpoint = |_| {
            let address = match random.random() {
                true => Address::from_v4(random.random()),
                false => Address::from_v6(random.random()),
            };
            Endpoint::new(address, random.random(), if random.random() { 6 } else { 17 })
        };
        let backends: Vec<_> = (0..MAX_BACKENDS).map(&mut endpoint).collect();
        let vips: Vec<_> = (0..VIP_IDS).map(&mut endpoint).collect();
        assert!(seed_for(&backends).is_some(), "backends, round {round}");
        assert!(seed_for(&vips).is_some(), "VIPs, round {round}");
        let all = [backends, vips].concat();
        assert!(seed_for(&all).is_some(), "both together, round {round}");
    }
}

fn v4(n: u32, shift: u32, port: u16) -> Endpoint {
    Endpoint::new(Address::from_v4((0x0a00_0000 + (n << shift)).to_be_bytes()), port, 6)
}

fn v6(n: u128, shift: u32, port: u16) -> Endpoint {
    let ip = Ipv6Addr::from(0x2001_0db8_0000_0000_0000_0000_0000_0001 + (n << shift));
    Endpoint::new(Address::from_v6(ip.octets()), port, 6)
}

#[test]
fn a_full_configuration_of_regular_endpoints_finds_a_seed() {
    let all = 0..MAX_BACKENDS as u32;
    let cases: [(&str, Vec<Endpoint>); 8] = [
        ("consecutive IPv4 hosts", all.clone().map(|n| v4(n, 0, 8000)).collect()),
        ("an IPv4 host of every /24", all.clone().map(|n| v4(n, 8, 8000)).collect()),
        ("an IPv4 host of every /20", all.clone().map(|n| v4(n, 12, 8000)).collect()),
        ("eight ports of each IPv4 host", all.clone().map(|n| v4(n / 8, 0, 8000 + n as u16 % 8)).collect()),
        ("the ports of one IPv4 host", all.clone().map(|n| v4(0, 0, 1024 + n as u16)).collect()),
        ("consecutive IPv6 hosts", all.clone().map(|n| v6(n.into(), 0, 8000)).collect()),
        ("an IPv6 host of every /64", all.clone().map(|n| v6(n.into(), 64, 8000)).collect()),
        ("the ports of one IPv6 host", all.map(|n| v6(0, 0, 1024 + n as u16)).collect()),
    ];
    for (what, endpoints) in cases {
        assert_eq!(
            endpoints.iter().map(|e| (e.address, e.port_be)).collect::<BTreeSet<_>>().len(),
            MAX_BACKENDS
        );
        assert!(seed_for(&endpoints).is_some(), "no seed for {what}");
    }
}

#[test]
fn random_endpoints_and_seeds_fill_buckets_evenly() {
    let mut random = seeded(1);
    let (mut by_endpoint, mut by_seed) = (vec![0; BUCKETS as usize], vec![0; BUCKETS as usize]);
    let fixed = v4(7, 0, 443);
    for _ in 0..BUCKETS * 8 {
        let endpoint = Endpoint::new(Address::from_v4(random.random()), random.random(), 6);
        by_endpoint[bucket(3, &endpoint) as usize] += 1;
        by_seed[bucket(random.random(), &fixed) as usize] += 1;
    }
    assert_uniform(&by_endpoint, "buckets of random endpoints");
    assert_uniform(&by_seed, "buckets of one endpoint under random seeds");
}

#[test]
fn protocol_and_port_take_part_in_the_bucket() {
    let differing = |change: fn(u32) -> Endpoint| {
        (0..1000).filter(|&seed| bucket(seed, &v4(1, 0, 443)) != bucket(seed, &change(seed))).count()
    };
    assert!(differing(|_| Endpoint { protocol: 17, ..v4(1, 0, 443) }) > 990, "protocol");
    assert!(differing(|_| v4(1, 0, 444)) > 990, "port");
}
