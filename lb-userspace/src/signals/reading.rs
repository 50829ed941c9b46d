//! From an exposition to an observation: which server wrote it, and what it says.
//!
//! It allocates nothing.

use std::time::Instant;

use super::{
    exposition::{Sample, label, samples_of},
    observation::{Observation, Totals},
    servers::{FIELDS, Field, SERVERS, Server, ServerKind, wanted},
};

/// What `text` says, if it is that of a server whose load it tells: of `only` that one, where given, else of the
/// first in the table that it fits.
pub fn read(
    text: &[u8],
    only: Option<ServerKind>,
    taken_start: Instant,
    taken_end: Instant,
) -> Option<Observation> {
    let mut all = [Values::default(); SERVERS.len()];
    for sample in samples_of(text, |name| !wanted(name).is_empty()).flatten() {
        for (at, metric) in wanted(sample.name) {
            let has = |(name, value)| label(sample.labels, name) == Some(value);
            if metric.label.is_none_or(has) && !repeats(&SERVERS[*at], &sample) {
                all[*at].add(metric.field, sample.value * metric.scale);
            }
        }
    }
    let mut told = SERVERS.iter().zip(&all).filter(|(_, values)| values.tell_load());
    let (server, values) = told.find(|(server, _)| only.is_none_or(|only| server.kind == only))?;
    Some(values.observation(server, taken_start, taken_end))
}

fn repeats(server: &Server, sample: &Sample<'_>) -> bool {
    server.repeats.iter().any(|repeats| {
        let apart = repeats.unless.is_some_and(|unless| label(sample.labels, unless).is_some());
        !apart && label(sample.labels, repeats.label).is_some_and(|rank| rank != "0")
    })
}

/// One server's fields, by [`Field`].
#[derive(Clone, Copy, Default)]
struct Values([Option<f64>; FIELDS]);

impl Values {
    /// Takes a value in, if it can be one.
    fn add(&mut self, field: Field, value: f64) {
        if value.is_finite() && value >= 0.0 {
            let slot = &mut self.0[field as usize];
            *slot = Some(slot.map_or(value, |so_far| field.combine(so_far, value)));
        }
    }

    /// None, too, of a sum that is none any more.
    fn get(&self, field: Field) -> Option<f64> {
        self.0[field as usize].filter(|value| value.is_finite())
    }

    fn tell_load(&self) -> bool {
        self.get(Field::Running).or(self.get(Field::Waiting)).or_else(|| self.kv_usage()).is_some()
    }

    fn kv_usage(&self) -> Option<f64> {
        let share = || {
            let total = self.get(Field::KvTotal).filter(|total| *total > 0.0)?;
            Some(self.get(Field::KvUsed)? / total)
        };
        self.get(Field::KvUsage).or_else(share).map(|share| share.min(1.0))
    }

    fn totals(&self, sum: Field, count: Field) -> Option<Totals> {
        Some(Totals { sum: self.get(sum)?, count: self.get(count)? })
    }

    fn observation(&self, server: &Server, taken_start: Instant, taken_end: Instant) -> Observation {
        Observation {
            server: Some(server.kind),
            running: self.get(Field::Running),
            waiting: self.get(Field::Waiting),
            kv_usage: self.kv_usage(),
            generation_tokens: self.get(Field::GenerationTokens),
            prompt_tokens: self.get(Field::PromptTokens),
            requests: self.get(Field::Requests),
            ttft: self.totals(Field::FirstTokenSum, Field::FirstTokenCount),
            time_per_token: self.totals(Field::TokenTimeSum, Field::TokenTimeCount),
            // The cast saturates.
            max_num_seqs: self.get(Field::MaxBatch).filter(|most| *most >= 1.0).map(|most| most as u32),
            cadence: Some(server.cadence),
            taken_start,
            taken_end,
        }
    }
}
