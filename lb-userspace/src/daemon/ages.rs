//! How old everything is that a backend's cost is made from.

use std::time::Instant;

use super::core::Core;
use crate::{
    api::{Signal, SignalSource},
    signals::{Observation, Scrape},
};

/// All sources of a backend.
pub fn signals_of(core: &Core, backend: &str) -> Vec<Signal> {
    let now = Instant::now();
    let seconds = |taken: Instant| now.saturating_duration_since(taken).as_secs_f64();
    let mut signals = vec![Signal::new(SignalSource::Kernel, core.ticked().map(seconds))];
    if let Some(scrape) = core.scrapers.subscribe(backend) {
        signals.extend(server(&scrape.borrow(), seconds));
    } else if let Some(scrape) = core.agents.subscribe(backend) {
        let scrape = scrape.borrow();
        let age = scrape.last.as_ref().map(|observation| seconds(observation.taken_start));
        signals.push(scraped(SignalSource::Agent, age, &scrape));
    }
    if let Some(hardware) = core.hardware.subscribe(backend) {
        let age = hardware.borrow().as_ref().map(|hardware| seconds(hardware.taken_start));
        signals.push(Signal::new(SignalSource::Gpu, age));
    }
    if let Some(scrape) = core.scrapers.subscribe_exporter(backend) {
        let scrape = scrape.borrow();
        let age = scrape.last.as_ref().map(|hardware| seconds(hardware.taken_start));
        signals.push(scraped(SignalSource::Dcgm, age, &scrape));
    }
    signals
}

/// A server's metrics, and its small answers if it gives any.
fn server(scrape: &Scrape, seconds: impl Fn(Instant) -> f64) -> Vec<Signal> {
    // From when the question was put: it may have been answered at once.
    let age = |observation: &Observation| seconds(observation.taken_start);
    let recognised = |observation: &Observation| observation.server.map(|server| server.to_string());
    let last = scrape.last.as_ref();
    let metrics =
        Signal { server: last.and_then(recognised), ..scraped(SignalSource::Metrics, last.map(age), scrape) };
    let light = scrape.glance.as_ref().map(|glance| Signal {
        server: recognised(glance),
        ..Signal::new(SignalSource::Light, Some(age(glance)))
    });
    std::iter::once(metrics).chain(light).collect()
}

fn scraped<R>(source: SignalSource, age_seconds: Option<f64>, scrape: &Scrape<R>) -> Signal {
    let kinds = scrape.failures.by_kind().into_iter().filter(|(_, count)| *count > 0);
    Signal {
        failures: kinds.map(|(kind, count)| (kind.to_owned(), count)).collect(),
        consecutive_failures: scrape.consecutive_failures,
        last_error: scrape.last_error.clone(),
        ..Signal::new(source, age_seconds)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::server;
    use crate::{
        api::SignalSource,
        signals::{Failures, Observation, Scrape, ServerKind},
    };

    #[test]
    fn a_server_shows_what_it_is_how_old_its_words_are_and_what_went_wrong() {
        let now = Instant::now();
        let seconds = |taken: Instant| now.saturating_duration_since(taken).as_secs_f64();
        let kind = ServerKind::from_name("vllm").expect("a server");
        let taken = |age| {
            let start = now - Duration::from_secs(age);
            Observation { server: Some(kind), ..Observation::silent(start, start) }
        };
        let mut scrape = Scrape {
            failures: Failures { timeout: 3, status: 1, ..Failures::default() },
            consecutive_failures: 2,
            last_error: Some("status 503".to_owned()),
            ..Scrape::default()
        };
        let [silent] = &server(&scrape, seconds)[..] else { panic!("one source") };
        assert_eq!((silent.source, silent.age_seconds, &silent.server), (SignalSource::Metrics, None, &None));
        (scrape.last, scrape.glance) = (Some(taken(4)), Some(taken(1)));
        let [metrics, light] = &server(&scrape, seconds)[..] else { panic!("two sources") };
        assert_eq!((metrics.age_seconds, light.age_seconds), (Some(4.0), Some(1.0)));
        assert_eq!((metrics.server.as_deref(), light.server.as_deref()), (Some("vllm"), Some("vllm")));
        let kinds: Vec<_> = metrics.failures.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
        assert_eq!(kinds, [("status", 1), ("timeout", 3)]);
        assert_eq!(metrics.consecutive_failures, 2);
        assert_eq!(metrics.last_error.as_deref(), Some("status 503"));
        assert_eq!(light.source, SignalSource::Light);
    }
}
