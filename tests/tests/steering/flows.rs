//! `guidevane explain` and `flows` on a daemon that steers real connections.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    process::{Command, Output},
};

use guidevane::api::{Flow, FlowPage, Foresight, TableShares};
use guidevane_tests::daemon::{Daemon, binary};
use tokio::{net::TcpSocket, runtime};

use crate::support::{Mode, PORT, Plan, Server, curl, quick};

/// Runs the command on a daemon.
fn guidevane(daemon: &Daemon, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.arg("--socket").arg(daemon.socket()).args(arguments).output().expect("run guidevane")
}

/// What a command that ends well prints as JSON.
fn json<T: serde::de::DeserializeOwned>(daemon: &Daemon, arguments: &[&str]) -> T {
    let output = guidevane(daemon, &[arguments, &["-o", "json"]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn a_connection_goes_where_it_was_explained_to_go_and_is_found_among_the_flows() {
    for mode in [Mode::L2, Mode::Nat] {
        let bed = mode.topology(3);
        let _servers = Server::everywhere(&bed, &quick());
        let mut daemon = Daemon::start(&bed.balancer.namespace, &Plan::new(&bed, mode).toml());
        daemon.wait_until_up();
        // Loads that differ.
        curl(&bed, IpAddr::V4(bed.vip.v4), 2);
        let vip = SocketAddr::new(bed.vip.v4.into(), PORT);
        let named = format!("{vip}/tcp");
        for source in 20_001..20_011u16 {
            let client = SocketAddr::new(bed.client.address().v4.into(), source);
            let text = client.to_string();
            let none = guidevane(&daemon, &["flows", "where", &text, "v4"]);
            assert_eq!(none.status.code(), Some(1), "{mode:?}: {client} is no flow yet");
            let foreseen: Foresight = json(&daemon, &["explain", &text, &named]);
            assert_eq!((foreseen.goes_on, foreseen.flow.as_ref()), (false, None), "{mode:?}: {foreseen:?}");
            let connection = bed.client.namespace.run(move || connect(client, vip));
            let found: Flow = json(&daemon, &["flows", "where", &text, "v4"]);
            assert_eq!(Some(&found.backend), foreseen.backend.as_ref(), "{mode:?}: {found:?}, {foreseen:?}");
            let listed: FlowPage = json(&daemon, &["flows", "--backend", &found.backend, "--limit", "1000"]);
            let own = listed.flows.iter().find(|flow| flow.client == Some(client));
            let own = own.unwrap_or_else(|| panic!("{mode:?}: {client} is not among {:?}", listed.flows));
            assert_eq!((own.vip.as_str(), &own.backend), ("v4", &found.backend), "{mode:?}");
            assert!(own.open_seconds.is_some(), "{mode:?}: {own:?}");
            let again: Foresight = json(&daemon, &["explain", &text, "v4"]);
            assert_eq!((again.goes_on, &again.backend), (true, &foreseen.backend), "{mode:?}: {again:?}");
            drop(connection);
        }
        let other = guidevane(&daemon, &["explain", "[2001:db8::1]:4000", "v4"]);
        let said = String::from_utf8_lossy(&other.stderr).into_owned();
        assert!(said.contains("one is IPv4, the other IPv6"), "{said}");
        check_table(&daemon);
        assert!(daemon.terminate().success(), "{}", daemon.log());
    }
}

/// The table shares out all its slots, and a drain moves at least those of the backend that goes.
fn check_table(daemon: &Daemon) {
    let sum = |shares: &TableShares| shares.backends.iter().map(|backend| backend.slots).sum::<u32>();
    let before: TableShares = json(daemon, &["table", "v4"]);
    assert!(before.slots > 0 && sum(&before) == before.slots, "{before:?}");
    let drained = guidevane(daemon, &["backends", "drain", "v4-0"]);
    assert!(drained.status.success(), "drain: {drained:?}");
    let after: TableShares = json(daemon, &["table", "v4"]);
    assert_eq!((after.backends[0].slots, sum(&after)), (0, before.slots), "{after:?}");
    let moved = after.moved.unwrap_or_else(|| panic!("what moved is known: {after:?}"));
    assert!(moved >= before.backends[0].slots && moved < before.slots / 2, "{before:?}, {after:?}");
}

/// Opens a connection from a port of its own, and is answered, so that it is more than half-open.
fn connect(client: SocketAddr, vip: SocketAddr) -> TcpStream {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut stream = runtime.block_on(async {
        let socket = TcpSocket::new_v4().expect("make a socket");
        socket.bind(client).unwrap_or_else(|error| panic!("bind to {client}: {error}"));
        let stream = socket.connect(vip).await;
        let stream = stream.unwrap_or_else(|error| panic!("connect to {vip}: {error}"));
        stream.into_std().expect("a blocking socket")
    });
    stream.set_nonblocking(false).expect("a blocking socket");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: it\r\n\r\n").expect("ask");
    stream.read_exact(&mut [0; 1]).expect("an answer");
    stream
}
