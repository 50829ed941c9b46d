//! From keys to meaning, outside the VIPs: scalars, names, paths, `[daemon]`, `[health]` and `[[interface]]`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::time::Duration;

use humantime::format_duration;
use toml::Spanned;

use super::error::Source;
use super::raw::{RawConfig, RawDaemon, RawHealth, RawInterface};
use super::{
    Config, ConfigError, Daemon, FLOW_TIMEOUT, FLOWS, HEALTH_COUNT, HEALTH_INTERVAL, HEALTH_TIMEOUT, Health,
    IDLE_AFTER, Interface, MAX_INTERFACE_NAME, MAX_NAME, MAX_SOCKET_PATH, Problem, TICK, XdpMode, agents,
    nvml, scrape, sources, vip,
};

pub(super) fn config(source: &Source<'_>, raw: RawConfig) -> Result<Config, ConfigError> {
    let daemon = daemon(source, raw.daemon)?;
    let health = health(source, &raw.health)?;
    let interfaces = interfaces(source, raw.interface)?;
    let tunnel = sources::tunnel(source, &raw.tunnel)?;
    let nat = sources::nat(source, &raw.nat, &interfaces, &raw.vip)?;
    let nvml = nvml::nvml(source, raw.nvml)?;
    let scrape = scrape::scrape(source, &raw.scrape)?;
    let agents = agents::agents(source, &raw.agents)?;
    let around = vip::Around {
        interfaces: &interfaces,
        tunnel: &tunnel,
        nat: &nat,
        scrape: &scrape,
        governor: daemon.governor,
        agents: &agents,
    };
    let vips = vip::vips(source, raw.vip, &around)?;
    Ok(Config { daemon, health, tunnel, nat, nvml, agents, interfaces, vips })
}

fn daemon(source: &Source<'_>, raw: RawDaemon) -> Result<Daemon, ConfigError> {
    let default = Daemon::default();
    let time = |field, value: &Option<Spanned<String>>, otherwise, range| {
        value.as_ref().map_or(Ok(otherwise), |value| duration(source, field, value, range))
    };
    Ok(Daemon {
        tick: time("tick", &raw.tick, default.tick, TICK)?,
        socket: raw.socket.map_or(Ok(default.socket), |path| socket(source, path))?,
        pin: raw.pin.map(|path| absolute(source, "pin", path)).transpose()?,
        flows: raw.flows.map_or(Ok(default.flows), |value| flows(source, &value))?,
        idle_after: time("idle_after", &raw.idle_after, default.idle_after, IDLE_AFTER)?,
        idle_timeout: time("idle_timeout", &raw.idle_timeout, default.idle_timeout, FLOW_TIMEOUT)?,
        udp_timeout: time("udp_timeout", &raw.udp_timeout, default.udp_timeout, FLOW_TIMEOUT)?,
        governor: raw.governor.unwrap_or(default.governor),
    })
}

fn health(source: &Source<'_>, raw: &RawHealth) -> Result<Health, ConfigError> {
    let default = Health::default();
    let count = |field, value: &Option<Spanned<i64>>, otherwise| {
        value.as_ref().map_or(Ok(otherwise), |value| integer(source, field, value, HEALTH_COUNT))
    };
    let interval = match &raw.interval {
        Some(value) => duration(source, "interval", value, HEALTH_INTERVAL)?,
        None => default.interval,
    };
    let timeout = match &raw.timeout {
        Some(value) => duration(source, "timeout", value, HEALTH_TIMEOUT)?,
        None => default.timeout.min(interval),
    };
    if let Some(value) = raw.timeout.as_ref().filter(|_| timeout > interval) {
        let [least, most] = [*HEALTH_TIMEOUT.start(), interval].map(|end| format_duration(end).to_string());
        return Err(source.invalid(value, Problem::TimeoutOverInterval { least, most }));
    }
    let rise = count("rise", &raw.rise, default.rise)?;
    let fall = count("fall", &raw.fall, default.fall)?;
    Ok(Health { interval, timeout, rise, fall })
}

fn interfaces(source: &Source<'_>, raw: Vec<RawInterface>) -> Result<Vec<Interface>, ConfigError> {
    if raw.is_empty() {
        return Err(ConfigError::invalid(source.end(), Problem::NoInterface));
    }
    let mut seen = HashMap::new();
    raw.into_iter()
        .map(|RawInterface { name, mode }| {
            let place = source.place(name.span());
            // The kernel's own rule, dev_valid_name() in net/core/dev.c.
            let text = name.get_ref();
            let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
            if text.is_empty()
                || text.len() > MAX_INTERFACE_NAME
                || matches!(text.as_str(), "." | "..")
                || text.contains(bad)
            {
                return Err(source.invalid(&name, Problem::InterfaceName { name: text.clone() }));
            }
            if let Some(first) = seen.insert(text.clone(), place.line) {
                return Err(source.invalid(&name, Problem::DuplicateInterface { name: text.clone(), first }));
            }
            Ok(Interface { name: name.into_inner(), mode: mode.unwrap_or(XdpMode::Native), place })
        })
        .collect()
}

/// Whether a VIP or backend can be called so.
pub fn is_name(text: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    (1..=MAX_NAME).contains(&text.len()) && text.chars().all(good)
}

/// Checks the name of a VIP or backend.
pub(super) fn name(source: &Source<'_>, name: &Spanned<String>) -> Result<String, ConfigError> {
    let text = name.get_ref();
    if !is_name(text) {
        return Err(source.invalid(name, Problem::Name { name: text.clone() }));
    }
    Ok(text.clone())
}

/// Checks an integer against `range`, which must fit `T`.
pub(super) fn integer<T: TryFrom<i64>>(
    source: &Source<'_>,
    field: &'static str,
    value: &Spanned<i64>,
    range: RangeInclusive<i64>,
) -> Result<T, ConfigError> {
    let number = *value.get_ref();
    T::try_from(number).ok().filter(|_| range.contains(&number)).ok_or_else(|| {
        let [value_text, least, most] = [number, *range.start(), *range.end()].map(|end| end.to_string());
        source.invalid(value, Problem::Range { field, value: value_text, least, most })
    })
}

/// Checks a real number against `range`; not-a-number is outside of all.
pub(super) fn real(
    source: &Source<'_>,
    field: &'static str,
    value: &Spanned<f64>,
    range: RangeInclusive<f64>,
) -> Result<f64, ConfigError> {
    let number = *value.get_ref();
    if range.contains(&number) {
        return Ok(number);
    }
    let [value_text, least, most] = [number, *range.start(), *range.end()].map(|end| end.to_string());
    Err(source.invalid(value, Problem::Range { field, value: value_text, least, most }))
}

/// Checks that an address is one that other hosts can send to.
pub(super) fn usable_address(
    source: &Source<'_>,
    value: &Spanned<IpAddr>,
    owner: impl FnOnce() -> String,
) -> Result<IpAddr, ConfigError> {
    let address = *value.get_ref();
    let kind = match address {
        IpAddr::V6(v6) if let Some(inner) = v6.to_ipv4_mapped() => {
            let problem = Problem::MappedAddress { owner: owner(), address, inner: inner.into() };
            return Err(source.invalid(value, problem));
        }
        _ if address.is_unspecified() => "unspecified",
        _ if address.is_loopback() => "a loopback address",
        _ if address.is_multicast() => "a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        _ => return Ok(address),
    };
    Err(source.invalid(value, Problem::Address { owner: owner(), address, kind }))
}

/// What an address is called by its length.
pub(super) fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

pub(super) fn duration(
    source: &Source<'_>,
    field: &'static str,
    value: &Spanned<String>,
    range: RangeInclusive<Duration>,
) -> Result<Duration, ConfigError> {
    let text = value.get_ref();
    let time = humantime::parse_duration(text).map_err(|error| {
        let reason = error.to_string();
        source.invalid(value, Problem::Duration { field, value: text.clone(), reason })
    })?;
    if range.contains(&time) {
        return Ok(time);
    }
    let [value_text, least, most] =
        [time, *range.start(), *range.end()].map(|end| format_duration(end).to_string());
    Err(source.invalid(value, Problem::Range { field, value: value_text, least, most }))
}

fn flows(source: &Source<'_>, value: &Spanned<i64>) -> Result<u32, ConfigError> {
    let slots: u32 = integer(source, "flows", value, FLOWS)?;
    if slots.is_power_of_two() {
        return Ok(slots);
    }
    let above = slots.next_power_of_two();
    Err(source.invalid(value, Problem::FlowsNotPowerOfTwo { value: slots, below: above / 2, above }))
}

fn socket(source: &Source<'_>, path: Spanned<PathBuf>) -> Result<PathBuf, ConfigError> {
    if path.get_ref().as_os_str().as_bytes().len() > MAX_SOCKET_PATH {
        return Err(source.invalid(&path, Problem::LongSocketPath));
    }
    absolute(source, "socket", path)
}

pub(super) fn absolute(
    source: &Source<'_>,
    field: &'static str,
    path: Spanned<PathBuf>,
) -> Result<PathBuf, ConfigError> {
    if path.get_ref().is_absolute() {
        return Ok(path.into_inner());
    }
    let text = path.get_ref().display().to_string();
    Err(source.invalid(&path, Problem::RelativePath { field, path: text }))
}
