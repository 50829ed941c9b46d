//! Connections and requests in the world.

use std::time::Duration;

use lb_common::slot::{Slot, State};

use super::super::engine::Request;

/// The kernel's age clock: acknowledged bytes are noted once in this for each flow, with its next packet.
pub(super) const AGE_TICK: Duration = Duration::from_millis(1024);

/// Bytes of a prompt's token in a request: English has four characters a token.
pub(super) const PROMPT_BYTES: u32 = 4;

/// Bytes of a token's event in a stream.
pub(super) const TOKEN_BYTES: u64 = 200;

/// A flow without progress for this long is idle.
pub(super) const IDLE_AFTER: Duration = Duration::from_secs(1);

/// Servers close connections that are idle for this long (vLLM's and SGLang's default).
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A slot in this state.
pub(super) fn slot(state: State) -> Slot {
    Slot::EMPTY.with(0, state, 0)
}

/// A connection.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) balancer: u16,
    pub(super) server: u32,
    pub(super) slot: Slot,
    /// Bytes acknowledged that the kernel has not noted yet, and when it last noted some.
    pub(super) unnoted: u64,
    pub(super) age: u32,
    /// The request that it is busy with, and its last one.
    pub(super) request: Option<u32>,
    pub(super) last: u32,
}

impl Flow {
    pub(super) fn new(balancer: u16, server: u32, request: u32) -> Self {
        Self {
            balancer,
            server,
            slot: Slot::EMPTY,
            unnoted: 0,
            age: 0,
            request: Some(request),
            last: request,
        }
    }

    /// Takes another request.
    pub(super) fn ask(&mut self, request: u32) {
        (self.request, self.last) = (Some(request), request);
    }
}

/// A request and what became of it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: Request,
    pub(super) flow: u32,
    pub(super) at: Duration,
    pub(super) first: Option<Duration>,
    pub(super) done: Option<Duration>,
}
