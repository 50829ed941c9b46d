//! The flow table: two candidate sets of eight slots for every flow.
//!
//! Scans that go over whole sets are written without branches: eight unrolled branches, each with another constant position behind
//! it, take the verifier past its million instructions. [`Hide`] keeps the compiler from finding the
//! branches again.
//!
//! A slot changes only by a compare-exchange on the word that was read ([`Word`]), and only the winner may
//! move gauges. Plain stores drift by thousands in a test of two threads.

use crate::{
    branchless::{Hide, below, smaller},
    layout::{PORT_SETS, RESERVED_SETS, Vip, backend_bits, vip_flags},
    slot::{self, Slot, State},
    track::{Event, Verdict},
};

/// Slots in a set: eight words are one cache line.
pub const WAYS: usize = 8;

/// One word of a set, in whatever memory it lies: a map in the kernel, a mapping in the daemon, a model.
pub trait Word: Hide {
    /// Reads the word.
    fn load(&self) -> u64;

    /// Writes `new` if the word is still `old`, and says what was found there.
    fn compare_exchange(&self, old: u64, new: u64) -> u64;
}

/// What a scan found: the slot, or the empty one at position 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Position in its set, `0..WAYS`.
    pub position: usize,
    /// The word as it was read.
    pub slot: Slot,
}

/// The first set of a flow; `mask` is the number of sets less one.
#[inline(always)]
pub const fn first_set(hash: u64, mask: u32) -> u32 {
    hash as u32 & mask
}

/// A flow's other set, from either of the two and the fingerprint, so that an entry can be moved without
/// its key (partial-key cuckoo hashing, Fan and others 2014). Never the same set while there are two.
#[inline(always)]
pub const fn other_set(set: u32, tag: u64, mask: u32) -> u32 {
    // The odd multiplier of MurmurHash2; the low bit set keeps the two apart.
    let step = ((tag >> 32) as u32).wrapping_mul(0x5bd1_e995) >> 3 | 1;
    (set ^ step) & mask
}

/// The two sets of a VIP's flow; `mask` is the number of sets less one, where slots are no ports.
#[inline(always)]
pub const fn sets(hash: u64, vip: &Vip, mask: u32) -> [u32; 2] {
    if vip.flags & vip_flags::SOURCE_NAT == 0 {
        return pair(hash, mask);
    }
    let [first, second] = pair(hash, (vip.sources as u32).wrapping_mul(PORT_SETS).wrapping_sub(1));
    [vip.ports + port_set(first), vip.ports + port_set(second)]
}

#[inline(always)]
const fn pair(hash: u64, mask: u32) -> [u32; 2] {
    let first = first_set(hash, mask);
    [first, other_set(first, slot::tag(hash), mask)]
}

/// Whether a flow in the table is picked anew: it was closed, or its backend, which has this control word, is down.
/// `datagram` flows have no connection to lose, so any of their packets may move them.
#[inline(always)]
pub const fn wants_another(slot: Slot, control: u32, datagram: bool) -> bool {
    if matches!(slot.state(), State::Closed) && !datagram {
        return true;
    }
    const ALIVE: u32 = backend_bits::PRESENT | backend_bits::HEALTHY;
    // What follows a FIN is a new connection: it may not go where new ones are not welcome.
    let closing = matches!(slot.state(), State::Closing);
    let wanted = if closing { backend_bits::ELIGIBLE } else { ALIVE };
    control & wanted != wanted
}

/// Looks for a flow in a set.
///
/// The one scan with branches: it leaves at the first hit. It may only stand in a function that is verified by
/// itself.
#[inline(always)]
pub fn find<W: Word>(set: &[W; WAYS], tag: u64) -> Found {
    let mut position = 0;
    while position < WAYS {
        let slot = Slot(set[position].load());
        if slot.is_tagged(tag) {
            return Found { position, slot };
        }
        position += 1;
    }
    Found { position: 0, slot: Slot::EMPTY }
}

/// What a set has to offer to a new flow.
#[derive(Clone, Copy, Debug)]
struct Offer {
    /// Worth of its least worthy slot, and that slot's position in the low three bits.
    rank: u64,
    /// Slots of flows that are alive: ended ones may fill whole sets, and say nothing of how full these are.
    alive: u64,
}

#[inline(always)]
fn offer<W: Word>(set: &[W; WAYS], now: u32) -> Offer {
    let (mut rank, mut alive) = (u64::from(u32::MAX), 0);
    for (way, entry) in set.iter().enumerate() {
        let worth = u64::from(Slot(entry.load()).worth(now));
        alive += below::<W>(u64::from(ENDED), worth);
        rank = smaller::<W>(rank, worth << 3 | way as u64);
    }
    Offer { rank, alive }
}

/// Where a new flow goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Whether it is the second of the two sets.
    pub second: bool,
    /// Position in the set.
    pub position: usize,
    /// What the slot there was worth: if it is worth more by now, another flow has taken it.
    pub worth: u32,
}

/// The most that a slot is worth which any new flow may have: it is empty or closed. All ones, so that it can
/// be a mask.
pub const SPARE: u32 = Slot::most_worth(State::Closed, 0);
const _: () = assert!((SPARE + 1).is_power_of_two());

/// The most that the slot of a flow that has ended is worth: it is empty, closed or closing.
const ENDED: u32 = Slot::most_worth(State::Closing, 0);

/// Ticks of the age clock that a port of one-armed `nat` rests after its flow is closed: the server's end may
/// be in TIME-WAIT for as long (RFC 9293 section 3.4.2 has 240 s at most; Linux waits 60 s).
pub const PORT_REST: u32 = 141;

/// The same for a slot that is a port: it is empty, or was closed long enough ago.
pub const SPARE_PORT: u32 = Slot::most_worth(State::Closed, PORT_REST);

/// The set that stands for `set` where slots are ports: those of the ports below 1024 are nobody's, and flows
/// that belong there go half an address further.
#[inline(always)]
pub const fn port_set(set: u32) -> u32 {
    if set % PORT_SETS < RESERVED_SETS { set + PORT_SETS / 2 } else { set }
}

/// Chooses the place of a new flow in its two sets: a slot worth no more than `spare`, else one of a flow that has
/// ended, in the set with fewer flows alive if both have one; else the slot least worth keeping. The caller reads
/// the word there, and that word's state says what is lost.
#[inline(always)]
pub fn place<W: Word>(first: &[W; WAYS], second: &[W; WAYS], now: u32, spare: u32) -> Place {
    let (a, b) = (offer(first, now), offer(second, now));
    let both = |most: u32| (a.rank >> 3) as u32 <= most && (b.rank >> 3) as u32 <= most;
    let neither = (a.rank >> 3) as u32 > spare && (b.rank >> 3) as u32 > spare;
    let second =
        if both(spare) || (neither && both(ENDED)) { b.alive < a.alive } else { b.rank >> 3 < a.rank >> 3 };
    let rank = if second { b.rank } else { a.rank };
    Place { second, position: rank as usize & (WAYS - 1), worth: (rank >> 3) as u32 }
}

/// The word that a verdict on a flow leaves in its slot at `now`.
#[inline(always)]
pub const fn settle(slot: Slot, verdict: &Verdict, now: u32) -> Slot {
    let (size, known) = (verdict.track.size(), slot.size());
    // Who has no numbers of the flow has no size either; only another request may be smaller.
    let grows = size > known || matches!(verdict.event, Event::Request);
    slot.with(slot.backend(), verdict.state, now).asking(if grows { size } else { known })
}

/// What the daemon's sweep does to a slot that has been silent until `now`: the word to put there, or none
/// to leave it alone. `finished` is whether the flow's client has sent FIN.
pub const fn age_out(slot: Slot, now: u32, limits: &Limits, finished: bool) -> Option<Slot> {
    let silent = slot.silent_for(now);
    let next = match slot.state() {
        State::Empty => return None,
        State::Opening if silent >= OPENING_TICKS => State::Stale,
        State::Stale if silent >= limits.half_open => return Some(Slot::EMPTY),
        State::Awaiting if finished && silent >= limits.idle_after => State::Closing,
        State::Streaming if finished && silent >= limits.idle_after => State::Closing,
        State::Streaming if silent >= limits.idle_after => State::Idle,
        State::Idle | State::Awaiting if silent >= limits.idle_timeout => return Some(Slot::EMPTY),
        State::Closing if silent >= limits.closing => return Some(Slot::EMPTY),
        State::Closed if silent >= limits.linger => return Some(Slot::EMPTY),
        _ => return None,
    };
    // The stamp stays: it says when the client was last heard of, whatever state silence has led to.
    Some(slot.with(slot.backend(), next, slot.age()))
}

/// Two ticks are more than a second: the age at which a half-open flow stops counting as load.
const OPENING_TICKS: u32 = 2;

/// How long silent flows are kept, in ticks of the age clock; all below [`slot::AGE_MASK`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `streaming` becomes `idle`.
    pub idle_after: u32,
    /// `idle` and `awaiting` are freed.
    pub idle_timeout: u32,
    /// Stale half-open flows are freed; SYN retransmits come until 63 s after the first (`tcp_syn_retries`).
    pub half_open: u32,
    /// `closing` is freed.
    pub closing: u32,
    /// `closed` is freed.
    pub linger: u32,
}

impl Limits {
    /// The longest silence that an age can tell from a stamp that lies ahead.
    pub const LONGEST: u32 = slot::AGE_MASK - 2 * slot::AHEAD;

    /// Clamps a time-out in ticks to what an age can tell apart.
    pub const fn ticks(ticks: u32) -> u32 {
        if ticks > Self::LONGEST {
            Self::LONGEST
        } else if ticks < 2 {
            2
        } else {
            ticks
        }
    }
}
