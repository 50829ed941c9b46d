//! The sweep's thread: goes over the flow table in slices, again and again.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use lb_common::slot::AGE_MASK;
use tokio::sync::watch;

use crate::dataplane::{
    clock::Clock,
    sweep::{Pass, Policy, Sweep},
};

/// Time from one slice to the next.
const PAUSE: Duration = Duration::from_millis(10);

/// A pass takes about this long, or as long as its slices do.
const PASS: Duration = Duration::from_millis(250);

/// Fewest sets in a slice.
const SLICE: usize = 256;

/// The running thread.
pub struct Sweeping {
    policy: Arc<Mutex<Policy>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    passes: watch::Receiver<Pass>,
}

impl Sweeping {
    /// Starts the thread; `age_shift` makes ages of the clock's jiffies.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn start(sweep: Sweep, policy: Policy, clock: Arc<Clock>, age_shift: u32) -> std::io::Result<Self> {
        let policy = Arc::new(Mutex::new(policy));
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, passes) = watch::channel(Pass::default());
        let worker = Worker { sweep, policy: Arc::clone(&policy), clock, age_shift, sender };
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("sweep".into()).spawn(move || worker.run(&stopped))?;
        Ok(Self { policy, stop, thread: Some(thread), passes })
    }

    /// The last whole pass, now and whenever one ends.
    pub fn passes(&self) -> watch::Receiver<Pass> {
        self.passes.clone()
    }

    /// Changes the time-outs, from the next pass on.
    pub fn set_policy(&self, policy: Policy) {
        *self.policy.lock().unwrap_or_else(PoisonError::into_inner) = policy;
    }
}

impl Drop for Sweeping {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in there was already reported.
            let _ = thread.join();
        }
    }
}

struct Worker {
    sweep: Sweep,
    policy: Arc<Mutex<Policy>>,
    clock: Arc<Clock>,
    age_shift: u32,
    sender: watch::Sender<Pass>,
}

impl Worker {
    fn run(mut self, stop: &AtomicBool) {
        let slices = (PASS.as_millis() / PAUSE.as_millis()) as usize;
        let slice = self.sweep.sets().div_ceil(slices).max(SLICE);
        while !stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let now = (self.clock.jiffies() >> self.age_shift) as u32 & AGE_MASK;
            if let Some(pass) = self.sweep.slice(slice, now) {
                self.sender.send_replace(pass);
                self.sweep.set_policy(*self.policy.lock().unwrap_or_else(PoisonError::into_inner));
            }
            std::thread::sleep(PAUSE.saturating_sub(begun.elapsed()));
        }
    }
}
