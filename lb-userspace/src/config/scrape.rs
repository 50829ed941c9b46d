//! From keys to meaning: `[scrape]`, `[vip.scrape]`, and the `metrics` and `dcgm` of a backend.

use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;

use super::check::{absolute, duration};
use super::error::Source;
use super::raw::{RawEndpoint, RawScrape};
use super::{ConfigError, DCGM_INTERVAL, Problem, SCRAPE_INTERVAL, SCRAPE_TIMEOUT};
use crate::signals::{DcgmTarget, Endpoint, MetricsUrl, ScrapeOptions, ServerKind, Target};

/// What one place of the file says of scraping; `None` where it is silent.
#[derive(Clone, Default)]
pub(super) struct Scrape {
    interval: Option<Duration>,
    timeout: Option<Duration>,
    light_interval: Option<Duration>,
    /// `Some(None)` has it found out.
    server: Option<Option<ServerKind>>,
    ca: Option<PathBuf>,
    token_file: Option<PathBuf>,
}

impl Scrape {
    /// The same, and what `general` says where it is silent.
    pub fn or(self, general: &Self) -> Self {
        Self {
            interval: self.interval.or(general.interval),
            timeout: self.timeout.or(general.timeout),
            light_interval: self.light_interval.or(general.light_interval),
            server: self.server.or(general.server),
            ca: self.ca.or_else(|| general.ca.clone()),
            token_file: self.token_file.or_else(|| general.token_file.clone()),
        }
    }
}

pub(super) fn scrape(source: &Source<'_>, raw: &RawScrape) -> Result<Scrape, ConfigError> {
    let time = |field, value: &Option<Spanned<String>>, range| {
        value.as_ref().map(|value| duration(source, field, value, range)).transpose()
    };
    let path = |field, value: &Option<Spanned<PathBuf>>| {
        value.as_ref().map(|path| absolute(source, field, path.clone())).transpose()
    };
    Ok(Scrape {
        interval: time("interval", &raw.interval, SCRAPE_INTERVAL)?,
        timeout: time("timeout", &raw.timeout, SCRAPE_TIMEOUT)?,
        light_interval: time("light_interval", &raw.light_interval, SCRAPE_INTERVAL)?,
        server: raw.server.as_ref().map(|name| server(source, name)).transpose()?,
        ca: path("ca", &raw.ca)?,
        token_file: path("token_file", &raw.token_file)?,
    })
}

fn server(source: &Source<'_>, name: &Spanned<String>) -> Result<Option<ServerKind>, ConfigError> {
    let text = name.get_ref();
    if text == "auto" {
        return Ok(None);
    }
    let unknown = || {
        let known = ServerKind::names().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        source.invalid(name, Problem::Server { name: text.clone(), known })
    };
    ServerKind::from_name(text).map(Some).ok_or_else(unknown)
}

/// `metrics` of a backend: what it says itself, and the rest as its VIP and the file do.
pub(super) fn metrics(
    source: &Source<'_>,
    raw: &Spanned<RawEndpoint>,
    general: &Scrape,
) -> Result<Target, ConfigError> {
    let key = "metrics";
    let own = raw.get_ref();
    if let Some(gpus) = own.gpus() {
        return Err(source.invalid(gpus, Problem::GpusWithoutDcgm));
    }
    let scrape = scrape(source, &own.scrape())?.or(general);
    let endpoint = endpoint(source, key, raw, &scrape)?;
    let default = ScrapeOptions::default();
    let options = ScrapeOptions {
        interval: scrape.interval.unwrap_or(default.interval),
        timeout: scrape.timeout.unwrap_or(default.timeout),
        light_interval: scrape.light_interval,
    };
    if options.light_interval.is_some_and(|light| light >= options.interval) {
        return Err(source.invalid(raw, Problem::LightNotShorter));
    }
    Ok(Target { endpoint, server: scrape.server.flatten(), options })
}

/// `dcgm` of a backend. The intervals of servers' metrics are not its own: an exporter has something new every 30 s.
pub(super) fn dcgm(
    source: &Source<'_>,
    raw: &Spanned<RawEndpoint>,
    general: &Scrape,
) -> Result<DcgmTarget, ConfigError> {
    let key = "dcgm";
    let own = raw.get_ref();
    let said = own.scrape();
    for (field, place) in [
        ("server", said.server.as_ref().map(Spanned::span)),
        ("light_interval", said.light_interval.as_ref().map(Spanned::span)),
    ] {
        if let Some(span) = place {
            return Err(ConfigError::invalid(source.place(span), Problem::NotOfDcgm { field }));
        }
    }
    let said = scrape(source, &said)?;
    let options = ScrapeOptions {
        interval: said.interval.unwrap_or(DCGM_INTERVAL),
        timeout: said.timeout.or(general.timeout).unwrap_or(ScrapeOptions::default().timeout),
        light_interval: None,
    };
    let endpoint = endpoint(source, key, raw, &said.or(general))?;
    Ok(DcgmTarget {
        endpoint,
        gpus: own.gpus().map(|gpus| gpus.get_ref().clone()).unwrap_or_default(),
        options,
    })
}

fn endpoint(
    source: &Source<'_>,
    key: &'static str,
    raw: &Spanned<RawEndpoint>,
    scrape: &Scrape,
) -> Result<Endpoint, ConfigError> {
    let (text, span) = raw.get_ref().url(raw.span());
    let refuse = |problem| ConfigError::invalid(source.place(span.clone()), problem);
    let url: MetricsUrl =
        text.parse().map_err(|reason| refuse(Problem::MetricsUrl { key, url: text.to_owned(), reason }))?;
    if url.is_https() && scrape.ca.is_none() {
        return Err(refuse(Problem::HttpsWithoutCa { key, url: text.to_owned() }));
    }
    if let Some(ca) = raw.get_ref().scrape().ca.filter(|_| !url.is_https()) {
        return Err(source.invalid(&ca, Problem::CaWithoutHttps));
    }
    let ca = scrape.ca.clone().filter(|_| url.is_https());
    Ok(Endpoint { url, ca, token_file: scrape.token_file.clone() })
}
