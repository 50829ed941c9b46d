//! Reports of single flows: which ones are sampled, and the record that goes from the kernel to the daemon.
//!
//! A record holds what a pick read, not what it made of it: [`Event::weigh`] comes to the same loads, being
//! the pick's own code. It is noted just before the pick and compared just after it, so that the pick of a
//! flow that is reported is the one that all flows get. Records are part of [`crate::layout::LAYOUT`]; multi-byte fields are in host order
//! unless their name ends in `_be`.

use crate::{
    address::Address,
    branchless::Hide,
    flow::{mix, reduce},
    layout::backend_bits,
    maglev::NOBODY,
    pick::{CANDIDATES, Candidate, Context, FULL, Nominal, Policy, Rule, Steer, Why, load, within_bound},
    reason::Reason,
    slot::GAUGES,
};

/// Bytes of the ring buffer unless the loader asks for others: room for 360 events, and a power of two of
/// whole pages.
pub const RING_BYTES: usize = 1 << 18;

/// Whether the flow of this hash is among the one in `every` that are reported; none is for 0.
///
/// A flow that is reported at some rate is also reported at every denser one, so the densest of several
/// traces serves them all. All CPUs, and all retransmits, agree.
#[inline(always)]
pub const fn sampled(hash: u64, every: u32) -> bool {
    // Bits of their own: draws, scores and explorers use mixes of the hash.
    const SALT: u64 = 0x7472_6163_6564;
    every != 0 && reduce(mix(hash ^ SALT) as u32, every) == 0
}

/// What an event reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A new flow went out to its backend.
    Opened = 1,
    /// A new flow was dropped.
    Refused = 2,
    /// A backend turned out to be reached by smaller packets alone: `backend` and `mtu` say which and how.
    PathMtu = 3,
}

impl Kind {
    /// From its number in an event; none for other numbers.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Opened,
            2 => Self::Refused,
            3 => Self::PathMtu,
            _ => return None,
        })
    }
}

/// [`Event::why`] where nothing was chosen.
pub const NO_CHOICE: u8 = u8::MAX;

/// One event, as it lies in the ring buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// When the packet came to its pick, `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// The flow's hash.
    pub hash: u64,
    /// Live flows of the VIP as the pick counted them, in [`crate::pick::FLOW`]ths.
    pub total: u64,
    /// The client's address.
    pub client: Address,
    /// The client's port, network byte order.
    pub client_port_be: u16,
    /// The VIP's id.
    pub vip: u16,
    /// The backend; [`NOBODY`] when none could take the flow.
    pub backend: u16,
    /// The CPU that took the packet.
    pub cpu: u16,
    /// The VIP's [`crate::layout::Total::opening_cap`].
    pub opening_cap: u32,
    /// The VIP's [`crate::layout::Total::duty`].
    pub duty: u16,
    /// The VIP's [`crate::layout::Total::prompt`].
    pub prompt: u16,
    /// The VIP's rule.
    pub rule: Rule,
    /// Not 0 if the governor had gone silent, so that corrections did not count.
    pub silent: u16,
    /// With [`Kind::PathMtu`]: the largest IP packet that gets there, in bytes.
    pub mtu: u16,
    /// A [`Kind`]; 0 where nothing is reported.
    pub kind: u8,
    /// What was counted for the packet, a [`Reason`].
    pub reason: u8,
    /// What made the choice, a [`Why`]; [`NO_CHOICE`] if none was made.
    pub why: u8,
    /// Candidates in `seen`.
    pub count: u8,
    /// Not 0 if a candidate changed while the pick ran, so that it may have seen another state of it.
    pub moved: u32,
    /// The candidates that a pick by load weighs; beyond `count`, anything.
    pub seen: [Sight; CANDIDATES],
}

/// A candidate as a pick saw it: [`Candidate`], packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Sight {
    /// [`Candidate::steer`] as the map holds it.
    pub steer: u64,
    /// [`Candidate::gauges`].
    pub gauges: [u32; GAUGES],
    /// [`Candidate::limit`].
    pub limit: u32,
    /// [`Nominal`]: [`Candidate::static_cost`] and [`Candidate::share`].
    pub nominal: u32,
    /// The backend.
    pub backend: u16,
    /// [`Candidate::lacks`], of [`backend_bits`].
    pub lacks: u16,
}

const _: () = assert!(backend_bits::ELIGIBLE <= u16::MAX as u32);

impl Sight {
    /// Of a backend.
    #[inline(always)]
    pub const fn of(backend: u16, candidate: &Candidate) -> Self {
        Self {
            steer: candidate.steer.to_word(),
            gauges: candidate.gauges,
            limit: candidate.limit,
            nominal: Nominal { static_cost: candidate.static_cost, share: candidate.share }.to_word(),
            backend,
            lacks: candidate.lacks as u16,
        }
    }

    /// Not 0 if another look shows anything else; without a branch.
    #[inline(always)]
    pub const fn differs(&self, other: &Self) -> u64 {
        let [a, b, c, d, e] = self.gauges;
        let [f, g, h, i, j] = other.gauges;
        let gauges = (a ^ f) | (b ^ g) | (c ^ h) | (d ^ i) | (e ^ j);
        let terms = (self.limit ^ other.limit)
            | (self.nominal ^ other.nominal)
            | ((self.backend ^ other.backend) | (self.lacks ^ other.lacks)) as u32;
        (self.steer ^ other.steer) | (gauges | terms) as u64
    }

    /// What the pick saw.
    pub const fn candidate(&self) -> Candidate {
        let Nominal { static_cost, share } = Nominal::from_word(self.nominal);
        Candidate {
            lacks: self.lacks as u32,
            gauges: self.gauges,
            steer: Steer::from_word(self.steer),
            limit: self.limit,
            static_cost,
            share,
        }
    }
}

/// What a pick made of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Its load, in [`crate::pick::LOAD_ONE`]ths.
    pub load: u32,
    /// It worked on as many flows as it can.
    pub at_limit: bool,
    /// One more flow would have been above its bound ([`Policy::Bounded`]).
    pub over_bound: bool,
}

/// Ordinary compilers may see through anything.
struct Plain;

impl Hide for Plain {}

impl Event {
    /// The candidates that a pick by load weighs: all backends of a small VIP, else the flow's draws. A round
    /// robin's turn, or the last resort when none of them can take a flow, may pick others.
    pub fn candidates(&self) -> &[Sight] {
        &self.seen[..CANDIDATES.min(self.count as usize)]
    }

    /// What made the choice; none where none was made.
    pub const fn choice(&self) -> Option<Why> {
        Why::from_number(self.why)
    }

    /// What the pick made of a candidate.
    pub fn weigh(&self, sight: &Sight) -> Weight {
        let (context, candidate) = (self.context(), sight.candidate());
        let bounded = matches!(Policy::from_number(self.rule.policy), Policy::Bounded);
        let load = load::<Plain>(&context, &candidate);
        Weight {
            load: (load & (FULL - 1)) as u32,
            at_limit: load & FULL != 0,
            over_bound: bounded && !within_bound::<Plain>(&context, &candidate),
        }
    }

    /// As much of the pick's context as loads depend on.
    fn context(&self) -> Context {
        Context {
            rule: self.rule,
            hash: 0,
            flow_hash: self.hash,
            table_size: 0,
            members: 0,
            opening_cap: self.opening_cap,
            duty: self.duty as u32,
            prompt: self.prompt as u32,
            total: self.total,
            silence: u64::from(self.silent != 0),
            patience: 1,
        }
    }

    /// The record as it lies in memory.
    pub fn to_bytes(&self) -> [u8; size_of::<Self>()] {
        let mut bytes = [0; size_of::<Self>()];
        let mut writer = Writer(&mut bytes);
        for word in [self.at_ns, self.hash, self.total] {
            writer.put(word.to_ne_bytes());
        }
        writer.put(self.client.octets());
        for halfword in [self.client_port_be, self.vip, self.backend, self.cpu] {
            writer.put(halfword.to_ne_bytes());
        }
        writer.put(self.opening_cap.to_ne_bytes());
        writer.put(self.duty.to_ne_bytes());
        writer.put(self.prompt.to_ne_bytes());
        writer.put([self.rule.policy, self.rule.awaiting_weight]);
        for halfword in [self.rule.epsilon, self.silent, self.mtu] {
            writer.put(halfword.to_ne_bytes());
        }
        writer.put([self.kind, self.reason, self.why, self.count]);
        writer.put(self.moved.to_ne_bytes());
        for sight in &self.seen {
            writer.sight(sight);
        }
        bytes
    }

    /// From a record of the ring buffer; none unless it is one, with every number a known one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let event = Self {
            at_ns: reader.u64()?,
            hash: reader.u64()?,
            total: reader.u64()?,
            client: Address::from_v6(reader.take()?),
            client_port_be: reader.u16()?,
            vip: reader.u16()?,
            backend: reader.u16()?,
            cpu: reader.u16()?,
            opening_cap: reader.u32()?,
            duty: reader.u16()?,
            prompt: reader.u16()?,
            rule: Rule { policy: reader.u8()?, awaiting_weight: reader.u8()?, epsilon: reader.u16()? },
            silent: reader.u16()?,
            mtu: reader.u16()?,
            kind: reader.u8()?,
            reason: reader.u8()?,
            why: reader.u8()?,
            count: reader.u8()?,
            moved: reader.u32()?,
            seen: reader.sights()?,
        };
        (reader.0.is_empty() && event.is_sound()).then_some(event)
    }

    fn is_sound(&self) -> bool {
        Kind::from_number(self.kind).is_some()
            && Reason::from_number(self.reason).is_some()
            && (self.why == NO_CHOICE || self.choice().is_some())
            && self.count as usize <= CANDIDATES
    }
}

impl Default for Event {
    /// An event of nothing: a flow that no backend took and no candidate was looked at for.
    fn default() -> Self {
        Self {
            at_ns: 0,
            hash: 0,
            total: 0,
            client: Address::default(),
            client_port_be: 0,
            vip: 0,
            backend: NOBODY,
            cpu: 0,
            opening_cap: 0,
            duty: 0,
            prompt: 0,
            rule: Rule::default(),
            silent: 0,
            mtu: 0,
            kind: Kind::Refused as u8,
            reason: Reason::NoBackend as u8,
            why: NO_CHOICE,
            count: 0,
            moved: 0,
            seen: [Sight::default(); CANDIDATES],
        }
    }
}

/// Puts fields one after the other.
struct Writer<'a>(&'a mut [u8]);

impl Writer<'_> {
    fn put<const N: usize>(&mut self, field: [u8; N]) {
        let (place, rest) = core::mem::take(&mut self.0).split_at_mut(N);
        place.copy_from_slice(&field);
        self.0 = rest;
    }

    fn sight(&mut self, sight: &Sight) {
        self.put(sight.steer.to_ne_bytes());
        for gauge in sight.gauges {
            self.put(gauge.to_ne_bytes());
        }
        for number in [sight.limit, sight.nominal] {
            self.put(number.to_ne_bytes());
        }
        self.put(sight.backend.to_ne_bytes());
        self.put(sight.lacks.to_ne_bytes());
    }
}

/// Takes fields off the front of a record.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_ne_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_ne_bytes)
    }

    fn sights(&mut self) -> Option<[Sight; CANDIDATES]> {
        let mut sights = [Sight::default(); CANDIDATES];
        for sight in &mut sights {
            *sight = Sight {
                steer: self.u64()?,
                gauges: [self.u32()?, self.u32()?, self.u32()?, self.u32()?, self.u32()?],
                limit: self.u32()?,
                nominal: self.u32()?,
                backend: self.u16()?,
                lacks: self.u16()?,
            };
        }
        Some(sights)
    }
}
