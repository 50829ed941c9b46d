//! What only an oracle knows: when a request would be answered, by running copies of the engines.
//!
//! It knows prompts, output lengths and the state of every engine, but no request to come.

use std::time::Duration;

use super::engine::{Engine, Event, Request};

/// What a forward simulation runs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    First,
    Last,
}

/// When `request` would get its first or last token from a server with `engine` if it came at `now`, after the
/// requests `on_the_way`; none if that is not before `limit`.
pub(super) fn answer(
    engine: &Engine,
    on_the_way: &[Request],
    request: Request,
    now: Duration,
    until: Until,
    limit: Duration,
) -> Option<Duration> {
    let mut engine = engine.clone();
    engine.advance_to(now);
    for one in on_the_way.iter().chain([&request]) {
        engine.submit(*one).ok()?;
    }
    if engine.is_stepping() {
        engine.finish_step();
    }
    loop {
        if let Some(time) = engine.time_to_finish(request.id) {
            return Some(engine.now() + time).filter(|at| *at < limit);
        }
        engine.begin_step()?;
        let hit = engine.finish_step().iter().any(|event| {
            matches!(event, Event::Token { id, number, last }
                if *id == request.id && (*last || (until == Until::First && *number == 1)))
        });
        if engine.now() >= limit {
            return None;
        }
        if hit {
            return Some(engine.now());
        }
    }
}
