//! The sources that are read over HTTP: an inference server's metrics, and a DCGM exporter's.

use std::time::Instant;

use futures::future::BoxFuture;

use super::{
    Endpoint, Hardware, Observation, Source, SourceError, dcgm,
    http::HttpClient,
    light::{self, Queue},
    reading,
    servers::{SERVERS, Server, ServerKind},
};

const NO_QUEUE: SourceError =
    SourceError::Content("the answer holds no queue metrics of a server that is known");
const NO_GPU: SourceError = SourceError::Content("the answer holds nothing about the gpus");

/// An inference server's metrics endpoint.
pub struct ServerMetrics {
    client: HttpClient,
    body: Vec<u8>,
    server: Option<ServerKind>,
    /// The path that the server answered at, where the URL has none.
    path: Option<&'static str>,
    /// What the metrics said last, and who said it.
    known: Option<(&'static Server, Queue)>,
    /// The server has not the small answer that its kind should have.
    no_light: bool,
}

impl ServerMetrics {
    /// Connects at the first question. Which server it is shows in its answers unless `server` says it.
    pub fn new(endpoint: Endpoint, server: Option<ServerKind>) -> Self {
        let client = HttpClient::new(endpoint);
        Self { client, body: Vec::new(), server, path: None, known: None, no_light: false }
    }

    async fn ask(&mut self, path: &str) -> Result<Observation, SourceError> {
        let taken_start = Instant::now();
        self.client.get(path, &mut self.body).await?;
        let taken_end = Instant::now();
        reading::read(&self.body, self.server, taken_start, taken_end).ok_or(NO_QUEUE)
    }

    async fn find(&mut self) -> Result<Observation, SourceError> {
        if let Some(path) = self.client.url().path().map(str::to_owned) {
            return self.ask(&path).await;
        }
        if let Some(path) = self.path {
            let result = self.ask(path).await;
            if matches!(result, Err(SourceError::Status(_) | SourceError::Content(_))) {
                // Perhaps another server has taken its place.
                self.path = None;
            }
            return result;
        }
        let mut first = None;
        for path in usual_paths(self.server) {
            match self.ask(path).await {
                Ok(observation) => {
                    self.path = Some(path);
                    return Ok(observation);
                }
                Err(error @ (SourceError::Status(_) | SourceError::Content(_))) => {
                    first.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(first.unwrap_or(NO_QUEUE))
    }

    async fn glance(&mut self) -> Result<Option<Observation>, SourceError> {
        let Some((server, known)) = self.known else { return Ok(None) };
        let Some(light) = server.light.as_ref().filter(|_| !self.no_light) else { return Ok(None) };
        // Behind a prefix the metrics and the small answer have it in common.
        let prefix = self.client.url().path().map_or("", |path| path.strip_suffix(server.path).unwrap_or(""));
        let path = format!("{prefix}{}", light.path);
        let taken_start = Instant::now();
        let answered = self.client.get(&path, &mut self.body).await;
        let taken_end = Instant::now();
        if matches!(answered, Err(SourceError::Status(_))) {
            self.no_light = true;
            return Ok(None);
        }
        answered?;
        Ok(light::read(light.form, &self.body, known).map(|queue| Observation {
            server: Some(server.kind),
            running: Some(queue.running),
            waiting: Some(queue.waiting),
            kv_usage: queue.kv_usage,
            cadence: Some(light.cadence),
            ..Observation::silent(taken_start, taken_end)
        }))
    }
}

/// Where the metrics of `server` are, or of any: each place once, the commonest first.
fn usual_paths(server: Option<ServerKind>) -> Vec<&'static str> {
    let mut paths = Vec::new();
    for known in SERVERS.iter().filter(|known| server.is_none_or(|server| server == known.kind)) {
        if !paths.contains(&known.path) {
            paths.push(known.path);
        }
    }
    paths
}

impl Source for ServerMetrics {
    type Reading = Observation;

    fn observe(&mut self) -> BoxFuture<'_, Result<Observation, SourceError>> {
        Box::pin(async {
            let observation = self.find().await?;
            let (running, waiting) = (observation.running, observation.waiting);
            let queue =
                running.zip(waiting).map(|(running, waiting)| Queue { running, waiting, kv_usage: None });
            let before = self.known.map(|(server, _)| server.kind);
            self.known = observation.server.map(ServerKind::server).zip(queue);
            // What another server does not have, this one may.
            self.no_light &= before == observation.server;
            Ok(observation)
        })
    }

    fn glance(&mut self) -> BoxFuture<'_, Result<Option<Observation>, SourceError>> {
        Box::pin(self.glance())
    }
}

/// A DCGM exporter, asked for some of its host's GPUs.
pub struct DcgmExporter {
    client: HttpClient,
    body: Vec<u8>,
    gpus: Vec<String>,
}

impl DcgmExporter {
    /// Connects at the first question. `gpus` names the backend's by number or UUID; none named means all.
    pub fn new(endpoint: Endpoint, gpus: Vec<String>) -> Self {
        Self { client: HttpClient::new(endpoint), body: Vec::new(), gpus }
    }
}

impl Source for DcgmExporter {
    type Reading = Hardware;

    fn observe(&mut self) -> BoxFuture<'_, Result<Hardware, SourceError>> {
        const USUAL_PATH: &str = "/metrics";
        Box::pin(async {
            let path = self.client.url().path().unwrap_or(USUAL_PATH).to_owned();
            let taken_start = Instant::now();
            self.client.get(&path, &mut self.body).await?;
            dcgm::read(&self.body, &self.gpus, taken_start, Instant::now()).ok_or(NO_GPU)
        })
    }
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
