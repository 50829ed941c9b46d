//! Reports of single flows: their bytes, which flows they are of, and what they say of a pick.

use std::mem::{offset_of, size_of};

use lb_common::{
    address::Address,
    event::{Event, Kind, NO_CHOICE, RING_BYTES, Sight, sampled},
    pick::{
        CANDIDATES, COST_MAX, Candidate, Context, FULL, LOAD_ONE, Policy, Rule, Steer, Why, load,
        within_bound,
    },
    reason::Reason,
    slot::{GAUGES, Gauge},
};
use proptest::{
    array::{uniform5, uniform16},
    prelude::{Strategy, any, prop_assert_eq, prop_assert_ne, proptest},
};
use rand::Rng as _;

use crate::{
    model::FREE,
    support::{Plain, seeded},
};

fn sight() -> impl Strategy<Value = Sight> {
    let numbers = any::<(u64, u32, u32, u16, u16)>();
    (numbers, uniform5(any::<u32>())).prop_map(|(numbers, gauges)| {
        let (steer, limit, nominal, backend, lacks) = numbers;
        Sight { steer, gauges, limit, nominal, backend, lacks }
    })
}

/// Events with numbers that mean something.
fn event() -> impl Strategy<Value = Event> {
    let words = any::<(u64, u64, u64, u32, u32)>();
    let halfwords = any::<(u16, u16, u16, u16, u16, u16, u16, u16, u16)>();
    let numbers = (1..=3u8, 0..Reason::ALL.len() as u8, 0..=6u8, 0..=CANDIDATES as u8, any::<(u8, u8)>());
    let arrays = (any::<[u8; 16]>(), uniform16(sight()));
    (words, halfwords, numbers, arrays).prop_map(|(words, halfwords, numbers, (octets, seen))| {
        let (at_ns, hash, total, opening_cap, moved) = words;
        let (client_port_be, vip, backend, cpu, epsilon, silent, mtu, duty, prompt) = halfwords;
        let (kind, reason, why, count, (policy, awaiting_weight)) = numbers;
        Event {
            at_ns,
            hash,
            total,
            client: Address::from_v6(octets),
            client_port_be,
            vip,
            backend,
            cpu,
            opening_cap,
            duty,
            prompt,
            rule: Rule { policy, awaiting_weight, epsilon },
            silent,
            mtu,
            kind,
            reason,
            why: if Why::from_number(why).is_some() { why } else { NO_CHOICE },
            count,
            moved,
            seen,
        }
    })
}

/// The byte at which each field begins, and where the last one ends.
const OFFSETS: [(usize, usize); 21] = [
    (offset_of!(Event, at_ns), 0),
    (offset_of!(Event, hash), 8),
    (offset_of!(Event, total), 16),
    (offset_of!(Event, client), 24),
    (offset_of!(Event, client_port_be), 40),
    (offset_of!(Event, vip), 42),
    (offset_of!(Event, backend), 44),
    (offset_of!(Event, cpu), 46),
    (offset_of!(Event, opening_cap), 48),
    (offset_of!(Event, duty), 52),
    (offset_of!(Event, prompt), 54),
    (offset_of!(Event, rule), 56),
    (offset_of!(Event, silent), 60),
    (offset_of!(Event, mtu), 62),
    (offset_of!(Event, kind), 64),
    (offset_of!(Event, reason), 65),
    (offset_of!(Event, why), 66),
    (offset_of!(Event, count), 67),
    (offset_of!(Event, moved), 68),
    (offset_of!(Event, seen), 72),
    (size_of::<Event>(), 72 + CANDIDATES * 40),
];

#[test]
fn events_lie_byte_for_byte() {
    for (number, (found, expected)) in OFFSETS.into_iter().enumerate() {
        assert_eq!(found, expected, "field {number}");
    }
    let sight = [offset_of!(Sight, gauges), offset_of!(Sight, limit), offset_of!(Sight, nominal)];
    assert_eq!(sight, [8, 28, 32]);
    let sight = [offset_of!(Sight, backend), offset_of!(Sight, lacks)];
    assert_eq!(sight, [36, 38]);
    assert_eq!(size_of::<Sight>(), 40);
    assert!(RING_BYTES.is_power_of_two() && RING_BYTES / (size_of::<Event>() + 8) > 300);
}

#[test]
fn what_is_no_event_is_refused() {
    let good = Event { kind: Kind::Opened as u8, why: Why::First as u8, ..Event::default() };
    assert_eq!(Event::from_bytes(&good.to_bytes()), Some(good));
    for bad in [
        Event { kind: 0, ..good },
        Event { kind: 4, ..good },
        Event { reason: Reason::ALL.len() as u8, ..good },
        Event { why: Why::NextMember as u8 + 1, ..good },
        Event { count: CANDIDATES as u8 + 1, ..good },
    ] {
        assert_eq!(Event::from_bytes(&bad.to_bytes()), None, "{bad:?}");
    }
    let bytes = good.to_bytes();
    assert_eq!(Event::from_bytes(&bytes[..bytes.len() - 1]), None, "a byte is missing");
    assert_eq!(Event::from_bytes(&[&bytes[..], &[0]].concat()), None, "there is a byte too many");
    assert_eq!(Event::from_bytes(&[]), None);
}

#[test]
fn numbers_of_whys_and_kinds_go_both_ways() {
    for number in 0..=u8::MAX {
        assert!(Why::from_number(number).is_none_or(|why| why as u8 == number), "why {number}");
        assert!(Kind::from_number(number).is_none_or(|kind| kind as u8 == number), "kind {number}");
        assert!(Reason::from_number(number).is_none_or(|reason| reason as u8 == number), "reason {number}");
    }
    assert_eq!((0..=u8::MAX).filter_map(Why::from_number).count(), 6);
    assert_eq!((0..=u8::MAX).filter_map(Reason::from_number).count(), Reason::ALL.len());
}

#[test]
fn one_flow_in_as_many_as_asked_for_is_sampled() {
    const FLOWS: u32 = 200_000;
    let mut random = seeded(11);
    let hashes: Vec<u64> = (0..FLOWS).map(|_| random.random()).collect();
    for every in [1, 2, 3, 10, 128, 1000] {
        let found = hashes.iter().filter(|hash| sampled(**hash, every)).count() as f64;
        let expected = f64::from(FLOWS) / f64::from(every);
        assert!((found - expected).abs() <= 5.0 * expected.sqrt(), "1 in {every}: {found} of {FLOWS}");
    }
    assert!(hashes.iter().all(|hash| sampled(*hash, 1) && !sampled(*hash, 0)));
}

#[test]
fn a_free_backend_of_nominal_cost_has_the_load_of_the_flow_to_come() {
    let weight = Event {
        rule: Rule { policy: Policy::Least as u8, awaiting_weight: 4, epsilon: 0 },
        ..Event::default()
    }
    .weigh(&Sight::of(3, &FREE));
    assert_eq!(u64::from(weight.load), 5 * LOAD_ONE, "it is live, and it awaits with a weight of 4");
    assert!(!weight.at_limit && !weight.over_bound);
}

proptest! {
    #[test]
    fn an_event_comes_back_from_its_bytes(event in event()) {
        prop_assert_eq!(Event::from_bytes(&event.to_bytes()), Some(event));
        prop_assert_eq!(event.candidates().len(), usize::from(event.count));
    }

    #[test]
    fn any_bytes_are_an_event_that_has_these_bytes_or_none(bytes: Vec<u8>, event in event(), cut in 0..800usize) {
        let mut mixed = event.to_bytes();
        let cut = cut.min(bytes.len()).min(mixed.len());
        mixed[..cut].copy_from_slice(&bytes[..cut]);
        if let Some(event) = Event::from_bytes(&mixed) {
            prop_assert_eq!(event.to_bytes(), mixed);
        }
    }

    #[test]
    fn a_flow_that_is_sampled_is_sampled_by_every_denser_trace(hash: u64, a in 1..u32::MAX, b in 1..u32::MAX) {
        let (dense, sparse) = (a.min(b), a.max(b));
        prop_assert_eq!(sampled(hash, dense) || !sampled(hash, sparse), true);
    }

    #[test]
    fn a_sight_differs_from_all_but_itself(a in sight(), b in sight()) {
        prop_assert_eq!(a.differs(&a), 0);
        prop_assert_eq!(a.differs(&b) != 0, a != b);
        for gauge in 0..GAUGES {
            let mut gauges = a.gauges;
            gauges[gauge] = gauges[gauge].wrapping_add(1);
            prop_assert_ne!(a.differs(&Sight { gauges, ..a }), 0);
        }
    }

    #[test]
    fn a_candidate_comes_back_from_a_sight(
        steer: u64, gauges: [u32; GAUGES], limit: u32, static_cost in 1..=COST_MAX, share in 1..=65_536u32, lacks: u16, backend: u16,
    ) {
        let steer = Steer::from_word(steer);
        let candidate = Candidate { lacks: lacks.into(), gauges, steer, limit, static_cost, share };
        let sight = Sight::of(backend, &candidate);
        prop_assert_eq!((sight.candidate(), sight.backend), (candidate, backend));
    }

    #[test]
    fn an_event_weighs_candidates_as_the_pick_did(
        policy in 0..5u8, gauges in uniform5(0..2000u32), cost in 1..=COST_MAX, correction in -100_000..100_000i32,
        limit in 0..500u32, share in 1..=65_536u32, silent: bool, total in 0..1_000_000u64,
    ) {
        let context = Context {
            rule: Rule { policy, awaiting_weight: 4, epsilon: 256 },
            hash: 0, flow_hash: 0, table_size: 4093, members: 8,
            opening_cap: 64, duty: 100, prompt: 5000, total,
            silence: if silent { 900 } else { 3 }, patience: 500,
        };
        let event = Event {
            rule: context.rule, opening_cap: context.opening_cap, duty: context.duty as u16, prompt: context.prompt as u16, total,
            silent: u16::from(silent), ..Event::default()
        };
        let candidate = Candidate { gauges, steer: Steer { cost, correction }, limit, share, ..FREE };
        let (weight, compared) = (event.weigh(&Sight::of(1, &candidate)), load::<Plain>(&context, &candidate));
        prop_assert_eq!(u64::from(weight.load), compared & (FULL - 1));
        prop_assert_eq!(weight.at_limit, compared >= FULL);
        let over = policy == Policy::Bounded as u8 && !within_bound::<Plain>(&context, &candidate);
        prop_assert_eq!(weight.over_bound, over);
    }

    #[test]
    fn more_awaiting_flows_weigh_more(awaiting in 0..1000u32, cost in 1024..=COST_MAX) {
        let rule = Rule { policy: Policy::Least as u8, awaiting_weight: 4, epsilon: 0 };
        let event = Event { rule, ..Event::default() };
        let weigh = |awaiting| {
            let mut candidate = Candidate { steer: Steer { cost, correction: 0 }, ..FREE };
            candidate.gauges[Gauge::Awaiting as usize] = awaiting;
            event.weigh(&Sight::of(1, &candidate)).load
        };
        prop_assert_eq!(weigh(awaiting) < weigh(awaiting + 1), true);
    }
}
