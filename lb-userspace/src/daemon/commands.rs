//! What the admin socket may ask of the core.

use std::sync::{Arc, Mutex};

use super::{core::Core, lock, snapshot, traces::Trace};
use crate::api::{AdminState, Change, CommandError, Handler, Snapshot, TraceRequest};
use crate::dataplane::Error;

/// The admin socket's way into the core.
pub struct Commands(pub Arc<Mutex<Core>>);

impl Commands {
    fn set(&self, name: &str, state: AdminState) -> Result<Change, CommandError> {
        let changed = tokio::task::block_in_place(|| lock(&self.0).set_admin(name, state));
        match changed {
            Ok(Some(before)) => {
                tracing::info!("backend {name}: {before} -> {state}");
                Ok(Change { backend: name.to_owned(), before, after: state })
            }
            Ok(None) => Err(CommandError::UnknownBackend { name: name.to_owned() }),
            Err(error) => Err(CommandError::Failed { name: name.to_owned(), reason: format!("{error:#}") }),
        }
    }
}

impl Handler for Commands {
    type Trace = Trace;

    async fn status(&self) -> Result<Snapshot, CommandError> {
        tokio::task::block_in_place(|| snapshot::take(&lock(&self.0)))
            .map_err(|error| CommandError::Unreadable { reason: error.to_string() })
    }

    async fn drain(&self, backend: &str) -> Result<Change, CommandError> {
        self.set(backend, AdminState::Draining)
    }

    async fn resume(&self, backend: &str) -> Result<Change, CommandError> {
        self.set(backend, AdminState::Active)
    }

    async fn trace(&self, request: &TraceRequest) -> Result<Trace, CommandError> {
        let core = lock(&self.0);
        if let Some(name) = &request.vip
            && core.config.vips.iter().all(|vip| vip.name != *name)
        {
            return Err(CommandError::UnknownVip { name: name.clone() });
        }
        if let Some(name) = &request.backend
            && core.backends().all(|(_, backend)| backend.name != *name)
        {
            return Err(CommandError::UnknownBackend { name: name.clone() });
        }
        let unreadable = |error: Error| CommandError::Unreadable { reason: error.to_string() };
        core.traces.begin(request.clone()).map_err(unreadable)
    }
}
