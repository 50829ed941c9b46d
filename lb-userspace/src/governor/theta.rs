//! Slowness: the time a server takes for its work, over what its pool takes for the same.
//!
//! Not an inverse of throughput: completions a second measure the load offered. What a server took for the work that
//! it did, over what its pool takes for the same work ([`Curve`]), measures the server. Work is counted in tokens
//! where servers report them, else in bytes that clients acknowledged, and compared only within one kind. All of it
//! is done in logarithms, so that twice as slow and twice as fast weigh the same.
//!
//! A weight is the operator's wish and no claim about speed: it is not divided out here.

use std::time::Duration;

use super::{
    correction::beyond,
    curve::{Curve, Work},
    freshness::Freshness,
    terms::{Reported, ThetaSource, ThetaTerm},
};

/// The shortest block of reports that makes a sample: shorter ones are mostly single steps.
const BLOCK: Duration = Duration::from_millis(450);

/// Blocks with less than this of request-seconds go on; those that last longer than the other start anew.
const LEAST_SECONDS: f64 = 1.0;
const LONGEST_BLOCK: Duration = Duration::from_secs(5);

/// Tokens a second for each request that no server gives, not even one that counts those of a request at its end.
const ABSURD_RATE: f64 = 1e9;

/// The kernel notes bytes once a tick of its age clock, about a second. All backends close their blocks at the
/// same multiples of this, so that the same ticks fall into each.
const BYTES_BLOCK: Duration = Duration::from_secs(2);

/// Time constants of the level and of its noise.
const LEVEL_SECONDS: f64 = 8.0;
const NOISE_GAIN: f64 = 0.05;

/// Noise expected before any was seen, as a variance of logarithms, and how many samples that is worth.
const PRIOR_VARIANCE: f64 = 0.02;
const PRIOR_SAMPLES: u32 = 8;

/// Samples that miss the level on one side by this many standard deviations altogether are no noise: the server
/// has changed, and the level starts anew from them. At least two, and none that is within one deviation.
const CHANGE: f64 = 9.0;
const CHANGE_SAMPLES: u32 = 2;

/// How soon a change is learned: 1.3 s for half of them in simulation, 2.2 s for nine tenths.
pub(super) const CHANGE_SECONDS: f64 = 2.0;

/// A single difference says no more about noise than this: it may be a change of level.
const LARGEST_NOISE: f64 = 0.25;

/// Samples before a level is believed.
const ENOUGH: u32 = 4;

/// Width of the error band in standard errors, and its least half-width in logarithms (5 %).
const BAND: f64 = 4.2;
const LEAST_BAND: f64 = 0.05;

/// Levels older than this are no part of the pool.
const FRESH: Duration = Duration::from_secs(10);

/// In this time a factor loses half of its logarithm when nothing confirms it.
const HALF_LIFE: f64 = 30.0;

/// Factors are between one eighth and eight: ln 8.
const RANGE: f64 = 3.0 * std::f64::consts::LN_2;

/// Samples are taken into account up to this far from nominal: a server that stands still.
const FURTHEST: f64 = 5.0;

/// A stretch of progress.
#[derive(Clone, Copy, Debug, Default)]
struct Stretch {
    work: Work,
    /// Seconds of requests that progress.
    seconds: f64,
    elapsed: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    /// Slowness as a logarithm.
    log: f64,
    last: f64,
    variance: f64,
    gain: f64,
    samples: u32,
    /// Samples in a row beyond one deviation on one side, and the sum of their distances.
    missed: u32,
    distance: f64,
    at: Duration,
}

/// One kind of progress at one server.
#[derive(Clone, Copy, Debug, Default)]
struct Meter {
    block: Stretch,
    level: Option<Level>,
}

impl Meter {
    /// Adds a stretch; ends the block when it is `due`. `nominal` is the logarithm that counts as 0. True when a
    /// sample came of it.
    fn add(&mut self, now: Duration, part: Stretch, due: bool, curve: &mut Curve, nominal: f64) -> bool {
        for (sum, amount) in self.block.work.iter_mut().zip(part.work) {
            *sum += amount;
        }
        self.block.seconds += part.seconds;
        self.block.elapsed += part.elapsed;
        if self.block.seconds < LEAST_SECONDS {
            if self.block.elapsed > LONGEST_BLOCK {
                self.block = Stretch::default();
            }
            return false;
        }
        if !due {
            return false;
        }
        let block = std::mem::take(&mut self.block);
        let seconds = block.elapsed.as_secs_f64();
        // What is not sure yet counts as nominal: a wrong factor would stay in the curve for long.
        let slowness = self.fresh(now).map_or(0.0, |level| (level.log - nominal).clamp(-RANGE, RANGE));
        let foretold = curve.seconds(&block.work);
        curve.learn(&block.work, seconds, slowness.exp());
        // A server that stands still while a pool moves is slow and not undefined.
        let still = block.work[1] <= 0.0 && curve.is_known();
        let sample = foretold.map(|foretold| (seconds / foretold).ln().clamp(-FURTHEST, FURTHEST));
        let Some(sample) = sample.or(still.then_some(FURTHEST)).filter(|sample| sample.is_finite()) else {
            return false;
        };
        match &mut self.level {
            Some(level) => level.update(now, sample, block.elapsed),
            None => self.level = Some(Level::new(now, sample)),
        }
        true
    }

    fn fresh(&self, now: Duration) -> Option<&Level> {
        let believed = |level: &&Level| level.samples >= ENOUGH && now.saturating_sub(level.at) <= FRESH;
        self.level.as_ref().filter(believed)
    }
}

impl Level {
    fn new(now: Duration, sample: f64) -> Self {
        Self {
            log: sample,
            last: sample,
            variance: PRIOR_VARIANCE,
            gain: 1.0,
            samples: 1,
            missed: 0,
            distance: 0.0,
            at: now,
        }
    }

    fn update(&mut self, now: Duration, sample: f64, elapsed: Duration) {
        let missed = sample - self.log;
        let deviation = self.variance.sqrt();
        if missed.abs() < deviation || missed * self.distance < 0.0 {
            (self.missed, self.distance) = (0, 0.0);
        }
        if missed.abs() >= deviation {
            self.missed += 1;
            self.distance += missed;
        }
        // Differences of neighbours: a level that changes once shows in one of them only.
        let noise = ((sample - self.last).powi(2) / 2.0).min(LARGEST_NOISE);
        self.last = sample;
        self.at = now;
        if self.missed >= CHANGE_SAMPLES && self.distance.abs() >= CHANGE * deviation {
            self.log += self.distance / f64::from(self.missed);
            self.samples = self.missed.max(ENOUGH);
            (self.missed, self.distance) = (0, 0.0);
            self.gain = 1.0 / f64::from(self.samples);
            return;
        }
        self.samples = self.samples.saturating_add(1);
        let gain = NOISE_GAIN.max(1.0 / f64::from(self.samples.saturating_add(PRIOR_SAMPLES)));
        self.variance += (noise - self.variance) * gain;
        self.gain = (-(-elapsed.as_secs_f64() / LEVEL_SECONDS).exp_m1()).max(1.0 / f64::from(self.samples));
        self.log += missed * self.gain;
    }

    /// Half-width of the error band: a moving average keeps `gain / (2 - gain)` of the variance.
    fn band(&self) -> f64 {
        (BAND * (self.variance * self.gain / (2.0 - self.gain)).sqrt()).max(LEAST_BAND)
    }
}

/// One server's slowness.
#[derive(Clone, Debug, Default)]
pub(super) struct Theta {
    tokens: Meter,
    bytes: Meter,
    /// The last report.
    report: Option<Seen>,
    /// When its count of tokens was last of use.
    heard: Freshness,
    counter: Counter,
    /// Prompts taken in, as counted by the kernel, since the last report.
    prompts: f64,
    judged: Judged,
}

/// How a server's count of tokens has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Counter {
    #[default]
    Sound,
    /// It went back or leapt: a restart, or a lie. The next difference says no more than this one.
    Broken,
    /// It goes on, and nothing was measured by it yet.
    Unproven,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    moment: Duration,
    tokens: f64,
    running: f64,
    prompt_tokens: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Judged {
    /// The logarithm applied, at full trust.
    log: f64,
    sample: Option<f64>,
    band: f64,
    at: Option<Duration>,
    source: Option<ThetaSource>,
}

/// What work costs in the pool, and the logarithm of the pool's own slowness, for both kinds of progress.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Curves {
    tokens: Curve,
    bytes: Curve,
    nominal: [f64; 2],
}

/// Our own flows at a server in one tick.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watched {
    /// Bytes acknowledged.
    pub(super) bytes: u64,
    /// Requests that showed their first progress.
    pub(super) prompts: u64,
    /// Flows that stream.
    pub(super) streaming: u32,
    /// Requests on the server, foreign ones included where they are known.
    pub(super) occupied: f64,
}

impl Theta {
    /// Takes a report if it is a new one. True when the server's level may have changed.
    pub(super) fn report(&mut self, now: Duration, report: &Reported, curves: &mut Curves) -> bool {
        let (Some(tokens), Some(running)) = (report.generation_tokens, report.running) else { return false };
        let seen = Seen { moment: report.moment(), tokens, running, prompt_tokens: report.prompt_tokens };
        let Some(before) = self.report else {
            self.report = Some(seen);
            return false;
        };
        let Some(elapsed) = seen.moment.checked_sub(before.moment).filter(|elapsed| !elapsed.is_zero())
        else {
            if self.heard.trust(now) == 0.0 {
                self.report = Some(seen);
            }
            return false;
        };
        self.report = Some(seen);
        let counted = std::mem::take(&mut self.prompts);
        let prompts = match (before.prompt_tokens, seen.prompt_tokens) {
            (Some(before), Some(after)) => after - before,
            _ => counted,
        };
        let units = tokens - before.tokens;
        let batch = (running + before.running) / 2.0;
        let seconds = batch * elapsed.as_secs_f64();
        let leaps = batch > 0.0 && units > seconds * ABSURD_RATE;
        let before_it = self.counter;
        self.counter = match before_it {
            _ if leaps || units < 0.0 || prompts < 0.0 => Counter::Broken,
            Counter::Broken => Counter::Unproven,
            known => known,
        };
        if self.counter == Counter::Sound {
            self.heard.note(now, report.taken_end);
        }
        let broken = [before_it, self.counter].contains(&Counter::Broken);
        // After a long silence two batches say nothing of those between; and without a batch there was time without
        // work.
        if broken || elapsed > LONGEST_BLOCK || running.min(before.running) < 1.0 {
            self.tokens.block = Stretch::default();
            return false;
        }
        let part = Stretch { work: [units / batch, units, prompts], seconds, elapsed };
        let due = self.tokens.block.elapsed + elapsed >= BLOCK;
        let sampled = self.tokens.add(now, part, due, &mut curves.tokens, curves.nominal[0]);
        if sampled {
            self.counter = Counter::Sound;
            self.heard.note(now, report.taken_end);
        }
        sampled
    }

    /// Takes a tick of our own flows. True when the server's level may have changed.
    pub(super) fn watch(
        &mut self,
        now: Duration,
        step: Duration,
        watched: &Watched,
        curves: &mut Curves,
    ) -> bool {
        let seconds = step.as_secs_f64();
        let prompts = watched.prompts as f64;
        self.prompts += prompts;
        let units = watched.bytes as f64;
        let part = Stretch {
            work: [0.0, units, prompts],
            seconds: f64::from(watched.streaming) * seconds,
            elapsed: if watched.occupied > 0.0 { step } else { Duration::ZERO },
        };
        let block = BYTES_BLOCK.as_nanos();
        let due = now.as_nanos() / block != now.saturating_sub(step).as_nanos() / block;
        // Bytes come in lumps: their steps are known only for a whole block.
        if due {
            let whole = &mut self.bytes.block;
            let batch = (whole.seconds / whole.elapsed.as_secs_f64().max(seconds)).max(1.0);
            whole.work[0] = (whole.work[1] + units) / batch;
        }
        self.bytes.add(now, part, due, &mut curves.bytes, curves.nominal[1])
    }

    fn meter(&self, source: ThetaSource) -> &Meter {
        match source {
            ThetaSource::Tokens => &self.tokens,
            ThetaSource::Bytes => &self.bytes,
        }
    }

    /// The logarithm of the factor at `now`: kept while idle, fading as it ages.
    fn log(&self, now: Duration) -> f64 {
        self.judged.log * self.kept(now)
    }

    /// The part of what was learned that still counts at `now`; none before anything was.
    pub(super) fn kept(&self, now: Duration) -> f64 {
        self.judged.at.map_or(0.0, |at| (-now.saturating_sub(at).as_secs_f64() / HALF_LIFE).exp2())
    }

    /// How far the server's count of tokens is believed, where slowness is measured by it.
    pub(super) fn trust(&self, now: Duration) -> f64 {
        if self.judged.source == Some(ThetaSource::Tokens) { self.heard.trust(now) } else { 1.0 }
    }

    /// The factor at `now` and the part of what was learned that still counts, both of this as far as it is believed
    /// and of `kernel` for the rest.
    pub(super) fn over(&self, now: Duration, kernel: &Self) -> (f64, f64) {
        let trust = self.trust(now);
        let mix = |own: f64, kernel: f64| kernel + (own - kernel) * trust;
        (mix(self.log(now), kernel.log(now)).exp(), mix(self.kept(now), kernel.kept(now)))
    }

    /// The factor at `now`, 1/8 to 8.
    pub(super) fn factor(&self, now: Duration) -> f64 {
        self.log(now).exp()
    }

    pub(super) fn explain(&self, now: Duration, applied: f64) -> ThetaTerm {
        ThetaTerm {
            applied,
            sample: self.judged.sample.map(f64::exp),
            band: self.judged.band.exp(),
            age: self.judged.at.map(|at| now.saturating_sub(at)),
            source: self.judged.source,
            clamped: self.judged.sample.is_some_and(|sample| sample.abs() > RANGE),
        }
    }
}

/// The middle one, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let half = values.len() / 2;
    let upper = *values.get(half)?;
    Some(if values.len() % 2 == 1 { upper } else { (upper + values[half - 1]) / 2.0 })
}

/// Compares all servers anew. `part` says which of them are part of the pool.
pub(super) fn judge<'a>(
    now: Duration,
    curves: &mut Curves,
    servers: impl Iterator<Item = (&'a mut Theta, bool)>,
) {
    let mut servers: Vec<_> = servers.collect();
    let kinds = [ThetaSource::Tokens, ThetaSource::Bytes];
    let references = kinds.map(|source| {
        let part = servers.iter().filter(|(_, part)| *part);
        median(part.filter_map(|(theta, _)| Some(theta.meter(source).fresh(now)?.log)).collect())
    });
    for (nominal, reference) in curves.nominal.iter_mut().zip(&references) {
        *nominal = reference.unwrap_or(*nominal);
    }
    for (theta, _) in &mut servers {
        let seen = kinds.iter().zip(&references).find_map(|(source, reference)| {
            let level = theta.meter(*source).fresh(now)?;
            Some((*source, level, level.log - (*reference)?))
        });
        let Some((source, level, slowness)) = seen else { continue };
        theta.judged = Judged {
            log: beyond(slowness, level.band()).clamp(-RANGE, RANGE),
            sample: Some(slowness),
            band: level.band(),
            at: Some(level.at),
            source: Some(source),
        };
    }
}

#[cfg(test)]
#[path = "theta_tests.rs"]
mod tests;
