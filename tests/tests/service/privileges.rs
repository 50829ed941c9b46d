//! The capabilities that the units leave are enough, and none of them is too many.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use guidevane_tests::{bed::Topology, daemon::Daemon};

/// The capabilities of a unit, as setpriv writes them.
fn capabilities(unit: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lb-userspace/dist/systemd").join(unit);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{unit}: {error}"));
    let set = text.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let set = set.unwrap_or_else(|| panic!("{unit} bounds nothing"));
    set.split(' ').map(|name| name.trim_start_matches("CAP_").to_lowercase()).collect()
}

/// Announces by ARP, scrapes, pins: what needs most.
fn configuration(bed: &Topology) -> String {
    let (interface, vip, server) =
        (bed.balancer.interfaces[0].name, bed.announced.v4, bed.servers[0].address().v4);
    let pin = bed.bpffs.path().join("guidevane");
    format!(
        "[daemon]\nflows = 4096\npin = \"{}\"\n[[interface]]\nname = \"{interface}\"\n[[vip]]\nname = \"chat\"\n\
         address = \"{vip}\"\nport = 8000\nmode = \"l2\"\nannounce = \"arp\"\n[[vip.backend]]\nname = \"gpu-0\"\n\
         address = \"{server}\"\n",
        pin.display()
    )
}

/// Whether a daemon with these capabilities alone comes up, and what it logged.
fn comes_up(bed: &Topology, capabilities: &[String]) -> (bool, String) {
    let set = capabilities.iter().map(|name| format!(",+{name}")).collect::<String>();
    let wrapper = ["setpriv".to_owned(), format!("--bounding-set=-all{set}"), "--inh-caps=-all".to_owned()];
    let mut daemon = Daemon::start_under(&bed.balancer.namespace, &configuration(bed), &wrapper);
    let up = daemon.comes_up();
    if up {
        daemon.terminate();
    }
    (up, daemon.log())
}

#[test]
#[ignore = "needs root: network namespaces, XDP and capabilities"]
fn the_daemon_runs_with_its_units_capabilities_and_with_none_less() {
    if Command::new("setpriv").arg("--version").stdout(Stdio::null()).status().is_err() {
        return eprintln!("SKIPPED: no setpriv; install Debian's package util-linux");
    }
    let capabilities = capabilities("guidevane.service");
    let bed = Topology::one_arm(1).expect("make the test bed");
    let (up, log) = comes_up(&bed, &capabilities);
    assert!(up, "with {capabilities:?}:\n{log}");
    for (at, name) in capabilities.iter().enumerate() {
        // Adopting needs what loading afresh does; the pins of the last round must not stand in.
        let bed = Topology::one_arm(1).expect("make the test bed");
        let mut fewer = capabilities.clone();
        fewer.remove(at);
        let (up, log) = comes_up(&bed, &fewer);
        assert!(!up, "{name} is not needed:\n{log}");
    }
}
