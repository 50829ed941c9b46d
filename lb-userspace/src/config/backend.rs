//! From keys to meaning: `[[vip.backend]]`.

use super::check::{family, integer, name, usable_address};
use super::error::Source;
use super::raw::RawBackend;
use super::scrape::{self, Scrape};
use super::vip::{Around, Seen};
use super::{
    ANY_PORT, Backend, ConfigError, ForwardMode, LIMIT, PORT, Problem, Tunnel, Vip, WEIGHT, agents, nvml,
    quic,
};

pub(super) fn backend(
    source: &Source<'_>,
    raw: &RawBackend,
    vip: &Vip,
    around: &Around<'_>,
    scrape: &Scrape,
    seen: &mut Seen,
) -> Result<Backend, ConfigError> {
    let place = source.place(raw.name.span());
    let name = name(source, &raw.name)?;
    if let Some(first) = seen.backend_names.insert(name.clone(), place.line) {
        return Err(source.invalid(&raw.name, Problem::DuplicateBackendName { name, first }));
    }
    let address = usable_address(source, &raw.address, || format!("backend `{name}`"))?;
    match vip.mode {
        ForwardMode::Tunnel { .. } => tunnel_leads_to(source, raw, &name, vip, around.tunnel)?,
        _ if address.is_ipv4() != vip.address.is_ipv4() => {
            let (family, vip_family) = (family(address), family(vip.address));
            let problem = Problem::Family { name, address, family, vip: vip.name.clone(), vip_family };
            return Err(source.invalid(&raw.address, problem));
        }
        _ => {}
    }
    let port = port(source, raw, &name, vip)?;
    let server_id =
        raw.server_id.as_ref().map(|value| quic::server_id(source, value, &name, vip)).transpose()?;
    let gpus = raw.gpus.as_ref().map(|gpus| nvml::gpus(source, gpus, &name)).transpose()?;
    let weight = &raw.weight;
    Ok(Backend {
        name,
        address,
        port,
        weight: weight
            .as_ref()
            .map_or(Ok(Backend::DEFAULT_WEIGHT), |value| integer(source, "weight", value, WEIGHT))?,
        limit: raw.limit.as_ref().map(|value| integer(source, "limit", value, LIMIT)).transpose()?,
        metrics: raw.metrics.as_ref().map(|raw| scrape::metrics(source, raw, scrape)).transpose()?,
        dcgm: raw.dcgm.as_ref().map(|raw| scrape::dcgm(source, raw, scrape)).transpose()?,
        gpus,
        agent: raw.agent.as_ref().map(|url| agents::url(source, url, around.agents)).transpose()?,
        server_id,
        place,
    })
}

/// A tunnel needs a source of the family of the backend's address, and one that is nobody's address.
fn tunnel_leads_to(
    source: &Source<'_>,
    raw: &RawBackend,
    name: &str,
    vip: &Vip,
    tunnel: &Tunnel,
) -> Result<(), ConfigError> {
    let address = *raw.address.get_ref();
    let (key, prefix) = match address.is_ipv4() {
        true => ("source_v4", tunnel.source_v4),
        false => ("source_v6", tunnel.source_v6),
    };
    let name = name.to_owned();
    let problem = match prefix {
        Some(prefix) if prefix.contains(address) => {
            Problem::BackendIsTunnelSource { name, address, key, prefix }
        }
        Some(_) => return Ok(()),
        None => Problem::NoTunnelSource { name, vip: vip.name.clone(), family: family(address), key },
    };
    Err(source.invalid(&raw.address, problem))
}

fn port(source: &Source<'_>, raw: &RawBackend, name: &str, vip: &Vip) -> Result<u16, ConfigError> {
    let Some(value) = &raw.port else { return Ok(vip.port) };
    let port = integer(source, "port", value, PORT)?;
    if matches!(vip.mode, ForwardMode::Nat { .. }) || port == vip.port {
        return Ok(port);
    }
    let (name, vip_name) = (name.to_owned(), vip.name.clone());
    Err(source.invalid(
        value,
        match vip.port {
            ANY_PORT => Problem::PortUnderAny { name, vip: vip_name },
            vip_port => Problem::PortTranslation { name, port, vip: vip_name, vip_port, mode: vip.mode },
        },
    ))
}

/// An answer of two-armed `nat` must lead to one VIP, so no other may use the same address, port and protocol.
pub(super) fn nat_backend_apart(
    source: &Source<'_>,
    raw: &RawBackend,
    backend: &Backend,
    vip: &Vip,
    seen: &mut Seen,
) -> Result<(), ConfigError> {
    if vip.mode != (ForwardMode::Nat { source_nat: false }) {
        return Ok(());
    }
    let endpoint = (backend.address, backend.port, vip.protocol);
    let owner = (backend.name.clone(), vip.name.clone());
    let Some((other, other_vip)) = seen.nat_backends.insert(endpoint, owner) else { return Ok(()) };
    let problem = Problem::SharedNatBackend {
        name: backend.name.clone(),
        vip: vip.name.clone(),
        other,
        other_vip,
        address: backend.address,
        port: backend.port,
        protocol: vip.protocol,
    };
    Err(source.invalid(&raw.address, problem))
}
