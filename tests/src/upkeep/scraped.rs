//! What a real inference server uses for being scraped and probed: CPU time of its process, idle, with the daemon and
//! without.

use std::{io, thread, time::Duration};

use anyhow::{Context as _, Result};

use super::{Plan, SETTLE, configuration, report::Scraped, servers::FIRST_PORT, usage};
use crate::{
    bed::Topology,
    daemon::Daemon,
    llama::{self, Llama},
    nvml::Standin,
};

/// Runs it; none without a server of llama.cpp, which `cargo xtask setup --peers` installs.
///
/// # Errors
/// The bed cannot be made, or the server ends.
///
/// # Panics
/// The server is not up for the daemon in minutes.
pub fn run(tick: Duration, time: Duration) -> Result<Option<Scraped>> {
    let Some(folder) = llama::installed() else { return Ok(None) };
    let bed = Topology::two_arm(1)?;
    let namespace = &bed.servers[0].namespace;
    let server =
        Llama::start(namespace, &folder, llama::FAST, FIRST_PORT).context("could not start llama-server")?;
    let standin = Standin::with_servers(&[server.id()]);
    let plan = Plan { backends: 1, tick, time };
    let address = bed.servers[0].address().v4.into();
    let configuration = configuration(&bed, &standin.library(), &plan, address);
    let mut daemon = Daemon::start(&bed.balancer.namespace, &configuration);
    daemon.wait_until_up();
    daemon.wait_for("report of the server", |snapshot| snapshot.vips[0].backends[0].reported.is_some());
    let used = || used_in(server.id(), time).context("ask after the server");
    let scraped = used()?;
    drop(daemon);
    Ok(Some(Scraped { alone: used()?, scraped }))
}

/// The part of a core that a process uses.
fn used_in(process: u32, time: Duration) -> io::Result<f64> {
    thread::sleep(SETTLE);
    let before = usage::whole(process)?;
    thread::sleep(time);
    let used = usage::whole(process)?.saturating_sub(before);
    Ok(used.as_secs_f64() / time.as_secs_f64())
}
