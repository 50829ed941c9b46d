//! What the daemon costs by itself: a tick of the governor, everything together, and the servers that it scrapes.
//!
//! The real daemon runs in the test bed with every signal there is: servers that it scrapes, GPUs of the stand-in, and
//! streams through the VIP. CPU time is the scheduler's count for its threads, so it holds what the system does for
//! them as well.

pub mod report;
pub mod scraped;
pub mod servers;
pub mod ticks;
pub mod usage;

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};

use self::{
    report::Upkeep,
    servers::{Detail, FIRST_PORT},
    ticks::Watch,
};
use crate::{bed::Topology, daemon::Daemon, nvml::Standin};

/// The governor's thread.
const GOVERNOR: &str = "governor";

/// GPUs of the host; backends share them.
const GPUS: u32 = 8;

/// Streams through the VIP for each backend.
const STREAMS: usize = 2;

/// Servers up to this number tell all that real ones do; above it, what is read alone.
const WHOLE_UP_TO: usize = 100;

/// Where servers are scraped: over loopback, which hands over long pieces, as a network card does. The bed's own links
/// hand over packet by packet, and each wakes the daemon.
const METRICS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Until learning and connections are as they stay.
const SETTLE: Duration = Duration::from_secs(5);

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many backends.
    pub backends: usize,
    /// Period of the governor.
    pub tick: Duration,
    /// How long usage is counted.
    pub time: Duration,
}

/// Runs it.
///
/// # Errors
/// The bed cannot be made, or the daemon ends.
///
/// # Panics
/// The daemon does not come up with every signal.
pub fn run(plan: &Plan) -> Result<Upkeep> {
    let bed = Topology::two_arm(1)?;
    let detail = if plan.backends <= WHOLE_UP_TO { Detail::Whole } else { Detail::Brief };
    let [balancer, server] = [&bed.balancer.namespace, &bed.servers[0].namespace];
    let _servers = servers::start(server, plan.backends, detail)?;
    let _metrics = servers::start(balancer, plan.backends, detail)?;
    let standin = Standin::with_servers(&(1..=GPUS).collect::<Vec<_>>());
    let mut daemon = Daemon::start(balancer, &configuration(&bed, &standin.library(), plan, METRICS));
    daemon.wait_until_up();
    let vip = SocketAddr::new(bed.vip.v4.into(), FIRST_PORT);
    let _streams = servers::stream(&bed, vip, plan.backends * STREAMS);
    daemon.wait_for("reading of every server and GPU, and all streams", |snapshot| {
        let backends = &snapshot.vips[0].backends;
        let streams: u32 = backends.iter().map(|backend| backend.streaming).sum();
        let told = backends.iter().all(|backend| {
            backend.gpu.as_ref().is_some_and(|gpu| gpu.speed.is_some()) && backend.reported.is_some()
        });
        told && streams as usize >= plan.backends * STREAMS * 9 / 10
    });
    std::thread::sleep(SETTLE);
    let watch = Watch::start(daemon.id(), GOVERNOR, plan.tick).context("find the governor's thread")?;
    let before = usage::of(daemon.id()).context("ask after the daemon")?;
    std::thread::sleep(plan.time);
    let after = usage::of(daemon.id()).context("ask after the daemon")?;
    Upkeep::of(plan, detail, &usage::between(&before, &after), watch.stop())
}

fn configuration(bed: &Topology, library: &Path, plan: &Plan, metrics: IpAddr) -> String {
    let (library, vip, tick) = (library.display(), bed.vip.v4, plan.tick.as_micros());
    let address = bed.servers[0].address().v4;
    let mut text = format!("[daemon]\nflows = 65536\ntick = \"{tick}us\"\n[nvml]\nlibrary = \"{library}\"\n");
    for interface in &bed.balancer.interfaces {
        let _ = writeln!(text, "[[interface]]\nname = \"{}\"", interface.name);
    }
    let _ = writeln!(
        text,
        "[[vip]]\nname = \"vip\"\naddress = \"{vip}\"\nport = {FIRST_PORT}\nmode = \"nat\"\npolicy = \"least\""
    );
    for number in 0..plan.backends {
        let (port, gpu) = (usize::from(FIRST_PORT) + number, number % GPUS as usize);
        let _ = writeln!(
            text,
            "[[vip.backend]]\nname = \"b{number}\"\naddress = \"{address}\"\nport = {port}\ngpus = [{gpu}]\n\
             metrics = \"http://{metrics}:{port}/metrics\""
        );
    }
    text
}
