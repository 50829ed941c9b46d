//! From keys to meaning: `[[vip]]` and `[[vip.backend]]`, and the rules that hold between them.

use std::collections::HashMap;
use std::net::IpAddr;

use toml::Spanned;

use super::check::{integer, name, real};
use super::error::Source;
use super::raw::{RawAnnounce, RawBackend, RawVip};
use super::{
    Affinity, Announce, Backend, ConfigError, DUTY, EPSILON, ForwardMode, Interface, LIMIT, MAX_BACKENDS,
    MAX_VIPS, PORT, Policy, PolicyKind, Problem, Protocol, SKIP_BYTES, Vip, WEIGHT,
};

/// Bytes of the response headers of the common inference servers, with some room.
const DEFAULT_SKIP_BYTES: u16 = 320;

type Endpoint = (IpAddr, u16, Protocol);

/// What has been read so far; a new item must not repeat it.
#[derive(Default)]
struct Seen {
    /// Line of each VIP's name.
    vip_names: HashMap<String, usize>,
    vips: HashMap<Endpoint, String>,
    /// Line of each backend's name.
    backend_names: HashMap<String, usize>,
    /// Backend and VIP behind each end point that `nat` answers come from.
    nat_backends: HashMap<Endpoint, (String, String)>,
    /// VIP and its manner for each announced address.
    announced: HashMap<IpAddr, (String, Announce)>,
}

pub(super) fn vips(
    source: &Source<'_>,
    raw: Vec<RawVip>,
    interfaces: &[Interface],
) -> Result<Vec<Vip>, ConfigError> {
    if raw.is_empty() {
        return Err(ConfigError::invalid(source.end(), Problem::NoVip));
    }
    if let Some(excess) = raw.get(MAX_VIPS) {
        return Err(source.invalid(&excess.name, Problem::TooManyVips));
    }
    if let Some(excess) = raw.iter().flat_map(|vip| &vip.backend).nth(MAX_BACKENDS) {
        return Err(source.invalid(&excess.name, Problem::TooManyBackends));
    }
    backends_apart_from_vips(source, &raw)?;
    let mut seen = Seen::default();
    raw.into_iter().map(|raw| vip(source, raw, interfaces, &mut seen)).collect()
}

fn vip(
    source: &Source<'_>,
    raw: RawVip,
    interfaces: &[Interface],
    seen: &mut Seen,
) -> Result<Vip, ConfigError> {
    let place = source.place(raw.name.span());
    let name = name(source, &raw.name)?;
    if let Some(first) = seen.vip_names.insert(name.clone(), place.line) {
        return Err(source.invalid(&raw.name, Problem::DuplicateVipName { name, first }));
    }
    let address = usable_address(source, &raw.address, || format!("VIP `{name}`"))?;
    let port = integer(source, "port", &raw.port, PORT)?;
    let protocol = raw.protocol.unwrap_or(Protocol::Tcp);
    if let Some(other) = seen.vips.insert((address, port, protocol), name.clone()) {
        return Err(source.invalid(&raw.address, Problem::SameVip { name, other, address, port, protocol }));
    }
    let mut vip = Vip {
        policy: policy(source, &raw)?,
        announce: announce(source, &raw, interfaces)?,
        name,
        address,
        port,
        protocol,
        mode: raw.mode,
        affinity: raw.affinity.unwrap_or(Affinity::Flow),
        skip_bytes: raw
            .skip_bytes
            .map_or(Ok(DEFAULT_SKIP_BYTES), |value| integer(source, "skip_bytes", &value, SKIP_BYTES))?,
        duty: raw.duty.map(|value| real(source, "duty", &value, DUTY)).transpose()?,
        backends: Vec::new(),
        place,
    };
    if vip.announce != Announce::None {
        let (other, announce) =
            seen.announced.entry(address).or_insert_with(|| (vip.name.clone(), vip.announce.clone()));
        if *announce != vip.announce {
            let (name, other) = (vip.name, other.clone());
            return Err(source.invalid(&raw.address, Problem::AnnounceConflict { name, other, address }));
        }
    }
    if raw.backend.is_empty() {
        return Err(source.invalid(&raw.name, Problem::NoBackend { vip: vip.name }));
    }
    let mut own = HashMap::new();
    for raw in raw.backend {
        let backend = backend(source, &raw, &vip, seen)?;
        if let Some(other) = own.insert(backend.endpoint(), backend.name.clone()) {
            let Backend { name, address, port, .. } = backend;
            let problem = Problem::SameBackend { name, other, vip: vip.name, address, port };
            return Err(source.invalid(&raw.address, problem));
        }
        nat_backend_apart(source, &raw, &backend, &vip, seen)?;
        vip.backends.push(backend);
    }
    Ok(vip)
}

fn policy(source: &Source<'_>, raw: &RawVip) -> Result<Policy, ConfigError> {
    let kind = raw.policy.unwrap_or(PolicyKind::Least);
    let policy = match (kind, &raw.epsilon) {
        (PolicyKind::Bounded, Some(value)) => {
            Policy::Bounded { epsilon: real(source, "epsilon", value, EPSILON)? }
        }
        (PolicyKind::Bounded, None) => Policy::Bounded { epsilon: Policy::DEFAULT_EPSILON },
        (policy, Some(value)) => {
            return Err(source.invalid(value, Problem::EpsilonWithoutBounded { policy }));
        }
        (PolicyKind::Least, None) => Policy::Least,
        (PolicyKind::Hash, None) => Policy::Hash,
        (PolicyKind::RoundRobin, None) => Policy::RoundRobin,
        (PolicyKind::LeastConnections, None) => Policy::LeastConnections,
    };
    Ok(policy)
}

fn announce(source: &Source<'_>, raw: &RawVip, interfaces: &[Interface]) -> Result<Announce, ConfigError> {
    let all = || interfaces.iter().map(|interface| interface.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(on) = &raw.announce_on
        && !interfaces.iter().any(|interface| interface.name == *on.get_ref())
    {
        let problem = Problem::AnnounceOnUnknown { name: on.get_ref().clone(), interfaces: all() };
        return Err(source.invalid(on, problem));
    }
    let Some(manner) = raw.announce.as_ref().filter(|manner| *manner.get_ref() != RawAnnounce::None) else {
        return match &raw.announce_on {
            Some(on) => Err(source.invalid(on, Problem::AnnounceOnWithoutAnnounce)),
            None => Ok(Announce::None),
        };
    };
    let interface = match (&raw.announce_on, interfaces) {
        (Some(on), _) => on.get_ref().clone(),
        (None, [only]) => only.name.clone(),
        (None, _) => {
            let vip = raw.name.get_ref().clone();
            return Err(source.invalid(manner, Problem::AnnounceWhere { vip, interfaces: all() }));
        }
    };
    Ok(match manner.get_ref() {
        RawAnnounce::Address => Announce::Address { interface },
        RawAnnounce::Arp => Announce::Arp { interface },
        RawAnnounce::None => Announce::None,
    })
}

fn backend(
    source: &Source<'_>,
    raw: &RawBackend,
    vip: &Vip,
    seen: &mut Seen,
) -> Result<Backend, ConfigError> {
    let place = source.place(raw.name.span());
    let name = name(source, &raw.name)?;
    if let Some(first) = seen.backend_names.insert(name.clone(), place.line) {
        return Err(source.invalid(&raw.name, Problem::DuplicateBackendName { name, first }));
    }
    let address = usable_address(source, &raw.address, || format!("backend `{name}`"))?;
    if address.is_ipv4() != vip.address.is_ipv4() {
        let [family, vip_family] =
            [address, vip.address].map(|address| if address.is_ipv4() { "IPv4" } else { "IPv6" });
        let problem = Problem::Family { name, address, family, vip: vip.name.clone(), vip_family };
        return Err(source.invalid(&raw.address, problem));
    }
    let port = match &raw.port {
        Some(value) => {
            let port = integer(source, "port", value, PORT)?;
            if vip.mode == ForwardMode::L2 && port != vip.port {
                let (vip, vip_port) = (vip.name.clone(), vip.port);
                return Err(source.invalid(value, Problem::PortTranslation { name, port, vip, vip_port }));
            }
            port
        }
        None => vip.port,
    };
    let weight = &raw.weight;
    Ok(Backend {
        name,
        address,
        port,
        weight: weight
            .as_ref()
            .map_or(Ok(Backend::DEFAULT_WEIGHT), |value| integer(source, "weight", value, WEIGHT))?,
        limit: raw.limit.as_ref().map(|value| integer(source, "limit", value, LIMIT)).transpose()?,
        metrics: raw.metrics.as_ref().map(|url| metrics_url(source, url)).transpose()?,
        place,
    })
}

/// A `nat` answer must lead to one VIP, so no other may use the same address, port and protocol.
fn nat_backend_apart(
    source: &Source<'_>,
    raw: &RawBackend,
    backend: &Backend,
    vip: &Vip,
    seen: &mut Seen,
) -> Result<(), ConfigError> {
    if vip.mode != ForwardMode::Nat {
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

/// Packets to a backend at a VIP's address would be steered again.
fn backends_apart_from_vips(source: &Source<'_>, raw: &[RawVip]) -> Result<(), ConfigError> {
    let owners: HashMap<IpAddr, &String> =
        raw.iter().map(|vip| (*vip.address.get_ref(), vip.name.get_ref())).collect();
    for backend in raw.iter().flat_map(|vip| &vip.backend) {
        let address = *backend.address.get_ref();
        if let Some(&vip) = owners.get(&address) {
            let (name, vip) = (backend.name.get_ref().clone(), vip.clone());
            return Err(source.invalid(&backend.address, Problem::BackendIsVip { name, address, vip }));
        }
    }
    Ok(())
}

fn usable_address(
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

fn metrics_url(source: &Source<'_>, value: &Spanned<String>) -> Result<http::Uri, ConfigError> {
    let url = value.get_ref();
    let refuse = |reason: String| source.invalid(value, Problem::MetricsUrl { url: url.clone(), reason });
    let uri: http::Uri = url.parse().map_err(|error: http::uri::InvalidUri| refuse(error.to_string()))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some(scheme) => {
            let scheme = scheme.to_owned();
            return Err(source.invalid(value, Problem::MetricsScheme { url: url.clone(), scheme }));
        }
        None => return Err(refuse("it does not begin with http://".to_owned())),
    }
    let Some(authority) = uri.authority().filter(|authority| !authority.host().is_empty()) else {
        return Err(refuse("it names no host".to_owned()));
    };
    if authority.as_str().contains('@') {
        return Err(refuse("it holds a user name or password".to_owned()));
    }
    Ok(uri)
}
