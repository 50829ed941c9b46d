//! The agent's own configuration file, by the same rules as the daemon's.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::check::{absolute, name};
use super::error::Source;
use super::raw::{RawEndpoint, RawGpu, RawNvml, RawScrape};
use super::scrape::{self, Scrape};
use super::{ConfigError, GpuId, Identity, Nvml, Place, Problem, nvml, read};
use crate::signals::Target;

/// A whole, consistent configuration of an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What it trusts and shows.
    pub identity: Identity,
    /// How GPUs are read. They are found by the servers' processes unless the file says otherwise: all are here.
    pub nvml: Nvml,
    /// What it speaks for, at least one; the first is meant by those who name none.
    pub backends: Vec<AgentBackend>,
}

/// `[[backend]]`
#[derive(Debug, Clone, PartialEq)]
pub struct AgentBackend {
    /// Its name in the balancers' configuration.
    pub name: String,
    /// Where the server's metrics are, and how they are scraped.
    pub metrics: Option<Target>,
    /// The GPUs that it runs on; `None` has them found by the process that has its metrics, where `nvml` says so.
    pub gpus: Option<Vec<GpuId>>,
    /// Where the file names this backend.
    pub place: Place,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    agent: RawAgent,
    #[serde(default)]
    scrape: RawScrape,
    #[serde(default)]
    nvml: RawNvml,
    #[serde(default)]
    backend: Vec<RawBackend>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAgent {
    listen: SocketAddr,
    ca: Spanned<PathBuf>,
    cert: Spanned<PathBuf>,
    key: Spanned<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBackend {
    name: Spanned<String>,
    metrics: Option<Spanned<RawEndpoint>>,
    gpus: Option<Vec<Spanned<RawGpu>>>,
}

impl AgentConfig {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// As for [`super::Config::load`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        read(path, Self::parse)
    }

    /// Checks the configuration in `text`; `file` is what errors call it.
    ///
    /// # Errors
    /// The first thing found wrong, with its line and column and what to do about it.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        let source = Source::new(file, text);
        let raw: RawConfig = toml::from_str(text).map_err(|error| source.syntax(&error))?;
        let agent = raw.agent;
        if raw.backend.is_empty() {
            return Err(ConfigError::invalid(source.end(), Problem::NoAgentBackend));
        }
        let scrape = scrape::scrape(&source, &raw.scrape)?;
        let mut seen = HashMap::new();
        let backends = raw.backend.iter().map(|raw| backend(&source, raw, &scrape, &mut seen));
        Ok(Self {
            listen: agent.listen,
            identity: Identity {
                ca: absolute(&source, "ca", agent.ca)?,
                cert: absolute(&source, "cert", agent.cert)?,
                key: absolute(&source, "key", agent.key)?,
            },
            nvml: {
                let discover = raw.nvml.discover.unwrap_or(true);
                Nvml { discover, ..nvml::nvml(&source, raw.nvml)? }
            },
            backends: backends.collect::<Result<_, _>>()?,
        })
    }
}

fn backend(
    source: &Source<'_>,
    raw: &RawBackend,
    scrape: &Scrape,
    seen: &mut HashMap<String, usize>,
) -> Result<AgentBackend, ConfigError> {
    let place = source.place(raw.name.span());
    let name = name(source, &raw.name)?;
    if let Some(first) = seen.insert(name.clone(), place.line) {
        return Err(source.invalid(&raw.name, Problem::DuplicateBackendName { name, first }));
    }
    let metrics = raw.metrics.as_ref().map(|raw| scrape::metrics(source, raw, scrape)).transpose()?;
    let gpus = raw.gpus.as_ref().map(|gpus| nvml::gpus(source, gpus, &name)).transpose()?;
    Ok(AgentBackend { name, metrics, gpus, place })
}
