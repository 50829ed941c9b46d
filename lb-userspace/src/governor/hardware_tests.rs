use std::time::Duration;

use super::{Hardware, Reading};

const TICK: Duration = Duration::from_millis(5);

/// Slowness is learned this often, as bytes are.
const BLOCK: u32 = 400;

fn reading(speed: f64, foreign: f64, taken: Duration) -> Reading {
    Reading { speed: Some(speed), foreign: Some(foreign), taken_start: taken, taken_end: taken }
}

/// What happens in a stretch of time.
#[derive(Clone, Copy)]
struct Phase {
    seconds: f64,
    speed: f64,
    foreign: f64,
    queued: bool,
    learning: bool,
}

const NORMAL: Phase = Phase { seconds: 20.0, speed: 1.0, foreign: 0.0, queued: false, learning: true };

struct Run {
    hardware: Hardware,
    tick: u32,
}

impl Run {
    fn new() -> Self {
        Self { hardware: Hardware::default(), tick: 0 }
    }

    fn now(&self) -> Duration {
        TICK * self.tick
    }

    /// Readings come once a second.
    fn phase(&mut self, phase: Phase) -> &mut Self {
        for _ in 0..(phase.seconds / TICK.as_secs_f64()) as u32 {
            self.tick += 1;
            let taken = Duration::from_secs(self.now().as_secs());
            let reading = reading(phase.speed, phase.foreign, taken);
            let learned = phase.learning && self.tick.is_multiple_of(BLOCK);
            self.hardware.tick(self.now(), TICK, Some(&reading), phase.queued, learned);
        }
        self
    }

    fn silence(&mut self, seconds: f64, learning: bool) -> &mut Self {
        for _ in 0..(seconds / TICK.as_secs_f64()) as u32 {
            self.tick += 1;
            self.hardware.tick(self.now(), TICK, None, false, learning && self.tick.is_multiple_of(BLOCK));
        }
        self
    }

    /// The factor beside a slowness that holds all that was learned.
    fn factor(&self, slowness: f64) -> f64 {
        self.hardware.log(slowness.ln(), 1.0).exp()
    }
}

fn assert_close(value: f64, expected: f64, what: &str) {
    assert!((value / expected - 1.0).abs() < 0.02, "{what}: {value}, not {expected}");
}

#[test]
fn a_change_acts_at_once_and_fades_as_slowness_is_learned_anew() {
    let mut run = Run::new();
    assert_close(run.phase(NORMAL).factor(1.0), 1.0, "nothing happens");
    let throttled = Phase { speed: 0.25, ..NORMAL };
    assert_close(run.phase(Phase { seconds: 1.0, ..throttled }).factor(1.0), 4.0, "at once");
    let before = run.factor(1.0);
    run.phase(Phase { seconds: 4.0, ..throttled });
    assert!(run.factor(1.0) < before / 2.0, "{} of {before} after two blocks", run.factor(1.0));
    assert_close(run.phase(throttled).factor(4.0), 1.0, "it has been measured");
    assert_close(run.phase(Phase { seconds: 0.9, ..NORMAL }).factor(4.0), 0.25, "it is over");
    assert_close(run.phase(NORMAL).factor(1.0), 1.0, "and learned");
}

#[test]
fn work_of_others_is_cost_where_no_queue_shows_it_and_nothing_where_one_does() {
    let others = Phase { foreign: 0.6, seconds: 1.0, learning: false, ..NORMAL };
    assert_close(Run::new().phase(others).factor(1.0), 2.5, "no reports");
    let both = Phase { speed: 0.5, ..others };
    assert_close(Run::new().phase(both).factor(1.0), 5.0, "and slow clocks");
    let queued = Phase { queued: true, ..both };
    assert_close(Run::new().phase(queued).factor(1.0), 2.0, "the queue is known");
    // Slowness was learned with the others there: it is not counted again when reports end.
    let mut run = Run::new();
    run.phase(Phase { seconds: 30.0, learning: true, ..queued });
    assert_close(run.phase(both).factor(5.0), 1.0, "reports end");
}

#[test]
fn what_was_never_learned_acts_in_full_for_as_long_as_it_lasts() {
    let throttled = Phase { speed: 0.25, learning: false, ..NORMAL };
    assert_close(Run::new().phase(throttled).factor(1.0), 4.0, "no slowness is measured");
    let mut run = Run::new();
    run.phase(Phase { learning: true, ..throttled });
    assert_close(run.hardware.log(0.0, 0.0).exp(), 4.0, "what was learned has faded");
}

#[test]
fn silence_leaves_slowness_alone_and_takes_the_claim_back_within_two_seconds() {
    let mut run = Run::new();
    run.phase(Phase { speed: 0.25, learning: false, seconds: 1.0, ..NORMAL });
    let last = reading(0.25, 0.0, run.now());
    let after = |seconds: f64| {
        let mut hardware = run.hardware;
        hardware.tick(run.now() + Duration::from_secs_f64(seconds), TICK, Some(&last), false, false);
        hardware.log(0.0, 1.0).exp()
    };
    assert_close(after(1.4), 4.0, "it is only late");
    assert_close(after(1.75), 2.0, "fading");
    assert_eq!(after(2.0), 1.0);
    // Slowness is measured in silence: then the first reading brings no news.
    let mut run = Run::new();
    run.phase(NORMAL).silence(20.0, true);
    assert_close(run.phase(Phase { speed: 0.25, seconds: 1.0, ..NORMAL }).factor(4.0), 1.0, "back");
    let mut run = Run::new();
    run.phase(NORMAL).silence(20.0, false);
    assert_close(
        run.phase(Phase { speed: 0.25, seconds: 1.0, ..NORMAL }).factor(1.0),
        4.0,
        "nothing was measured",
    );
}

#[test]
fn no_reading_makes_a_backend_cheaper_than_it_was_measured() {
    // A server that claims to be slow, is measured not to be, and then claims to be well again.
    let mut run = Run::new();
    run.phase(Phase { speed: 0.125, foreign: 0.9, ..NORMAL });
    run.phase(Phase { seconds: 1.0, ..NORMAL });
    for (slowness, cheapest) in [(1.0, 1.0), (0.5, 1.0), (2.0, 0.5), (8.0, 0.125)] {
        assert_close(run.factor(slowness), cheapest, "the gain");
    }
    for nonsense in [f64::NAN, f64::INFINITY, -0.1, 1.5] {
        let mut run = Run::new();
        run.phase(Phase { speed: nonsense, foreign: nonsense, ..NORMAL });
        assert_eq!(run.factor(1.0), 1.0, "{nonsense}");
    }
    let mut run = Run::new();
    run.phase(Phase { speed: 0.0, foreign: 1.0, learning: false, ..NORMAL });
    assert_close(run.factor(1.0), 8.0, "the most");
}
