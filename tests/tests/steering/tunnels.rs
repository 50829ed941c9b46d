//! A curl that streams through tunnels: the daemon wraps, `guidevane decap` unwraps on every server.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader},
    net::IpAddr,
    process::{Child, Stdio},
};

use guidevane_tests::{
    bed::{Host, Topology},
    daemon::{Daemon, binary},
};

use crate::support::{PORT, Server, curl, quick};

const SERVERS: usize = 2;
/// Requests a VIP and kind of tunnel: enough for every backend to get some.
const REQUESTS: usize = 6;
/// Tokens a request.
const TOKENS: u32 = 16;
/// Nobody's addresses; nothing answers to them, so they need no route.
const SOURCES: [&str; 2] = ["172.16.0.0/16", "fd00:1::/64"];

/// A running `guidevane decap`; killed when dropped.
struct Decap(Child);

impl Decap {
    /// Starts it and waits until it is ready.
    fn start(server: &Host) -> Self {
        let mut command = server.namespace.command(binary());
        command.args(["decap", "--interface", server.interfaces[0].name]);
        command.args(SOURCES.iter().flat_map(|source| ["--from", source]));
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("start guidevane");
        let mut decap = Self(child);
        let mut said = String::new();
        let mut lines = BufReader::new(decap.0.stderr.take().expect("standard error is piped"));
        while !said.lines().any(|line| line.starts_with("ready:")) {
            let read = lines.read_line(&mut said).expect("read its standard error");
            assert!(read > 0, "it ended before it was ready:\n{said}");
        }
        decap
    }
}

impl Drop for Decap {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A VIP of each family; with `crossed`, each over the servers' addresses of the other one.
fn configuration(bed: &Topology, encap: &str, crossed: bool) -> String {
    let [v4, v6] = SOURCES;
    let mut text = format!(
        "[daemon]\nflows = 65536\n[health]\ninterval = \"200ms\"\ntimeout = \"150ms\"\n\
         [tunnel]\nsource_v4 = \"{v4}\"\nsource_v6 = \"{v6}\"\n[[interface]]\nname = \"{}\"\n",
        bed.front().name
    );
    for vip in bed.vip.both() {
        let family = if vip.is_ipv4() { "v4" } else { "v6" };
        write!(
            text,
            "[[vip]]\nname = \"{family}\"\naddress = \"{vip}\"\nport = {PORT}\nmode = \"tunnel\"\nencap = \"{encap}\"\n"
        )
        .expect("write to a string");
        for (number, server) in bed.servers.iter().enumerate() {
            let [own, other] = match (vip, server.address()) {
                (IpAddr::V4(_), server) => server.both(),
                (IpAddr::V6(_), server) => [server.v6.into(), server.v4.into()],
            };
            let address = if crossed { other } else { own };
            writeln!(text, "[[vip.backend]]\nname = \"{family}-{number}\"\naddress = \"{address}\"")
                .expect("write to a string");
        }
    }
    text
}

fn streams_through(encap: &str) {
    let bed = Topology::one_arm(SERVERS).expect("make the test bed");
    let _servers = Server::everywhere(&bed, &quick());
    let _decaps: Vec<Decap> = bed.servers.iter().map(Decap::start).collect();
    for crossed in [false, true] {
        let mut daemon = Daemon::start(&bed.balancer.namespace, &configuration(&bed, encap, crossed));
        daemon.wait_until_up();
        for vip in bed.vip.both() {
            for _ in 0..REQUESTS {
                let answer = curl(&bed, vip, TOKENS);
                assert!(answer.contains("data: [DONE]"), "{vip}, crossed {crossed}: cut:\n{answer}");
            }
        }
        let snapshot = daemon.status().expect("the daemon answers");
        for vip in &snapshot.vips {
            assert_eq!(vip.new_flows, REQUESTS as u64, "{}: each request is a connection", vip.name);
        }
        assert!(daemon.terminate().success(), "{}", daemon.log());
    }
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn curl_streams_through_ip_tunnels_in_every_pair_of_families() {
    streams_through("ip");
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn curl_streams_through_gue_tunnels_in_every_pair_of_families() {
    streams_through("gue");
}
