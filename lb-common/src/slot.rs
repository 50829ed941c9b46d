//! The eight bytes of a flow in the hot set.
//!
//! | bits | field |
//! |---|---|
//! | 63..28 | fingerprint: the top 36 bits of the keyed hash, never zero |
//! | 27..16 | backend id |
//! | 15..13 | state |
//! | 12..0 | age: when the flow was last heard of, in ticks of the age clock, modulo 2^13 |
//!
//! One tick is close to a second (see [`age_shift`]), so the age wraps after about two hours. The daemon's
//! sweep frees every flow before that.

/// Most backends a table of slots can name.
pub const MAX_BACKENDS: usize = 1 << BACKEND_BITS;

const FINGERPRINT_SHIFT: u32 = 28;
const BACKEND_SHIFT: u32 = 16;
const BACKEND_BITS: u32 = 12;
const STATE_SHIFT: u32 = 13;
const STATE_MASK: u64 = 7;

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
    /// A request went out and no answer has come.
    Awaiting = 7,
}

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
}

/// How many gauges there are.
pub const GAUGES: usize = 4;

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

    /// What is beside the fingerprint: backend, state and age, in 28 bits.
    #[inline(always)]
    pub const fn rest(self) -> u64 {
        self.0 & ((1 << FINGERPRINT_SHIFT) - 1)
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
