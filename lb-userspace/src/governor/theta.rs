//! Slowness: the time a server takes for a unit of progress, over what its pool takes at the same count.
//!
//! Not an inverse of throughput: completions a second measure the load offered. Progress for each request
//! under way measures the server. Progress is counted in tokens where servers report them, else in bytes
//! that clients acknowledged, and compared only within one kind. All of it is done in logarithms, so that
//! twice as slow and twice as fast weigh the same.
//!
//! A weight is the operator's wish and no claim about speed: it is not divided out here.

use std::time::Duration;

use super::terms::{Reported, ThetaSource, ThetaTerm};

/// The shortest block of reports that makes a sample: shorter ones are mostly single prefills.
const BLOCK: Duration = Duration::from_millis(450);

/// Blocks with less than this of request-seconds go on; those that last longer than the other start anew.
const LEAST_SECONDS: f64 = 1.0;
const LONGEST_BLOCK: Duration = Duration::from_secs(5);

/// The kernel notes bytes once a tick of its age clock, about a second. All backends close their blocks at the
/// same multiples of this, so that the same ticks fall into each.
const BYTES_BLOCK: Duration = Duration::from_secs(2);

/// Time constants of the level and of its noise.
pub(super) const LEVEL_SECONDS: f64 = 2.0;
const NOISE_GAIN: f64 = 0.05;

/// Noise expected before any was seen, as a variance of logarithms, and how many samples that is worth.
const PRIOR_VARIANCE: f64 = 0.01;
const PRIOR_SAMPLES: u32 = 8;

/// One sample moves a level as if it were at most three times slower or faster (ln 3): a long prefill that held
/// up a whole block is no slowness yet.
const LARGEST_MOVE: f64 = 1.1;

/// A single difference says no more about noise than this: it may be a change of level.
const LARGEST_NOISE: f64 = 0.25;

/// Samples before a level is believed.
const ENOUGH: u32 = 4;

/// Width of the error band in standard errors, and its least half-width in logarithms (5 %).
const BAND: f64 = 3.5;
const LEAST_BAND: f64 = 0.05;

/// Levels older than this are no part of the pool.
const FRESH: Duration = Duration::from_secs(10);

/// In this time a factor loses half of its logarithm when nothing confirms it.
const HALF_LIFE: f64 = 30.0;

/// Factors are between one eighth and eight: ln 8.
const RANGE: f64 = 3.0 * std::f64::consts::LN_2;

/// Counts are taken into account up to this ratio: ln 4. Further out the slope is a guess.
const COUNT_RANGE: f64 = 2.0 * std::f64::consts::LN_2;

/// The slope of time over count, in logarithms, is from 0 (memory-bound) to this; at 1 a server would gain
/// nothing from batching, and slowness could not be told from count.
const STEEPEST: f64 = 0.5;

/// Changes beyond these say nothing about the slope: too little count, or another cause.
const SLOPE_LEAST_COUNT: f64 = 0.02;
const SLOPE_MOST_TIME: f64 = 0.5;

/// How long the slope remembers (half a minute of eight servers), and how sure it is of zero at first.
const SLOPE_KEEP: f64 = 0.998;
const SLOPE_RIDGE: f64 = 1.0;

/// How the time for a unit grows with the count, for the whole pool: regression through the changes that each
/// server sees from sample to sample, so that fast servers with many requests are not taken for slow ones.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slope {
    count_count: f64,
    count_time: f64,
}

impl Slope {
    fn learn(&mut self, count: f64, time: f64) {
        if count.abs() < SLOPE_LEAST_COUNT || time.abs() > SLOPE_MOST_TIME {
            return;
        }
        self.count_count = self.count_count * SLOPE_KEEP + count * count;
        self.count_time = self.count_time * SLOPE_KEEP + count * time;
    }

    fn value(&self) -> f64 {
        (self.count_time / (self.count_count + SLOPE_RIDGE)).clamp(0.0, STEEPEST)
    }

    fn times(&self, count: f64) -> f64 {
        self.value() * count.clamp(-COUNT_RANGE, COUNT_RANGE)
    }
}

/// A stretch of progress.
#[derive(Clone, Copy, Debug, Default)]
struct Stretch {
    units: f64,
    /// Seconds of requests that progress.
    seconds: f64,
    /// Seconds of all requests that the server works on.
    occupied: f64,
    elapsed: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    /// Seconds a unit, and requests at once, as logarithms.
    time: f64,
    count: f64,
    last_time: f64,
    last_count: f64,
    variance: f64,
    gain: f64,
    samples: u32,
    at: Duration,
}

/// One kind of progress at one server.
#[derive(Clone, Copy, Debug, Default)]
struct Meter {
    block: Stretch,
    level: Option<Level>,
}

impl Meter {
    /// Adds a stretch; ends the block when it is `due`. True when a sample came of it.
    fn add(&mut self, now: Duration, part: Stretch, due: bool, slope: &mut Slope) -> bool {
        self.block.units += part.units;
        self.block.seconds += part.seconds;
        self.block.occupied += part.occupied;
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
        // Half a unit more, so that a server that stands still is slow and not undefined.
        let time = (block.seconds / (block.units + 0.5)).ln();
        let count = (block.occupied / block.elapsed.as_secs_f64()).max(1.0).ln();
        if !(time.is_finite() && count.is_finite()) {
            return false;
        }
        match &mut self.level {
            Some(level) => level.update(now, time, count, block.elapsed, slope),
            None => self.level = Some(Level::new(now, time, count)),
        }
        true
    }

    fn fresh(&self, now: Duration) -> Option<&Level> {
        let believed = |level: &&Level| level.samples >= ENOUGH && now.saturating_sub(level.at) <= FRESH;
        self.level.as_ref().filter(believed)
    }
}

impl Level {
    fn new(now: Duration, time: f64, count: f64) -> Self {
        Self {
            time,
            count,
            last_time: time,
            last_count: count,
            variance: PRIOR_VARIANCE,
            gain: 1.0,
            samples: 1,
            at: now,
        }
    }

    fn update(&mut self, now: Duration, time: f64, count: f64, elapsed: Duration, slope: &mut Slope) {
        let (moved, counted) = (time - self.last_time, count - self.last_count);
        (self.last_time, self.last_count) = (time, count);
        slope.learn(counted, moved);
        // Differences of neighbours: a level that changes once shows in one of them only.
        let noise = ((moved - slope.times(counted)).powi(2) / 2.0).min(LARGEST_NOISE);
        self.samples = self.samples.saturating_add(1);
        let gain = NOISE_GAIN.max(1.0 / f64::from(self.samples.saturating_add(PRIOR_SAMPLES)));
        self.variance += (noise - self.variance) * gain;
        self.gain = (-(-elapsed.as_secs_f64() / LEVEL_SECONDS).exp_m1()).max(1.0 / f64::from(self.samples));
        self.time += (time - self.time).clamp(-LARGEST_MOVE, LARGEST_MOVE) * self.gain;
        self.count += (count - self.count) * self.gain;
        self.at = now;
    }

    /// Half-width of the error band: a moving average keeps `gain / (2 - gain)` of the variance.
    fn band(&self) -> f64 {
        (BAND * (self.variance * self.gain / (2.0 - self.gain)).sqrt()).max(LEAST_BAND)
    }
}

/// What a pool shows: the middle of its levels, at the middle of its counts.
#[derive(Clone, Copy, Debug)]
struct Reference {
    time: f64,
    count: f64,
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    (low + high) / 2.0
}

impl Reference {
    fn of(levels: &[&Level], slope: &Slope) -> Option<Self> {
        // One server alone is neither slow nor fast.
        if levels.len() < 2 {
            return None;
        }
        let count = median(&mut levels.iter().map(|level| level.count).collect::<Vec<_>>());
        let at_count = |level: &&Level| level.time - slope.times(level.count - count);
        let time = median(&mut levels.iter().map(at_count).collect::<Vec<_>>());
        Some(Self { time, count })
    }

    fn slowness(&self, level: &Level, slope: &Slope) -> f64 {
        level.time - slope.times(level.count - self.count) - self.time
    }
}

/// One server's slowness.
#[derive(Clone, Debug, Default)]
pub(super) struct Theta {
    tokens: Meter,
    bytes: Meter,
    /// The last report: its moment, tokens and batch.
    report: Option<(Duration, f64, f64)>,
    judged: Judged,
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

/// How the pool's servers slow down with count, for both kinds of progress.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slopes {
    tokens: Slope,
    bytes: Slope,
}

/// Our own flows at a server in one tick.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watched {
    /// Bytes acknowledged.
    pub(super) bytes: u64,
    /// Flows that stream.
    pub(super) streaming: u32,
    /// Requests on the server, foreign ones included where they are known.
    pub(super) occupied: f64,
}

impl Theta {
    /// Takes a report if it is a new one. True when the server's level may have changed.
    pub(super) fn report(&mut self, now: Duration, report: &Reported, slopes: &mut Slopes) -> bool {
        let (Some(tokens), Some(running)) = (report.generation_tokens, report.running) else { return false };
        let moment = report.moment();
        let Some((before, tokens_before, running_before)) = self.report else {
            self.report = Some((moment, tokens, running));
            return false;
        };
        let Some(elapsed) = moment.checked_sub(before).filter(|elapsed| !elapsed.is_zero()) else {
            return false;
        };
        self.report = Some((moment, tokens, running));
        // A restarted server counts from zero; after a long silence two batches say nothing of those between.
        if tokens < tokens_before || elapsed > LONGEST_BLOCK {
            self.tokens.block = Stretch::default();
            return false;
        }
        let seconds = (running + running_before) / 2.0 * elapsed.as_secs_f64();
        let part = Stretch { units: tokens - tokens_before, seconds, occupied: seconds, elapsed };
        let due = self.tokens.block.elapsed + elapsed >= BLOCK;
        self.tokens.add(now, part, due, &mut slopes.tokens)
    }

    /// Takes a tick of our own flows. True when the server's level may have changed.
    pub(super) fn watch(
        &mut self,
        now: Duration,
        step: Duration,
        watched: &Watched,
        slopes: &mut Slopes,
    ) -> bool {
        let seconds = step.as_secs_f64();
        let part = Stretch {
            units: watched.bytes as f64,
            seconds: f64::from(watched.streaming) * seconds,
            occupied: watched.occupied.max(0.0) * seconds,
            elapsed: step,
        };
        let block = BYTES_BLOCK.as_nanos();
        let due = now.as_nanos() / block != now.saturating_sub(step).as_nanos() / block;
        self.bytes.add(now, part, due, &mut slopes.bytes)
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

    /// The factor at `now`, 1/8 to 8.
    pub(super) fn factor(&self, now: Duration) -> f64 {
        self.log(now).exp()
    }

    pub(super) fn explain(&self, now: Duration) -> ThetaTerm {
        ThetaTerm {
            applied: self.factor(now),
            sample: self.judged.sample.map(f64::exp),
            band: self.judged.band.exp(),
            age: self.judged.at.map(|at| now.saturating_sub(at)),
            source: self.judged.source,
            clamped: self.judged.sample.is_some_and(|sample| sample.abs() > RANGE),
        }
    }
}

/// Compares all servers anew. `part` says which of them are part of the pool.
pub(super) fn judge<'a>(
    now: Duration,
    slopes: &Slopes,
    servers: impl Iterator<Item = (&'a mut Theta, bool)>,
) {
    let mut servers: Vec<_> = servers.collect();
    let kinds = [(ThetaSource::Tokens, &slopes.tokens), (ThetaSource::Bytes, &slopes.bytes)];
    let references = kinds.map(|(source, slope)| {
        let pool = servers.iter().filter(|(_, part)| *part);
        let levels: Vec<&Level> = pool.filter_map(|(theta, _)| theta.meter(source).fresh(now)).collect();
        Reference::of(&levels, slope)
    });
    for (theta, _) in &mut servers {
        let seen = kinds.iter().zip(&references).find_map(|((source, slope), reference)| {
            let level = theta.meter(*source).fresh(now)?;
            Some((*source, level, reference.as_ref()?.slowness(level, slope)))
        });
        let Some((source, level, slowness)) = seen else { continue };
        theta.judged = Judged {
            log: shrink(slowness, level.band()).clamp(-RANGE, RANGE),
            sample: Some(slowness),
            band: level.band(),
            at: Some(level.at),
            source: Some(source),
        };
    }
}

/// Zero within the band, close to `value` far outside it, and continuous (the garrote of Breiman 1995).
fn shrink(value: f64, band: f64) -> f64 {
    if value.abs() <= band { 0.0 } else { value - band * band / value }
}

#[cfg(test)]
#[path = "theta_tests.rs"]
mod tests;
