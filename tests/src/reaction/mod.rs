//! How soon new connections are steered by what has happened, with the real daemon in the test bed.
//!
//! Two servers take turns, so that every other connection goes to the one that something happens to, until it is
//! known. A fault and a drain end that, so their time is that of the first connection after the last one that still
//! went there: when `connect` was called, which is before its SYN was sent. A throttled clock changes a cost, and a
//! pick reads costs from the kernel's map itself: its time is when the map has another one.

pub mod opens;
pub mod report;

use std::{
    fmt::Write as _,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use guidevane::api::Client;
use rand::Rng as _;

use self::{
    opens::{Opened, PORT, Servers},
    report::{Report, Times},
};
use crate::{
    bed::Topology,
    daemon::Daemon,
    loads::Loads,
    nvml::{Event, Standin},
};

/// The stand-in looks at its script this often.
const GLANCE: Duration = Duration::from_millis(1);

/// The backend that goes and comes back: its name, its id on fresh maps and its GPU's number.
const NAME: &str = "b0";
const GONE: u16 = 0;

/// The one that is throttled, by its numbers: another, since a cost that has just come back falls for ten seconds.
const SLOWED: u16 = 1;

/// Connections are open before something happens and after it for at least this long, and for a random part of it
/// more, so that rounds begin at any phase of a tick.
const SPAN: Duration = Duration::from_millis(20);

/// Connections that are open after something happened, at least: on a busy machine threads wait for longer than a span.
const LEAST_AFTER: usize = 20;

/// Loads that differ by no more are equal for a pick.
const TIE: f64 = 1.05;

/// A reaction that takes longer than this has not come.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often the kernel's map is looked at.
const LOOK: Duration = Duration::from_micros(50);

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Times that each thing happens.
    pub rounds: usize,
    /// Period of the governor.
    pub tick: Duration,
    /// Connections a second.
    pub rate: u32,
}

/// Everything that runs.
struct Rig {
    rate: u32,
    servers: Servers,
    daemon: Daemon,
    loads: Loads,
    standin: Standin,
    bed: Topology,
}

/// Runs all rounds.
///
/// # Errors
/// The bed cannot be made, a connection fails, or a reaction never comes.
pub fn run(plan: &Plan) -> Result<Report> {
    ensure!(plan.rounds > 0 && plan.rate > 0, "there must be rounds, and connections in them");
    let mut rig = Rig::start(plan)?;
    let (mut xid, mut drain) = (Vec::new(), Vec::new());
    let (mut changed, mut beyond) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        xid.push(rig.xid().with_context(|| format!("xid, round {round}"))?);
        drain.push(rig.drain().with_context(|| format!("drain, round {round}"))?);
        let times = rig.throttle().with_context(|| format!("throttle, round {round}"))?;
        changed.push(times.0);
        beyond.push(times.1);
    }
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    Ok(Report {
        tick_ms: ms(plan.tick),
        bound_ms: ms(plan.tick * 2 + Duration::from_millis(1)),
        glance_ms: ms(GLANCE),
        rate: plan.rate,
        xid: Times::of(xid),
        throttle: Times::of(changed),
        throttle_beyond_ties: Times::of(beyond),
        drain: Times::of(drain),
    })
}

impl Rig {
    fn start(plan: &Plan) -> Result<Self> {
        let bed = Topology::one_arm(2)?;
        let standin = Standin::with_servers(&[1, 2]);
        let servers = Servers::start(&bed)?;
        let pin = bed.bpffs.path().join("guidevane");
        let configuration = configuration(&bed, &standin.library(), &pin, plan.tick);
        let mut daemon = Daemon::start(&bed.balancer.namespace, &configuration);
        daemon.wait_for("reading of every GPU", |snapshot| {
            let mut backends = snapshot.vips.iter().flat_map(|vip| &vip.backends);
            backends.all(|backend| backend.gpu.as_ref().is_some_and(|gpu| gpu.speed.is_some()))
        });
        let loads = Loads::pinned(&pin).context("map the loads")?;
        let rig = Self { rate: plan.rate, servers, daemon, loads, standin, bed };
        Ok(rig)
    }

    fn xid(&mut self) -> Result<Duration> {
        self.daemon.wait_until_up();
        let standin = &mut self.standin;
        let happens = || standin.change(|script| script.gpus[usize::from(GONE)].events.push(Event::Xid(79)));
        let (raised, opened) = self.servers.open(&self.bed, self.rate, |count| Ok(amidst(count, happens)))?;
        self.client()?.resume(NAME)?;
        time_of(raised, &opened)
    }

    fn drain(&mut self) -> Result<Duration> {
        self.daemon.wait_until_up();
        let mut client = self.client()?;
        let (raised, opened) = self.servers.open(&self.bed, self.rate, |count| {
            let mut drained = Ok(());
            let raised = amidst(count, || drained = client.drain(NAME).map(drop));
            drained.map(|()| raised).context("drain a backend")
        })?;
        self.client()?.resume(NAME)?;
        time_of(raised, &opened)
    }

    /// Until the cost has changed, and until it has by more than a tie.
    fn throttle(&mut self) -> Result<(Duration, Duration)> {
        let (standin, loads) = (&mut self.standin, &self.loads);
        wait_until("the nominal cost", || loads.cost(SLOWED) == 1.0)?;
        let ((changed, beyond), _) = self.servers.open(&self.bed, self.rate, |_| {
            let raised = after_some(|| set_clock(standin, 495, 0x20));
            let changed = wait_until("another cost", || loads.cost(SLOWED) != 1.0)?;
            let beyond = wait_until("a higher cost", || loads.cost(SLOWED) > TIE)?;
            Ok((changed - raised, beyond - raised))
        })?;
        set_clock(standin, 1980, 0);
        Ok((changed, beyond))
    }

    fn client(&self) -> Result<Client> {
        Client::connect(&self.daemon.socket()).context("reach the daemon")
    }
}

fn set_clock(standin: &mut Standin, clock: u32, reasons: u64) {
    standin.change(|script| {
        let gpu = &mut script.gpus[usize::from(SLOWED)];
        (gpu.clock, gpu.reasons) = (clock, reasons);
        gpu.events.push(Event::Clocks);
    });
}

/// Has something happen amidst connections, of which `count` have come; gives the moment before it began.
fn amidst(count: &AtomicUsize, happens: impl FnOnce()) -> Instant {
    let raised = after_some(happens);
    let (until, most) = (Instant::now() + SPAN, Instant::now() + PATIENCE);
    let enough = count.load(Ordering::Relaxed) + LEAST_AFTER;
    while Instant::now() < until || (count.load(Ordering::Relaxed) < enough && Instant::now() < most) {
        std::thread::sleep(LOOK);
    }
    raised
}

/// Has something happen at a random moment after a while; gives the moment before it began.
fn after_some(happens: impl FnOnce()) -> Instant {
    std::thread::sleep(SPAN + SPAN.mul_f64(rand::rng().random()));
    let raised = Instant::now();
    happens();
    raised
}

fn wait_until(what: &str, reached: impl Fn() -> bool) -> Result<Instant> {
    let until = Instant::now() + PATIENCE;
    loop {
        let reached = reached();
        let now = Instant::now();
        if reached {
            return Ok(now);
        }
        ensure!(now < until, "{what} does not come in {PATIENCE:?}");
        std::thread::sleep(LOOK);
    }
}

/// From `raised` to the first connection after it and after the last that went to the backend.
fn time_of(raised: Instant, opened: &[Opened]) -> Result<Duration> {
    let to_it = |opened: &&Opened| opened.server == usize::from(GONE);
    let last = opened.iter().rfind(to_it).context("no connection went to the backend before")?;
    let first = opened.iter().find(|opened| opened.at > last.at && opened.at >= raised);
    let first = first.context("connections went to the backend to the end")?;
    Ok(first.at - raised)
}

fn configuration(bed: &Topology, library: &Path, pin: &Path, tick: Duration) -> String {
    let (pin, library, vip) = (pin.display(), library.display(), bed.vip.v4);
    let interface = bed.front().name;
    let tick = tick.as_micros();
    let mut text = format!(
        "[daemon]\nflows = 131072\npin = \"{pin}\"\ntick = \"{tick}us\"\n[health]\ninterval = \"200ms\"\n\
         [nvml]\nlibrary = \"{library}\"\n[[interface]]\nname = \"{interface}\"\n[[vip]]\nname = \"vip\"\n\
         address = \"{vip}\"\nport = {PORT}\nmode = \"l2\"\npolicy = \"round-robin\"\n"
    );
    for (number, server) in bed.servers.iter().enumerate() {
        let address = server.address().v4;
        writeln!(text, "[[vip.backend]]\nname = \"b{number}\"\naddress = \"{address}\"\ngpus = [{number}]")
            .expect("write to a string");
    }
    text
}
