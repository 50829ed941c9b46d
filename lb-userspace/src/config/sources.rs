//! From keys to meaning: `[tunnel]` and `[nat]`, the addresses that packets to backends come from.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use toml::Spanned;

use super::announce::announce;
use super::check::usable_address;
use super::error::Source as Text;
use super::raw::{RawAnnounce, RawNat, RawTunnel, RawVip};
use super::{Announce, ConfigError, Interface, MAX_NAT_SOURCES, Place, Problem, TUNNEL_V4, TUNNEL_V6};

/// `[tunnel]`: the prefixes that outer headers come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tunnel {
    /// Of tunnels to IPv4 addresses, /16 to /32.
    pub source_v4: Option<Prefix>,
    /// Of tunnels to IPv6 addresses, /64 to /128.
    pub source_v6: Option<Prefix>,
}

/// An address whose bits beyond `length` are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// Its first address.
    pub address: IpAddr,
    /// How many bits are fixed.
    pub length: u8,
}

impl Prefix {
    /// Whether an address lies in it.
    pub fn contains(self, address: IpAddr) -> bool {
        first(address, self.length) == self.address
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// The first address of the prefix of `length` bits, no more than an address has, in which `address` lies.
fn first(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

/// `[nat]`: the addresses that one-armed `nat` sends from.
#[derive(Debug, Clone, PartialEq)]
pub struct Nat {
    /// IPv4 first, each family in the file's order; of each none, or a power of two up to [`MAX_NAT_SOURCES`].
    pub sources: Vec<Source>,
    /// How the neighbours learn of them; never as an address of an interface.
    pub announce: Announce,
}

/// An address that is used for nothing but to send from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The address.
    pub address: IpAddr,
    /// Where the file names it.
    pub place: Place,
}

impl Nat {
    /// How many sources are of the family of `address`.
    pub fn count(&self, address: IpAddr) -> usize {
        self.sources.iter().filter(|source| source.address.is_ipv4() == address.is_ipv4()).count()
    }

    /// The addresses in their order.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.sources.iter().map(|source| source.address).collect()
    }
}

pub(super) fn tunnel(text: &Text<'_>, raw: &RawTunnel) -> Result<Tunnel, ConfigError> {
    let read = |key, value: &Option<Spanned<String>>, v4, lengths| {
        value.as_ref().map(|value| prefix(text, key, value, v4, lengths)).transpose()
    };
    Ok(Tunnel {
        source_v4: read("source_v4", &raw.source_v4, true, TUNNEL_V4)?,
        source_v6: read("source_v6", &raw.source_v6, false, TUNNEL_V6)?,
    })
}

fn prefix(
    text: &Text<'_>,
    key: &'static str,
    value: &Spanned<String>,
    v4: bool,
    lengths: RangeInclusive<u8>,
) -> Result<Prefix, ConfigError> {
    let example = if v4 { "172.16.0.0/16" } else { "fd00:1::/64" };
    let written = value.get_ref();
    let parsed = written
        .split_once('/')
        .and_then(|(address, length)| Some((address.parse::<IpAddr>().ok()?, length.parse::<u8>().ok()?)));
    let Some((address, length)) = parsed.filter(|(address, _)| address.is_ipv4() == v4) else {
        return Err(text.invalid(value, Problem::Prefix { key, value: written.clone(), example }));
    };
    if !lengths.contains(&length) {
        let [length, least, most] = [length, *lengths.start(), *lengths.end()].map(|bits| bits.to_string());
        return Err(
            text.invalid(value, Problem::Range { field: "prefix length", value: length, least, most })
        );
    }
    let address = usable_address(text, &Spanned::new(value.span(), address), || key.to_owned())?;
    let prefix = Prefix { address: first(address, length), length };
    if prefix.address != address {
        return Err(text.invalid(value, Problem::PrefixBits { key, value: written.clone(), prefix }));
    }
    Ok(prefix)
}

pub(super) fn nat(
    text: &Text<'_>,
    raw: &RawNat,
    interfaces: &[Interface],
    vips: &[RawVip],
) -> Result<Nat, ConfigError> {
    let owners = owners(vips);
    let mut seen = HashMap::new();
    let mut sources = Vec::with_capacity(raw.sources.len());
    for value in &raw.sources {
        let address = usable_address(text, value, || "a source of [nat]".to_owned())?;
        let place = text.place(value.span());
        if let Some(owner) = owners.get(&address) {
            return Err(text.invalid(value, Problem::SourceInUse { address, owner: owner.clone() }));
        }
        if let Some(first) = seen.insert(address, place.line) {
            return Err(text.invalid(value, Problem::SameSource { address, first }));
        }
        sources.push(Source { address, place });
    }
    // A stable sort: within a family the file's order says which ports of the flow table are whose.
    sources.sort_by_key(|source| source.address.is_ipv6());
    let announce = announce(text, raw.announce.as_ref(), raw.announce_on.as_ref(), interfaces, || {
        "[nat] sources".to_owned()
    })?;
    if let (Announce::Address { .. }, Some(value)) = (&announce, &raw.announce) {
        return Err(text.invalid::<RawAnnounce>(value, Problem::SourceAsAddress));
    }
    let nat = Nat { sources, announce };
    for (family, any) in
        [("IPv4", IpAddr::V4(Ipv4Addr::UNSPECIFIED)), ("IPv6", IpAddr::V6(Ipv6Addr::UNSPECIFIED))]
    {
        let count = nat.count(any);
        let last = raw.sources.iter().rfind(|value| value.get_ref().is_ipv4() == any.is_ipv4());
        if let Some(last) = last.filter(|_| !count.is_power_of_two() || count > MAX_NAT_SOURCES) {
            return Err(text.invalid(last, Problem::SourceCount { count, family }));
        }
    }
    Ok(nat)
}

/// Whose the addresses are that VIPs and backends have.
fn owners(vips: &[RawVip]) -> HashMap<IpAddr, String> {
    let backends = vips.iter().flat_map(|vip| &vip.backend);
    let backends =
        backends.map(|backend| (*backend.address.get_ref(), format!("backend `{}`", backend.name.get_ref())));
    let vips = vips.iter().map(|vip| (*vip.address.get_ref(), format!("VIP `{}`", vip.name.get_ref())));
    backends.chain(vips).collect()
}
