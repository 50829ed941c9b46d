//! Refusals: what is wrong with a configuration, where, and what to do about it.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::str::Utf8Error;
use std::sync::Arc;

use super::{
    ForwardMode, MAX_BACKENDS, MAX_BYTES, MAX_INTERFACE_NAME, MAX_NAME, MAX_NAT_SOURCES, MAX_SOCKET_PATH,
    MAX_VIPS, PolicyKind, Prefix, Protocol,
};
use crate::agent;
use crate::signals::UrlError;

/// A place in a configuration file, shown as `file:line:column`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// File, as its reader named it.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be opened or read.
    #[error("{file}: cannot read the configuration")]
    Read {
        /// File.
        file: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is larger than [`MAX_BYTES`].
    #[error("{file}: oversized config: more than {MAX_BYTES} bytes; is this the right file?")]
    Oversized {
        /// File.
        file: String,
    },
    /// The file is not UTF-8.
    #[error("{place}: not UTF-8 text; save the file as UTF-8")]
    NotUtf8 {
        /// The first bad byte.
        place: Place,
    },
    /// Not TOML, an unknown key, a key missing, or a value of the wrong kind.
    #[error("{place}: {message}")]
    Syntax {
        /// Where.
        place: Place,
        /// The parser's words.
        message: String,
    },
    /// Well-formed, but it cannot be meant.
    #[error("{place}: {problem}")]
    Invalid {
        /// Where.
        place: Place,
        /// What and what to do.
        problem: Box<Problem>,
    },
}

impl ConfigError {
    pub(super) fn invalid(place: Place, problem: Problem) -> Self {
        Self::Invalid { place, problem: Box::new(problem) }
    }

    pub(super) fn not_utf8(file: &str, bytes: &[u8], error: Utf8Error) -> Self {
        let (valid, _) = bytes.split_at(error.valid_up_to());
        let valid = String::from_utf8_lossy(valid);
        let place = Source::new(file, &valid).place(valid.len()..valid.len());
        Self::NotUtf8 { place }
    }
}

/// A mistake in the meaning of a configuration, with its remedy.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message is its documentation")]
pub enum Problem {
    #[error(
        "no interface is configured; add an [[interface]] with the name of one that receives the VIPs' traffic"
    )]
    NoInterface,
    #[error("interface `{name}` is configured twice (first in line {first}); remove one of the two")]
    DuplicateInterface { name: String, first: usize },
    #[error(
        "`{name}` cannot name an interface: 1 to {MAX_INTERFACE_NAME} bytes without white space, `/` or `:`; \
         `ip link` lists the names"
    )]
    InterfaceName { name: String },
    #[error("no VIP is configured; add a [[vip]] with at least one [[vip.backend]]")]
    NoVip,
    #[error("more than {MAX_VIPS} VIPs and sources of [nat]; spread them over several balancers")]
    TooManyVips,
    #[error("more than {MAX_BACKENDS} backends over all VIPs; spread the VIPs over several balancers")]
    TooManyBackends,
    #[error("`{name}` cannot be a name: 1 to {MAX_NAME} characters of a-z, 0-9, `-`, `_` and `.`")]
    Name { name: String },
    #[error("two VIPs are named `{name}` (first in line {first}); rename one of them")]
    DuplicateVipName { name: String, first: usize },
    #[error(
        "VIP `{name}` is the same as VIP `{other}`: both are {address} port {port}/{protocol}; \
         change one, or put the backends of both under one VIP"
    )]
    SameVip { name: String, other: String, address: IpAddr, port: u16, protocol: Protocol },
    #[error("VIP `{vip}` has no backend; add a [[vip.backend]] to it")]
    NoBackend { vip: String },
    #[error(
        "two backends are named `{name}` (first in line {first}); names are unique in the whole file: rename one"
    )]
    DuplicateBackendName { name: String, first: usize },
    #[error(
        "backends `{name}` and `{other}` of VIP `{vip}` are both {address} port {port}; \
         remove one and give the other a larger weight"
    )]
    SameBackend { name: String, other: String, vip: String, address: IpAddr, port: u16 },
    #[error(
        "{owner} has the address {address}, which is {kind}; give it a unicast address that other hosts reach"
    )]
    Address { owner: String, address: IpAddr, kind: &'static str },
    #[error("{owner} has the IPv4-mapped address {address}; write it as {inner}")]
    MappedAddress { owner: String, address: IpAddr, inner: IpAddr },
    #[error(
        "backend `{name}` has the {family} address {address}, but VIP `{vip}` is {vip_family}; \
         give the backend its {vip_family} address, or a VIP that is {family}"
    )]
    Family { name: String, address: IpAddr, family: &'static str, vip: String, vip_family: &'static str },
    #[error("backend `{name}` has the address {address} of VIP `{vip}`; give the server's own address")]
    BackendIsVip { name: String, address: IpAddr, vip: String },
    #[error(
        "backend `{name}` asks for port {port} behind port {vip_port} of VIP `{vip}`, but mode {mode} does \
         not translate ports; use mode = \"nat\", or let the server listen on port {vip_port}"
    )]
    PortTranslation { name: String, port: u16, vip: String, vip_port: u16, mode: ForwardMode },
    #[error(
        "backend `{name}` asks for a port, but VIP `{vip}` is for every port and translates none; remove it (the \
         VIP's probe_port says where probes connect)"
    )]
    PortUnderAny { name: String, vip: String },
    #[error(
        "VIP `{vip}` is for every port, which mode \"nat\" cannot be: an answer leads back by its port; give the VIP \
         one port, or use mode = \"l2\" or \"tunnel\""
    )]
    AnyPortNat { vip: String },
    #[error("port is \"{word}\"; it must be a number from 1 to 65535, or \"any\"")]
    PortWord { word: String },
    #[error("encap has no effect without mode = \"tunnel\"; remove it or set that mode")]
    EncapWithoutTunnel,
    #[error("source_nat has no effect without mode = \"nat\"; remove it or set that mode")]
    SourceNatWithoutNat,
    #[error(
        "VIP `{vip}` translates sources, but there is no {family} address in sources of [nat]; add one that is used for \
         nothing else"
    )]
    NoNatSource { vip: String, family: &'static str },
    #[error(
        "{address} cannot be a source of [nat], being the address of {owner}; give an address that is used for \
         nothing else"
    )]
    SourceInUse { address: IpAddr, owner: String },
    #[error("source {address} is given twice (first in line {first}); remove one of the two")]
    SameSource { address: IpAddr, first: usize },
    #[error(
        "{count} {family} sources: it must be a power of two up to {MAX_NAT_SOURCES}, since a flow's source is picked by \
         bits of its hash; add or remove some"
    )]
    SourceCount { count: usize, family: &'static str },
    #[error(
        "sources of [nat] cannot be put on an interface: the host would send from them too; set announce = \"arp\", or \
         route them here"
    )]
    SourceAsAddress,
    #[error("{key} is \"{value}\", which is no prefix for it; write it as in \"{example}\"")]
    Prefix { key: &'static str, value: String, example: &'static str },
    #[error("{key} is \"{value}\", which has bits beyond its length; write it as \"{prefix}\"")]
    PrefixBits { key: &'static str, value: String, prefix: Prefix },
    #[error(
        "backend `{name}` of VIP `{vip}` has an {family} address, and nothing says where tunnels to it come from; add \
         {key} to [tunnel], a prefix that is routed here and used for nothing else"
    )]
    NoTunnelSource { name: String, vip: String, family: &'static str, key: &'static str },
    #[error(
        "backend `{name}` has the address {address} out of {key} ({prefix}), where tunnels come from; give [tunnel] a \
         prefix that is used for nothing else"
    )]
    BackendIsTunnelSource { name: String, address: IpAddr, key: &'static str, prefix: Prefix },
    #[error("VIP `{vip}` is TCP, and QUIC runs over UDP; set protocol = \"udp\" or remove [vip.quic]")]
    QuicNotUdp { vip: String },
    #[error(
        "[vip.quic] does not work with mode \"nat\" of VIP `{vip}`: a client that moves would have no way back; use \
         mode = \"l2\" or \"tunnel\", or remove it"
    )]
    QuicNat { vip: String },
    #[error("backend `{name}` has a server_id, but VIP `{vip}` has no [vip.quic] that says its form; add it")]
    ServerIdWithoutQuic { name: String, vip: String },
    #[error(
        "server_id is \"{value}\"; by server_id_length it must be {length} bytes, two hexadecimal digits each"
    )]
    ServerId { value: String, length: u8 },
    #[error("server_id \"{value}\" is reserved; give the backend another")]
    ServerIdAllOnes { value: String },
    #[error("backends `{name}` and `{other}` of VIP `{vip}` have the same server_id {id}; change one")]
    SameServerId { name: String, other: String, vip: String, id: String },
    #[error(
        "backend `{name}` of VIP `{vip}` is {address} port {port}/{protocol}, which backend `{other}` of VIP \
         `{other_vip}` uses too: with mode \"nat\" its answers could belong to either; give the server another port \
         for one of them, or set source_nat = true for one of the VIPs"
    )]
    SharedNatBackend {
        name: String,
        vip: String,
        other: String,
        other_vip: String,
        address: IpAddr,
        port: u16,
        protocol: Protocol,
    },
    #[error("epsilon has no effect with policy \"{policy}\"; remove it or set policy = \"bounded\"")]
    EpsilonWithoutBounded { policy: PolicyKind },
    #[error("{owner} should be announced, but on which interface? add announce_on, one of: {interfaces}")]
    AnnounceWhere { owner: String, interfaces: String },
    #[error("announce_on names `{name}`, which is no [[interface]] of this file; one of: {interfaces}")]
    AnnounceOnUnknown { name: String, interfaces: String },
    #[error("announce_on has no effect without announce; remove it or set announce = \"arp\" or \"address\"")]
    AnnounceOnWithoutAnnounce,
    #[error(
        "VIPs `{name}` and `{other}` share the address {address} but announce it differently; \
         give both the same announce and announce_on, or one of them announce = \"none\""
    )]
    AnnounceConflict { name: String, other: String, address: IpAddr },
    #[error("{field} is {value}; it must lie between {least} and {most}")]
    Range { field: &'static str, value: String, least: String, most: String },
    #[error("flows is {value}, which is no power of two; use {below} or {above}")]
    FlowsNotPowerOfTwo { value: u32, below: u32, above: u32 },
    #[error(
        "{field} is \"{value}\", which is no duration ({reason}); write it as in \"5ms\", \"1s\" or \"2h 15m\""
    )]
    Duration { field: &'static str, value: String, reason: String },
    #[error("timeout of a health probe is longer than its interval; it must lie between {least} and {most}")]
    TimeoutOverInterval { least: String, most: String },
    #[error("{field} is the relative path \"{path}\"; write it in full, from /")]
    RelativePath { field: &'static str, path: String },
    #[error(
        "socket is a path of more than {MAX_SOCKET_PATH} bytes, the most that Linux takes; choose a shorter one"
    )]
    LongSocketPath,
    #[error(
        "{key} is \"{url}\", which is no URL for it ({reason}); write it as in \"http://10.0.0.21:8000/metrics\""
    )]
    MetricsUrl { key: &'static str, url: String, reason: UrlError },
    #[error(
        "{key} is \"{url}\", but no certificates are named that the server's must lead to; add ca, a PEM file (where a \
         public authority signs, the system's, such as \"/etc/ssl/certs/ca-certificates.crt\")"
    )]
    HttpsWithoutCa { key: &'static str, url: String },
    #[error("ca has no effect on an http:// url; remove it, or write https://")]
    CaWithoutHttps,
    #[error("server is \"{name}\", which is none that is known; one of \"auto\", {known}")]
    Server { name: String, known: String },
    #[error("light_interval has no effect unless it is shorter than interval; make one of them so")]
    LightNotShorter,
    #[error("gpus are those of dcgm; remove it here")]
    GpusWithoutDcgm,
    #[error("{field} is of servers' metrics, which a DCGM exporter has not; remove it here")]
    NotOfDcgm { field: &'static str },
    #[error(
        "gpus names \"{value}\", which is no GPU; write its number, or its UUID (\"GPU-...\" or \"MIG-...\") as \
         `nvidia-smi -L` shows it"
    )]
    GpuId { value: String },
    #[error("gpus of backend `{name}` names a GPU twice; remove one of the two")]
    SameGpu { name: String },
    #[error(
        "library is \"{path}\"; write a path in full, from /, or a name that the dynamic linker finds, such as \
         \"libnvidia-ml.so.1\""
    )]
    NvmlLibrary { path: String },
    #[error(
        "agent is \"{url}\", which is no agent's URL: {reason}; write it as in \"https://10.0.0.21:9900\""
    )]
    AgentUrl { url: String, reason: agent::UrlError },
    #[error(
        "agent \"{url}\" needs ca, cert and key in [agents]; `guidevane agent enroll --balancer` makes them, and http:// \
         needs none"
    )]
    AgentWithoutIdentity { url: String },
    #[error("[agents] has {present} but no {missing}; give all three of ca, cert and key, or none")]
    PartOfIdentity { present: &'static str, missing: &'static str },
    #[error("no backend is configured; add a [[backend]] with a name")]
    NoAgentBackend,
}

/// The text that spans point into.
pub(super) struct Source<'a> {
    file: Arc<str>,
    text: &'a str,
    line_starts: Vec<usize>,
}

impl<'a> Source<'a> {
    pub fn new(file: &str, text: &'a str) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { file: file.into(), text, line_starts }
    }

    pub fn place(&self, span: Range<usize>) -> Place {
        let line = self.line_starts.partition_point(|&start| start <= span.start);
        let start = self.line_starts.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let before = self.text.get(start..span.start).unwrap_or_default();
        Place { file: Arc::clone(&self.file), line, column: before.chars().count() + 1 }
    }

    /// The end of the text: the place of what is missing.
    pub fn end(&self) -> Place {
        self.place(self.text.len()..self.text.len())
    }

    pub fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        let place = error.span().map_or_else(|| self.end(), |span| self.place(span));
        ConfigError::Syntax { place, message: error.message().replace('\n', "; ") }
    }

    pub fn invalid<T>(&self, value: &toml::Spanned<T>, problem: Problem) -> ConfigError {
        ConfigError::invalid(self.place(value.span()), problem)
    }
}
