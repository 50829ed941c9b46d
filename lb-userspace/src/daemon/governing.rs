//! The governor's thread: every tick it reads the gauges, asks the governor, and writes what it says.
//!
//! It makes no system call between two ticks but the sleep, and the heartbeat is written only after a
//! whole one.

use std::{
    mem::offset_of,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use lb_common::{
    layout::{Control, Histogram, Load, Total},
    pick::{Nominal, Steer},
};
use tokio::sync::{oneshot, watch};

use super::{
    recording::{Frame, Recorders, Recording},
    sources,
};
use crate::{
    dataplane::{clock::Clock, counters, loader::Maps},
    governor::{Explained, Governor, HardwareReading, Input, Mode, Options, Output, Reported},
    recording::{self, Header, Sample, VipSample},
    signals::{Hardware, Scrape},
};

/// A VIP as the governor's thread works on it.
#[derive(Clone)]
pub struct Ward {
    /// The VIP's id.
    pub vip: u16,
    /// What the governor does for it.
    pub mode: Mode,
    /// Duty cycle that was configured, in 256ths; none has it measured.
    pub duty: Option<u32>,
    /// What recordings say of it.
    pub described: recording::Vip,
    /// Its backends.
    pub backends: Vec<Subject>,
}

/// A backend as the governor's thread works on it.
#[derive(Clone)]
pub struct Subject {
    /// Its id.
    pub id: u16,
    /// Its configured weight.
    pub weight: u32,
    /// Its configured limit.
    pub limit: Option<u32>,
    /// Whether it gets new flows.
    pub usable: bool,
    /// What it reports of itself.
    pub scrape: Option<watch::Receiver<Scrape>>,
    /// What its GPUs say.
    pub hardware: Option<watch::Receiver<Option<Hardware>>>,
}

/// Someone wants to know how the last output for a backend came about.
struct Question {
    vip: u16,
    backend: u16,
    answer: oneshot::Sender<Explained>,
}

/// The running thread, and the plan it works by.
pub struct Governing {
    plan: Arc<Mutex<Arc<Vec<Ward>>>>,
    questions: Arc<Mutex<Vec<Question>>>,
    recorders: Recorders,
    begun: Instant,
    /// When the last tick began, in nanoseconds since then; 0 before the first.
    ticked: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Governing {
    /// Starts the thread; every VIP's governor has these `options`.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn start(
        maps: Arc<Maps>,
        clock: Arc<Clock>,
        tick: Duration,
        options: Options,
    ) -> std::io::Result<Self> {
        let plan = Arc::new(Mutex::new(Arc::default()));
        let questions = Arc::default();
        let recorders = Recorders::default();
        let (begun, ticked) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            maps,
            clock,
            plan: Arc::clone(&plan),
            questions: Arc::clone(&questions),
            recorders: recorders.clone(),
            header: Arc::new(Header::new(Vec::new())),
            options,
            begun,
            ticked: Arc::clone(&ticked),
            wards: Vec::new(),
        };
        let stopped = Arc::clone(&stop);
        let thread =
            std::thread::Builder::new().name("governor".into()).spawn(move || worker.run(tick, &stopped))?;
        Ok(Self { plan, questions, recorders, begun, ticked, stop, thread: Some(thread) })
    }

    /// How the output of the next tick for a backend comes about; nothing comes if the thread does not know it.
    pub fn explain(&self, vip: u16, backend: u16) -> oneshot::Receiver<Explained> {
        let (answer, answered) = oneshot::channel();
        lock(&self.questions).push(Question { vip, backend, answer });
        answered
    }

    /// When the last tick began.
    pub fn ticked(&self) -> Option<Instant> {
        let since = self.ticked.load(Ordering::Relaxed);
        (since > 0).then(|| self.begun + Duration::from_nanos(since))
    }

    /// Begins a recording of what the thread sees and writes.
    pub fn record(&self, every: Duration) -> Recording {
        self.recorders.begin(every)
    }

    /// Changes what the thread works on, from its next tick on.
    pub fn set_plan(&self, wards: Vec<Ward>) {
        *lock(&self.plan) = Arc::new(wards);
    }
}

impl Drop for Governing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in there was already reported; the heartbeat has stopped with it.
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Worker {
    maps: Arc<Maps>,
    clock: Arc<Clock>,
    plan: Arc<Mutex<Arc<Vec<Ward>>>>,
    questions: Arc<Mutex<Vec<Question>>>,
    recorders: Recorders,
    /// What recordings say of all wards.
    header: Arc<Header>,
    options: Options,
    begun: Instant,
    ticked: Arc<AtomicU64>,
    wards: Vec<Charge>,
}

/// A ward, and what the thread knows of it.
struct Charge {
    ward: Ward,
    seats: Vec<Seat>,
    governor: Governor,
}

/// A backend, and what was last heard of it, since to copy that at every tick would be most of what a tick costs.
struct Seat {
    subject: Subject,
    reported: Option<Reported>,
    hardware: Option<HardwareReading>,
}

impl Seat {
    /// With what was heard before there was a seat.
    fn new(mut subject: Subject, begun: Instant) -> Self {
        let reported =
            subject.scrape.as_mut().and_then(|scrape| sources::reported(&scrape.borrow_and_update(), begun));
        let hardware = subject.hardware.as_mut().and_then(|hardware| {
            hardware.borrow_and_update().as_ref().and_then(|last| sources::hardware(last, begun))
        });
        Self { subject, reported, hardware }
    }

    /// Takes in what is new. What nobody speaks for any more stays, and ages.
    fn hear(&mut self, begun: Instant) {
        if let Some(scrape) = &mut self.subject.scrape
            && scrape.has_changed().unwrap_or(false)
        {
            self.reported = sources::reported(&scrape.borrow_and_update(), begun);
        }
        if let Some(hardware) = &mut self.subject.hardware
            && hardware.has_changed().unwrap_or(false)
        {
            self.hardware =
                hardware.borrow_and_update().as_ref().and_then(|last| sources::hardware(last, begun));
        }
    }
}

impl Worker {
    fn run(mut self, tick: Duration, stop: &AtomicBool) {
        let mut current: Arc<Vec<Ward>> = Arc::default();
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        let mut next = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let plan = Arc::clone(&lock(&self.plan));
            if !Arc::ptr_eq(&plan, &current) {
                self.adopt(&plan);
                current = plan;
            }
            self.tick(&mut inputs, &mut outputs);
            self.answer();
            // After a late tick the next one keeps its distance: there is nothing to catch up on.
            next = (next + tick).max(Instant::now());
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    /// Takes over a new plan; what a governor has learned of a backend goes with its id.
    fn adopt(&mut self, plan: &[Ward]) {
        let mut old = std::mem::take(&mut self.wards);
        for ward in plan {
            let known = old.iter().position(|known| known.ward.vip == ward.vip).map(|at| old.swap_remove(at));
            let mut governor = match known {
                Some(Charge { ward: before, mut governor, .. }) => {
                    let positions: Vec<Option<usize>> = ward
                        .backends
                        .iter()
                        .map(|backend| before.backends.iter().position(|b| b.id == backend.id))
                        .collect();
                    governor.reset_membership(&positions);
                    governor
                }
                None => Governor::new(self.options),
            };
            governor.set_mode(ward.mode);
            let seats = ward.backends.iter().cloned().map(|subject| Seat::new(subject, self.begun)).collect();
            self.wards.push(Charge { ward: ward.clone(), seats, governor });
        }
        self.header = Arc::new(Header::new(plan.iter().map(|ward| ward.described.clone()).collect()));
    }

    fn answer(&self) {
        for Question { vip, backend, answer } in lock(&self.questions).drain(..) {
            let charge = self.wards.iter().find(|charge| charge.ward.vip == vip);
            let explained = charge.and_then(|charge| {
                let position = charge.seats.iter().position(|seat| seat.subject.id == backend)?;
                charge.governor.explain(position)
            });
            if let Some(explained) = explained {
                // Whoever asked may have gone.
                let _ = answer.send(explained);
            }
        }
    }

    fn tick(&mut self, inputs: &mut Vec<Input>, outputs: &mut Vec<Output>) {
        let now = self.begun.elapsed();
        let mut recorded = self.recorders.are_due(now).then(Vec::new);
        for Charge { ward, seats, governor } in &mut self.wards {
            inputs.clear();
            inputs.extend(seats.iter_mut().map(|seat| {
                seat.hear(self.begun);
                read(&self.maps, seat)
            }));
            governor.tick(now, inputs, outputs);
            for (seat, output) in seats.iter().zip(outputs.iter()) {
                write(&self.maps, seat.subject.id, output);
            }
            let total = governor.total();
            let total = Total { duty: ward.duty.unwrap_or(total.duty), ..total };
            write_total(&self.maps, ward.vip, &total);
            if let Some(vips) = &mut recorded {
                vips.push(VipSample::of(&total, inputs, outputs));
            }
        }
        if let Some(vips) = recorded {
            let at_us = now.as_micros() as u64;
            let frame = Frame { header: Arc::clone(&self.header), sample: Arc::new(Sample { at_us, vips }) };
            self.recorders.hand_out(now, &frame);
        }
        self.ticked.store(now.as_nanos() as u64, Ordering::Relaxed);
        let heartbeat = self.maps.control.word(0, offset_of!(Control, heartbeat));
        heartbeat.store(self.clock.jiffies(), Ordering::SeqCst);
    }
}

fn read(maps: &Maps, seat: &Seat) -> Input {
    let Seat { subject, reported, hardware } = seat;
    let id = usize::from(subject.id);
    let load = maps.loads.read(id);
    let progress = |offset| maps.progress.word(id, offset).load(Ordering::Relaxed);
    Input {
        gauges: counters::live(&load.gauges),
        opened: load.opened,
        requests: load.requests,
        progressed: load.progressed,
        progress_count: progress(offset_of!(Histogram, count)),
        progress_sum_ns: progress(offset_of!(Histogram, sum_ns)),
        weight: subject.weight,
        configured_limit: subject.limit,
        usable: subject.usable,
        reported: *reported,
        hardware: *hardware,
    }
}

fn write(maps: &Maps, id: u16, output: &Output) {
    let id = usize::from(id);
    let steer = Steer { cost: output.cost, correction: output.correction };
    maps.loads.word(id, offset_of!(Load, steer)).store(steer.to_word(), Ordering::Relaxed);
    let nominal = Nominal { static_cost: output.static_cost, share: output.share }.to_word();
    renew(maps.loads.half(id, offset_of!(Load, limit)), output.limit);
    renew(maps.loads.half(id, offset_of!(Load, nominal)), nominal);
}

/// What holds for all of a VIP's backends.
fn write_total(maps: &Maps, vip: u16, total: &Total) {
    let half = |offset| maps.totals.half(usize::from(vip), offset);
    renew(half(offset_of!(Total, opening_cap)), total.opening_cap);
    renew(half(offset_of!(Total, duty)), total.duty);
    renew(half(offset_of!(Total, prompt)), total.prompt);
}

/// What did not change is not written: the line is shared with the packet path.
fn renew(word: &AtomicU32, value: u32) {
    if word.load(Ordering::Relaxed) != value {
        word.store(value, Ordering::Relaxed);
    }
}
