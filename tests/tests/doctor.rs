//! `guidevane doctor` on a host with something wrong, for real: in a network namespace, without a daemon.

use std::{fs, process::Output};

use guidevane_tests::{bed::Namespace, daemon::binary};

/// A balancer's end of a veth, `near`, and the other end, `far`, with a server's address behind it.
fn host() -> Namespace {
    let host = Namespace::new("doctor").expect("a namespace");
    ip(&host, "link add near type veth peer name far");
    ip(&host, "address add 10.78.0.1/24 dev near");
    // A neighbour that needs nobody to answer.
    ip(&host, "neighbour add 10.78.0.21 lladdr 02:00:00:78:00:15 dev near nud permanent");
    ip(&host, "link set near mtu 1600 up");
    ip(&host, "link set far mtu 1600 up");
    ethtool(&host, "-K far tx off");
    host
}

fn ip(host: &Namespace, arguments: &str) {
    run(host, "ip", arguments);
}

fn ethtool(host: &Namespace, arguments: &str) {
    run(host, "ethtool", arguments);
}

fn run(host: &Namespace, program: &str, arguments: &str) {
    let output = host.command(program).args(arguments.split_whitespace()).output().expect("run a program");
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn configuration(interface: &str) -> String {
    format!(
        "[tunnel]\nsource_v4 = \"172.16.0.0/16\"\n[[interface]]\nname = \"{interface}\"\n[[vip]]\nname = \"chat\"\n\
         address = \"10.78.0.10\"\nport = 8000\nprotocol = \"udp\"\nmode = \"tunnel\"\n[[vip.backend]]\nname = \"gpu-0\"\n\
         address = \"10.78.0.21\"\n"
    )
}

fn doctor(host: &Namespace, configuration: &str) -> Output {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("guidevane.toml");
    fs::write(&file, configuration).expect("write the configuration");
    host.command(binary())
        .args(["doctor", "-o", "json", "--config"])
        .arg(&file)
        .output()
        .expect("run guidevane")
}

/// Subject, verdict and remedy of what is wrong, and the exit code.
fn wrong(output: &Output) -> (Vec<(String, String, String)>, Option<i32>) {
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let findings = report["findings"].as_array().expect("findings");
    let text = |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let parts = findings.iter().map(|it| (text(it, "subject"), text(it, "verdict"), text(it, "remedy")));
    // What a machine's kernel, settings and driver are is not up to this test.
    let ours = |subject: &str| ["interface", "backend", "program"].iter().any(|of| subject.starts_with(of));
    let wrong = parts.filter(|(subject, verdict, _)| verdict != "ok" && ours(subject)).collect();
    (wrong, output.status.code())
}

#[test]
#[ignore = "needs root: a network namespace and XDP"]
fn what_was_broken_is_found_and_nothing_else() {
    let host = host();
    let tried = doctor(&host, &configuration("near"));
    let said = String::from_utf8_lossy(&tried.stdout).into_owned();
    assert_eq!(wrong(&tried).0, [], "{said}");
    assert!(said.contains("build, and a packet passes it"), "the program was tried: {said}");

    type Case = (&'static str, &'static str, &'static str, &'static str);
    const CASES: [Case; 4] = [
        ("ip link set near down", "interface near", "ip link set near up", "ip link set near up"),
        (
            "ip link set near mtu 1200",
            "interface near",
            "ip link set near mtu 1520",
            "ip link set near mtu 1600",
        ),
        ("ethtool -K far tx on", "interface near", "ethtool -K far tx off", "ethtool -K far tx off"),
        ("ip link set far down", "interface near", "ip link set near up", "ip link set far up"),
    ];
    for (spoil, subject, remedy, mend) in CASES {
        let (program, arguments) = spoil.split_once(' ').expect("a program and its arguments");
        run(&host, program, arguments);
        let (found, code) = wrong(&doctor(&host, &configuration("near")));
        let hit = found.iter().any(|it| it.0 == subject && it.1 == "fail" && it.2.starts_with(remedy));
        assert!(hit, "{spoil}: {found:?}");
        assert_eq!(code, Some(1), "{spoil}");
        let (program, arguments) = mend.split_once(' ').expect("a program and its arguments");
        run(&host, program, arguments);
        // The neighbour goes with the link.
        ip(&host, "neighbour replace 10.78.0.21 lladdr 02:00:00:78:00:15 dev near nud permanent");
    }
}

#[test]
#[ignore = "needs root: a network namespace and XDP"]
fn an_interface_that_is_not_there_is_named_beside_those_that_are() {
    let output = doctor(&host(), &configuration("eth7"));
    let (found, code) = wrong(&output);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(found.len(), 1, "{said}");
    assert_eq!(
        (found[0].0.as_str(), found[0].1.as_str(), code),
        ("interface eth7", "fail", Some(1)),
        "{said}"
    );
    assert!(said.contains("near") && said.contains("far"), "{said}");
}

#[test]
#[ignore = "needs root: a network namespace"]
fn a_wrong_configuration_is_refused_as_everywhere() {
    let output = doctor(&host(), "nonsense");
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}
