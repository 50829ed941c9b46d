//! What the admin socket may ask of the core.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::timeout;

use super::{core::Core, explaining, flows, lock, recording::Recording, snapshot, traces::Trace};
use crate::api::{
    AdminState, Change, CommandError, Explanation, FlowPage, FlowsRequest, Foresight, ForesightRequest,
    GovernorRequest, Handler, ModeChange, RecordRequest, Snapshot, TableShares, TraceRequest,
};
use crate::dataplane::Error;

/// Twice the longest tick: an answer comes with the next one.
const PATIENCE: Duration = Duration::from_secs(2);

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
    type Recording = Recording;

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

    async fn explain(&self, backend: &str) -> Result<Explanation, CommandError> {
        let asked = lock(&self.0).explain(backend);
        let Some((vip, answer)) = asked else {
            return Err(CommandError::UnknownBackend { name: backend.to_owned() });
        };
        match timeout(PATIENCE, answer).await {
            Ok(Ok(explained)) => Ok(explaining::explanation(&vip, backend, &explained)),
            Ok(Err(_)) | Err(_) => Err(CommandError::Silent),
        }
    }

    async fn foresee(&self, request: &ForesightRequest) -> Result<Foresight, CommandError> {
        flows::foresee(&lock(&self.0), request)
    }

    async fn flows(&self, request: &FlowsRequest) -> Result<FlowPage, CommandError> {
        let reader = flows::Reader::of(&lock(&self.0));
        tokio::task::block_in_place(|| reader.page(request))
    }

    async fn table(&self, vip: &str) -> Result<TableShares, CommandError> {
        tokio::task::block_in_place(|| flows::table(&lock(&self.0), vip))
    }

    async fn governor(&self, request: &GovernorRequest) -> Result<Vec<ModeChange>, CommandError> {
        let GovernorRequest { mode, vip } = request;
        let changed = tokio::task::block_in_place(|| lock(&self.0).set_mode(vip.as_deref(), *mode));
        let changes = changed.map_err(|error| CommandError::Mode { reason: format!("{error:#}") })?;
        if let (Some(name), true) = (vip, changes.is_empty()) {
            return Err(CommandError::UnknownVip { name: name.clone() });
        }
        for ModeChange { vip, before, after } in changes.iter().filter(|change| change.before != change.after)
        {
            tracing::info!("governor of VIP {vip}: {before} -> {after}");
        }
        Ok(changes)
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

    async fn record(&self, request: &RecordRequest) -> Result<Recording, CommandError> {
        Ok(lock(&self.0).record(Duration::from_millis(request.every_ms)))
    }
}
