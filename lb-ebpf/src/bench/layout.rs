//! What the benchmark's programs and the tool that runs them share, byte for byte; both include this file.

use lb_common::address::{Address, Endpoint, Mac};

/// Words of a frame that are written anew for every packet: IPv6 and TCP headers end before that.
pub const TEMPLATE_WORDS: usize = 10;

/// Words of these that every frame has, so that short frames need no test of each word.
pub const SHORT_WORDS: usize = 8;

/// `BENCH_RUN`, one element: what the packets of a run are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Run {
    /// How each frame starts; of the rest, no program changes anything.
    pub template: [u64; TEMPLATE_WORDS],
    /// Number of the next packet; counted up by the programs.
    pub next: u64,
    /// Flows, as a power of two.
    pub flow_bits: u32,
    /// Odd; 1 goes through the flows in their order.
    pub multiplier: u32,
    /// Shift that folds a flow's number into itself, so that no stride remains; 31 leaves it.
    pub fold: u32,
    /// Offset in the frame of the last two bytes of the client's address.
    pub client_at: u32,
    /// Value of these two bytes for the first flow, host byte order.
    pub client: u32,
    /// Offset in the frame of the client's port.
    pub port_at: u32,
    /// Offset in the frame of TCP's sequence and acknowledgement numbers; 0 leaves them.
    pub numbers_at: u32,
    /// Sequence number of the first lap through the flows, and what a lap adds.
    pub sequence: [u32; 2],
    /// Acknowledgement number, likewise.
    pub acknowledged: [u32; 2],
    /// Bytes that the harness pushes and takes back.
    pub push: u32,
    /// The frame's length; 0 leaves it as the program made it.
    pub length: u32,
    /// Always 0.
    pub reserved: u32,
}

/// Bits of a flow's number that become its port; the others move its address.
pub const PORT_BITS: u32 = 15;

/// Port of the first flow.
pub const PORT_BASE: u16 = 0x4000;

/// The flow that a packet belongs to: each of `1 << bits` exactly once a lap.
///
/// A product with an odd number and a fold are bijections; together they leave neither stride nor order.
#[inline(always)]
pub const fn flow_of(run: &Run, number: u64) -> u32 {
    let mask = (1u32 << (run.flow_bits & 31)) - 1;
    let product = (number as u32 & mask).wrapping_mul(run.multiplier) & mask;
    let folded = product ^ (product >> (run.fold & 31));
    folded.wrapping_mul(run.multiplier) & mask
}

/// Entries of a VIP's ring in the reference: a prime, and what Katran takes.
pub const RING: u32 = 65_537;

/// Most VIPs of the reference.
pub const REFERENCE_VIPS: usize = 32;

/// Most backends of the reference.
pub const REFERENCE_BACKENDS: usize = 4096;

/// Most CPUs of the reference.
pub const REFERENCE_CPUS: usize = 256;

/// Entries of the template of its flow tables; the tool puts in larger ones.
pub const REFERENCE_TEMPLATE: usize = 16;

/// `BENCH_VIPS`, by endpoint: a VIP of the reference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ReferenceVip {
    /// Its number: which ring is its own.
    pub number: u32,
    /// A [`lb_common::layout::Mode`].
    pub mode: u32,
    /// Folded sum of address and port, for checksums.
    pub checksum: u32,
}

/// `BENCH_BACKENDS`, by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ReferenceBackend {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Folded sum of address and port, for checksums.
    pub checksum: u32,
    /// The frame's addresses on the way to it.
    pub mac: Mac,
    /// Likewise, the source.
    pub source_mac: Mac,
}

/// `BENCH_REALS`, by a backend's endpoint: how its answers go back (`nat`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ReferenceReal {
    /// The VIP that clients know.
    pub vip: Endpoint,
    /// Folded sum of the VIP's address and port.
    pub vip_checksum: u32,
    /// The backend's number.
    pub backend: u32,
    /// The backend's own folded sum.
    pub checksum: u32,
    /// The VIP's number.
    pub number: u32,
    /// The frame's addresses on the way to clients.
    pub mac: Mac,
    /// Likewise, the source.
    pub source_mac: Mac,
}

/// A flow in the reference's table: the whole five-tuple, as in Katran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tuple {
    /// The client's address.
    pub client: Address,
    /// The VIP's address.
    pub vip: Address,
    /// The client's port, then the VIP's, network byte order.
    pub ports: [u16; 2],
    /// Protocol.
    pub protocol: u32,
}

/// What the reference's table holds of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Entry {
    /// When it was last seen, in nanoseconds; datagrams alone.
    pub seen_at: u64,
    /// Its backend.
    pub backend: u32,
    /// Always 0.
    pub reserved: u32,
}

/// What became of the reference's packets: elements of `BENCH_SEEN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Seen {
    /// A flow in the table.
    Hit = 0,
    /// Picked by the ring and entered in the table.
    New = 1,
    /// A segment of no known flow: picked by the ring.
    Miss = 2,
    /// An answer of a flow in the table.
    Returned = 3,
    /// Not for a VIP.
    NotOurs = 4,
    /// Not readable, or a fragment, or with IPv4 options.
    Dropped = 5,
}

impl Seen {
    /// All, by their number.
    pub const ALL: [Self; 6] =
        [Self::Hit, Self::New, Self::Miss, Self::Returned, Self::NotOurs, Self::Dropped];
}

const _: () = {
    assert!(size_of::<Run>() == 144);
    assert!(size_of::<Tuple>() == 40);
    assert!(size_of::<Entry>() == 16);
    assert!(size_of::<ReferenceVip>() == 12);
    assert!(size_of::<ReferenceBackend>() == 36);
    assert!(size_of::<ReferenceReal>() == 48);
};
