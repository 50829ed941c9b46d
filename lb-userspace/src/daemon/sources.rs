//! What sources last said, in the governor's terms and on its clock.
//!
//! What was said before that clock began is left out: it has no time to tell its age from.

use std::time::Instant;

use crate::{
    governor::{HardwareReading, Reported},
    signals::{Hardware, Scrape},
};

/// What the GPUs of a backend say.
pub(super) fn hardware(last: &Hardware, begun: Instant) -> Option<HardwareReading> {
    Some(HardwareReading {
        speed: last.speed,
        foreign: last.foreign,
        taken_start: last.taken_start.checked_duration_since(begun)?,
        taken_end: last.taken_end.checked_duration_since(begun)?,
    })
}

/// What a backend's server reports. What the small answers between two scrapes leave out, and what does not change with
/// every request, is that of the last whole one.
pub(super) fn reported(scrape: &Scrape, begun: Instant) -> Option<Reported> {
    let last = scrape.newest()?;
    let whole = scrape.last.as_ref();
    Some(Reported {
        running: last.running,
        waiting: last.waiting,
        kv_usage: last.kv_usage.or(whole.and_then(|whole| whole.kv_usage)),
        generation_tokens: last.generation_tokens,
        cadence: last.cadence,
        prompt_tokens: last.prompt_tokens,
        max_num_seqs: whole.and_then(|whole| whole.max_num_seqs),
        taken_start: last.taken_start.checked_duration_since(begun)?,
        taken_end: last.taken_end.checked_duration_since(begun)?,
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{hardware, reported};
    use crate::signals::{Hardware, Observation, Scrape};

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_a_small_answer_leaves_out_is_that_of_the_last_scrape() {
        let begun = Instant::now();
        let at = |seconds| begun + SECOND * seconds;
        let last = Observation {
            running: Some(8.0),
            kv_usage: Some(0.97),
            generation_tokens: Some(1e6),
            max_num_seqs: Some(32),
            ..Observation::silent(at(1), at(1))
        };
        let glance =
            |kv_usage| Observation { running: Some(9.0), kv_usage, ..Observation::silent(at(2), at(2)) };
        for (told, known) in [(None, Some(0.97)), (Some(0.5), Some(0.5))] {
            let scrape = Scrape { last: Some(last.clone()), glance: Some(glance(told)), ..Scrape::default() };
            let report = reported(&scrape, begun).expect("a report");
            assert_eq!((report.running, report.kv_usage), (Some(9.0), known), "{told:?}");
            assert_eq!((report.generation_tokens, report.max_num_seqs), (None, Some(32)), "{told:?}");
            assert_eq!(report.taken_end, SECOND * 2, "{told:?}");
        }
    }

    #[test]
    fn nothing_of_before_the_clock_began_looks_younger_than_it_is() {
        let old = Instant::now();
        for (begun, age) in [(old, Some(Duration::ZERO)), (old + SECOND, None)] {
            let reading = Hardware {
                speed: Some(0.5),
                foreign: None,
                utilization: None,
                memory: None,
                fault: None,
                taken_start: old,
                taken_end: old + SECOND,
            };
            let told = hardware(&reading, begun);
            assert_eq!(told.map(|reading| reading.taken_start), age);
            let scrape = Scrape { last: Some(Observation::silent(old, old + SECOND)), ..Scrape::default() };
            assert_eq!(reported(&scrape, begun).map(|report| report.taken_start), age);
        }
    }
}
