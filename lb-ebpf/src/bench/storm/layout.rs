//! What the traffic programs and the tool that runs them share, byte for byte; both include this file.

/// Words of a frame that are written anew for every packet: Ethernet, IPv4 and TCP headers and some payload.
pub const TEMPLATE_WORDS: usize = 12;

/// CPUs that can make traffic at once.
pub const CPUS: usize = 256;

/// Bytes of the payload of a request.
pub const REQUEST: u32 = 32;

/// Bytes that a client acknowledges of an answer.
pub const ANSWER: u32 = 1448;

/// Sequence number of a churning flow's SYN, and the first that it acknowledges.
pub const SEQUENCE: u32 = 1_000_000;
/// See [`SEQUENCE`].
pub const ACKNOWLEDGED: u32 = 2_000_000;

/// Packets of a flow in the churn: SYN, request, acknowledgement of the answer; and the end of an elder flow.
pub const PACKETS_OF_FLOW: u64 = 4;

/// Which packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Forged sources and sequence numbers: SYNs, or ACKs, as the template says.
    Segments = 0,
    /// Forged sources: datagrams.
    Datagrams = 1,
    /// First fragments of forged datagrams, a later one of each, and later ones of nothing.
    Fragments = 2,
    /// Flows that open, live for a while and end.
    Churn = 3,
}

/// `BENCH_STORM`, an element for each CPU: the packets that it makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Storm {
    /// How each frame starts.
    pub template: [u64; TEMPLATE_WORDS],
    /// Number of the next packet; counted up by the program.
    pub next: u64,
    /// What all randomness comes from.
    pub seed: u64,
    /// A [`Kind`].
    pub kind: u32,
    /// Churn: flows that live at once.
    pub live: u32,
    /// Churn: the first client's address, host byte order.
    pub client: u32,
    /// Always 0.
    pub reserved: u32,
}

/// Word `number` of a random sequence (SplitMix64: Steele and others 2014), without any before it.
#[inline(always)]
pub const fn random(seed: u64, number: u64) -> u64 {
    let word = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// How a flow of the churn ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With a FIN.
    Finish,
    /// With a RST.
    Reset,
    /// Nothing more is heard of it; the sweep must find it.
    Silence,
}

/// One flow in this many falls silent.
pub const SILENT: u64 = 128;

/// How a flow ends.
#[inline(always)]
pub const fn end_of(seed: u64, flow: u64) -> End {
    let word = random(seed, flow);
    if word.is_multiple_of(SILENT) {
        End::Silence
    } else if word & SILENT == 0 {
        End::Finish
    } else {
        End::Reset
    }
}

/// The flow that ends when flow number `flow` has opened, if there is one: flows open in generations of `live`,
/// and each flow of a generation ends at some point of the next, so that `live` of them live at any time.
#[inline(always)]
pub const fn elder_of(live: u32, flow: u64) -> Option<u64> {
    /// A prime above any number of flows, so that multiples of it meet each flow of a generation once.
    const STRIDE: u64 = 2_654_435_761;
    let live = live as u64;
    if live == 0 || flow < live {
        return None;
    }
    let generation = flow / live;
    Some((generation - 1) * live + (flow % live * STRIDE + generation) % live)
}

const _: () = assert!(size_of::<Storm>() == TEMPLATE_WORDS * 8 + 32);
