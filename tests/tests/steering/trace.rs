//! `guidevane trace` on a daemon that steers real connections.

use std::{
    io::Write as _,
    net::IpAddr,
    os::unix::net::UnixStream,
    process::{Child, Command, Stdio},
};

use guidevane::api::{Client, FlowEvent, Lost, Outcome, Response, TraceRequest, Traced};
use guidevane_tests::{
    bed::Topology,
    daemon::{Daemon, binary},
};

use crate::support::{Mode, Plan, Server, curl, quick};

/// Starts `guidevane trace` with these arguments.
fn trace(daemon: &Daemon, arguments: &[&str]) -> Child {
    let mut command = Command::new(binary());
    command.arg("--socket").arg(daemon.socket()).arg("trace").args(arguments);
    command.stdout(Stdio::piped()).spawn().expect("start guidevane trace")
}

/// What a trace has printed when it has ended well.
fn printed(trace: Child) -> String {
    let output = trace.wait_with_output().expect("wait for guidevane trace");
    assert!(output.status.success(), "guidevane trace: {}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

/// Waits until the kernel reports one in `sample` new flows.
fn wait_for_sample(daemon: &mut Daemon, sample: u32) {
    daemon.wait_for("traces", |snapshot| snapshot.daemon.events.sample == sample);
}

/// An event is of a flow to the VIP `v4`, whole, and makes sense.
fn check(event: &FlowEvent, client: IpAddr) {
    assert_eq!(
        (event.outcome, event.reason.as_str(), event.vip.as_str()),
        (Outcome::Opened, "new_flow", "v4")
    );
    assert_eq!(event.client.ip(), client);
    let names: Vec<&str> = event.candidates.iter().map(|candidate| candidate.backend.as_str()).collect();
    assert_eq!(
        {
            let mut sorted = names.clone();
            sorted.sort_unstable();
            sorted
        },
        ["v4-0", "v4-1", "v4-2"],
        "a small VIP's candidates are all its backends: {event:?}"
    );
    let picked: Vec<_> = event.candidates.iter().filter(|candidate| candidate.picked).collect();
    let [picked] = picked[..] else { panic!("one candidate is picked: {event:?}") };
    assert_eq!(Some(&picked.backend), event.backend.as_ref());
    assert!(event.why.is_some() && event.candidates.iter().all(|it| it.load > 0.0), "{event:?}");
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn a_trace_shows_connections_as_they_are_opened() {
    let bed = Mode::L2.topology(3);
    let _servers = Server::everywhere(&bed, &quick());
    let mut daemon = Daemon::start(&bed.balancer.namespace, &Plan::new(&bed, Mode::L2).toml());
    daemon.wait_until_up();
    let client = IpAddr::V4(bed.client.address().v4);
    let only = client.to_string();
    let json = trace(&daemon, &["--vip", "v4", "--client", &only, "--count", "3", "--json"]);
    let people = trace(&daemon, &["--reason", "new_flow", "--count", "1"]);
    wait_for_sample(&mut daemon, 1);
    // The other VIP's are not asked for.
    curl(&bed, IpAddr::V6(bed.vip.v6), 2);
    for _ in 0..3 {
        curl(&bed, IpAddr::V4(bed.vip.v4), 2);
    }
    let json = printed(json);
    let responses: Vec<Response> = json
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let [Response::Event(a), Response::Event(b), Response::Event(c), Response::Traced(end)] = &responses[..]
    else {
        panic!("three events and an end: {json}")
    };
    for event in [a, b, c] {
        check(event, client);
    }
    assert!(a.unix_seconds < b.unix_seconds && b.unix_seconds < c.unix_seconds, "{json}");
    assert_eq!(*end, Traced { events: 3, lost: Lost::default() });
    let people = printed(people);
    assert!(people.contains(" -> v") && people.contains("PICK  BACKEND"), "{people}");
    assert!(people.ends_with("\n1 event, none lost\n"), "{people}");
    wait_for_sample(&mut daemon, 0);
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn the_densest_trace_decides_and_one_that_reads_nothing_holds_up_nobody() {
    let bed: Topology = Mode::Nat.topology(3);
    let _servers = Server::everywhere(&bed, &quick());
    let mut daemon = Daemon::start(&bed.balancer.namespace, &Plan::new(&bed, Mode::Nat).toml());
    daemon.wait_until_up();
    let mut idle = UnixStream::connect(daemon.socket()).expect("reach the daemon");
    idle.write_all(b"{\"trace\":{\"every\":2}}\n").expect("ask for a trace");
    wait_for_sample(&mut daemon, 2);
    let request = TraceRequest { vip: Some("v4".to_owned()), ..TraceRequest::default() };
    let client = Client::connect(&daemon.socket()).expect("reach the daemon");
    let mut tracer = client.trace(&request).expect("ask for a trace");
    wait_for_sample(&mut daemon, 1);
    for _ in 0..10 {
        curl(&bed, IpAddr::V4(bed.vip.v4), 2);
        check(&tracer.receive().expect("an event").expect("no end"), bed.client.address().v4.into());
    }
    let stop = tracer.stopper().expect("a trace can be stopped");
    stop();
    let end = tracer.receive().expect("an end").expect_err("no event");
    assert_eq!(end, Traced { events: 10, lost: Lost::default() });
    wait_for_sample(&mut daemon, 2);
    drop(idle);
    wait_for_sample(&mut daemon, 0);
    assert!(daemon.terminate().success(), "{}", daemon.log());
}
