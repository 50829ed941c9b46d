//! What an inference server said of itself, and when. Plain data; nothing here decides.

use std::time::{Duration, Instant};

use super::servers::ServerKind;

/// One reading of an inference server; `None` where it does not say, or says nonsense.
///
/// Counts are over all engines and ranks behind the address.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// Which server it is; none where that does not show.
    pub server: Option<ServerKind>,
    /// Requests in the batch.
    pub running: Option<f64>,
    /// Requests queued before the batch.
    pub waiting: Option<f64>,
    /// Share of the KV cache in use, 0 to 1, of the fullest engine.
    pub kv_usage: Option<f64>,
    /// Tokens generated since the server started. Some servers count a request's only at its end.
    pub generation_tokens: Option<f64>,
    /// Prompt tokens processed since the server started.
    pub prompt_tokens: Option<f64>,
    /// Requests answered since the server started.
    pub requests: Option<f64>,
    /// Time to first token of every request since the server started, in seconds.
    pub ttft: Option<Totals>,
    /// Time per token after the first, in seconds. What one value stands for differs by server, a token or
    /// a whole request; the mean does not.
    pub time_per_token: Option<Totals>,
    /// Largest batch, in requests, of servers that tell (vLLM does not).
    pub max_num_seqs: Option<u32>,
    /// How old the gauges may have been when the server answered: it renews them no more often than this.
    pub cadence: Option<Duration>,
    /// Before the server was asked.
    pub taken_start: Instant,
    /// After it had answered.
    pub taken_end: Instant,
}

/// The sum and count of a histogram since the server started; differences of two give a mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Totals {
    /// Sum of all values.
    pub sum: f64,
    /// Number of values.
    pub count: f64,
}

/// How old an observation is: the server answered at some moment between asking and having heard.
/// What it answered may be older still, by up to [`Observation::cadence`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// Since the answer was complete.
    pub at_least: Duration,
    /// Since the question was put.
    pub at_most: Duration,
}

impl Observation {
    /// An answer that says nothing.
    pub fn silent(taken_start: Instant, taken_end: Instant) -> Self {
        Self {
            server: None,
            running: None,
            waiting: None,
            kv_usage: None,
            generation_tokens: None,
            prompt_tokens: None,
            requests: None,
            ttft: None,
            time_per_token: None,
            max_num_seqs: None,
            cadence: None,
            taken_start,
            taken_end,
        }
    }

    /// The age at `now`; zero for moments before the observation.
    pub fn age(&self, now: Instant) -> Age {
        Age {
            at_least: now.saturating_duration_since(self.taken_end),
            at_most: now.saturating_duration_since(self.taken_start),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Age, Observation};

    #[test]
    fn the_age_is_bracketed_by_asking_and_having_heard() {
        let taken_start = Instant::now();
        let observation = Observation::silent(taken_start, taken_start + Duration::from_millis(30));
        let age = |millis| observation.age(taken_start + Duration::from_millis(millis));
        let ms = Duration::from_millis;
        assert_eq!(age(100), Age { at_least: ms(70), at_most: ms(100) });
        assert_eq!(age(10), Age { at_least: ms(0), at_most: ms(10) });
    }
}
