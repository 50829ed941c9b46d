//! From keys to meaning: `[[vip]]`, and the rules that hold between VIPs.

use std::collections::HashMap;
use std::net::IpAddr;

use toml::Spanned;

use super::announce::announce;
use super::backend::{backend, nat_backend_apart};
use super::check::{family, integer, name, real, usable_address};
use super::error::Source;
use super::raw::{RawMode, RawPort, RawVip};
use super::scrape::{self, Scrape};
use super::{
    ANY_PORT, Affinity, Agents, Announce, Backend, ConfigError, DUTY, EPSILON, Encap, ForwardMode,
    GovernorMode, Interface, MAX_BACKENDS, MAX_VIPS, Nat, PORT, Policy, PolicyKind, Problem, Protocol,
    SKIP_BYTES, Tunnel, Vip, quic,
};

/// Bytes of the response headers of the common inference servers, with some room.
const DEFAULT_SKIP_BYTES: u16 = 320;

type Endpoint = (IpAddr, u16, Protocol);

/// What else the file says that VIPs must agree with.
pub(super) struct Around<'a> {
    pub interfaces: &'a [Interface],
    pub tunnel: &'a Tunnel,
    pub nat: &'a Nat,
    pub scrape: &'a Scrape,
    pub governor: GovernorMode,
    pub agents: &'a Agents,
}

/// What has been read so far; a new item must not repeat it.
#[derive(Default)]
pub(super) struct Seen {
    /// Line of each VIP's name.
    vip_names: HashMap<String, usize>,
    vips: HashMap<Endpoint, String>,
    /// Line of each backend's name.
    pub backend_names: HashMap<String, usize>,
    /// Backend and VIP behind each end point that two-armed `nat` answers come from.
    pub nat_backends: HashMap<Endpoint, (String, String)>,
    /// VIP and its manner for each announced address.
    announced: HashMap<IpAddr, (String, Announce)>,
}

pub(super) fn vips(
    source: &Source<'_>,
    raw: Vec<RawVip>,
    around: &Around<'_>,
) -> Result<Vec<Vip>, ConfigError> {
    if raw.is_empty() {
        return Err(ConfigError::invalid(source.end(), Problem::NoVip));
    }
    if let Some(excess) = raw.get(MAX_VIPS - around.nat.sources.len()) {
        return Err(source.invalid(&excess.name, Problem::TooManyVips));
    }
    if let Some(excess) = raw.iter().flat_map(|vip| &vip.backend).nth(MAX_BACKENDS) {
        return Err(source.invalid(&excess.name, Problem::TooManyBackends));
    }
    backends_apart_from_vips(source, &raw)?;
    let mut seen = Seen::default();
    raw.into_iter().map(|raw| vip(source, raw, around, &mut seen)).collect()
}

fn vip(source: &Source<'_>, raw: RawVip, around: &Around<'_>, seen: &mut Seen) -> Result<Vip, ConfigError> {
    let place = source.place(raw.name.span());
    let name = name(source, &raw.name)?;
    if let Some(first) = seen.vip_names.insert(name.clone(), place.line) {
        return Err(source.invalid(&raw.name, Problem::DuplicateVipName { name, first }));
    }
    let address = usable_address(source, &raw.address, || format!("VIP `{name}`"))?;
    let mode = mode(source, &raw, address, around.nat)?;
    let port = port(source, &raw.port)?;
    if port == ANY_PORT && matches!(mode, ForwardMode::Nat { .. }) {
        return Err(source.invalid(&raw.port, Problem::AnyPortNat { vip: name }));
    }
    let protocol = raw.protocol.unwrap_or(Protocol::Tcp);
    if let Some(other) = seen.vips.insert((address, port, protocol), name.clone()) {
        return Err(source.invalid(&raw.address, Problem::SameVip { name, other, address, port, protocol }));
    }
    let mut vip = Vip {
        policy: policy(source, &raw)?,
        announce: announce(
            source,
            raw.announce.as_ref(),
            raw.announce_on.as_ref(),
            around.interfaces,
            || format!("VIP `{name}`"),
        )?,
        quic: raw.quic.as_ref().map(|value| quic::form(source, value, &name, protocol, mode)).transpose()?,
        name,
        address,
        port,
        protocol,
        mode,
        governor: raw.governor.unwrap_or(around.governor),
        affinity: raw.affinity.unwrap_or(Affinity::Flow),
        skip_bytes: raw
            .skip_bytes
            .map_or(Ok(DEFAULT_SKIP_BYTES), |value| integer(source, "skip_bytes", &value, SKIP_BYTES))?,
        duty: raw.duty.map(|value| real(source, "duty", &value, DUTY)).transpose()?,
        probe_port: raw.probe_port.map(|value| integer(source, "probe_port", &value, PORT)).transpose()?,
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
    let scrape = scrape::scrape(source, &raw.scrape)?.or(around.scrape);
    let (mut own, mut ids) = (HashMap::new(), HashMap::new());
    for raw in raw.backend {
        let backend = backend(source, &raw, &vip, around, &scrape, seen)?;
        if let Some(other) = own.insert(backend.endpoint(), backend.name.clone()) {
            let Backend { name, address, port, .. } = backend;
            let problem = Problem::SameBackend { name, other, vip: vip.name, address, port };
            return Err(source.invalid(&raw.address, problem));
        }
        if let (Some(value), Some(id)) = (&raw.server_id, backend.server_id)
            && let Some(other) = ids.insert(id, backend.name.clone())
        {
            let (name, id) = (backend.name, value.get_ref().clone());
            return Err(source.invalid(value, Problem::SameServerId { name, other, vip: vip.name, id }));
        }
        nat_backend_apart(source, &raw, &backend, &vip, seen)?;
        vip.backends.push(backend);
    }
    Ok(vip)
}

/// How packets are forwarded, from the mode and the keys that only one of the modes has.
fn mode(source: &Source<'_>, raw: &RawVip, address: IpAddr, nat: &Nat) -> Result<ForwardMode, ConfigError> {
    let source_nat = raw.source_nat.as_ref().filter(|value| *value.get_ref());
    if let Some(value) = raw.encap.as_ref().filter(|_| raw.mode != RawMode::Tunnel) {
        return Err(source.invalid(value, Problem::EncapWithoutTunnel));
    }
    if let Some(value) = source_nat {
        let vip = || raw.name.get_ref().clone();
        if raw.mode != RawMode::Nat {
            return Err(source.invalid(value, Problem::SourceNatWithoutNat));
        }
        if nat.count(address) == 0 {
            return Err(source.invalid(value, Problem::NoNatSource { vip: vip(), family: family(address) }));
        }
    }
    Ok(match raw.mode {
        RawMode::L2 => ForwardMode::L2,
        RawMode::Nat => ForwardMode::Nat { source_nat: source_nat.is_some() },
        RawMode::Tunnel => {
            ForwardMode::Tunnel { encap: raw.encap.as_ref().map_or(Encap::Ip, |value| *value.get_ref()) }
        }
    })
}

fn port(source: &Source<'_>, raw: &Spanned<RawPort>) -> Result<u16, ConfigError> {
    match raw.get_ref() {
        RawPort::Number(0) => Ok(ANY_PORT),
        RawPort::Number(number) => integer(source, "port", &Spanned::new(raw.span(), *number), PORT),
        RawPort::Word(word) if word == "any" => Ok(ANY_PORT),
        RawPort::Word(word) => Err(source.invalid(raw, Problem::PortWord { word: word.clone() })),
    }
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
