use std::sync::{Arc, atomic::Ordering};

use lb_common::{
    layout::{Backend, PORT_SETS, RESERVED_SETS, Vip, backend_bits},
    slot::{Slot, State},
    table::{Limits, WAYS},
};

use super::{
    super::{
        loader::Maps,
        testing::{FLOW_SETS, endpoint, maps},
    },
    Pass, Policy, Range, Sweep,
};

#[test]
fn only_what_every_pass_has_shown_is_corrected() {
    for (differences, expected) in
        [(&[6, 8, 6][..], 3), (&[6, 0, 6], 0), (&[6, -2, 6], 0), (&[-4, -10, -4], -2), (&[1, 1, 1], 0)]
    {
        let mut range = Range::EMPTY;
        for &difference in differences {
            range.note(difference);
        }
        assert_eq!(range.shown_by_all(), expected, "{differences:?}");
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;
/// When slots were last heard of.
const THEN: u32 = 1000;

/// Backends 0 and 1, of a TCP and a UDP VIP with the same number.
fn two_vips(sources: u32) -> Arc<Maps> {
    let maps = maps(sources);
    for (id, protocol) in [(0u16, TCP), (1, UDP)] {
        let vip = Vip { endpoint: endpoint("10.0.0.1:80", protocol), id, ..Vip::default() };
        (0..2).for_each(|row| maps.vips.write(usize::from(id) * 2 + row, &vip));
        let mut backend = Backend { control: backend_bits::PRESENT, ..Backend::default() };
        backend.hops.iter_mut().for_each(|hop| hop.vip = id);
        maps.backends.write(usize::from(id), &backend);
    }
    maps
}

fn policy() -> Policy {
    let limits = |linger| Limits { idle_after: 2, idle_timeout: 500, half_open: 60, closing: linger, linger };
    Policy { tcp: limits(10), udp: limits(5), ports: limits(100) }
}

fn pass(maps: &Arc<Maps>, silent_for: u32) -> Pass {
    let mut sweep = Sweep::new(Arc::clone(maps), policy());
    let sets = sweep.sets();
    sweep.slice(sets, THEN + silent_for).expect("a whole pass")
}

#[test]
fn ports_rest_after_their_flow_and_slots_of_the_table_do_not() {
    let table = FLOW_SETS as usize - 1;
    let port = (FLOW_SETS + RESERVED_SETS) as usize;
    for (what, set, backend, state, silent_for, freed) in [
        ("a closed flow", table, 0, State::Closed, 10, true),
        ("a closed port", port, 0, State::Closed, 10, false),
        ("a closing port", port, 0, State::Closing, 99, false),
        ("a port that has rested", port, 0, State::Closed, 100, true),
        ("a port that was closing", port, 0, State::Closing, 100, true),
        ("a port of a datagram flow", port, 1, State::Closed, 5, false),
        ("one that has rested", port, 1, State::Closed, 100, true),
        ("an idle port", port, 0, State::Idle, 499, false),
        ("a port forgotten, which rests first", port, 0, State::Idle, 500, false),
        ("a flow forgotten", table, 0, State::Idle, 500, true),
    ] {
        let maps = two_vips(1);
        let word = maps.flows.word(set, 8);
        word.store(Slot::new(1 << 40, backend, state, THEN).0, Ordering::SeqCst);
        let pass = pass(&maps, silent_for);
        assert_eq!(Slot(word.load(Ordering::SeqCst)) == Slot::EMPTY, freed, "{what}");
        assert_eq!(pass.expired, u64::from(freed), "{what}");
    }
}

#[test]
fn a_port_whose_flow_expired_rests_as_if_it_had_been_closed() {
    let maps = two_vips(1);
    let word = maps.flows.word((FLOW_SETS + RESERVED_SETS) as usize, 8);
    for (backend, state, silent_for) in
        [(0, State::Idle, 500), (1, State::Idle, 500), (1, State::Awaiting, 500)]
    {
        word.store(Slot::new(1 << 40, backend, state, THEN).0, Ordering::SeqCst);
        pass(&maps, silent_for);
        let slot = Slot(word.load(Ordering::SeqCst));
        assert_eq!((slot.state(), slot.age()), (State::Closed, THEN + silent_for), "{state:?} of {backend}");
    }
}

#[test]
fn ports_are_counted_by_source_and_flows_apart_from_them() {
    let maps = two_vips(2);
    let fill = |set: u32, ways: usize| {
        for way in 0..ways {
            let slot = Slot::new((way as u64 + 1) << 40, 0, State::Awaiting, THEN);
            maps.flows.word(set as usize, way * 8).store(slot.0, Ordering::SeqCst);
        }
    };
    fill(0, 3);
    fill(FLOW_SETS + PORT_SETS - 1, WAYS);
    fill(FLOW_SETS + PORT_SETS + RESERVED_SETS, 2);
    let pass = pass(&maps, 0);
    assert_eq!((pass.used, &pass.ports[..]), (3, &[8, 2][..]));
    assert_eq!(pass.held[0], 13, "a backend holds its ports too");
}
