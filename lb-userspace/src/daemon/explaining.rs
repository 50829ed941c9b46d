//! The governor's own account of a backend, in the terms of the admin socket.

use std::time::Duration;

use lb_common::pick::{COST_ONE, FLOW};

use crate::{
    api::{self, Explanation},
    config,
    governor::{self, Explained, LimitOrigin, Output, ThetaSource},
};

/// What became known of `backend`, one of `vip`'s, at the governor's last tick.
pub fn explanation(vip: &config::Vip, backend: &str, explained: &Explained) -> Explanation {
    let Explained { theta, hardware, correction, limit, fail_fast, .. } = explained;
    Explanation {
        backend: backend.to_owned(),
        vip: vip.name.clone(),
        policy: vip.policy.kind(),
        governor: vip.governor,
        written: terms(&explained.written),
        proposed: terms(&explained.proposed),
        cost_by_weight: cost(explained.written.static_cost),
        target: explained.target,
        factor: explained.factor,
        waits_for: match explained.damping {
            governor::Damping::None => None,
            governor::Damping::Deadband => Some(api::Damping::Deadband),
            governor::Damping::Slew => Some(api::Damping::Slew),
        },
        slowness: api::Slowness {
            factor: theta.applied,
            measured: theta.sample,
            band: theta.band,
            by: theta.source.map(|source| match source {
                ThetaSource::Tokens => api::Measure::Tokens,
                ThetaSource::Bytes => api::Measure::Bytes,
            }),
            age_seconds: theta.age.map(|age| age.as_secs_f64()),
        },
        hardware: api::HardwareFactor {
            factor: hardware.applied,
            now: hardware.now,
            learned: hardware.learned,
            age_seconds: hardware.age.map(|age| age.as_secs_f64()),
        },
        saturation: explained.saturation,
        slow_start: explained.slow_start,
        correction: api::Correction {
            reported: correction.raw,
            smoothed: correction.filtered,
            age_seconds: correction.age.map(|age| age.as_secs_f64()),
        },
        failed: api::Failed {
            part: fail_fast.part,
            flows: fail_fast.flows,
            lifetime_seconds: fail_fast.lifetime.map(|lifetime| lifetime.as_secs_f64()),
        },
        trust: api::Trust { kernel_factor: explained.kernel_factor, bounded: explained.bounded },
        limit: api::Limit {
            flows: limit.flows,
            origin: match limit.origin {
                LimitOrigin::Unknown => api::LimitOrigin::Unknown,
                LimitOrigin::Configured => api::LimitOrigin::Configured,
                LimitOrigin::Reported => api::LimitOrigin::Reported,
                LimitOrigin::Learned => api::LimitOrigin::Learned,
            },
        },
        first_progress_seconds: explained.first_progress.as_ref().map(Duration::as_secs_f64),
    }
}

fn terms(output: &Output) -> api::Terms {
    api::Terms {
        cost: cost(output.cost),
        correction: f64::from(output.correction) / f64::from(FLOW),
        limit: (output.limit > 0).then_some(output.limit),
    }
}

fn cost(units: u32) -> f64 {
    f64::from(units) / f64::from(COST_ONE)
}
