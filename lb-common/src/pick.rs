//! Which backend a new flow gets.
//!
//! ```text
//! load(c) = (live(c) + 1 + a * (prompts(c) / usual + 1) + correction(c)) * cost(c)
//! ```
//!
//! The ones are the new flow: it will be live, and it will await its first progress. What other flows await counts by
//! how much they asked: a `usual` request makes one.
//!
//! Counts are in [`FLOW`]ths, so that an idle connection can count for the part of its time in which it
//! asks for something, and a correction can be a fraction. The order of candidates is fixed by the flow's
//! hash; everything live is read at this very pick.

use crate::{
    branchless::{Hide, below, mask, negative, positive, select, smaller, zero},
    flow::{mix, reduce},
    layout::{Load, backend_bits},
    maglev::Draws,
    slot::{GAUGES, Gauge},
};

/// One flow, in the units in which loads are counted.
pub const FLOW: u32 = 256;

/// A [`Gauge::Prompts`] that counts as a usual request.
pub const PROMPT: u32 = 1 << 15;

/// The nominal cost, 1.0.
pub const COST_ONE: u32 = 1024;

/// Costs are at most 64 times nominal, so that a load stays below 2^50.
pub const COST_MAX: u32 = 64 * COST_ONE;

/// Most candidates that are weighed for a flow; VIPs of up to as many backends weigh them all.
pub const CANDIDATES: usize = 16;

/// Candidates whose loads differ by no more than a part in this many are equals, and hash order decides. Where
/// ten balancers share servers, most of a load is others' flows, and of a twentieth the differences in our own
/// would be lost.
const TIE: u64 = 64;

/// One new flow in this many goes to its first candidate whatever its load: no server is forgotten.
const EXPLORE: u64 = 128;

/// Loads are compared in 1,024ths of a nominal flow's, so that sixteen of them fit the kernel's small stack:
/// a million flows at nominal cost, 16,000 at the highest, are told apart.
const LOAD_SHIFT: u32 = 8;

/// The load of one flow at a backend of nominal cost.
pub const LOAD_ONE: u64 = (FLOW as u64 * COST_ONE as u64) >> LOAD_SHIFT;

/// Loads at or above this are of candidates that are at their limit; the bits below are the load itself.
pub const FULL: u64 = 1 << 30;

/// Loads at or above this are of candidates that cannot take a flow.
const NEVER: u64 = 1 << 31;

/// How a VIP picks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Policy {
    /// The smallest load; candidates under their limit first.
    Least = 0,
    /// The first candidate under its share of the VIP's flows, plus a margin; else as [`Policy::Least`].
    /// Mirrokni and others, "Consistent Hashing with Bounded Loads" (2018).
    Bounded = 1,
    /// The first candidate: plain weighted consistent hashing.
    Hash = 2,
    /// Each in turn. An honest baseline.
    RoundRobin = 3,
    /// The fewest open connections by weight, as proxies count them. An honest baseline.
    LeastConnections = 4,
}

impl Policy {
    /// From its number in a row; unknown numbers read as [`Policy::Least`].
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Bounded,
            2 => Self::Hash,
            3 => Self::RoundRobin,
            4 => Self::LeastConnections,
            _ => Self::Least,
        }
    }
}

/// A VIP's way of picking, as its row holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Rule {
    /// A [`Policy`].
    pub policy: u8,
    /// How much more a flow with a usual request counts while it waits for its first progress, in flows: requests wait
    /// for prefill there. By simulation 16 is best; without it the mean time to first token of equal servers is a
    /// fifth higher.
    pub awaiting_weight: u8,
    /// The margin of [`Policy::Bounded`] in 1,024ths.
    pub epsilon: u16,
}

/// Cost and correction of a backend in one word, so that no pick pairs an old one with a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steer {
    /// Slowness, [`COST_ONE`] when nominal, `1..=`[`COST_MAX`].
    pub cost: u32,
    /// What is on the server beyond the flows counted here, in [`FLOW`]ths of a flow.
    pub correction: i32,
}

impl Steer {
    /// As the map holds it.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        self.cost as u64 | (self.correction as u32 as u64) << 32
    }

    /// From the map.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self { cost: word as u32, correction: (word >> 32) as u32 as i32 }
    }
}

/// What the configured weight of a backend alone gives, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nominal {
    /// The cost, `1..=`[`COST_MAX`].
    pub static_cost: u32,
    /// The backend's part of the VIP's capacity in 65,536ths, 1 to all of them.
    pub share: u32,
}

impl Nominal {
    /// As the map holds it: each less one, so that 16 bits do.
    #[inline(always)]
    pub const fn to_word(self) -> u32 {
        Self::less_one(self.static_cost) | Self::less_one(self.share) << 16
    }

    #[inline(always)]
    const fn less_one(number: u32) -> u32 {
        let less = number.saturating_sub(1);
        if less > 0xffff { 0xffff } else { less }
    }

    /// From the map.
    #[inline(always)]
    pub const fn from_word(word: u32) -> Self {
        Self { static_cost: (word & 0xffff) + 1, share: (word >> 16) + 1 }
    }
}

const _: () = assert!(COST_MAX <= 1 << 16);

/// A candidate as it is at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What it lacks to take a flow; 0 when it may.
    pub lacks: u32,
    /// In the order of [`Gauge`].
    pub gauges: [u32; GAUGES],
    /// Cost and correction.
    pub steer: Steer,
    /// Flows at once that the server can work on; 0 when unknown.
    pub limit: u32,
    /// The cost of the weight alone.
    pub static_cost: u32,
    /// Part of the VIP's capacity in 65,536ths.
    pub share: u32,
}

impl Candidate {
    /// As `LOADS` holds it.
    #[inline(always)]
    pub const fn of(load: &Load) -> Self {
        let Nominal { static_cost, share } = Nominal::from_word(load.nominal);
        Self {
            lacks: (load.control & backend_bits::ELIGIBLE) ^ backend_bits::ELIGIBLE,
            gauges: load.gauges,
            steer: Steer::from_word(load.steer),
            limit: load.limit,
            static_cost,
            share,
        }
    }
}

/// What holds for all candidates of a pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The VIP's rule.
    pub rule: Rule,
    /// The flow's affinity hash.
    pub hash: u64,
    /// The flow's own hash, which decides whether it explores: an affinity key may be a whole network's.
    pub flow_hash: u64,
    /// Entries of the VIP's Maglev table.
    pub table_size: u32,
    /// Members in the VIP's list.
    pub members: u32,
    /// Half-open flows of a backend count up to this many.
    pub opening_cap: u32,
    /// The part of their time that open connections ask for something, in 256ths.
    pub duty: u32,
    /// The part of a usual request that one of [`Gauge::Prompts`] is, in [`PROMPT`]ths.
    pub prompt: u32,
    /// Live flows of the VIP, in [`FLOW`]ths.
    pub total: u64,
    /// Time since the governor's last tick, below 2^63 in the unit of `patience`.
    pub silence: u64,
    /// Silence of the governor after which corrections are not to be trusted; costs are kept.
    pub patience: u64,
}

/// Where a pick reads a VIP's backends: the maps in the kernel, a snapshot in the daemon, a model in tests.
pub trait Pool: Hide {
    /// Entry `slot` of the Maglev table.
    fn table(&self, slot: u32) -> u16;

    /// Backend number `position` of the member list.
    fn member(&self, position: u32) -> u16;

    /// A backend as it is now; none when there is no such id.
    fn look(&self, backend: u16) -> Option<Candidate>;

    /// The round robin's next turn, counting up.
    fn turn(&self) -> u32;
}

/// What made the choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Why {
    /// The smallest load.
    Least = 0,
    /// The smallest load among candidates that are all at their limit.
    AllFull = 1,
    /// The first candidate, whatever its load: one new flow in 128.
    Explored = 2,
    /// The first candidate under its bound.
    WithinBound = 3,
    /// The first in hash order that can take a flow.
    First = 4,
    /// The next in the member list that can take a flow: the round robin's turn, or the last resort.
    NextMember = 5,
}

impl Why {
    /// From its number in an event; none for other numbers.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Least,
            1 => Self::AllFull,
            2 => Self::Explored,
            3 => Self::WithinBound,
            4 => Self::First,
            5 => Self::NextMember,
            _ => return None,
        })
    }
}

/// A choice among candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The backend.
    pub backend: u16,
    /// Why it.
    pub why: Why,
}

/// How a policy looks at candidates: what it counts, and at which price.
#[derive(Clone, Copy, Debug)]
struct Lens {
    opening_cap: u64,
    duty: u64,
    /// What a usual request counts for beside its flow, and what one of the prompts does.
    awaiting: u64,
    prompt: u64,
    /// All ones where corrections and limits count.
    informed: u64,
    /// All ones where they count although the governor has gone silent: limits alone.
    limited: u64,
    /// All ones where the weight alone makes the price.
    by_weight: u64,
}

impl Lens {
    #[inline(always)]
    fn of<H: Hide>(context: &Context) -> Self {
        // Written as masks: two branches here would double the paths through every candidate.
        let by_weight = mask::<H>(zero::<H>((context.rule.policy ^ Policy::LeastConnections as u8) as u64));
        let awaiting = (context.rule.awaiting_weight as u64 * FLOW as u64) & !by_weight;
        Self {
            opening_cap: select(by_weight, u32::MAX as u64, context.opening_cap as u64),
            duty: select(by_weight, FLOW as u64, context.duty as u64),
            awaiting,
            prompt: (awaiting * context.prompt as u64) / PROMPT as u64,
            informed: mask::<H>(below::<H>(context.silence, context.patience)) & !by_weight,
            limited: !by_weight,
            by_weight,
        }
    }

    /// Live flows in [`FLOW`]ths, below zero when flows left before they were counted in.
    #[inline(always)]
    fn live<H: Hide>(&self, gauges: &[u32; GAUGES]) -> u64 {
        let [opening, awaiting, streaming, idle, _] = *gauges;
        let opening = smaller::<H>(signed(opening), self.opening_cap);
        let busy = signed(awaiting.wrapping_add(streaming)).wrapping_add(opening);
        busy.wrapping_mul(FLOW as u64).wrapping_add(signed(idle).wrapping_mul(self.duty))
    }

    /// The load that a pick compares.
    #[inline(always)]
    fn load<H: Hide>(&self, candidate: &Candidate) -> u64 {
        let correction = candidate.steer.correction as i64 as u64 & self.informed;
        let occupied = self.live::<H>(&candidate.gauges).wrapping_add(correction);
        let waiting = signed(candidate.gauges[Gauge::Prompts as usize]).wrapping_mul(self.prompt);
        // A correction may have outlived the flows it was taken from.
        let counted = positive::<H>(occupied.wrapping_add(waiting));
        let cost = select(self.by_weight, candidate.static_cost as u64, candidate.steer.cost as u64);
        // The flow to come will be live, and it will wait. Where nobody waits, that keeps it from slow servers.
        let load = (counted + FLOW as u64 + self.awaiting) * cost;
        // Without a limit, this is more than there can be.
        let last = candidate.limit.wrapping_sub(1) as u64 * FLOW as u64;
        let full = below::<H>(last, occupied) & self.limited;
        let unfit = negative::<H>((candidate.lacks as u64).wrapping_neg());
        smaller::<H>(load >> LOAD_SHIFT, FULL - 1) | (full * FULL) | (unfit * NEVER)
    }
}

/// A gauge, which dips below zero when its flow leaves before it was counted in, in two's complement.
#[inline(always)]
const fn signed(gauge: u32) -> u64 {
    gauge as i32 as i64 as u64
}

/// Live flows in [`FLOW`]ths as a VIP counts them, from gauges in the order of [`crate::slot::Gauge`].
#[inline(always)]
pub fn live<H: Hide>(gauges: &[u32; GAUGES], opening_cap: u32, duty: u32) -> u64 {
    let lens = Lens {
        opening_cap: opening_cap as u64,
        duty: duty as u64,
        awaiting: 0,
        prompt: 0,
        informed: 0,
        limited: 0,
        by_weight: 0,
    };
    positive::<H>(lens.live::<H>(gauges))
}

/// The load of a candidate as `context`'s policy sees it: what a pick compares.
pub fn load<H: Hide>(context: &Context, candidate: &Candidate) -> u64 {
    Lens::of::<H>(context).load::<H>(candidate)
}

/// Whether one more flow stays within a candidate's share of the VIP's flows and the margin:
/// `live + 1 <= ceil((1 + epsilon) * (total + 1) * share)`, all in whole flows.
#[inline(always)]
pub fn within_bound<H: Hide>(context: &Context, candidate: &Candidate) -> bool {
    let fair = ((context.total + FLOW as u64) * candidate.share as u64) >> 16;
    let bound = fair + ((fair * context.rule.epsilon as u64) >> 10);
    let ceiling = (bound + FLOW as u64 - 1) & !(FLOW as u64 - 1);
    live::<H>(&candidate.gauges, context.opening_cap, context.duty) + FLOW as u64 <= ceiling
}

/// A candidate's place in hash order among equals: a rendezvous score, so that the order of the rest does
/// not change when one leaves.
#[inline(always)]
pub fn score(hash: u64, backend: u16) -> u32 {
    let own = (backend as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((hash ^ own).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32) as u32
}

/// Picks a backend for a new flow; none when no candidate can take it.
///
/// Candidates in hash order are draws from the Maglev table, repeats included: they change nothing. The
/// last resorts are sixteen members in a row and eight draws, not all members: table and list hold only
/// backends that were eligible milliseconds ago.
#[inline(always)]
pub fn pick<P: Pool>(context: &Context, pool: &P) -> Option<Choice> {
    pick_with(context, pool, &mut [0; CANDIDATES])
}

/// What a pick weighs, in memory that need not be its own: in the kernel, the verifier would remember what is on
/// the stack.
pub type Entries = [u64; CANDIDATES];

/// As [`pick`]; `entries` may hold anything.
#[inline(always)]
pub fn pick_with<P: Pool>(context: &Context, pool: &P, entries: &mut Entries) -> Option<Choice> {
    if context.members == 0 || context.table_size == 0 {
        return None;
    }
    let policy = Policy::from_number(context.rule.policy);
    let in_order = match policy {
        Policy::Hash | Policy::Bounded => true,
        Policy::Least => explores(context.flow_hash),
        Policy::LeastConnections | Policy::RoundRobin => false,
    };
    // An id without a backend ends the pick at once: it cannot be, and the verifier need not follow where
    // it might lead.
    if in_order && let Some(backend) = first_drawn(context, pool, policy)? {
        let why = match policy {
            Policy::Bounded => Why::WithinBound,
            Policy::Least => Why::Explored,
            _ => Why::First,
        };
        return Some(Choice { backend, why });
    }
    let weighs = !matches!(policy, Policy::Hash | Policy::RoundRobin);
    if weighs && let Some(choice) = least(context, pool, entries)? {
        return Some(choice);
    }
    let start = match policy {
        Policy::RoundRobin => pool.turn() % context.members,
        _ => reduce(context.hash as u32, context.members),
    };
    if let Some(choice) = next_member(context, pool, start)? {
        return Some(choice);
    }
    let backend = first_drawn(context, pool, Policy::Hash)??;
    Some(Choice { backend, why: Why::First })
}

/// Draws that a flow makes from a table when its VIP has more members than can all be weighed.
const DRAWS: u32 = 8;

/// Whether this flow is one of those that keep an eye on every server.
#[inline(always)]
fn explores(hash: u64) -> bool {
    // Bits of their own: draws and scores use mixes of the hash.
    mix(hash ^ 0x5bd1_e995) & (EXPLORE - 1) == 0
}

#[inline(always)]
fn first_drawn<P: Pool>(context: &Context, pool: &P, policy: Policy) -> Option<Option<u16>> {
    let mut draws = Draws::of(context.hash, context.table_size);
    for _ in 0..DRAWS {
        let backend = pool.table(draws.next());
        let candidate = pool.look(backend)?;
        if candidate.lacks == 0
            && (!matches!(policy, Policy::Bounded) || within_bound::<P>(context, &candidate))
        {
            return Some(Some(backend));
        }
    }
    Some(None)
}

/// The candidates that a pick by load weighs: every member of a small VIP, else draws.
#[derive(Clone, Copy, Debug)]
pub struct Weighed {
    draws: Draws,
    number: u32,
    /// How many there are, at most [`CANDIDATES`].
    pub count: u32,
}

impl Weighed {
    /// Those of a pick.
    #[inline(always)]
    pub const fn of(context: &Context) -> Self {
        let draws = Draws::of(context.hash, context.table_size);
        let count = if context.members <= CANDIDATES as u32 { context.members } else { DRAWS };
        Self { draws, number: 0, count }
    }

    /// The next one.
    #[inline(always)]
    pub fn next<P: Pool>(&mut self, context: &Context, pool: &P) -> u16 {
        self.number += 1;
        if context.members <= CANDIDATES as u32 {
            pool.member(self.number - 1)
        } else {
            pool.table(self.draws.next())
        }
    }
}

/// Where an entry of [`least`] holds the load, above the backend's id.
const ENTRY_LOAD: u32 = 16;

#[inline(always)]
fn least<P: Pool>(context: &Context, pool: &P, entries: &mut Entries) -> Option<Option<Choice>> {
    let lens = Lens::of::<P>(context);
    let mut weighed = Weighed::of(context);
    let count = weighed.count as usize;
    let mut smallest = NEVER << ENTRY_LOAD;
    for (number, entry) in entries.iter_mut().enumerate() {
        if number >= count {
            break;
        }
        let backend = weighed.next(context, pool);
        *entry = (lens.load::<P>(&pool.look(backend)?) << ENTRY_LOAD) | backend as u64;
        smallest = smaller::<P>(smallest, *entry);
    }
    let smallest = smallest >> ENTRY_LOAD;
    if smallest >= NEVER {
        return Some(None);
    }
    // Within the class: a saturated load's margin must not reach the next one's.
    let level = smaller::<P>(smallest + (smallest & (FULL - 1)) / TIE, smallest | (FULL - 1));
    let level = (level + 1) << ENTRY_LOAD;
    let mut best = u64::MAX >> 1;
    for (number, &entry) in entries.iter().enumerate() {
        if number >= count {
            break;
        }
        if entry < level {
            let backend = entry as u16;
            // The id in the low bits: one comparison decides, and no two backends are equal.
            best = smaller::<P>(best, (score(context.hash, backend) as u64) << 16 | backend as u64);
        }
    }
    let why = if smallest >= FULL { Why::AllFull } else { Why::Least };
    Some(Some(Choice { backend: best as u16, why }))
}

#[inline(always)]
fn next_member<P: Pool>(context: &Context, pool: &P, start: u32) -> Option<Option<Choice>> {
    for step in 0..CANDIDATES as u32 {
        let backend = pool.member((start + step) % context.members);
        if pool.look(backend)?.lacks == 0 {
            return Some(Some(Choice { backend, why: Why::NextMember }));
        }
    }
    Some(None)
}
