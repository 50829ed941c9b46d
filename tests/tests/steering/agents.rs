//! Agents beside the servers: their reports reach the governor, and their loss costs no connection.

use std::{
    fs::{self, File},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use guidevane::{
    agent::enroll::{Enrolled, Subject, enroll},
    api::Snapshot,
};
use guidevane_tests::{
    bed::Topology,
    daemon::{Daemon, binary},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{Mode, PORT, Plan, Server, curl, quick, server_address};

pub const AGENT_PORT: u16 = 9900;

/// `guidevane agent` on a server's host; killed when dropped.
pub struct Agent(Child);

impl Agent {
    /// For the server's metrics at a port; `around` is the program that starts it and its arguments, if any.
    pub fn start(bed: &Topology, number: usize, metrics: u16, room: &Path, around: &[&str]) -> Self {
        let address = server_address(bed, number, bed.vip.v4.into());
        let name = format!("v4-{number}");
        let subject = Subject::Agent { hosts: vec![address.to_string()], backends: vec![name.clone()] };
        let Enrolled { ca, made, .. } = enroll(room, &subject, 1, true).expect("enrol the agent");
        let (listen, metrics) = (SocketAddr::new(address, AGENT_PORT), SocketAddr::new(address, metrics));
        let text = format!(
            "[agent]\nlisten = \"{listen}\"\nca = {ca:?}\ncert = {:?}\nkey = {:?}\n[scrape]\ninterval = \"50ms\"\n\
             [[backend]]\nname = \"{name}\"\nmetrics = \"http://{metrics}/metrics\"\n",
            made.cert, made.key
        );
        let file = room.join(format!("agent-{number}.toml"));
        fs::write(&file, text).expect("write the agent's configuration");
        let log = File::create(room.join(format!("agent-{number}.log"))).expect("create its log");
        let words = around.iter().map(PathBuf::from).chain([binary()]).collect::<Vec<_>>();
        let mut command = bed.servers[number].namespace.command(&words[0]);
        command.args(&words[1..]).args(["agent", "--config"]).arg(file).stdout(Stdio::null()).stderr(log);
        Self(command.spawn().expect("start the agent"))
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).expect("signal the agent");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A configuration with the agents of some IPv4 backends.
pub fn with_agents(bed: &Topology, toml: &str, balancer: &Enrolled, numbers: &[usize]) -> String {
    let Enrolled { ca, made, .. } = balancer;
    let agents = format!(
        "[agents]\nca = {ca:?}\ncert = {:?}\nkey = {:?}\ninterval = \"5ms\"\n[health]",
        made.cert, made.key
    );
    numbers.iter().fold(toml.replace("[health]", &agents), |text, number| {
        let address = server_address(bed, *number, bed.vip.v4.into());
        let name = format!("name = \"v4-{number}\"");
        text.replace(&name, &format!("{name}\nagent = \"https://{address}:{AGENT_PORT}\""))
    })
}

/// Ages of the reports of all backends, in seconds.
fn ages(snapshot: &Snapshot) -> Vec<Option<f64>> {
    let backends = snapshot.vips.iter().flat_map(|vip| &vip.backends);
    backends.map(|backend| backend.reported.as_ref().map(|reported| reported.age_seconds)).collect()
}

fn fresh(snapshot: &Snapshot) -> bool {
    ages(snapshot).iter().all(|age| age.is_some_and(|age| age < 1.0))
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn agents_that_die_or_stall_cost_no_connection_and_are_heard_again() {
    let bed = Topology::one_arm(2).expect("make the test bed");
    let _servers = Server::everywhere(&bed, &quick());
    let room = tempfile::tempdir().expect("a temporary folder");
    let balancer = enroll(room.path(), &Subject::Balancer, 1, false).expect("enrol the balancer");
    let mut plan = Plan::new(&bed, Mode::L2);
    let vip = IpAddr::V4(bed.vip.v4);
    (plan.vips, plan.metrics) = (vec![vip], false);
    let text = with_agents(&bed, &plan.toml(), &balancer, &[0, 1]);
    let mut agents: Vec<Agent> =
        (0..2).map(|number| Agent::start(&bed, number, PORT, room.path(), &[])).collect();
    let mut daemon = Daemon::start(&bed.balancer.namespace, &text);
    daemon.wait_until_up();
    daemon.wait_for("fresh reports of both", fresh);

    agents[0].signal(Signal::SIGKILL);
    agents[1].signal(Signal::SIGSTOP);
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        assert!(curl(&bed, vip, 4).contains("[DONE]"), "a request without agents");
    }
    let snapshot = daemon.wait_for("reports that age", |snapshot| {
        ages(snapshot).iter().all(|age| age.is_some_and(|age| age > 3.0))
    });
    for backend in &snapshot.vips[0].backends {
        assert_eq!(backend.correction, 0.0, "{}: an old report holds no correction", backend.name);
    }
    for words in ["does not report on backend v4-0: ", "does not report on backend v4-1: no report for 2s"] {
        assert!(daemon.log().contains(words), "`{words}` is not in:\n{}", daemon.log());
    }

    agents[1].signal(Signal::SIGCONT);
    agents[0] = Agent::start(&bed, 0, PORT, room.path(), &[]);
    daemon.wait_for("fresh reports of both", fresh);
    assert!(curl(&bed, vip, 4).contains("[DONE]"), "a request with agents");
}
