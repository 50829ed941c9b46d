//! Which build of the kernel object the daemon takes.

use std::{fs, net::IpAddr, path::Path};

use guidevane::dataplane::build::{Build, OBJECT_VARIABLE};
use guidevane_tests::{bed::Topology, daemon::Daemon};

use crate::support::{Mode, Plan, Server, curl, quick};

/// A 64-bit atomic operation, and the immediate that makes it a compare-exchange:
/// <https://docs.kernel.org/bpf/standardization/instruction-set.html#atomic-operations>.
const ATOMIC: u8 = 0xdb;
const COMPARE_EXCHANGE: u32 = 0xf1;
/// An immediate that no kernel knows.
const UNKNOWN: u32 = 0xf7;

/// The modern object with every compare-exchange made into what the kernel does not know.
fn without_compare_exchange() -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace");
    let mut object =
        fs::read(root.join("lb-ebpf/object/guidevane.bpf.o")).expect("read the committed object");
    let mut changed = 0;
    for instruction in object.chunks_exact_mut(8) {
        let (operation, immediate) = instruction.split_at_mut(4);
        if operation[0] == ATOMIC && *immediate == COMPARE_EXCHANGE.to_le_bytes() {
            immediate.copy_from_slice(&UNKNOWN.to_le_bytes());
            changed += 1;
        }
    }
    assert!(changed > 0, "the modern build has compare-exchanges");
    object
}

/// The build in use once everything is up.
fn running(daemon: &mut Daemon) -> Build {
    daemon.wait_until_up().daemon.kernel.build
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn the_newest_build_that_the_kernel_takes_is_chosen_and_shown() {
    let bed = Topology::one_arm(1).expect("make the test bed");
    let _servers = Server::everywhere(&bed, &quick());
    let mut plan = Plan::new(&bed, Mode::L2);
    plan.vips = vec![IpAddr::V4(bed.vip.v4)];
    let mut daemon = Daemon::start(&bed.balancer.namespace, &plan.toml());
    let build = running(&mut daemon);
    println!("this kernel takes the {} build", build.name());
    assert_eq!(build == Build::Legacy, is_before_5_18(), "the kernel has what the build needs");
    assert!(daemon.terminate().success(), "{}", daemon.log());
    let refused = bed.bpffs.path().with_extension("o");
    fs::write(&refused, without_compare_exchange()).expect("write the object");
    let pin = format!("[daemon]\npin = \"{}\"", bed.bpffs.path().join("guidevane").display());
    let pinned = plan.toml().replace("[daemon]", &pin);
    for configuration in [plan.toml(), pinned] {
        let environment = [(OBJECT_VARIABLE, refused.as_path())];
        let mut daemon = Daemon::start_with(&bed.balancer.namespace, &configuration, &environment);
        assert_eq!(running(&mut daemon), Build::Legacy);
        let log = daemon.log();
        assert!(log.contains("refuses the modern build"), "the reason is logged: {log}");
        assert!(curl(&bed, plan.vips[0], 4).contains("data: [DONE]"), "the legacy build steers");
        assert!(daemon.terminate().success(), "{}", daemon.log());
    }
    fs::remove_file(refused).expect("remove the object");
}

fn is_before_5_18() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel tells its release");
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) < (Some(5), Some(18))
}
