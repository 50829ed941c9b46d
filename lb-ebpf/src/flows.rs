//! The flow table in its maps: finding, entering and changing a flow, and the gauges that follow.
//!
//! A slot changes by compare-exchange alone, and only the winner moves gauges or touches the cold line.

use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_ns};
use lb_common::{
    address::Address,
    flow::FlowKey,
    layout::{FlowInfo, Histogram, PORT_SETS, Vip, backend_bits, vip_flags},
    siphash::Key,
    slot::{self, Slot, State},
    table::{self, Found, SPARE, SPARE_PORT, WAYS, Word as _},
    track::{self, Event, Flags, Record, Segment, Track, Verdict},
};

use crate::{
    maps::{
        AGE_SHIFT, BACKENDS, FLOW_INFO, KEY0, KEY1, LOADS, PROGRESS, SET_MASK, TOTALS, TRAFFIC, flow_set,
    },
    word::{add_u64, fetch_add_u32},
};

/// A flow in the table: its slot as it was read, and where it lies.
#[derive(Clone, Copy)]
pub struct Flow {
    /// The word that was read.
    pub slot: Slot,
    /// The slot's number, which is also its cold line's.
    pub number: u32,
}

/// The flow hash's secret.
#[inline(always)]
pub fn key() -> Key {
    Key { k0: KEY0.load(), k1: KEY1.load() }
}

/// The hash of a client's address alone, as a global function of scalars: see
/// [`crate::backends::guidevane_choose`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guidevane_client_hash(high: u64, low: u64, vip: u32) -> u64 {
    FlowKey { client: Address::from_halves([high, low]), client_port_be: 0, vip: vip as u16 }
        .client_hash(key())
}

/// Now, on the clock of slots.
#[inline(always)]
pub fn age_now() -> u32 {
    (jiffies() >> (AGE_SHIFT.load() & 63)) as u32 & slot::AGE_MASK
}

/// The kernel's tick counter: inlined, next to free.
#[inline(always)]
pub fn jiffies() -> u64 {
    // SAFETY: the helper takes nothing and has no preconditions.
    unsafe { bpf_jiffies64() }
}

/// `CLOCK_MONOTONIC`; for transitions only, since it costs ten times as much.
#[inline(always)]
pub fn nanoseconds() -> u64 {
    // SAFETY: the helper takes nothing and has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// A flow's two sets.
#[derive(Clone, Copy)]
struct Sets {
    first: u32,
    second: u32,
    /// The most that a slot is worth which the flow may take.
    most: u32,
}

impl Sets {
    #[inline(always)]
    fn of(hash: u64, vip: &Vip) -> Self {
        if vip.flags & vip_flags::SOURCE_NAT == 0 {
            let (first, second) = Self::pair(hash, SET_MASK.load());
            return Self { first, second, most: u32::MAX };
        }
        // What lives in a port is never pushed out of it.
        let (first, second) =
            Self::pair(hash, u32::from(vip.sources).wrapping_mul(PORT_SETS).wrapping_sub(1));
        Self {
            first: vip.ports + table::port_set(first),
            second: vip.ports + table::port_set(second),
            most: SPARE_PORT,
        }
    }

    #[inline(always)]
    fn pair(hash: u64, mask: u32) -> (u32, u32) {
        let first = table::first_set(hash, mask);
        (first, table::other_set(first, slot::tag(hash), mask))
    }
}

/// Looks a flow of a VIP up in both of its sets. One that is in neither has an empty slot
/// ([`Flow::is_known`]).
#[inline(always)]
pub fn find(hash: u64, vip: &Vip) -> Flow {
    let Sets { first, second, .. } = Sets::of(hash, vip);
    let found = guidevane_find(hash, first, second);
    if found == NOTHING {
        return Flow { slot: Slot::EMPTY, number: 0 };
    }
    Flow { slot: Slot(slot::tag(hash) | found >> 32), number: found as u32 }
}

/// Looks in both sets: the slot's lower bits above its number. A global function of scalars: see
/// [`crate::backends::guidevane_choose`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guidevane_find(hash: u64, first: u32, second: u32) -> u64 {
    let tag = slot::tag(hash);
    match find_in(first, tag) {
        NOTHING => find_in(second, tag),
        found => found,
    }
}

#[inline(always)]
fn find_in(set: u32, tag: u64) -> u64 {
    let Some(words) = flow_set(set) else { return NOTHING };
    let Found { position, slot } = table::find(words, tag);
    if slot.0 == Slot::EMPTY.0 {
        return NOTHING;
    }
    slot.rest() << 32 | u64::from(set * WAYS as u32 + position as u32)
}

/// The cold line of a slot.
#[inline(always)]
pub fn info(number: u32) -> Option<*mut FlowInfo> {
    FLOW_INFO.get_ptr_mut(number)
}

/// Enters a new flow of a VIP and gives its slot's number; none when other CPUs took the chosen slot every
/// time, or when the slot would be a port and none is free.
#[inline(always)]
pub fn open(hash: u64, vip: &Vip, backend: u16) -> Option<u32> {
    let Sets { first, second, most } = Sets::of(hash, vip);
    let ends = u32::from(vip.id) | u32::from(backend) << 16;
    for _ in 0..ATTEMPTS {
        let number = guidevane_open(hash, ends, first, second, most);
        if number != NOTHING {
            return Some(number as u32);
        }
    }
    None
}

/// What a look-up gives that found nothing, or an entry that found no place.
pub const NOTHING: u64 = u64::MAX;

/// How often a new flow looks for a place: a connection that is not entered is lost as soon as its next
/// packet goes by the table. Two CPUs enter flows into one set at the same moment once in some ten thousand
/// times; three hardly ever do.
const ATTEMPTS: u32 = 2;

/// Entering a flow into one of two sets, in place of what is worth `most` at most: a global function of scalars,
/// see [`crate::backends::guidevane_choose`]. `ends` holds the VIP's id in its low half and the backend's in its
/// high one.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guidevane_open(hash: u64, ends: u32, first: u32, second: u32, most: u32) -> u64 {
    match enter(hash, ends as u16, (ends >> 16) as u16, [first, second], most) {
        Some(number) => u64::from(number),
        None => NOTHING,
    }
}

#[inline(always)]
fn enter(hash: u64, vip: u16, backend: u16, [first, second]: [u32; 2], most: u32) -> Option<u32> {
    let now = age_now();
    let (a, b) = (flow_set(first)?, flow_set(second)?);
    let entered = Slot::new(hash, backend, State::Opening, now);
    let place = table::place(a, b, now, most & SPARE);
    let (set, words) = if place.second { (second, b) } else { (first, a) };
    let word = &words[place.position & (WAYS - 1)];
    let victim = Slot(word.load());
    // Worth more than a moment ago: another flow has moved in.
    let free = place.worth <= most && victim.worth(now) <= place.worth;
    if !free || word.compare_exchange(victim.0, entered.0) != victim.0 {
        return None;
    }
    evicted(victim);
    count_opened(vip, backend);
    Some(set * WAYS as u32 + place.position as u32)
}

#[inline(always)]
fn count_opened(vip: u16, backend: u16) {
    move_gauge(vip, backend, State::Opening, 1);
    if let Some(load) = LOADS.get_ptr_mut(u32::from(backend)) {
        // SAFETY: a field of a map element, aligned.
        unsafe { add_u64(&raw mut (*load).opened, 1) };
    }
}

/// What leaves the table is never silent: gauges are corrected and the backend's evictions counted.
#[inline(always)]
fn evicted(victim: Slot) {
    leave(victim);
    if victim.state() as u8 > State::Closed as u8
        && let Some(traffic) = TRAFFIC.get_ptr_mut(u32::from(victim.backend()))
    {
        // SAFETY: this CPU's own element of the map.
        unsafe { (*traffic).evicted += 1 };
    }
}

/// Takes a slot that is no more out of its backend's gauges.
#[inline(always)]
fn leave(slot: Slot) {
    if slot.state().gauge().is_some() {
        move_gauge(vip_of(slot.backend()), slot.backend(), slot.state(), -1);
    }
}

#[inline(always)]
fn vip_of(backend: u16) -> u16 {
    let Some(backend) = BACKENDS.get(u32::from(backend)) else { return 0 };
    backend.hops[(backend.control & backend_bits::ROW) as usize].vip
}

#[inline(always)]
fn move_gauge(vip: u16, backend: u16, state: State, by: i32) {
    let Some(gauge) = state.gauge() else { return };
    if let Some(load) = LOADS.get_ptr_mut(u32::from(backend)) {
        // SAFETY: the gauge is within the element's array, aligned.
        unsafe { fetch_add_u32((&raw mut (*load).gauges).cast::<u32>().add(gauge as usize), by as u32) };
    }
    if let Some(total) = TOTALS.get_ptr_mut(u32::from(vip)) {
        // SAFETY: as above.
        unsafe { fetch_add_u32((&raw mut (*total).gauges).cast::<u32>().add(gauge as usize), by as u32) };
    }
}

impl Flow {
    /// Whether the table has it.
    #[inline(always)]
    pub fn is_known(&self) -> bool {
        self.slot.0 != Slot::EMPTY.0
    }

    /// Puts `next` into the slot if it is still as it was read, and says what was found there.
    #[inline(always)]
    fn exchange(&self, next: Slot) -> Slot {
        let Some(words) = flow_set(self.number / WAYS as u32) else { return Slot::EMPTY };
        Slot(words[self.number as usize & (WAYS - 1)].compare_exchange(self.slot.0, next.0))
    }

    /// Gives the flow another backend and opens it anew: its old one is down, or it was closed. When another
    /// CPU was first, the error is what it left in the slot.
    #[inline(always)]
    pub fn reopen(&self, vip: u16, backend: u16) -> Result<u32, Slot> {
        let found = self.exchange(self.slot.with(backend, State::Opening, age_now()));
        if found.0 != self.slot.0 {
            return Err(found);
        }
        leave(self.slot);
        count_opened(vip, backend);
        Ok(self.number)
    }

    /// A TCP segment of this flow from its client.
    #[inline(always)]
    pub fn on_segment(&self, vip: u16, segment: &Segment, skip: u16) {
        if track::is_quiet(self.slot.state(), segment) && self.slot.age() == age_now() {
            return;
        }
        let numbers = u64::from(segment.sequence) << 32 | u64::from(segment.acknowledged);
        let kind = u64::from(segment.payload) << 32
            | (segment.record as u64) << 24
            | u64::from(segment.flags.0) << 16
            | u64::from(skip);
        guidevane_segment(self.number, self.slot.0, numbers, kind, vip.into());
    }

    #[inline(always)]
    fn follow(&self, vip: u16, segment: &Segment, skip: u32) -> Option<()> {
        let (now, state) = (age_now(), self.slot.state());
        let line = info(self.number)?;
        // SAFETY: a field of a map element, plain numbers.
        let numbers = unsafe { (&raw const (*line).track).read() };
        let verdict = if segment.flags.opens() {
            track::on_syn(state, numbers, segment)
        } else if track::is_quiet(state, segment) {
            track::on_quiet(state, numbers, segment)
        } else {
            track::on_segment(state, numbers, segment, skip)
        };
        if self.settle(vip, &verdict, now) {
            // SAFETY: as above.
            unsafe { (&raw mut (*line).track).write(verdict.track) };
            self.note(state, &numbers, &verdict, line);
        }
        Some(())
    }

    /// A segment of this flow from its server (`nat`).
    #[inline(always)]
    pub fn on_answer(&self, vip: u16, segment: &Segment, skip: u32) {
        let state = self.slot.state();
        let Some(line) = info(self.number) else { return };
        // SAFETY: a field of a map element, plain numbers.
        let numbers = unsafe { (&raw const (*line).track).read() };
        if segment.flags.has(Flags::SYN) {
            if matches!(state, State::Opening | State::Stale) {
                // SAFETY: as above.
                unsafe { (&raw mut (*line).track).write(track::on_syn_ack(numbers, segment.sequence)) };
            }
            return;
        }
        let verdict = if segment.flags.has(Flags::RST) {
            Verdict { state: State::Closed, track: numbers, event: Event::None }
        } else {
            track::on_answer(state, numbers, segment.sequence.wrapping_add(segment.payload), skip)
        };
        if verdict.state as u8 != state as u8 && self.settle(vip, &verdict, age_now()) {
            self.note(state, &numbers, &verdict, line);
        }
    }

    /// A datagram of this flow from its client.
    #[inline(always)]
    pub fn on_datagram(&self, vip: u16) {
        let (now, state) = (age_now(), self.slot.state());
        let next = track::on_datagram(state);
        if next as u8 == state as u8 && self.slot.age() == now {
            return;
        }
        let verdict = Verdict { state: next, track: Track::default(), event: Event::None };
        self.settle(vip, &verdict, now);
    }

    /// Puts a verdict into the slot; the winner moves the gauges.
    #[inline(always)]
    fn settle(&self, vip: u16, verdict: &Verdict, now: u32) -> bool {
        let next = table::settle(self.slot, verdict, now);
        if next.0 == self.slot.0 {
            return true;
        }
        if self.exchange(next).0 != self.slot.0 {
            return false;
        }
        if verdict.state as u8 != self.slot.state() as u8 {
            move_gauge(vip, self.slot.backend(), self.slot.state(), -1);
            move_gauge(vip, self.slot.backend(), verdict.state, 1);
        }
        true
    }

    /// Statistics of a segment: progress while streaming, requests, first progress.
    #[inline(always)]
    fn note(&self, state: State, before: &Track, verdict: &Verdict, line: *mut FlowInfo) {
        let backend = u32::from(self.slot.backend());
        let Some(load) = LOADS.get_ptr_mut(backend) else { return };
        if matches!(state, State::Streaming | State::Awaiting | State::Idle) {
            let bytes = verdict.track.baseline.wrapping_sub(before.baseline);
            if bytes != 0 && (bytes as i32) > 0 {
                // SAFETY: a field of a map element, aligned.
                unsafe { add_u64(&raw mut (*load).progressed, u64::from(bytes)) };
            }
        }
        match verdict.event {
            Event::None => {}
            Event::Request => {
                // SAFETY: a field of a map element, aligned.
                unsafe { (&raw mut (*line).request_at).write(nanoseconds()) };
                // SAFETY: as above.
                unsafe { add_u64(&raw mut (*load).requests, 1) };
            }
            Event::Progress => {
                // SAFETY: a field of a map element, aligned.
                let asked = unsafe { (&raw const (*line).request_at).read() };
                note_progress(backend, nanoseconds().saturating_sub(asked));
            }
            Event::Unanswered => {
                if let Some(traffic) = TRAFFIC.get_ptr_mut(backend) {
                    // SAFETY: this CPU's own element of the map.
                    unsafe { (*traffic).unanswered += 1 };
                }
            }
        }
    }
}

/// What a segment does to its flow, as a global function of scalars: see
/// [`crate::backends::guidevane_choose`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guidevane_segment(number: u32, slot: u64, numbers: u64, kind: u64, vip: u32) -> u64 {
    let segment = Segment {
        flags: Flags((kind >> 16) as u8),
        sequence: (numbers >> 32) as u32,
        acknowledged: numbers as u32,
        payload: (kind >> 32) as u32,
        record: Record::from_number((kind >> 24) as u8),
    };
    let flow = Flow { slot: Slot(slot), number };
    u64::from(flow.follow(vip as u16, &segment, u32::from(kind as u16)).is_some())
}

#[inline(always)]
fn note_progress(backend: u32, took: u64) {
    let Some(histogram) = PROGRESS.get_ptr_mut(backend) else { return };
    let bucket = Histogram::bucket(took) & (lb_common::layout::HISTOGRAM_BUCKETS - 1);
    // SAFETY: the bucket is within the element's array, aligned.
    unsafe { fetch_add_u32((&raw mut (*histogram).counts).cast::<u32>().add(bucket), 1) };
    // SAFETY: a field of a map element, aligned.
    unsafe { add_u64(&raw mut (*histogram).sum_ns, took) };
    // SAFETY: as above.
    unsafe { add_u64(&raw mut (*histogram).count, 1) };
}
