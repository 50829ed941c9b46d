//! Real connections through both topologies, in both families.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use nix::sys::{
    socket::{setsockopt, sockopt},
    time::{TimeVal, TimeValLike as _},
};

use guidevane_tests::bed::{Host, Namespace, Topology, xdp};

use crate::{PATIENCE, PORT, forwarder::forwarder};

/// Many segments, so that both directions are in flight at once.
const PAYLOAD: usize = 160 * 1024;
/// How long a packet that must not arrive is waited for.
const SILENCE: Duration = Duration::from_millis(300);

/// Sends the payload from `client` to `to`, where `server` listens, and back; returns the server's own address
/// as its accepted socket shows it.
fn echo(client: &Namespace, server: &Namespace, to: IpAddr) -> IpAddr {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let listener = server.run(|| TcpListener::bind((any, PORT)).expect("the server can listen"));
    // A client that cannot connect must fail the test, not leave it waiting here.
    setsockopt(&listener, sockopt::ReceiveTimeout, &TimeVal::seconds(2 * PATIENCE.as_secs().cast_signed()))
        .expect("a time-out can be set");
    let payload: Vec<u8> = (0..PAYLOAD).map(|index| (index % 251) as u8).collect();
    thread::scope(|scope| {
        let serving = scope.spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client connects");
            stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
            let mut received = Vec::new();
            stream.read_to_end(&mut received).expect("the whole request arrives");
            stream.write_all(&received).expect("the answer is sent");
            stream.local_addr().expect("a local address").ip()
        });
        let answer = client.run(|| {
            let to = SocketAddr::new(to, PORT);
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)
                .unwrap_or_else(|error| panic!("no connection to {to}: {error}"));
            stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
            stream.write_all(&payload).expect("the request is sent");
            stream.shutdown(Shutdown::Write).expect("the request can end");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).expect("the whole answer arrives");
            answer
        });
        assert!(answer == payload, "{to} answered with other bytes");
        serving.join().expect("the server ends well")
    })
}

/// TCP packets that this namespace has refused for a wrong checksum, both families.
fn checksum_errors(namespace: &Namespace) -> u64 {
    let text = namespace.run(|| fs::read_to_string("/proc/thread-self/net/snmp")).expect("counters");
    let mut rows = text.lines().filter(|line| line.starts_with("Tcp:")).map(|line| line.split(' '));
    let (mut names, mut values) = (rows.next().expect("names"), rows.next().expect("values"));
    let column = names.position(|name| name == "InCsumErrors").expect("a column of errors");
    values.nth(column).expect("a value for each name").parse().expect("a number")
}

fn assert_checksums_right<'a>(hosts: impl IntoIterator<Item = &'a Host>) {
    for host in hosts {
        let name = host.namespace.name();
        assert_eq!(checksum_errors(&host.namespace), 0, "{name} refused packets for their checksum");
    }
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn with_one_arm_the_client_reaches_every_server_directly() {
    let bed = Topology::one_arm(2).expect("a bed");
    for server in &bed.servers {
        for address in server.address().both() {
            assert_eq!(echo(&bed.client.namespace, &server.namespace, address), address);
        }
    }
    assert_checksums_right(bed.servers.iter().chain([&bed.client]));
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn with_two_arms_everything_is_routed_by_the_balancer() {
    let bed = Topology::two_arm(2).expect("a bed");
    for host in bed.servers.iter().chain([&bed.balancer]) {
        for address in host.address().both() {
            assert_eq!(echo(&bed.client.namespace, &host.namespace, address), address);
        }
    }
    for address in bed.client.address().both() {
        assert_eq!(echo(&bed.servers[0].namespace, &bed.client.namespace, address), address);
    }
    assert_checksums_right(bed.servers.iter().chain([&bed.client, &bed.balancer]));
}

#[test]
#[ignore = "needs root: makes network namespaces and loads XDP programs"]
fn with_one_arm_frames_sent_back_from_xdp_reach_the_server_that_holds_the_vip() {
    let bed = Topology::one_arm(2).expect("a bed");
    let server = &bed.servers[1];
    let program = forwarder(bed.front(), server.interfaces[0], None);
    let attached = xdp::attach(&bed.balancer.namespace, bed.front().index, &program).expect("it attaches");
    for vip in bed.vip.both() {
        assert_eq!(echo(&bed.client.namespace, &server.namespace, vip), vip, "the server answers as the VIP");
    }
    assert_checksums_right([server, &bed.client]);
    drop(attached);
    let to = SocketAddr::new(bed.vip.v4.into(), PORT);
    let refused = bed.client.namespace.run(|| TcpStream::connect_timeout(&to, SILENCE)).is_err();
    assert!(refused, "nothing forwards the VIP once the program is detached");
}

#[test]
#[ignore = "needs root: makes network namespaces and loads XDP programs"]
fn with_two_arms_frames_redirected_by_xdp_arrive_in_both_directions() {
    let bed = Topology::two_arm(1).expect("a bed");
    let (front, back, balancer) = (bed.front(), bed.back(), &bed.balancer.namespace);
    let (client, server) = (&bed.client, &bed.servers[0]);
    // Without routing, only the programs can have moved what arrives; ARP and neighbour discovery pass.
    let stop_routing = ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"];
    balancer.run(|| stop_routing.map(|path| fs::write(path, "0").expect("routing stops")));
    let there = forwarder(back, server.interfaces[0], Some(back));
    let return_path = forwarder(front, client.interfaces[0], Some(front));
    let _there = xdp::attach(balancer, front.index, &there).expect("it attaches in front");
    let _return = xdp::attach(balancer, back.index, &return_path).expect("it attaches behind");
    for address in server.address().both() {
        assert_eq!(echo(&client.namespace, &server.namespace, address), address);
    }
    assert_checksums_right([server, client]);
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn no_server_answers_arp_or_neighbour_discovery_for_a_vip() {
    let bed = Topology::one_arm(2).expect("a bed");
    for server in &bed.servers {
        for address in bed.announced.both() {
            let held = server.namespace.run(|| TcpListener::bind((address, PORT)));
            held.unwrap_or_else(|error| panic!("{} lacks {address}: {error}", server.namespace.name()));
        }
    }
    for address in bed.announced.both() {
        let to = SocketAddr::new(address, PORT);
        // Both families give up after three unanswered requests, a second apart.
        let error = bed.client.namespace.run(|| TcpStream::connect_timeout(&to, PATIENCE));
        let error = error.expect_err("nobody holds the address on the segment");
        assert_eq!(error.kind(), ErrorKind::HostUnreachable, "{to}: {error}");
    }
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn two_beds_with_the_same_addresses_live_side_by_side() {
    let beds = [Topology::one_arm(1).expect("a bed"), Topology::one_arm(1).expect("another bed")];
    assert_ne!(beds[0].bpffs.path(), beds[1].bpffs.path());
    thread::scope(|scope| {
        for bed in &beds {
            let server = &bed.servers[0];
            scope.spawn(|| echo(&bed.client.namespace, &server.namespace, server.address().v4.into()));
        }
    });
}
