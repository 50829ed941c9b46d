//! Every source killed, stalled and lied to in turn: costs go back to what the kernel's own signals make them, and follow
//! the source again when it is back.

use std::time::Duration;

use lb_common::pick::FLOW;

use super::{
    Governor, HardwareReading, Input, Options, Output, Reported,
    testing::{input, reported},
};

const TICK: Duration = Duration::from_millis(10);
const REPORTS: Duration = Duration::from_millis(250);
const READINGS: Duration = Duration::from_secs(1);

/// The source is well until the first, and again from the second on.
const FAILS: Duration = Duration::from_secs(30);
const RETURNS: Duration = Duration::from_secs(37);
const END: Duration = Duration::from_secs(60);

/// What costs may need to forget what a source has said.
const FORGOTTEN: Duration = Duration::from_secs(2);

/// Factors that differ by less are the same: twice the deadband, as two slews have one each.
const SAME: f64 = 0.1;

/// The cost that is claimed in a case is beyond this: half as much again.
const CLAIMED: f64 = 0.4;

const HOUR: Duration = Duration::from_secs(3600);

/// The largest batch in a case where the server tells it, and in one where it shows.
const SET: u32 = 7;
const SHOWN: u32 = 40;

/// The server that is slow, has eight requests of others, a full cache and a GPU at half of its clock.
const LAME: usize = 3;

/// What the servers say at a moment: the truth, or what has become of it.
#[derive(Clone, Copy)]
struct Said {
    report: Reported,
    hardware: HardwareReading,
}

/// Our own flows at a server come and go in this time, by half of ten.
const WAVE_SECONDS: f64 = 7.0;

fn phase(number: usize, now: Duration) -> f64 {
    now.as_secs_f64() / WAVE_SECONDS * std::f64::consts::TAU + number as f64
}

fn own_flows(number: usize, now: Duration) -> f64 {
    10.0 + 5.0 * phase(number, now).sin()
}

/// The flow-seconds of all that has been.
fn own_seconds(number: usize, now: Duration) -> f64 {
    let wave = (phase(number, Duration::ZERO).cos() - phase(number, now).cos()) * WAVE_SECONDS;
    10.0 * now.as_secs_f64() + 5.0 * wave / std::f64::consts::TAU
}

fn kernel(number: usize, now: Duration) -> Input {
    input([0, 1, own_flows(number, now).round() as u32 - 1, 0])
}

/// What the server of a number says, last asked at `now`.
fn truth(number: usize, now: Duration) -> Said {
    let last = |interval: Duration| {
        Duration::from_nanos((now.as_nanos() / interval.as_nanos() * interval.as_nanos()) as u64)
    };
    let lame = number == LAME;
    let (speed, foreign) = if lame { (12.0, 8.0) } else { (60.0, 0.0) };
    let (taken, read) = (last(REPORTS), last(READINGS));
    Said {
        report: Reported {
            generation_tokens: Some(
                1e6 + speed * (own_seconds(number, taken) + foreign * taken.as_secs_f64()),
            ),
            kv_usage: Some(if lame { 1.0 } else { 0.3 }),
            ..reported(own_flows(number, taken) + foreign, 0.0, taken)
        },
        hardware: HardwareReading {
            speed: Some(if lame { 0.5 } else { 1.0 }),
            foreign: Some(0.0),
            taken_start: read,
            taken_end: read,
        },
    }
}

/// What moves a cost in a case.
#[derive(Clone, Copy, PartialEq)]
enum Claims {
    Reports,
    /// Reports without a word about memory.
    Counts,
    Hardware,
    /// Reports that set a limit, or from whose queue one is learned.
    Setting,
    Queue,
}

impl Claims {
    fn input(self, kernel: Input, said: &Said) -> Input {
        let counts = Reported { kv_usage: None, ..said.report };
        let reported = match self {
            Self::Reports => Some(said.report),
            Self::Counts => Some(counts),
            Self::Hardware => None,
            Self::Setting => Some(Reported { max_num_seqs: Some(SET), ..counts }),
            Self::Queue => Some(Reported { running: Some(f64::from(SHOWN)), waiting: Some(5.0), ..counts }),
        };
        Input { reported, hardware: (self == Self::Hardware).then_some(said.hardware), ..kernel }
    }
}

/// What a source says instead of the truth, at a moment after it has failed; none if it is not heard at all.
type Failure = fn(usize, Duration) -> Option<Said>;

fn dead(number: usize, _now: Duration) -> Option<Said> {
    Some(truth(number, FAILS))
}

/// Everything comes so late.
fn stalled(number: usize, now: Duration) -> Option<Said> {
    Some(truth(number, (now - Duration::from_secs(3)).max(FAILS)))
}

fn report(number: usize, now: Duration, change: impl FnOnce(&mut Reported)) -> Option<Said> {
    let mut said = truth(number, now);
    change(&mut said.report);
    Some(said)
}

fn dated(number: usize, now: Duration, date: impl Fn(Duration) -> Duration) -> Option<Said> {
    let mut said = truth(number, now);
    let (report, hardware) = (&mut said.report, &mut said.hardware);
    for taken in
        [&mut report.taken_start, &mut report.taken_end, &mut hardware.taken_start, &mut hardware.taken_end]
    {
        *taken = date(*taken);
    }
    Some(said)
}

const CASES: [(&str, Claims, Failure); 13] = [
    ("reports end", Claims::Reports, dead),
    ("reports stall", Claims::Reports, stalled),
    ("reports are gone", Claims::Reports, |_, _| None),
    ("counters leap and go back", Claims::Counts, |number, now| {
        report(number, now, |report| {
            report.generation_tokens = report.generation_tokens.map(|tokens| 1e13 - tokens);
        })
    }),
    ("a queue of a thousand million", Claims::Counts, |number, now| {
        report(number, now, |report| report.waiting = Some(1e9))
    }),
    ("a batch of a thousand million", Claims::Counts, |number, now| {
        report(number, now, |report| report.running = Some(1e9))
    }),
    ("no numbers", Claims::Reports, |number, now| {
        report(number, now, |report| {
            (report.running, report.waiting) = (Some(f64::NAN), Some(f64::INFINITY));
            (report.generation_tokens, report.kv_usage) = (Some(-1.0), Some(f64::NAN));
        })
    }),
    ("reports end with one of the future", Claims::Reports, |number, _| {
        dated(number, FAILS + REPORTS, |taken| taken + HOUR)
    }),
    ("reports of an hour ago", Claims::Reports, |number, now| {
        dated(number, now, |taken| taken.saturating_sub(HOUR))
    }),
    ("readings end", Claims::Hardware, dead),
    ("readings stall", Claims::Hardware, stalled),
    ("no number of the GPU", Claims::Hardware, |number, now| {
        let said = truth(number, now);
        let hardware = HardwareReading { speed: Some(f64::NAN), foreign: Some(-1.0), ..said.hardware };
        Some(Said { hardware, ..said })
    }),
    ("readings of an hour ago", Claims::Hardware, |number, now| {
        dated(number, now, |taken| taken.saturating_sub(HOUR))
    }),
];

/// A case under way: what fails, and whether at all servers or at the lame one.
struct Run {
    claims: Claims,
    failure: Failure,
    all: bool,
    governor: Governor,
    outputs: Vec<Output>,
}

impl Run {
    fn new(claims: Claims, failure: Failure, all: bool) -> Self {
        Self { claims, failure, all, governor: Governor::new(Options::default()), outputs: Vec::new() }
    }

    fn go(&mut self, from: Duration, to: Duration) {
        let mut now = from;
        while now < to {
            let inputs: Vec<Input> = (0..=LAME).map(|number| self.input(number, now)).collect();
            self.governor.tick(now, &inputs, &mut self.outputs);
            now += TICK;
        }
    }

    fn input(&self, number: usize, now: Duration) -> Input {
        let fails = (FAILS..RETURNS).contains(&now) && (self.all || number == LAME);
        let said = if fails { (self.failure)(number, now) } else { Some(truth(number, now)) };
        let kernel = kernel(number, now);
        said.map_or(kernel, |said| self.claims.input(kernel, &said))
    }

    /// The lame server's cost over that by the kernel's own signals, as a logarithm, and its correction in flows.
    fn beyond_kernel(&self) -> (f64, f64) {
        let explained = self.governor.explain(LAME).expect("a server of the case");
        let factor = f64::from(self.outputs[LAME].cost) / f64::from(self.outputs[LAME].static_cost);
        ((factor / explained.kernel_factor).ln(), f64::from(self.outputs[LAME].correction) / f64::from(FLOW))
    }
}

#[test]
fn costs_forget_a_source_that_fails_within_two_seconds_and_follow_it_again() {
    for (what, claims, failure) in CASES {
        for all in [false, true] {
            let mut run = Run::new(claims, failure, all);
            run.go(Duration::ZERO, FAILS);
            let (cost, flows) = run.beyond_kernel();
            assert!(cost > CLAIMED, "{what}: the claim does not count: {cost}");
            let forgotten = FAILS + FORGOTTEN;
            run.go(FAILS, forgotten);
            let mut now = forgotten;
            while now < RETURNS {
                run.go(now, now + REPORTS);
                now += REPORTS;
                let (cost, flows) = run.beyond_kernel();
                let known = run.governor.explain(LAME);
                assert!(
                    cost.abs() < SAME,
                    "{what} (of all: {all}), {:?} later: {cost}, {known:#?}",
                    now - FAILS
                );
                let counted = what != "counters leap and go back" && flows != 0.0;
                assert!(!counted, "{what} (of all: {all}), {:?} later: {flows}, {known:#?}", now - FAILS);
            }
            run.go(RETURNS, END);
            let again = run.beyond_kernel();
            assert!(
                again.0 > CLAIMED && (again.1 - flows).abs() < 2.0,
                "{what} (of all: {all}): {cost} and {flows} before, {again:?} again"
            );
        }
    }
}

#[test]
fn limits_end_with_the_reports_that_made_them() {
    for (what, _, failure) in CASES.into_iter().filter(|(what, ..)| what.starts_with("reports")) {
        for (claims, limit) in [(Claims::Setting, SET), (Claims::Queue, SHOWN)] {
            let mut run = Run::new(claims, failure, false);
            run.go(Duration::ZERO, FAILS);
            assert_eq!(run.outputs[LAME].limit, limit, "{what}: the claim does not count");
            run.go(FAILS, FAILS + FORGOTTEN);
            let mut now = FAILS + FORGOTTEN;
            while now < RETURNS {
                run.go(now, now + REPORTS);
                now += REPORTS;
                assert_eq!(run.outputs[LAME].limit, 0, "{what}, {:?} later", now - FAILS);
            }
            run.go(RETURNS, END);
            assert_eq!(run.outputs[LAME].limit, limit, "{what}: again");
        }
    }
}

#[test]
fn a_clock_that_jumps_ahead_of_everything_leaves_costs_static_until_sources_are_heard() {
    let mut run = Run::new(Claims::Reports, |number, now| Some(truth(number, now)), true);
    run.go(Duration::ZERO, FAILS);
    let (cost, _) = run.beyond_kernel();
    let inputs: Vec<Input> = (0..=LAME).map(|number| run.input(number, FAILS)).collect();
    run.governor.tick(FAILS + HOUR, &inputs, &mut run.outputs);
    assert_eq!(run.beyond_kernel(), (0.0, 0.0));
    // Back again: a tick of the past is one of now.
    run.governor.tick(FAILS, &inputs, &mut run.outputs);
    assert_eq!(run.beyond_kernel(), (0.0, 0.0));
    run.go(FAILS + HOUR, END + HOUR);
    let (again, _) = run.beyond_kernel();
    assert!(again > CLAIMED, "{cost} before, {again} again");
}
