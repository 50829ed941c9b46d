//! Reports of single flows: what the kernel says a pick saw, against what the maps held.

use guidevane::dataplane::{
    events::{Events, Losses, set_sample},
    spec::Standing,
};
use guidevane_tests::packet::{Packet, flags};
use lb_common::{
    event::{Event, Kind, NO_CHOICE, RING_BYTES, Sight, sampled},
    maglev::NOBODY,
    pick::{FULL, Policy, Pool as _, Weighed, load},
    reason::{Action, Reason},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::{
    mirror::{Mirror, mirror},
    plane::{Plane, UDP, arriving, at, service},
    policies::{VIP, foretell, random_client, shuffle, silence, spec, syn},
};

/// A plane that reports one in `every` new flows.
fn traced(plane: &mut Plane, every: u32) -> (Events, Losses) {
    let taken = plane.dataplane.take_events().expect("the object has events");
    set_sample(&plane.maps(), every);
    taken
}

fn drain(events: &mut Events) -> Vec<Event> {
    std::iter::from_fn(|| events.pop()).collect()
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn a_report_holds_what_the_pick_saw_and_what_became_of_it() {
    use Policy::{Bounded, Hash, Least, LeastConnections, RoundRobin};
    const FLOWS: u32 = 100;
    let mut random = StdRng::seed_from_u64(21);
    for backends in [3, 16, 40] {
        for policy in [Least, Bounded, Hash, RoundRobin, LeastConnections] {
            let mut plane = Plane::new(&[spec(policy, backends)]);
            let (mut events, losses) = traced(&mut plane, 1);
            let (vip, mirror) = (plane.vip_id(0), mirror(&plane, 0));
            for flow in 0..FLOWS {
                if flow % 10 == 0 {
                    shuffle(&plane, &mut random);
                }
                let (client, fresh) = (random_client(&mut random), random.random());
                let hash = plane.hash(client, vip);
                let choice = foretell(&plane, &mirror, hash, fresh);
                let context = mirror.context(hash, hash, if fresh { 0 } else { 2 * mirror.patience() });
                let mut weighed = Weighed::of(&context);
                let seen: Vec<Sight> = (0..weighed.count)
                    .map(|_| weighed.next(&context, &mirror))
                    .map(|id| Sight::of(id, &mirror.look(id).expect("a backend")))
                    .collect();
                let outcome = plane.send(&syn(client).build());
                let reported = drain(&mut events);
                if fresh && silence(&plane) > mirror.patience() / 2 {
                    // The machine stood still for a second: the heartbeat may have grown stale meanwhile.
                    continue;
                }
                let what = format!("{policy:?} among {backends}, flow {flow}: {choice:?} was foretold");
                let [event] = &reported[..] else { panic!("{what}: {} events", reported.len()) };
                assert_eq!(event.candidates(), seen, "{what}");
                for sight in event.candidates() {
                    let (weight, compared) =
                        (event.weigh(sight), load::<Mirror>(&context, &sight.candidate()));
                    let found = u64::from(weight.load) | if weight.at_limit { FULL } else { 0 };
                    assert_eq!(found, compared, "{what}: {sight:?}");
                }
                let port = client.port().to_be();
                let expected = Event {
                    at_ns: event.at_ns,
                    cpu: event.cpu,
                    seen: event.seen,
                    count: event.count,
                    hash,
                    total: context.total,
                    client: client.ip().into(),
                    client_port_be: port,
                    vip,
                    backend: choice.map_or(NOBODY, |choice| choice.backend),
                    opening_cap: context.opening_cap,
                    duty: context.duty as u16,
                    prompt: context.prompt as u16,
                    rule: context.rule,
                    silent: u16::from(!fresh),
                    mtu: 0,
                    kind: if choice.is_some() { Kind::Opened } else { Kind::Refused } as u8,
                    reason: outcome.reason as u8,
                    why: choice.map_or(NO_CHOICE, |choice| choice.why as u8),
                    moved: 0,
                };
                assert_eq!(event, &expected, "{what}");
                // A part of the flows goes on, so that all gauges count.
                if outcome.reason.action() == Action::Forward && random.random() {
                    plane.forward(&syn(client).segment(flags::ACK, 1001, 501).payload(b"request"));
                }
            }
            assert_eq!(losses.total().expect("the count is readable"), 0);
        }
    }
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn only_new_flows_are_reported_and_those_that_the_hash_says() {
    const EVERY: u32 = 4;
    let mut plane = Plane::new(&[spec(Policy::Least, 5)]);
    let (mut events, _) = traced(&mut plane, EVERY);
    let mut random = StdRng::seed_from_u64(22);
    let mut expected = 0;
    for _ in 0..200 {
        let client = random_client(&mut random);
        let hash = plane.hash(client, plane.vip_id(0));
        for packet in [
            syn(client),
            syn(client),
            syn(client).segment(flags::ACK, 1001, 501).payload(b"request"),
            syn(random_client(&mut random)).segment(flags::ACK, 1, 1),
        ] {
            plane.forward(&packet);
        }
        let reported = drain(&mut events);
        let hashes: Vec<u64> = reported.iter().map(|event| event.hash).collect();
        let wanted: &[u64] = if sampled(hash, EVERY) { &[hash] } else { &[] };
        assert_eq!(hashes, wanted, "{client}");
        expected += wanted.len();
    }
    assert!(expected > 10, "{expected} of 200 flows were to be reported");
    set_sample(&plane.maps(), 0);
    for _ in 0..20 {
        plane.forward(&syn(random_client(&mut random)));
    }
    assert_eq!(drain(&mut events), [], "nothing is reported without a trace");
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn a_new_flow_that_is_dropped_is_reported_with_the_reason() {
    let mut plane =
        Plane::new(&[service("10.200.1.3:53", UDP, lb_common::layout::Mode::L2, &["10.0.0.1:53"])]);
    let (mut events, _) = traced(&mut plane, 1);
    let backend = plane.backends()[0];
    plane.stand(backend, Standing { healthy: false, active: true, hop: None });
    let packet = arriving(Packet::udp(at("192.168.1.7:4000"), at("10.200.1.3:53")));
    assert_eq!(plane.reason(&packet), Reason::NoBackend);
    let [event] = drain(&mut events)[..] else { panic!("one flow was dropped") };
    assert_eq!((event.kind, event.reason), (Kind::Refused as u8, Reason::NoBackend as u8));
    assert_eq!((event.backend, event.why, event.candidates().len()), (NOBODY, NO_CHOICE, 0));
    assert_eq!(std::net::IpAddr::from(event.client), at("192.168.1.7:4000").ip());
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn what_the_ring_has_no_room_for_is_counted_and_its_packets_go_on() {
    const FLOWS: usize = 2 * RING_BYTES / size_of::<Event>();
    let mut plane = Plane::new(&[spec(Policy::Least, 5)]);
    let (mut events, losses) = traced(&mut plane, 1);
    let mut random = StdRng::seed_from_u64(23);
    for flow in 0..FLOWS {
        let outcome = plane.send(&syn(random_client(&mut random)).build());
        assert_eq!(outcome.reason, Reason::NewFlow, "flow {flow}");
    }
    let kept = drain(&mut events).len();
    let lost = losses.total().expect("the count is readable");
    assert_eq!(kept as u64 + lost, FLOWS as u64, "{kept} kept, {lost} lost");
    assert!(kept > FLOWS / 3 && lost > 0, "{kept} kept, {lost} lost");
    // There is room again.
    plane.forward(&syn(random_client(&mut random)));
    assert_eq!(drain(&mut events).len(), 1);
    assert_eq!(losses.total().expect("the count is readable"), lost);
    plane.check_gauges("after it all");
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn a_trace_that_ends_and_begins_anew_reports_no_flow_of_the_last_one() {
    let mut plane = Plane::new(&[spec(Policy::Least, 3)]);
    let (mut events, _) = traced(&mut plane, 1);
    let mut random = StdRng::seed_from_u64(24);
    for round in 0..20 {
        set_sample(&plane.maps(), round % 2);
        let client = random_client(&mut random);
        assert_eq!(plane.reason(&syn(client)), Reason::NewFlow);
        let clients: Vec<u16> =
            drain(&mut events).iter().map(|event| u16::from_be(event.client_port_be)).collect();
        let expected: &[u16] = if round % 2 == 1 { &[client.port()] } else { &[] };
        assert_eq!(clients, expected, "round {round}, to {VIP}");
    }
}
