//! What the tests share: configurations, simulated servers in their namespaces, a real HTTP client.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr, TcpListener},
};

use guidevane_tests::{
    bed::{Background, Topology},
    sim::{
        metrics::Stats,
        profile::Profile,
        server::{ServerOptions, SimServer},
    },
};
use tokio::sync::oneshot;

/// Where servers listen, and in `l2` the VIP.
pub const PORT: u16 = 8000;

/// How the daemon forwards in a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    L2,
    Nat,
}

impl Mode {
    /// The network that the mode needs.
    pub fn topology(self, servers: usize) -> Topology {
        let made = match self {
            Self::L2 => Topology::one_arm(servers),
            Self::Nat => Topology::two_arm(servers),
        };
        made.expect("make the test bed")
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::Nat => "nat",
        }
    }
}

/// A configuration of one VIP an address family over all servers of a bed.
pub struct Plan<'a> {
    pub bed: &'a Topology,
    pub mode: Mode,
    pub policy: &'a str,
    pub vips: Vec<IpAddr>,
    pub metrics: bool,
    /// More lines of each VIP.
    pub extra: &'a str,
    /// Numbers of the servers that are backends.
    pub servers: Vec<usize>,
}

impl<'a> Plan<'a> {
    pub fn new(bed: &'a Topology, mode: Mode) -> Self {
        let vips = vec![IpAddr::V4(bed.vip.v4), IpAddr::V6(bed.vip.v6)];
        let servers = (0..bed.servers.len()).collect();
        Self { bed, mode, policy: "least", vips, metrics: true, extra: "", servers }
    }

    pub fn toml(&self) -> String {
        let mut text =
            String::from("[daemon]\nflows = 65536\n[health]\ninterval = \"200ms\"\ntimeout = \"150ms\"\n");
        for interface in &self.bed.balancer.interfaces {
            writeln!(text, "[[interface]]\nname = \"{}\"", interface.name).expect("write to a string");
        }
        for vip in &self.vips {
            self.vip(&mut text, *vip);
        }
        text
    }

    fn vip(&self, text: &mut String, vip: IpAddr) {
        let family = if vip.is_ipv4() { "v4" } else { "v6" };
        let (mode, policy, extra) = (self.mode.name(), self.policy, self.extra);
        writeln!(
            text,
            "[[vip]]\nname = \"{family}\"\naddress = \"{vip}\"\nport = {PORT}\nmode = \"{mode}\"\npolicy = \"{policy}\"\n{extra}"
        )
        .expect("write to a string");
        for &number in &self.servers {
            let address = server_address(self.bed, number, vip);
            let endpoint = SocketAddr::new(address, PORT);
            writeln!(text, "[[vip.backend]]\nname = \"{family}-{number}\"\naddress = \"{address}\"")
                .expect("write to a string");
            if self.metrics {
                writeln!(text, "metrics = \"http://{endpoint}/metrics\"").expect("write to a string");
            }
        }
    }
}

/// A server's address of the same family as the VIP.
pub fn server_address(bed: &Topology, number: usize, vip: IpAddr) -> IpAddr {
    let address = bed.servers[number].address();
    if vip.is_ipv4() { IpAddr::V4(address.v4) } else { IpAddr::V6(address.v6) }
}

/// A simulated server inside the namespace of a bed's server, on all its addresses.
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    running: Option<Background<Stats>>,
}

impl Server {
    pub fn start(bed: &Topology, number: usize, options: ServerOptions) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let running = bed.servers[number].namespace.spawn_runtime(move || async move {
            let listener = TcpListener::bind((std::net::Ipv6Addr::UNSPECIFIED, PORT)).expect("listen");
            let server = SimServer::spawn(listener, options).expect("start the simulated server");
            let _ = stopped.await;
            let stats = server.stats();
            server.stop().await;
            stats
        });
        Self { stop: Some(stop), running: Some(running) }
    }

    /// Starts one on every server of a bed.
    pub fn everywhere(bed: &Topology, options: &ServerOptions) -> Vec<Self> {
        (0..bed.servers.len()).map(|number| Self::start(bed, number, options.clone())).collect()
    }

    /// Stops it and says what it did.
    pub fn stop(mut self) -> Stats {
        drop(self.stop.take());
        self.running.take().expect("it runs until it is stopped").join()
    }
}

/// A fast small server, so that tests do not wait for tokens.
pub fn quick() -> ServerOptions {
    let profile = Profile::named("h100-8b").expect("a profile of the simulator");
    let mut options = ServerOptions::new(profile);
    options.driver.speed = 4.0;
    options.close = true;
    options
}

/// Streams a completion with curl inside the client's namespace, and gives what it printed.
pub fn curl(bed: &Topology, vip: IpAddr, tokens: u32) -> String {
    let url = format!("http://{}/v1/completions", SocketAddr::new(vip, PORT));
    let body = format!(r#"{{"prompt":"tell me","max_tokens":{tokens},"stream":true}}"#);
    let is_vip = [bed.vip, bed.announced].iter().any(|held| held.both().contains(&vip));
    let output = bed
        .client
        .namespace
        .command("curl")
        // Not from the ports of flows through the VIP: a direct connection from one of them is a stated limit.
        .args(if is_vip { &[][..] } else { &["--local-port", "2000-19000"] })
        .args(["--no-progress-meter", "--globoff", "--no-buffer", "--max-time", "60", "--data", &body, &url])
        .output()
        .expect("run curl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "curl {url}: {}: {}{text}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// TCP segments and UDP datagrams with a wrong checksum that the hosts of a bed have received.
pub fn checksum_errors(bed: &Topology) -> u64 {
    let hosts = bed.servers.iter().chain([&bed.client, &bed.balancer]);
    hosts.map(|host| host.namespace.run(checksum_errors_here)).sum()
}

fn checksum_errors_here() -> u64 {
    let read =
        |file: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).expect("read counters");
    let v4 = read("snmp");
    let v6 = read("snmp6");
    let mut errors = 0;
    let mut lines = v4.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let columns = names.split(' ').zip(values.split(' '));
        errors += columns
            .filter(|(name, _)| *name == "InCsumErrors")
            .map(|(_, value)| value.parse::<u64>().expect("a counter"))
            .sum::<u64>();
    }
    let v6 = v6.lines().filter(|line| line.contains("CsumErrors"));
    errors + v6.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum::<u64>()
}
