//! Any bytes at all as the reports of a subscription: reading them never panics, and what they are said to say can be.

#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use prost::Message as _;

#[path = "../../lb-userspace/src/agent/clock.rs"]
mod clock;
#[expect(dead_code, reason = "shared with the agent, which writes reports too")]
#[path = "../../lb-userspace/src/agent/fold.rs"]
mod fold;
#[expect(dead_code, reason = "shared with the daemon, which uses all of it")]
#[path = "../../lb-userspace/src/signals/hardware.rs"]
mod hardware;
#[expect(dead_code, reason = "shared with the daemon, which uses all of it")]
#[path = "../../lb-userspace/src/agent/message.rs"]
mod message;
#[expect(dead_code, reason = "shared with the daemon, which uses all of it")]
#[path = "../../lb-userspace/src/signals/observation.rs"]
mod observation;
#[expect(dead_code, reason = "shared with the daemon, which uses all of it")]
#[path = "../../lb-userspace/src/signals/servers.rs"]
mod servers;

/// What the files above know by this name.
mod signals {
    pub use crate::{
        hardware::{Fault, Hardware},
        observation::{Observation, Totals},
        servers::ServerKind,
    };
}

const INTERVAL: Duration = Duration::from_millis(5);

fuzz_target!(|bytes: &[u8]| {
    let asked = Instant::now();
    let mut received = asked + INTERVAL;
    let mut transit = clock::Transit::new(asked, received);
    let mut rest = bytes;
    while let Ok(report) = message::OrcaLoadReport::decode_length_delimited(&mut rest) {
        let sending = transit.receive(received, fold::sent(&report));
        assert!(sending.earliest <= sending.latest && sending.latest <= received, "{sending:?}");
        if let Some(seen) = fold::observation(&report, sending) {
            assert!(seen.taken_start <= seen.taken_end && seen.taken_end <= received, "{seen:?}");
            let counts =
                [seen.running, seen.waiting, seen.generation_tokens, seen.prompt_tokens, seen.requests];
            assert!(counts.into_iter().flatten().all(|count| count.is_finite() && count >= 0.0), "{seen:?}");
            assert!(seen.kv_usage.is_none_or(|share| (0.0..=1.0).contains(&share)), "{seen:?}");
        }
        if let Some(seen) = fold::hardware(&report, sending) {
            assert!(seen.taken_start <= seen.taken_end && seen.taken_end <= received, "{seen:?}");
            let shares = [seen.speed, seen.foreign, seen.utilization, seen.memory];
            assert!(shares.into_iter().flatten().all(|share| (0.0..=1.0).contains(&share)), "{seen:?}");
        }
        let _ = fold::samples(&report);
        if rest.is_empty() {
            break;
        }
        received += INTERVAL;
    }
});
