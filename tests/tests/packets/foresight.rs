//! What the daemon foresees of a client, and what the kernel then does with its SYN.

use std::{net::SocketAddr, sync::atomic::Ordering};

use guidevane::dataplane::{
    foresight::{Foresight, foresee},
    spec::{Standing, VipSpec},
};
use guidevane_tests::packet::flags;
use lb_common::{
    layout::Control,
    pick::Policy,
    reason::{Action, Reason},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::{
    plane::{Outcome, Plane, TCP, at, endpoint, up},
    policies::{VIP, random_client, shuffle, silence, spec, syn},
};

const POLICIES: [Policy; 5] =
    [Policy::Least, Policy::Bounded, Policy::Hash, Policy::RoundRobin, Policy::LeastConnections];
const CASES: usize = 10_000;

/// Leaves the governor's last tick just now, or long ago.
fn tick(plane: &Plane, fresh: bool) {
    const HEARTBEAT: usize = std::mem::offset_of!(Control, heartbeat);
    let hz = u64::from(plane.maps().meta.read(0).hz);
    let now = plane.dataplane.clock().jiffies();
    let heartbeat = if fresh { now } else { now.wrapping_sub(4 * hz) };
    plane.maps().control.word(0, HEARTBEAT).store(heartbeat, Ordering::SeqCst);
}

/// Takes a backend down, drains it or puts it back.
fn unsettle(plane: &mut Plane, random: &mut StdRng) {
    let backends = plane.backends();
    let id = backends[random.random_range(0..backends.len())];
    let standing = up(plane.address_of(id));
    let changed = Standing { healthy: random.random(), active: random.random(), ..standing };
    plane.stand(id, changed);
}

/// What was foreseen is what became of the SYN.
fn check(plane: &Plane, foreseen: &Foresight, outcome: &Outcome, what: &str) {
    let what = format!("{what}: {foreseen:?}, but {outcome:?}");
    let Some(backend) = foreseen.backend() else {
        return assert_eq!(outcome.reason, Reason::NoBackend, "{what}");
    };
    assert_eq!(outcome.reason.action(), Action::Forward, "{what}");
    assert_eq!(outcome.reason == Reason::Established, foreseen.goes_on, "{what}");
    assert_eq!(plane.backend_by_mac(&outcome.frame), backend, "{what}");
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn what_the_daemon_foresees_is_what_the_kernel_does_in_ten_thousand_of_ten_thousand_cases() {
    let sizes = [3, 8, 16, 40];
    let share = CASES / sizes.len() / POLICIES.len();
    let mut random = StdRng::seed_from_u64(50);
    let (mut checked, mut went_on, mut refused) = (0, 0, 0);
    for (round, backends) in sizes.into_iter().enumerate() {
        for policy in POLICIES {
            let client_affinity = round % 2 == 1;
            let mut plane = Plane::new(&[VipSpec { client_affinity, ..spec(policy, backends) }]);
            let mut clients: Vec<SocketAddr> = Vec::new();
            let wanted = checked + share;
            while checked < wanted {
                if checked % 10 == 0 {
                    shuffle(&plane, &mut random);
                }
                if checked % 40 == 0 {
                    unsettle(&mut plane, &mut random);
                }
                let client = match clients.len() {
                    known @ 1.. if random.random_ratio(1, 4) => clients[random.random_range(0..known)],
                    _ => random_client(&mut random),
                };
                let fresh = random.random();
                tick(&plane, fresh);
                let row = plane.row(&endpoint(at(VIP), TCP));
                let foreseen = foresee(&plane.maps(), row, client, plane.dataplane.clock().jiffies());
                let outcome = plane.send(&syn(client).build());
                clients.push(client);
                if fresh && silence(&plane) > u64::from(plane.maps().meta.read(0).hz) {
                    // The machine stood still for a second: the heartbeat may have grown stale meanwhile.
                    continue;
                }
                check(&plane, &foreseen, &outcome, &format!("{policy:?} among {backends}, case {checked}"));
                checked += 1;
                went_on += usize::from(foreseen.goes_on);
                refused += usize::from(foreseen.backend().is_none());
                if foreseen.backend().is_some() {
                    advance(&mut plane, client, &mut random);
                }
            }
        }
    }
    assert_eq!(checked, CASES);
    assert!(went_on > CASES / 20 && refused > 0, "{went_on} went on, {refused} were refused");
}

/// Takes a flow on to a random state.
fn advance(plane: &mut Plane, client: SocketAddr, random: &mut StdRng) {
    let packet = syn(client);
    let next = match random.random_range(0..5) {
        0 => packet.segment(flags::ACK, 1001, 501).payload(b"request"),
        1 => packet.segment(flags::RST, 1001, 501),
        2 => packet.segment(flags::FIN | flags::ACK, 1001, 501),
        3 => packet.segment(flags::ACK, 1001, 501),
        _ => return,
    };
    plane.send(&next.build());
}
