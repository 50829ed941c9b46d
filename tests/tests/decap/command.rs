//! The command itself, on a server of the test bed, with real connections through every tunnel.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Child, Output, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use guidevane::net::announce::{PacketSocket, Transmit as _};
use guidevane_tests::{
    bed::{Interface, Namespace, Topology},
    daemon::binary,
    packet::tunnel::{Link, Outer, network},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::capture::Capture;

const PORT: u16 = 8000;
/// Far above what a busy machine needs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running `guidevane decap`; killed when dropped.
struct Decap {
    child: Child,
    /// Reads what it says after it was ready, until it ends.
    rest: Option<thread::JoinHandle<String>>,
}

impl Decap {
    /// Starts it and waits until it says that it is ready; gives everything that it said until then.
    fn start(namespace: &Namespace, interface: &str, arguments: &[&str]) -> (Self, String) {
        let mut command = namespace.command(binary());
        command.args(["decap", "--interface", interface, "-o", "json"]).args(arguments);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start guidevane");
        let stderr = child.stderr.take().expect("standard error is piped");
        let mut decap = Self { child, rest: None };
        let mut said = String::new();
        let mut lines = BufReader::new(stderr);
        while !said.lines().any(|line| line.starts_with("ready:")) {
            let read = lines.read_line(&mut said).expect("read its standard error");
            assert!(read > 0, "it ended before it was ready:\n{said}");
        }
        decap.rest = Some(thread::spawn(move || {
            let mut rest = String::new();
            lines.read_to_string(&mut rest).map(|_| rest).unwrap_or_else(|error| error.to_string())
        }));
        (decap, said)
    }

    /// Ends it as a service manager would, and gives its report.
    fn stop(mut self) -> Value {
        let id = i32::try_from(self.child.id()).expect("a process id");
        kill(Pid::from_raw(id), Signal::SIGTERM).expect("signal it");
        let mut report = String::new();
        let stdout = self.child.stdout.as_mut().expect("standard output is piped");
        stdout.read_to_string(&mut report).expect("read its standard output");
        let status = self.child.wait().expect("wait for it");
        assert!(status.success(), "it ended with {status}: {report}");
        serde_json::from_str(&report).unwrap_or_else(|error| panic!("{error}: {report}"))
    }

    /// Waits until it has ended by itself, and gives its exit code with what it said after it was ready.
    fn ended(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().expect("wait for it");
        let rest = self.rest.take().expect("it was ready").join().expect("its standard error was read");
        (status.code(), rest)
    }
}

impl Drop for Decap {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Puts what clients send to a VIP into a tunnel to a server, as a balancer would, until told to stop.
fn forward(balancer: Interface, server: Interface, vip: IpAddr, outer: &Outer, stop: &AtomicBool) {
    let capture = Capture::open(balancer.index).expect("a packet socket");
    let wire = PacketSocket::open().expect("a packet socket");
    let link = Link { source: balancer.mac, destination: server.mac, tags: Vec::new() };
    while !stop.load(Ordering::Relaxed) {
        let Some(frame) = capture.next().expect("receive a frame") else { continue };
        if destination(&frame) == Some(vip) && frame[..6] == balancer.mac {
            wire.transmit(balancer.index, &link.frame(&outer.around(network(&frame)))).expect("send a frame");
        }
    }
}

fn destination(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(12..14)? {
        [0x08, 0x00] => <[u8; 4]>::try_from(frame.get(30..34)?).map(IpAddr::from).ok(),
        [0x86, 0xdd] => <[u8; 16]>::try_from(frame.get(38..54)?).map(IpAddr::from).ok(),
        _ => None,
    }
}

/// Answers one TCP connection and one datagram, each with what it was sent.
fn echo(tcp: &TcpListener, udp: &UdpSocket) {
    let (mut stream, _) = tcp.accept().expect("accept a connection");
    let mut question = [0; 8];
    stream.read_exact(&mut question).expect("read from the connection");
    stream.write_all(&question).expect("write to the connection");
    let mut datagram = [0; 64];
    let (length, from) = udp.recv_from(&mut datagram).expect("receive a datagram");
    udp.send_to(&datagram[..length], from).expect("send a datagram");
}

/// Connects to the VIP over TCP and UDP, and checks that what comes back is what was sent.
fn ask(vip: SocketAddr) {
    let mut stream = TcpStream::connect_timeout(&vip, PATIENCE).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("set a limit");
    stream.write_all(b"over TCP").expect("write to the connection");
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).expect("read from the connection");
    assert_eq!(&answer, b"over TCP");
    let any: IpAddr = if vip.is_ipv4() { [0; 4].into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let udp = UdpSocket::bind((any, 0)).expect("a UDP socket");
    udp.set_read_timeout(Some(PATIENCE)).expect("set a limit");
    udp.connect(vip).expect("connect");
    udp.send(b"over UDP").expect("send a datagram");
    let mut datagram = [0; 64];
    let length = udp.recv(&mut datagram).expect("receive a datagram");
    assert_eq!(&datagram[..length], b"over UDP");
}

/// Has the client talk to a VIP through a tunnel.
fn converse(bed: &Topology, vip: IpAddr, outer: &Outer) {
    let server = &bed.servers[0];
    let at = SocketAddr::new(vip, PORT);
    let (tcp, udp) = server.namespace.run(|| {
        (TcpListener::bind(at).expect("listen on the VIP"), UdpSocket::bind(at).expect("bind the VIP"))
    });
    udp.set_read_timeout(Some(PATIENCE)).expect("set a limit");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            bed.balancer.namespace.run(|| forward(bed.front(), server.interfaces[0], vip, outer, &stop));
        });
        scope.spawn(|| echo(&tcp, &udp));
        // The forwarder must end, whatever the client met.
        let asked = thread::scope(|inner| inner.spawn(|| bed.client.namespace.run(|| ask(at))).join());
        stop.store(true, Ordering::Relaxed);
        asked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn real_connections_go_through_every_tunnel_in_either_mode() {
    for mode in ["native", "generic"] {
        let bed = Topology::one_arm(1).expect("make the test bed");
        let (balancer, server) = (bed.front().address, bed.servers[0].address());
        let (decap, said) = Decap::start(
            &bed.servers[0].namespace,
            "eth0",
            &["--mode", mode, "--from", "10.77.0.1", "--from", "fd77::1"],
        );
        assert!(said.contains(&format!("in {mode} mode, for {}", server.v4)), "{said}");
        let ways =
            [(IpAddr::from(balancer.v4), IpAddr::from(server.v4)), (balancer.v6.into(), server.v6.into())];
        for vip in bed.vip.both() {
            for (source, destination) in ways {
                converse(&bed, vip, &Outer::ip(source, destination));
                converse(&bed, vip, &Outer::gue(source, destination));
            }
        }
        let report = decap.stop();
        assert_eq!((&report["interface"], &report["mode"]), (&"eth0".into(), &mode.into()), "{report}");
        for vip in bed.vip.both() {
            let vips = report["vips"].as_array().expect("a list of VIPs");
            let entry = vips.iter().find(|entry| entry["address"] == vip.to_string());
            let packets = entry.and_then(|entry| entry["packets"].as_u64());
            // Four tunnels, each with a handshake, a question and a datagram at least.
            assert!(packets >= Some(4 * 4), "{vip}: {report}");
        }
        assert_eq!(report["drops"], serde_json::json!({}), "{report}");
    }
}

fn refused(namespace: &Namespace, arguments: &[&str]) -> Output {
    let mut command = namespace.command(binary());
    command.arg("decap").args(arguments).output().expect("run guidevane")
}

#[test]
#[ignore = "needs root: network namespaces"]
fn addresses_are_followed_and_a_second_program_is_refused_with_the_way_out() {
    let bed = Topology::one_arm(1).expect("make the test bed");
    let vip = IpAddr::from(bed.vip.v4);
    let new_end: IpAddr = [10, 77, 1, 200].into();
    let (decap, said) = Decap::start(&bed.servers[0].namespace, "eth0", &[]);
    assert!(said.contains("from any source"), "{said}");
    let output = refused(&bed.servers[0].namespace, &["--interface", "eth0"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("eth0") && message.contains("ip link set dev eth0 xdp off"), "{message}");
    run_ip(&bed.servers[0].namespace, "address add 10.77.1.200/16 dev eth0");
    // TCP sends again until the new address has reached the map.
    converse(&bed, vip, &Outer::ip(bed.front().address.v4.into(), new_end));
    decap.stop();
    // Nothing is left on the interface.
    let (decap, _) = Decap::start(&bed.servers[0].namespace, "eth0", &["--local", "10.77.1.200"]);
    converse(&bed, vip, &Outer::ip(bed.front().address.v4.into(), new_end));
    decap.stop();
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_driver_without_xdp_is_told_of_and_an_interface_that_goes_ends_it() {
    let namespace = Namespace::new("decap").expect("make a network namespace");
    let (decap, said) = Decap::start(&namespace, "lo", &[]);
    assert!(said.contains("attach to lo in native mode") && said.contains("falling back"), "{said}");
    assert!(said.contains("ready: on lo in generic mode, for 127.0.0.1, ::1, from any source"), "{said}");
    assert_eq!(decap.stop()["mode"], "generic");
    run_ip(&namespace, "link add eth0 type veth peer name far");
    let (decap, said) = Decap::start(&namespace, "eth0", &["--local", "10.77.1.1"]);
    assert!(said.contains("in native mode, for 10.77.1.1"), "{said}");
    run_ip(&namespace, "link del eth0");
    let (code, said) = decap.ended();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("interface eth0 is gone"), "{said}");
}

fn run_ip(namespace: &Namespace, arguments: &str) {
    let status = namespace.command("ip").args(arguments.split(' ')).status().expect("run ip");
    assert!(status.success(), "ip {arguments}");
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_missing_interface_and_a_wrong_prefix_are_refused_by_name() {
    let namespace = Namespace::new("decap").expect("make a network namespace");
    for (arguments, code, words) in [
        (&["--interface", "eth9"][..], 1, "interface eth9 does not exist; interfaces here: lo"),
        (&["--interface", "lo", "--mode", "native"][..], 1, "attach to lo in native mode"),
        (&["--interface", "lo", "--from", "10.1.2.3/8"][..], 2, "write `10.0.0.0/8`"),
        (&["--interface", "lo", "--local", "here"][..], 2, "--local"),
    ] {
        let output = refused(&namespace, arguments);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        assert!(message.contains(words), "{arguments:?}: {message}");
    }
}
