//! From keys to meaning: `[agents]`, and the `agent` of a backend.

use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;

use super::check::{absolute, duration};
use super::error::Source;
use super::raw::RawAgents;
use super::{AGENT_INTERVAL, AgentUrl, ConfigError, Problem};

/// `[agents]`: how agents beside the servers are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agents {
    /// What the daemon trusts and shows; needed for agents by `https`.
    pub identity: Option<Identity>,
    /// Time from one report to the next, 5 ms to 1 min.
    pub interval: Duration,
}

impl Default for Agents {
    fn default() -> Self {
        // As often as a large batch makes a step, about: servers have nothing newer to say.
        Self { identity: None, interval: Duration::from_millis(50) }
    }
}

/// The files of one end of mutual TLS, all PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Certificate authority that the other end's certificate must come from.
    pub ca: PathBuf,
    /// Own certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

pub(super) fn agents(source: &Source<'_>, raw: &RawAgents) -> Result<Agents, ConfigError> {
    let default = Agents::default();
    let interval = raw.interval.as_ref();
    Ok(Agents {
        identity: identity(source, raw)?,
        interval: interval
            .map_or(Ok(default.interval), |value| duration(source, "interval", value, AGENT_INTERVAL))?,
    })
}

fn identity(source: &Source<'_>, raw: &RawAgents) -> Result<Option<Identity>, ConfigError> {
    let files = [("ca", &raw.ca), ("cert", &raw.cert), ("key", &raw.key)];
    let Some((present, value)) = files.iter().find_map(|(name, file)| Some((*name, file.as_ref()?))) else {
        return Ok(None);
    };
    let path = |name, file: &Option<Spanned<PathBuf>>| match file {
        Some(path) => absolute(source, name, path.clone()),
        None => Err(source.invalid(value, Problem::PartOfIdentity { present, missing: name })),
    };
    let [ca, cert, key] = files.map(|(name, file)| path(name, file));
    Ok(Some(Identity { ca: ca?, cert: cert?, key: key? }))
}

pub(super) fn url(
    source: &Source<'_>,
    value: &Spanned<String>,
    agents: &Agents,
) -> Result<AgentUrl, ConfigError> {
    let text = value.get_ref();
    let url: AgentUrl = text
        .parse()
        .map_err(|reason| source.invalid(value, Problem::AgentUrl { url: text.clone(), reason }))?;
    if url.is_tls() && agents.identity.is_none() {
        return Err(source.invalid(value, Problem::AgentWithoutIdentity { url: text.clone() }));
    }
    Ok(url)
}
