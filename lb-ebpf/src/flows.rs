//! The flow table in its maps: finding, entering and changing a flow, and the gauges that follow.
//!
//! A slot changes by compare-exchange alone, and only the winner moves gauges. The cold line is written by the
//! winner too, or by whoever found nothing to change in the slot.

use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_ns};
use lb_common::{
    address::Address,
    flow::FlowKey,
    layout::{FlowInfo, Histogram, Vip, backend_bits, vip_flags},
    siphash::Key,
    slot::{self, Gauge, Slot, State},
    table::{self, Found, SPARE, SPARE_PORT, WAYS, Word as _},
    track::{self, Event, Flags, Record, Segment, Track, Verdict},
};

use crate::{
    maps::{
        AGE_SHIFT, BACKENDS, FLOW_INFO, KEY0, KEY1, LOADS, PROGRESS, SET_MASK, TOTALS, TRAFFIC, flow_set,
        flow_word,
    },
    packet::{self, Packet},
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

/// The same in units of the histograms, modulo 2^32 of them.
#[inline(always)]
fn units() -> u32 {
    (nanoseconds() >> Histogram::UNIT_SHIFT) as u32
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
        let [first, second] = table::sets(hash, vip, SET_MASK.load());
        // What lives in a port is never pushed out of it.
        let most = if vip.flags & vip_flags::SOURCE_NAT == 0 { u32::MAX } else { SPARE_PORT };
        Self { first, second, most }
    }
}

/// Looks a flow of a VIP up in both of its sets. One that is in neither has an empty slot
/// ([`Flow::is_known`]).
///
/// What was found goes through the packet's map element, so that the verifier goes on from one state, wherever
/// in the sets that was. A function of its own would do as well, but returning from one takes some five
/// nanoseconds where the kernel guards returns (`spec_rstack_overflow`).
#[inline(always)]
pub fn find(packet: &mut Packet, hash: u64, vip: &Vip) -> Flow {
    let Sets { first, second, .. } = Sets::of(hash, vip);
    let packet = &raw mut *packet;
    let (slot, number) = look(hash, first, second);
    // SAFETY: the pointer is to the whole packet, of which nobody else has a part now.
    unsafe { (&raw mut (*packet).slot).write_volatile(slot.0) };
    // SAFETY: as above.
    unsafe { (&raw mut (*packet).number).write_volatile(number) };
    // SAFETY: as above.
    let slot = unsafe { (&raw const (*packet).slot).read_volatile() };
    // SAFETY: as above.
    let number = unsafe { (&raw const (*packet).number).read_volatile() };
    Flow { slot: Slot(slot), number }
}

#[inline(always)]
fn look(hash: u64, first: u32, second: u32) -> (Slot, u32) {
    let tag = slot::tag(hash);
    for set in [first, second] {
        let Some(words) = flow_set(set) else { break };
        let Found { position, slot } = table::find(words, tag);
        if slot.0 != Slot::EMPTY.0 {
            return (slot, set * WAYS as u32 + position as u32);
        }
    }
    (Slot::EMPTY, 0)
}

/// The cold line of a slot.
#[inline(always)]
pub fn info(number: u32) -> Option<*mut FlowInfo> {
    FLOW_INFO.get_ptr_mut(number)
}

/// The place of a new flow: a slot, and what it was worth when it was chosen.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Place(u64);

/// What [`guidevane_place`] gives when there is no place.
const NOWHERE: u64 = u64::MAX;

/// Chooses the place of a new flow of a VIP; none when the slot would be a port and none is free.
#[inline(always)]
pub fn place(hash: u64, vip: &Vip) -> Option<Place> {
    let Sets { first, second, most } = Sets::of(hash, vip);
    let place = Place(guidevane_place(first, second, most));
    (place.0 != NOWHERE).then_some(place)
}

impl Place {
    #[inline(always)]
    const fn number(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    const fn worth(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Chooses a slot in one of two sets that is worth `most` at most: its number, below what it is worth. A global
/// function of scalars: see [`crate::backends::guidevane_choose`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guidevane_place(first: u32, second: u32, most: u32) -> u64 {
    let (Some(a), Some(b)) = (flow_set(first), flow_set(second)) else { return NOWHERE };
    let place = table::place(a, b, age_now(), most & SPARE);
    if place.worth > most {
        return NOWHERE;
    }
    let set = if place.second { second } else { first };
    u64::from(place.worth) << 32 | u64::from(set * WAYS as u32 + place.position as u32)
}

/// Enters a new flow of a VIP at its place and gives its slot's number; none when other CPUs took the place,
/// and the next one too.
///
/// A connection that is not entered is lost as soon as its next packet goes by the table. Two CPUs enter flows
/// into one set at the same moment once in some ten thousand times; three hardly ever do.
#[inline(always)]
pub fn open(hash: u64, vip: &Vip, backend: u16, chosen: Place) -> Option<u32> {
    if enter(hash, vip.id, backend, chosen) {
        return Some(chosen.number());
    }
    let another = place(hash, vip)?;
    enter(hash, vip.id, backend, another).then_some(another.number())
}

#[inline(always)]
fn enter(hash: u64, vip: u16, backend: u16, place: Place) -> bool {
    let now = age_now();
    let Some(word) = flow_word(place.number()) else { return false };
    let victim = Slot(word.load());
    let entered = Slot::new(hash, backend, State::Opening, now);
    // Worth more than a moment ago: another flow has moved in.
    if victim.worth(now) > place.worth() || word.compare_exchange(victim.0, entered.0) != victim.0 {
        return false;
    }
    evicted(victim);
    count_opened(vip, backend);
    true
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
        let vip = vip_of(slot.backend());
        move_gauge(vip, slot.backend(), slot.state(), -1);
        ask(vip, slot.backend(), slot.prompts().wrapping_neg());
    }
}

#[inline(always)]
fn vip_of(backend: u16) -> u16 {
    let Some(backend) = BACKENDS.get(u32::from(backend)) else { return 0 };
    backend.hops[(backend.control & backend_bits::ROW) as usize].vip
}

#[inline(always)]
fn move_gauge(vip: u16, backend: u16, state: State, by: i32) {
    if let Some(gauge) = state.gauge() {
        add(vip, backend, gauge, by as u32);
    }
}

/// Adds to what flows await.
#[inline(always)]
fn ask(vip: u16, backend: u16, prompts: u32) {
    if prompts != 0 {
        add(vip, backend, Gauge::Prompts, prompts);
    }
}

#[inline(always)]
fn add(vip: u16, backend: u16, gauge: Gauge, by: u32) {
    if let Some(load) = LOADS.get_ptr_mut(u32::from(backend)) {
        // SAFETY: the gauge is within the element's array, aligned.
        unsafe { fetch_add_u32((&raw mut (*load).gauges).cast::<u32>().add(gauge as usize), by) };
    }
    if let Some(total) = TOTALS.get_ptr_mut(u32::from(vip)) {
        // SAFETY: as above.
        unsafe { fetch_add_u32((&raw mut (*total).gauges).cast::<u32>().add(gauge as usize), by) };
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
        let Some(word) = flow_word(self.number) else { return Slot::EMPTY };
        Slot(word.compare_exchange(self.slot.0, next.0))
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
        let (packet, line) = (packet::current()?, info(self.number)?);
        // SAFETY: the pointer is to a whole element of the map, plain numbers.
        let FlowInfo { track: numbers, .. } = unsafe { &*line };
        // SAFETY: as above.
        let own = unsafe { &*line }.is_of(&packet.source, packet.source_port_be, vip);
        let begun = own && track::is_begun(state, numbers, segment);
        let numbers = if begun {
            *numbers
        } else if track::begins(segment) {
            track::found(segment)
        } else {
            // A bare ACK says nothing but that the client is there, and a reset could be anyone's.
            self.refresh(vip);
            return None;
        };
        let numbers = excused(state, numbers, line, segment.acknowledged);
        let verdict = if segment.flags.opens() {
            track::on_syn(state, numbers, segment)
        } else if track::is_quiet(state, segment) {
            track::on_quiet(state, numbers, segment)
        } else {
            track::on_segment(state, numbers, segment, skip)
        };
        if self.settle(vip, &verdict, now) {
            let anew = matches!(state, State::Closing) && matches!(verdict.state, State::Opening);
            if !begun || anew {
                begin_line(packet, vip, line);
            }
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
        let noted = unsafe { (&raw const (*line).track).read() };
        if segment.flags.has(Flags::SYN) {
            if matches!(state, State::Opening | State::Stale) {
                // SAFETY: as above.
                unsafe { (&raw mut (*line).track).write(track::on_syn_ack(noted, segment.sequence)) };
            }
            return;
        }
        let end = segment.sequence.wrapping_add(segment.payload);
        let numbers = excused(state, noted, line, end);
        let verdict = if segment.flags.has(Flags::RST) {
            Verdict { state: State::Closed, track: numbers, event: Event::None }
        } else {
            track::on_answer(state, numbers, end, skip)
        };
        let changes = verdict.state as u8 != state as u8;
        if changes && !self.settle(vip, &verdict, age_now()) {
            return;
        }
        let flags = verdict.track.flags.wrapping_sub(noted.flags);
        if flags != 0 {
            // All else, other flags too, is the client's to change, at this very moment perhaps.
            // SAFETY: a field of a map element, aligned.
            unsafe { fetch_add_u32(&raw mut (*line).track.flags, flags) };
        }
        if changes {
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
        if self.settle(vip, &verdict, now)
            && next as u8 != state as u8
            && let (Some(packet), Some(line)) = (packet::current(), info(self.number))
            // SAFETY: the pointer is to a whole element of the map, plain numbers.
            && !unsafe { &*line }.is_of(&packet.source, packet.source_port_be, vip)
        {
            begin_line(packet, vip, line);
            // SAFETY: a field of a map element, plain numbers.
            unsafe { (&raw mut (*line).track).write(Track::default()) };
        }
    }

    /// Notes that the flow is alive, whatever it is doing.
    #[inline(always)]
    pub fn refresh(&self, vip: u16) {
        let (now, state) = (age_now(), self.slot.state());
        if self.slot.age() != now {
            self.settle(vip, &Verdict { state, track: Track::default(), event: Event::None }, now);
        }
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
        ask(vip, self.slot.backend(), next.prompts().wrapping_sub(self.slot.prompts()));
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
                unsafe { (&raw mut (*line).request_at).write(units().max(1)) };
                // SAFETY: as above.
                unsafe { add_u64(&raw mut (*load).requests, 1) };
            }
            Event::Progress => {
                // SAFETY: a field of a map element, aligned.
                let asked = unsafe { (&raw const (*line).request_at).read() };
                note_progress(backend, u64::from(units().wrapping_sub(asked)) << Histogram::UNIT_SHIFT);
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

/// A flow's numbers, now that its server has sent up to `end`: which is no progress where it is too early for an answer.
#[inline(always)]
fn excused(state: State, numbers: Track, line: *const FlowInfo, end: u32) -> Track {
    if !matches!(state, State::Awaiting) || !numbers.has_tickets() {
        return numbers;
    }
    // SAFETY: the pointer is to a whole element of the map, plain numbers.
    let FlowInfo { opened_at, request_at, .. } = unsafe { &*line };
    let opened_at = (opened_at >> Histogram::UNIT_SHIFT) as u32;
    let spans = [units().wrapping_sub(*request_at), request_at.wrapping_sub(opened_at)];
    let [since_request, handshake] = spans.map(|span| u64::from(span) << Histogram::UNIT_SHIFT);
    if track::is_early(since_request, handshake) { numbers.excuse(end) } else { numbers }
}

/// Begins the cold line of a flow: whose it is, and since when; its numbers are for the caller to write.
#[inline(always)]
pub fn begin_line(packet: &Packet, id: u16, line: *mut FlowInfo) {
    let FlowInfo { client, client_port_be, vip, opened_at, request_at, .. } =
        // SAFETY: the pointer is to a whole element of the map, plain numbers.
        unsafe { &mut *line };
    *client = packet.source;
    *client_port_be = packet.source_port_be;
    *vip = id;
    *opened_at = nanoseconds();
    *request_at = 0;
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
