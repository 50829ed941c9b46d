//! Any text at all: reading it never panics, and what it is said to say can be.

#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;

#[path = "../../lb-userspace/src/signals/dcgm.rs"]
mod dcgm;
#[path = "../../lb-userspace/src/signals/exposition.rs"]
mod exposition;
#[expect(dead_code, reason = "shared with the daemon, which uses all of it")]
#[path = "../../lb-userspace/src/signals/hardware.rs"]
mod hardware;
#[expect(dead_code, reason = "shared with the daemon, which uses all of it")]
#[path = "../../lb-userspace/src/signals/observation.rs"]
mod observation;
#[path = "../../lb-userspace/src/signals/reading.rs"]
mod reading;
#[expect(dead_code, reason = "shared with the daemon, which uses all of it")]
#[path = "../../lb-userspace/src/signals/servers.rs"]
mod servers;

fuzz_target!(|text: &[u8]| {
    for sample in exposition::samples(text).flatten() {
        assert!(!sample.name.is_empty() && !sample.labels.contains('\n'), "{sample:?}");
    }
    let now = Instant::now();
    let known = |value: f64| value.is_finite() && value >= 0.0;
    if let Some(seen) = reading::read(text, None, now, now) {
        let counts = [seen.running, seen.waiting, seen.generation_tokens, seen.prompt_tokens, seen.requests];
        assert!(counts.into_iter().flatten().all(known), "{seen:?}");
        assert!(seen.kv_usage.is_none_or(|share| (0.0..=1.0).contains(&share)), "{seen:?}");
        assert!(seen.server.is_some() && seen.cadence.is_some(), "{seen:?}");
        let named = reading::read(text, seen.server, now, now);
        assert_eq!(named.as_ref(), Some(&seen));
    }
    if let Some(seen) = dcgm::read(text, &[], now, now) {
        let shares = [seen.speed, seen.utilization, seen.memory];
        assert!(shares.into_iter().flatten().all(|share| (0.0..=1.0).contains(&share)), "{seen:?}");
    }
});
