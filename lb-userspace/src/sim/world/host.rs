//! A server in the world: its engine and what can be seen of it from outside.

use std::time::Duration;

use super::super::{
    engine::{Engine, Request},
    prequal::Latency,
    scenario::Server,
};

/// What a server's metrics show: the state at the end of its last step.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shown {
    pub(super) running: u32,
    pub(super) waiting: u32,
    pub(super) kv_usage: f64,
    pub(super) tokens: u64,
    pub(super) prompt_tokens: u64,
}

#[derive(Debug)]
pub(super) struct Host {
    pub(super) engine: Engine,
    pub(super) shown: Shown,
    /// Requests that are chosen for it and have not come yet.
    pub(super) on_the_way: Vec<Request>,
    /// Requests chosen for it and not answered.
    pub(super) in_flight: u32,
    pub(super) latency: Latency,
    /// Requests a second at its best, at the speed that holds now.
    pub(super) speed: f64,
    capacity: f64,
}

impl Host {
    pub(super) fn new(server: &Server) -> Self {
        let mut engine = Engine::new(server.engine);
        engine.set_rate(server.rate);
        engine.set_foreign(server.foreign).expect("the scenario's foreign requests fit");
        Self {
            engine,
            shown: Shown::default(),
            on_the_way: Vec::new(),
            in_flight: 0,
            latency: Latency::default(),
            speed: server.capacity * server.rate,
            capacity: server.capacity,
        }
    }

    pub(super) fn set_rate(&mut self, rate: f64) {
        self.engine.set_rate(rate);
        self.speed = self.capacity * rate;
    }

    /// Begins a step if the engine rests and has something to do; says how long it takes.
    pub(super) fn kick(&mut self, now: Duration) -> Option<Duration> {
        if self.engine.is_stepping() {
            return None;
        }
        self.engine.advance_to(now);
        self.engine.begin_step()
    }

    /// Requests in its batch and its queue.
    pub(super) fn outstanding(&self) -> u32 {
        self.engine.running() + self.engine.waiting()
    }

    /// Notes what the metrics show after a step.
    pub(super) fn publish(&mut self) {
        self.shown = Shown {
            running: self.engine.running(),
            waiting: self.engine.waiting(),
            kv_usage: self.engine.kv_usage(),
            tokens: self.engine.counters().generation_tokens,
            prompt_tokens: self.engine.counters().prompt_tokens,
        };
    }
}
