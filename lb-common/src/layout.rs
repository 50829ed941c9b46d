//! The elements of the maps, byte for byte.
//!
//! Every element that both sides write, or that the packet path reads, is one cache line; multi-byte
//! fields are in host order unless their name ends in `_be`.

use crate::{
    address::{Address, Endpoint, Mac},
    event::Event,
    index,
    reason::{REASONS, Reason},
    siphash::Key,
    slot::{GAUGES, MAX_BACKENDS},
    track::Track,
};

/// Bytes in a cache line on the machines this runs on.
pub const LINE: usize = 64;

/// Most VIPs; as many addresses besides, for ARP and neighbour discovery.
pub const MAX_VIPS: usize = 512;

/// Ids of `VIPS`: services and addresses.
pub const VIP_IDS: usize = 2 * MAX_VIPS;

/// Whose a packet is that is no VIP's.
pub const NO_VIP: u16 = VIP_IDS as u16;

/// Elements of `REASONS_SEEN`: a run of reasons for each VIP, and one for what is no VIP's.
pub const REASON_ELEMENTS: usize = (VIP_IDS + 1) * REASONS;

/// The element that counts packets of a VIP, or of [`NO_VIP`], by what became of them.
#[inline(always)]
pub const fn reason_element(vip: u16, reason: Reason) -> u32 {
    reason_place(vip, reason as u8)
}

/// The same by the reason's number.
#[inline(always)]
pub const fn reason_place(vip: u16, reason: u8) -> u32 {
    vip as u32 * REASONS as u32 + reason as u32
}

/// Table entries in one element of `TABLE`.
pub const TABLE_LINE: usize = 32;

/// Elements of `TABLE` unless the loader asks for more: 512 tables of 4,093 entries and their member lists,
/// in two generations, and as much again for larger ones.
pub const TABLE_LINES: usize = 1 << 18;

/// Sets of the flow table unless the loader asks for others: a million slots.
pub const FLOW_SETS: usize = 1 << 17;

/// Sets of `FLOWS` whose slots are the ports of one source address: a slot for each of 65,536.
pub const PORT_SETS: u32 = (1 << 16) / crate::table::WAYS as u32;

/// The first sets of a source address, whose ports below 1024 are nobody's to use.
pub const RESERVED_SETS: u32 = 1024 / crate::table::WAYS as u32;

/// Most source addresses of one-armed `nat`: `SOURCES` holds them in the order of their sets.
pub const MAX_SOURCES: usize = 32;

/// Sets of `FRAGMENTS`.
pub const FRAGMENT_SETS: usize = 1 << 12;

/// UDP port of GUE (IANA); its variant 1 has no header of its own (draft-ietf-intarea-gue-09 section 4).
pub const GUE_PORT: u16 = 6080;

/// Changes whenever an element's size or meaning, or the hash, changes: pins of another layout are refused.
pub const LAYOUT: u64 = {
    const REVISION: u64 = 6;
    let sizes = [
        size_of::<Meta>(),
        size_of::<Control>(),
        size_of::<Clock>(),
        size_of::<Vip>(),
        size_of::<Backend>(),
        size_of::<Load>(),
        size_of::<Total>(),
        size_of::<FlowInfo>(),
        size_of::<Histogram>(),
        size_of::<Traffic>(),
        size_of::<Event>(),
        MAX_BACKENDS,
        VIP_IDS,
        index::BUCKETS as usize,
    ];
    // FNV-1a: one number out of a few, at compile time.
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ REVISION;
    let mut i = 0;
    while i < sizes.len() {
        hash = (hash ^ sizes[i] as u64).wrapping_mul(0x0100_0000_01b3);
        i += 1;
    }
    hash
};

/// `META`, one element: what must be known to adopt pinned maps. Written once, by the daemon that made them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Meta {
    /// [`LAYOUT`].
    pub layout: u64,
    /// The flow hash's secret.
    pub key: Key,
    /// Sets in `FLOWS`, a power of two.
    pub flow_sets: u32,
    /// Elements of `TABLE`.
    pub table_lines: u32,
    /// Jiffies a second.
    pub hz: u32,
    /// Shift from jiffies to the age clock.
    pub age_shift: u32,
    /// Sets in `FLOWS` beyond `flow_sets`, [`PORT_SETS`] for each source address of one-armed `nat`.
    pub port_sets: u32,
    /// Always 0.
    pub reserved: [u32; 5],
}

/// `CONTROL`, one element: the words the daemon flips while packets flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Control {
    /// [`index::Active`] of `VIP_INDEX`.
    pub vip_index: u64,
    /// [`index::Active`] of `REAL_INDEX`.
    pub real_index: u64,
    /// Jiffies at the end of the governor's last whole tick.
    pub heartbeat: u64,
    /// Where tunnels over IPv6 come from, its last word's free bits zero.
    pub source_v6: Address,
    /// Likewise over IPv4.
    pub source_v4: u32,
    /// Bits of `source_v4`, as it lies in memory, that vary with the flow.
    pub spread_v4: u32,
    /// Likewise of the last word of `source_v6`.
    pub spread_v6: u32,
    /// One in this many new flows is reported as an event; 0 for none.
    pub sample: u32,
    /// Always 0.
    pub reserved: u64,
}

/// `CLOCK`, one element: both clocks at one moment, written by the `clock` program when it is test-run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Clock {
    /// `bpf_jiffies64`.
    pub jiffies: u64,
    /// `bpf_ktime_get_ns`: `CLOCK_MONOTONIC`.
    pub nanoseconds: u64,
}

/// How packets reach a VIP's backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// The backend's MAC address; it answers the client directly.
    L2 = 0,
    /// The backend's address and port; answers come back through here.
    Nat = 1,
    /// An IP or UDP header around the packet; the backend takes it off and answers the client directly.
    Tunnel = 2,
}

/// `VIPS`, two rows an id: a service, or an address to answer ARP and neighbour discovery for.
///
/// A row is never changed while it is live: the spare one is written and the handle in `VIP_INDEX` flipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Vip {
    /// What packets are addressed to.
    pub endpoint: Endpoint,
    /// A [`Mode`].
    pub mode: u8,
    /// [`vip_flags`].
    pub flags: u8,
    /// This row's id.
    pub id: u16,
    /// First entry of the Maglev table in `TABLE`, a multiple of [`TABLE_LINE`].
    pub table: u32,
    /// Entries of the Maglev table; 0 when there is no backend.
    pub table_size: u32,
    /// First entry of the member list in `TABLE`, a multiple of [`TABLE_LINE`].
    pub members: u32,
    /// Members.
    pub member_count: u16,
    /// Bytes of an answer that are headers, not progress.
    pub skip_bytes: u16,
    /// How to pick: see [`crate::pick::Rule`].
    pub rule: crate::pick::Rule,
    /// Folded sum of address and port, for checksums.
    pub checksum: u16,
    /// The MAC address to answer neighbours with.
    pub mac: Mac,
    /// The interface on which neighbours are answered.
    pub interface: u32,
    /// With [`vip_flags::SOURCE_NAT`] or [`vip_flags::SOURCE_ADDRESS`]: the first set in `FLOWS` of the
    /// source addresses, or of this one.
    pub ports: u32,
    /// Source addresses from there on: a power of two, or none.
    pub sources: u8,
    /// With QUIC server IDs: the configuration's number (three bits) times 16, and an ID's bytes, 1 to 8;
    /// else 0.
    pub quic: u8,
    /// Always 0.
    pub reserved: u16,
}

/// Bits of [`Vip::flags`].
pub mod vip_flags {
    /// Affinity is the client's address, not the whole flow.
    pub const CLIENT_AFFINITY: u8 = 1;
    /// An address alone: ARP and neighbour discovery are answered for it.
    pub const ANSWER_NEIGHBOURS: u8 = 2;
    /// The tunnel is GUE, not plain IP in IP.
    pub const GUE: u8 = 4;
    /// The source is translated too, so that answers need not pass here by routing (one-armed `nat`).
    pub const SOURCE_NAT: u8 = 8;
    /// An address alone: a source of one-armed `nat`, to which answers come back.
    pub const SOURCE_ADDRESS: u8 = 16;
    /// An address alone: some VIP of it is for all ports that no other VIP has, under port 0.
    pub const ANY_PORT: u8 = 32;
}

/// The server ID of a backend that has none: all ones is left out of the configurable ones.
pub const NO_SERVER_ID: u64 = u64::MAX;

/// The protocol, in `REAL_INDEX`, of an endpoint that is a QUIC server ID (see [`server_endpoint`]): none
/// that a packet can have, being IANA's reserved one.
pub const SERVER_ID_PROTOCOL: u8 = 255;

/// The endpoint under which `REAL_INDEX` holds a VIP's backend with a QUIC server ID.
#[inline(always)]
pub const fn server_endpoint(vip: u16, server_id: u64) -> Endpoint {
    Endpoint {
        address: Address::from_halves([server_id, 0]),
        port_be: vip,
        protocol: SERVER_ID_PROTOCOL,
        reserved: 0,
    }
}

/// One of a backend's two rows: how to reach it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Hop {
    /// Where the server listens.
    pub endpoint: Endpoint,
    /// MAC address of the next hop towards it.
    pub mac: Mac,
    /// MAC address of the interface on the way.
    pub source_mac: Mac,
    /// That interface.
    pub interface: u32,
    /// Folded sum of address and port, for checksums.
    pub checksum: u16,
    /// The VIP it belongs to.
    pub vip: u16,
    /// What QUIC connection IDs call it, as a big-endian number; [`NO_SERVER_ID`] if they do not.
    pub server_id: u64,
    /// The largest IP packet that gets there, in bytes.
    pub mtu: u16,
    /// Always 0.
    pub reserved: [u16; 3],
}

/// `BACKENDS`, by id: the two rows of a backend, and the word that says which is live and what it may get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Backend {
    /// [`backend_bits`]: read and written as one word.
    pub control: u32,
    /// Always 0.
    pub reserved: u32,
    /// The row in use except while it is being rewritten, in the control word's cache line.
    pub hops: [Hop; 2],
    /// Always 0: pads the element to whole cache lines.
    pub padding: [u64; 1],
}

/// Bits of [`Backend::control`].
pub mod backend_bits {
    /// The live row's number.
    pub const ROW: u32 = 1;
    /// The id is in use.
    pub const PRESENT: u32 = 2;
    /// Health checks pass.
    pub const HEALTHY: u32 = 4;
    /// New flows are welcome: not draining, weight above zero.
    pub const ACTIVE: u32 = 8;
    /// The next hop is resolved.
    pub const REACHABLE: u32 = 16;
    /// All that a backend needs to get new flows.
    pub const ELIGIBLE: u32 = PRESENT | HEALTHY | ACTIVE | REACHABLE;
}

/// `LOADS`, by backend: the live gauges, and the daemon's word on what they mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Load {
    /// By [`crate::slot::Gauge`]; changed by atomic adds alone.
    pub gauges: [u32; GAUGES],
    /// Flows at once that the server can work on; 0 when unknown.
    pub limit: u32,
    /// [`crate::pick::Steer`]: cost and correction, read and written as one word.
    pub steer: u64,
    /// [`crate::pick::Nominal`]: what the configured weight alone gives.
    pub nominal: u32,
    /// A copy of [`Backend::control`], so that a pick looks at one line for each candidate.
    pub control: u32,
    /// Flows opened, ever.
    pub opened: u64,
    /// Requests seen, ever.
    pub requests: u64,
    /// Bytes of answers that clients acknowledged, ever; noted about once a second for each flow.
    pub progressed: u64,
}

/// `TOTALS`, by VIP id: the sums of its backends' gauges, and the round robin's cursor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Total {
    /// By [`crate::slot::Gauge`].
    pub gauges: [u32; GAUGES],
    /// Next turn of the round robin.
    pub cursor: u32,
    /// How many half-open flows of a backend count as load at most: lowered when SYNs come without requests.
    pub opening_cap: u32,
    /// The part of their time that open connections have a request under way, in 256ths.
    pub duty: u32,
    /// The part of a usual request that one of [`crate::slot::Gauge::Prompts`] is, in [`crate::pick::PROMPT`]ths.
    pub prompt: u32,
    /// Always 0.
    pub reserved: [u32; 7],
}

/// `FLOW_INFO`: the cold line of the slot with the same number.
///
/// In `nat` it is written when the flow opens, for its answers. Where servers answer directly nothing needs it
/// before the client sends more than a SYN, and a SYN that does not touch it costs a third less: until then the
/// line is whatever flow's had the slot before ([`FlowInfo::is_of`]). So a flood of SYNs touches none.
///
/// A line of its own, in an array of its own, was measured against lines of 64 and of 32 bytes beside the hot set
/// (elements of 576 and 320 bytes) and against 32-byte lines in an array: net time beside a reference in the same
/// run, established 64K 0.55 against 0.84, 0.67 and 0.64; requests of 64K flows 0.89 against 0.97, 1.39 and 1.32;
/// new flows 0.69 against 0.95, 0.78 and 0.84. Beside the hot sets cold bytes spread these over more pages than a
/// TLB holds, and halves of a line cost a second miss where a request needs both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowInfo {
    /// The client's address.
    pub client: Address,
    /// The client's port, network byte order.
    pub client_port_be: u16,
    /// The VIP's id.
    pub vip: u16,
    /// Where the client's packets come from: the MAC address answers go to.
    pub client_mac: Mac,
    /// The MAC address they were sent to.
    pub own_mac: Mac,
    /// The interface they came in on.
    pub interface: u32,
    /// Numbers of the flow.
    pub track: Track,
    /// When it was opened, `CLOCK_MONOTONIC` nanoseconds.
    pub opened_at: u64,
    /// When its last request went out, in units of [`Histogram::UNIT_NS`] of that clock, modulo 2^32 of them (73
    /// minutes); 0 before the first.
    pub request_at: u32,
    /// Always 0.
    pub reserved: u32,
}

impl FlowInfo {
    /// Whether this is the line of a client's flow to a VIP.
    #[inline(always)]
    pub fn is_of(&self, client: &Address, client_port_be: u16, vip: u16) -> bool {
        let ([a, b], [c, d]) = (self.client.halves(), client.halves());
        let differs =
            (a ^ c) | (b ^ d) | (self.client_port_be ^ client_port_be) as u64 | (self.vip ^ vip) as u64;
        differs == 0
    }
}

/// Buckets of a [`Histogram`], a power of two.
pub const HISTOGRAM_BUCKETS: usize = 128;

/// `PROGRESS`, by backend: times from a request to the first progress of its answer.
///
/// Four buckets for each doubling of a time, as HdrHistogram has them at its coarsest: see [`Histogram::least`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Histogram {
    /// Counts by bucket.
    pub counts: [u32; HISTOGRAM_BUCKETS],
    /// Sum of all times in nanoseconds.
    pub sum_ns: u64,
    /// How many times were summed.
    pub count: u64,
    /// Always 0.
    pub reserved: [u64; 6],
}

impl Histogram {
    /// Nothing counted.
    pub const EMPTY: Self = Self { counts: [0; HISTOGRAM_BUCKETS], sum_ns: 0, count: 0, reserved: [0; 6] };

    /// Resolution: 1.024 microseconds, so that a shift does.
    pub const UNIT_SHIFT: u32 = 10;
    /// The same in nanoseconds.
    pub const UNIT_NS: u64 = 1 << Self::UNIT_SHIFT;

    /// Shorter times share the first bucket with none: 16.4 microseconds, in nanoseconds.
    const STEP_SHIFT: u32 = Self::UNIT_SHIFT + 4;
    /// Buckets for each doubling.
    const PARTS: usize = 4;

    /// The bucket of a time in nanoseconds, `0..HISTOGRAM_BUCKETS`.
    #[inline(always)]
    pub const fn bucket(nanoseconds: u64) -> usize {
        let steps = nanoseconds >> Self::STEP_SHIFT;
        // What is kept of a number is its leading bit and the two behind it; below eight steps, all of it.
        let doublings = u64::BITS - (steps >> 3).leading_zeros();
        let bucket = (steps >> doublings) as usize + doublings as usize * Self::PARTS;
        if bucket >= HISTOGRAM_BUCKETS { HISTOGRAM_BUCKETS - 1 } else { bucket }
    }

    /// The least time of a bucket, in nanoseconds.
    pub const fn least(bucket: usize) -> u64 {
        let doublings = (bucket / Self::PARTS).saturating_sub(1);
        ((bucket - doublings * Self::PARTS) as u64) << doublings << Self::STEP_SHIFT
    }
}

/// `TRAFFIC`, by backend and per CPU: what was forwarded to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Traffic {
    /// Packets to the backend.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// Packets from the backend (`nat`).
    pub returned_packets: u64,
    /// Bytes of their frames.
    pub returned_bytes: u64,
    /// Flows that were evicted while they were live or might have been.
    pub evicted: u64,
    /// Half-open flows whose client has sent its SYN a third time.
    pub unanswered: u64,
    /// Always 0.
    pub reserved: [u64; 2],
}

const _: () = {
    assert!(size_of::<Endpoint>() == 20);
    assert!(size_of::<Meta>() == LINE);
    assert!(size_of::<Control>() == LINE);
    assert!(size_of::<Clock>() == 16);
    assert!(size_of::<Vip>() == LINE);
    assert!(size_of::<Hop>() == 56);
    assert!(size_of::<Backend>() == 2 * LINE);
    assert!(size_of::<Load>() == LINE);
    assert!(size_of::<Total>() == LINE);
    assert!(size_of::<FlowInfo>() == LINE);
    assert!(size_of::<Histogram>().is_multiple_of(LINE));
    assert!(size_of::<Traffic>() == LINE);
    assert!(size_of::<Event>() == 72 + 16 * 40);
    assert!(size_of::<[u16; TABLE_LINE]>() == LINE);
};
