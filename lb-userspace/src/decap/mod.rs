//! `guidevane decap`: the other end of `tunnel` mode, for backends whose kernel has no tunnel device.
//!
//! | module | owns |
//! |---|---|
//! | [`kernel`] | the XDP program, which decides packet by packet |
//! | [`prefix`] | prefixes of outer sources |
//!
//! It says what may be decapsulated and reads out what was; it shares nothing with the daemon.

pub mod kernel;
pub mod prefix;

use std::{collections::BTreeSet, convert::Infallible, future::pending, net::IpAddr, time::Duration};

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Interval, MissedTickBehavior, interval},
};

pub use kernel::{Attached, Counts, Frames, Kernel};
pub use prefix::Prefix;

use crate::{
    config::XdpMode,
    net::{Netlink, addresses::Addresses, interface::lookup},
    service,
};

/// How to attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver where it can, else in the stack.
    Auto,
    /// In the driver.
    Native,
    /// In the stack.
    Generic,
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The interface's name.
    pub interface: String,
    /// How to attach.
    pub mode: Mode,
    /// Outer destinations; the interface's addresses when there are none.
    pub locals: Vec<IpAddr>,
    /// Outer sources; all when there are none.
    pub from: Vec<Prefix>,
    /// Time between two reports; only one at the end without it.
    pub every: Option<Duration>,
}

/// What happens, for who runs it.
#[derive(Debug)]
pub enum Event<'a> {
    /// The driver refused, so the program is in the stack.
    FellBack(&'a crate::dataplane::Error),
    /// The program is attached and these are the outer destinations that it takes.
    Ready(XdpMode, &'a BTreeSet<IpAddr>),
    /// The interface's addresses have changed to these.
    Moved(&'a BTreeSet<IpAddr>),
    /// What became of packets so far; the last one comes when the program is detached.
    Report(XdpMode, &'a Counts),
}

/// Decapsulates until SIGTERM or SIGINT.
///
/// # Errors
///
/// It cannot start, the interface goes away, or `tell` fails.
pub fn run(options: &Options, tell: impl FnMut(Event<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(work(options, tell))
}

async fn work(
    options: &Options,
    mut tell: impl FnMut(Event<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    let netlink = Netlink::open().context("open netlink")?;
    let interface = lookup(&netlink, &options.interface).await?;
    let mut addresses = Addresses::watch(netlink, interface.index).await.context("watch addresses")?;
    let mut kernel = Kernel::load()?;
    kernel.accept(if options.from.is_empty() { &Prefix::ANY } else { &options.from })?;
    let fixed: BTreeSet<IpAddr> = options.locals.iter().copied().collect();
    let locals = if fixed.is_empty() { addresses.now() } else { &fixed };
    kernel.set_locals(locals)?;
    let Attached { mode, fallback } = kernel.attach(&interface, options.mode)?;
    if let Some(refusal) = &fallback {
        tell(Event::FellBack(refusal))?;
    }
    tell(Event::Ready(mode, locals))?;
    service::ready(&format!("unpacking on {} in {mode} mode", options.interface));
    let outcome = tokio::select! {
        () = stop => Ok(()),
        never = service::give_signs_of_life() => match never {},
        Err(error) = serve(&mut kernel, mode, &mut addresses, options, &mut tell) => Err(error),
    };
    service::stopping();
    kernel.detach()?;
    tell(Event::Report(mode, &kernel.counts()?))?;
    outcome
}

/// Reports and follows the interface's addresses, until something fails.
async fn serve(
    kernel: &mut Kernel,
    mode: XdpMode,
    addresses: &mut Addresses,
    options: &Options,
    tell: &mut impl FnMut(Event<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<Infallible> {
    let mut ticks = options.every.map(interval);
    if let Some(ticks) = &mut ticks {
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    loop {
        tokio::select! {
            () = next(&mut ticks) => tell(Event::Report(mode, &kernel.counts()?))?,
            changed = addresses.changed() => {
                let there = changed.with_context(|| format!("watch {}", options.interface))?;
                anyhow::ensure!(there, "interface {} is gone", options.interface);
                if options.locals.is_empty() {
                    kernel.set_locals(addresses.now())?;
                    tell(Event::Moved(addresses.now()))?;
                }
            }
        }
    }
}

/// The next tick; never one where none are wanted.
async fn next(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => drop(ticks.tick().await),
        None => pending().await,
    }
}

/// Waits for SIGTERM or SIGINT, which are heard from now on.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
