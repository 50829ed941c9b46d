//! The program as such: what the verifier had to do, and what a packet costs.

use std::{net::SocketAddr, time::Duration};

use guidevane_tests::packet::{Packet, flags};
use lb_common::{layout::Mode, reason::Reason};

use crate::plane::{Plane, TCP, arriving, at, service};

/// A fifth of what the kernel allows: compilers change, and older kernels walk more.
const INSTRUCTIONS: u32 = 200_000;

#[test]
#[ignore = "needs root: loads the kernel program"]
fn the_verifier_is_done_well_below_its_limit() {
    let mut plane = Plane::new(&[]);
    let walked = plane.dataplane.kernel().verified_instructions().expect("the kernel tells");
    println!("{walked} verified instructions");
    assert!(walked < INSTRUCTIONS, "{walked} verified instructions");
}

/// Runs in a row of one frame: it is sent on from run to run, and its TTL must last.
const RUNS: u32 = 200;

/// The median of the kernel's own mean of `repeat` runs, over many frames.
fn median(plane: &mut Plane, frames: &[Vec<u8>], repeat: u32) -> Duration {
    let mut times: Vec<Duration> = frames
        .iter()
        .map(|frame| plane.dataplane.kernel().test_run(frame, repeat).expect("a test run").0.duration)
        .collect();
    plane.catch_up();
    times.sort();
    times[times.len() / 2]
}

#[test]
#[ignore = "needs root: loads the kernel program"]
fn report_of_nanoseconds_a_packet() {
    let mut plane = Plane::new(&[
        service("10.200.1.1:80", TCP, Mode::L2, &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]),
        service("[fc00:1::1]:80", TCP, Mode::L2, &["[fc00::1]:80", "[fc00::2]:80", "[fc00::3]:80"]),
    ]);
    let of = |vip: &str, port: u16| {
        let address = if at(vip).is_ipv4() { "192.168.1.7" } else { "2001:db8::7" };
        let client = SocketAddr::new(address.parse().expect("an address"), port);
        arriving(Packet::tcp(client, at(vip))).ttl(u8::MAX).segment(flags::SYN, 1000, 0)
    };
    println!("raw, with nothing taken off: the kernel's mean of {RUNS} runs of one frame, the median of 100");
    let foreign = vec![of("10.200.9.9:80", 1000).build(); 100];
    println!("not ours          {:>6} ns", median(&mut plane, &foreign, RUNS).as_nanos());
    for (vip, name) in [("10.200.1.1:80", "IPv4"), ("[fc00:1::1]:80", "IPv6")] {
        assert_eq!(plane.reason(&of(vip, 1000)), Reason::NewFlow);
        plane.forward(&of(vip, 1000).segment(flags::ACK, 1001, 501).payload(b"request"));
        plane.forward(&of(vip, 1000).segment(flags::ACK, 1008, 900));
        let known = vec![of(vip, 1000).segment(flags::ACK, 1008, 901).build(); 100];
        println!("established, {name} {:>6} ns", median(&mut plane, &known, RUNS).as_nanos());
        assert_eq!(plane.reason(&of(vip, 1000).segment(flags::ACK, 1008, 901)), Reason::Established);
        let fresh: Vec<_> = (2000..4000).map(|port| of(vip, port).build()).collect();
        println!("new flow, {name}    {:>6} ns (single cold runs)", median(&mut plane, &fresh, 1).as_nanos());
    }
}
