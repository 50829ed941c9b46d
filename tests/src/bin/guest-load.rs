//! Loads the kernel object as the daemon does, attaches it natively to a veth and sends a frame through it.
//!
//! For kernels other than this machine's: what it prints is what the verifier says.

use anyhow::{Context as _, Result};
use guidevane::dataplane::{Dataplane, attach::Port, loader::Options};
use guidevane_tests::bed::Topology;

/// Small, since guests have little memory.
const FLOW_SLOTS: u32 = 65_536;

fn main() -> Result<()> {
    let bed = Topology::two_arm(1)?;
    let host = &bed.balancer;
    host.namespace.run(|| {
        let mut dataplane =
            Dataplane::open(&Options { pin: None, flow_slots: FLOW_SLOTS, nat_sources: Vec::new() })?;
        println!("object {} loads", dataplane.object_sha256());
        if let Ok(count) = dataplane.kernel().verified_instructions() {
            println!("{count} verified instructions");
        }
        let port = |link: &guidevane_tests::bed::Interface| Port {
            name: link.name.to_owned(),
            index: link.index,
            generic: false,
        };
        let ports: Vec<Port> = host.interfaces.iter().map(port).collect();
        dataplane.attach(&ports)?;
        println!("attached natively to {} interfaces", ports.len());
        let (result, _) = dataplane.kernel().test_run(&[0; 64], 1).context("run it on a frame")?;
        println!("verdict on an empty frame: {}", result.return_value);
        Ok(())
    })
}
