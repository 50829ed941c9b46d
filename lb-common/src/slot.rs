//! The eight bytes of a flow in the hot set.
//!
//! | bits | field |
//! |---|---|
//! | 63..29 | fingerprint: the top 35 bits of the keyed hash, never zero |
//! | 28..17 | backend id |
//! | 16..13 | state; from `awaiting` on, plus the size of what is awaited |
//! | 12..0 | age: when the flow was last heard of, in ticks of the age clock, modulo 2^13 |
//!
//! Of a table of 16 million slots, a new flow is taken for another's once in two billion times, as 16 slots are compared.
//!
//! One tick is close to a second (see [`age_shift`]), so the age wraps after about two hours. The daemon's
//! sweep frees every flow before that.

/// Most backends a table of slots can name.
pub const MAX_BACKENDS: usize = 1 << BACKEND_BITS;

const FINGERPRINT_SHIFT: u32 = 29;
const BACKEND_SHIFT: u32 = 17;
const BACKEND_BITS: u32 = 12;
const STATE_SHIFT: u32 = 13;
const STATE_MASK: u64 = 15;

/// Ages are kept modulo this many ticks, less one.
pub const AGE_MASK: u32 = (1 << STATE_SHIFT) - 1;

/// How far a stamp may lie ahead of a `now` that was read before it, in ticks: packets are stamped while a
/// sweep, or another CPU's scan, is under way.
pub const AHEAD: u32 = 32;

/// What a flow is doing, as seen from the client's packets.
///
/// The order is the order of worth: a full pair of sets gives up the lowest first. `awaiting` and
/// `streaming` come last, since a long completion that is not streamed is silent for minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum State {
    /// No flow.
    Empty = 0,
    /// Reset; later data or ACK progress restores it, so a forged RST changes nothing.
    Closed = 1,
    /// The client sent FIN and acknowledges nothing new.
    Closing = 2,
    /// Half-open for longer than a second: keeps its backend for the client's retransmits, counts as no load.
    Stale = 3,
    /// Half-open: a SYN without payload yet, or a first datagram.
    Opening = 4,
    /// Established and silent: no request under way.
    Idle = 5,
    /// The server is answering.
    Streaming = 6,
    /// A request went out and no answer has come. The last, as the numbers from here on are sizes of requests.
    Awaiting = 7,
}

/// Sizes of requests that are told apart: number `n` is of at least 2^(n-1) KiB and below 2^n KiB.
pub const SIZES: u32 = STATE_MASK as u32 - State::Awaiting as u32 + 1;

impl State {
    /// All states by their number.
    pub const ALL: [Self; 8] = [
        Self::Empty,
        Self::Closed,
        Self::Closing,
        Self::Stale,
        Self::Opening,
        Self::Idle,
        Self::Streaming,
        Self::Awaiting,
    ];

    /// Which of a backend's gauges counts this state.
    #[inline(always)]
    pub const fn gauge(self) -> Option<Gauge> {
        match self {
            Self::Opening => Some(Gauge::Opening),
            Self::Awaiting => Some(Gauge::Awaiting),
            Self::Streaming => Some(Gauge::Streaming),
            Self::Idle => Some(Gauge::Idle),
            Self::Empty | Self::Closed | Self::Closing | Self::Stale => None,
        }
    }

    #[inline(always)]
    const fn from_bits(bits: u64) -> Self {
        match bits & STATE_MASK {
            0 => Self::Empty,
            1 => Self::Closed,
            2 => Self::Closing,
            3 => Self::Stale,
            4 => Self::Opening,
            5 => Self::Idle,
            6 => Self::Streaming,
            _ => Self::Awaiting,
        }
    }
}

/// What any request costs a server besides its size, in KiB of prompt: a step of an engine has a fixed part. By
/// simulation 4 and 8 are best: times to first token are shorter by a twentieth, and their p99 by a tenth, than where
/// requests count by number; by size alone, latency is longer by a hundredth.
const ANY_PROMPT: u32 = 4;

/// The least that a flow that awaits an answer adds to [`Gauge::Prompts`], and the most.
pub const PROMPTS_LEAST: u32 = ANY_PROMPT + 1;
/// See [`PROMPTS_LEAST`].
pub const PROMPTS_MOST: u32 = ANY_PROMPT + (1 << (SIZES - 1));

/// The live gauges of a backend and of a VIP, in the order in which their line holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Gauge {
    /// Flows in [`State::Opening`].
    Opening = 0,
    /// Flows in [`State::Awaiting`].
    Awaiting = 1,
    /// Flows in [`State::Streaming`].
    Streaming = 2,
    /// Flows in [`State::Idle`].
    Idle = 3,
    /// What flows in [`State::Awaiting`] have asked, by size: see [`Slot::prompts`]. A server works through what it
    /// was asked before it answers, so how long others wait goes by this, and not by how many they are.
    Prompts = 4,
}

/// How many gauges there are.
pub const GAUGES: usize = 5;

/// Flows in any live state.
#[inline(always)]
pub const fn flows(gauges: &[u32; GAUGES]) -> u32 {
    let [opening, awaiting, streaming, idle, _] = *gauges;
    opening.wrapping_add(awaiting).wrapping_add(streaming).wrapping_add(idle)
}

/// A flow's eight bytes; all zero is an empty slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Slot(pub u64);

impl Slot {
    /// The empty slot.
    pub const EMPTY: Self = Self(0);

    /// A slot for the flow whose hash is `hash`.
    #[inline(always)]
    pub const fn new(hash: u64, backend: u16, state: State, age: u32) -> Self {
        Self(tag(hash)).with(backend, state, age)
    }

    /// The same flow with another backend, state and age.
    #[inline(always)]
    pub const fn with(self, backend: u16, state: State, age: u32) -> Self {
        let fingerprint = self.0 >> FINGERPRINT_SHIFT << FINGERPRINT_SHIFT;
        let backend = (backend as u64 & (MAX_BACKENDS as u64 - 1)) << BACKEND_SHIFT;
        Self(fingerprint | backend | (state as u64) << STATE_SHIFT | (age & AGE_MASK) as u64)
    }

    /// The same flow, awaiting the answer to a request of this size, below [`SIZES`]; in another state nothing changes.
    #[inline(always)]
    pub const fn asking(self, size: u32) -> Self {
        match self.state() {
            State::Awaiting => {
                let above = (State::Awaiting as u64 + size as u64) & STATE_MASK;
                Self(self.0 & !(STATE_MASK << STATE_SHIFT) | above << STATE_SHIFT)
            }
            _ => self,
        }
    }

    /// The size of the request that awaits its answer; 0 in other states.
    #[inline(always)]
    pub const fn size(self) -> u32 {
        let above = (self.0 >> STATE_SHIFT & STATE_MASK) as u32;
        above.saturating_sub(State::Awaiting as u32)
    }

    /// What the flow adds to [`Gauge::Prompts`]: about the size of its request in KiB and [`ANY_PROMPT`]; 0 unless it
    /// awaits an answer.
    #[inline(always)]
    pub const fn prompts(self) -> u32 {
        match self.state() {
            State::Awaiting => ANY_PROMPT + (1 << self.size()),
            _ => 0,
        }
    }

    /// What the flow adds to each gauge.
    pub fn counts(self) -> [u32; GAUGES] {
        let mut counts = [0; GAUGES];
        if let Some(gauge) = self.state().gauge() {
            counts[gauge as usize] = 1;
        }
        counts[Gauge::Prompts as usize] = self.prompts();
        counts
    }

    /// The fingerprint in its place, everything else zero.
    #[inline(always)]
    pub const fn tag(self) -> u64 {
        self.0 >> FINGERPRINT_SHIFT << FINGERPRINT_SHIFT
    }

    /// Whether this is the slot of a flow with this [`tag`].
    #[inline(always)]
    pub const fn is_tagged(self, tag: u64) -> bool {
        (self.0 ^ tag) >> FINGERPRINT_SHIFT == 0
    }

    /// The backend's id.
    #[inline(always)]
    pub const fn backend(self) -> u16 {
        (self.0 >> BACKEND_SHIFT) as u16 & (MAX_BACKENDS as u16 - 1)
    }

    /// The state.
    #[inline(always)]
    pub const fn state(self) -> State {
        State::from_bits(self.0 >> STATE_SHIFT)
    }

    /// The age stamp.
    #[inline(always)]
    pub const fn age(self) -> u32 {
        self.0 as u32 & AGE_MASK
    }

    /// Ticks between the age stamp and `now`; 0 for a stamp from just after `now`.
    #[inline(always)]
    pub const fn silent_for(self, now: u32) -> u32 {
        self.since(now).saturating_sub(AHEAD)
    }

    /// Ticks since [`AHEAD`] ticks before the age stamp: in order without a branch.
    #[inline(always)]
    const fn since(self, now: u32) -> u32 {
        now.wrapping_sub(self.0 as u32).wrapping_add(AHEAD) & AGE_MASK
    }

    /// How much there is to lose by evicting this flow: by state, then by how recently it was heard of.
    #[inline(always)]
    pub const fn worth(self, now: u32) -> u32 {
        let state = (self.0 as u32 >> STATE_SHIFT) & STATE_MASK as u32;
        state << STATE_SHIFT | (AGE_MASK - self.since(now))
    }

    /// The most that a flow is [`worth`](Self::worth) which has been in `state` and silent for `ticks`.
    pub const fn most_worth(state: State, ticks: u32) -> u32 {
        let since = if ticks == 0 { 0 } else { ticks + AHEAD };
        (state as u32) << STATE_SHIFT | (AGE_MASK - since)
    }
}

/// The fingerprint of a hash in a slot's top bits; zero is kept for the empty slot.
#[inline(always)]
pub const fn tag(hash: u64) -> u64 {
    let tag = hash >> FINGERPRINT_SHIFT << FINGERPRINT_SHIFT;
    // One when the fingerprint is zero, without a branch (see `table`).
    let zero = 1 ^ ((tag | tag.wrapping_neg()) >> 63);
    tag | zero << FINGERPRINT_SHIFT
}

/// How far to shift jiffies for one tick of the age clock: 0.85 to 1.28 s at the kernel's usual rates of
/// 100, 250, 300 and 1,000 Hz.
pub const fn age_shift(hz: u32) -> u32 {
    match hz {
        0..=181 => 7,
        182..=362 => 8,
        363..=724 => 9,
        _ => 10,
    }
}
