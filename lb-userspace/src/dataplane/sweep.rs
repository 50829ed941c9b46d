//! The sweep: ages the flow table through its mapping, and counts again what the gauges say.
//!
//! It changes slots as the kernel does, by compare-exchange, and moves gauges only where it wins. While
//! traffic runs, a pass takes time and no count of it is of one moment, so a gauge is corrected only by what
//! every one of many passes in a row has shown, and always by an atomic add.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use lb_common::{
    layout::{FlowInfo, Load, Meta, PORT_SETS, Total},
    slot::{GAUGES, MAX_BACKENDS, Slot, State},
    table::{Limits, WAYS, Word as _, age_out},
    track::FINISHED,
};

use super::{loader::Maps, mapping::FlowWord};

/// Passes in a row that must show a difference between gauge and count before it is corrected: at four
/// passes a second, five seconds. The noise of running traffic changes its sign within a few.
const LASTING: u64 = 20;

/// Time-outs of a VIP's flows.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Of TCP flows.
    pub tcp: Limits,
    /// Of UDP flows.
    pub udp: Limits,
    /// Of TCP flows whose slot is a port of one-armed `nat`.
    pub ports: Limits,
}

/// What one pass over the whole table found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// Its number, from 1.
    pub number: u64,
    /// Slots in use, ports of one-armed `nat` not counted.
    pub used: u64,
    /// Ports in use, by source address.
    pub ports: Vec<u32>,
    /// Slots in use, by backend.
    pub held: Vec<u32>,
    /// Flows freed because they were silent for too long.
    pub expired: u64,
    /// Gauges that were off and were corrected.
    pub corrected: u64,
}

/// Twice gauge less count, over some passes.
#[derive(Clone, Copy, Debug)]
struct Range {
    low: i64,
    high: i64,
}

impl Range {
    const EMPTY: Self = Self { low: i64::MAX, high: i64::MIN };

    fn note(&mut self, difference: i64) {
        self.low = self.low.min(difference);
        self.high = self.high.max(difference);
    }

    /// What every pass has shown, in whole flows: zero as soon as the passes disagree about the sign.
    const fn shown_by_all(self) -> i64 {
        if self.low > 0 {
            self.low / 2
        } else if self.high < 0 {
            self.high / 2
        } else {
            0
        }
    }
}

/// The sweep's place in the table and its counts.
pub struct Sweep {
    maps: Arc<Maps>,
    meta: Meta,
    policy: Policy,
    next: usize,
    pass: Pass,
    /// Twice the count of each gauge.
    counts: Vec<[i64; GAUGES]>,
    /// Gauges as they were when the pass began.
    before: Vec<[i64; GAUGES]>,
    /// The smallest and largest difference of each gauge since the last [`LASTING`] passes were judged.
    ranges: Vec<[Range; GAUGES]>,
}

impl Sweep {
    /// A sweep that starts at the table's beginning.
    pub fn new(maps: Arc<Maps>, policy: Policy) -> Self {
        let meta = maps.meta.read(0);
        Self {
            policy,
            next: 0,
            pass: empty_pass(1, &meta),
            meta,
            counts: vec![[0; GAUGES]; MAX_BACKENDS],
            before: gauges(&maps),
            ranges: vec![[Range::EMPTY; GAUGES]; MAX_BACKENDS],
            maps,
        }
    }

    /// Sets in the table.
    pub fn sets(&self) -> usize {
        self.maps.flows.len()
    }

    /// Changes the time-outs.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// Sweeps up to `sets` sets at age-clock time `now`; gives the pass when it has ended with them.
    pub fn slice(&mut self, sets: usize, now: u32) -> Option<Pass> {
        let end = (self.next + sets).min(self.sets());
        let maps = Arc::clone(&self.maps);
        for set in self.next..end {
            for way in 0..WAYS {
                self.slot(&maps, set, way, now);
            }
        }
        self.next = end;
        (end == self.sets()).then(|| self.finish())
    }

    fn slot(&mut self, maps: &Maps, set: usize, way: usize, now: u32) {
        let word = FlowWord(maps.flows.word(set, way * 8));
        let found = Slot(word.load());
        if found.state() == State::Empty {
            return;
        }
        let mut slot = found;
        let vip = vip_of(maps, slot.backend());
        let info = || maps.flow_info.half(set * WAYS + way, TRACK_FLAGS).load(Ordering::Relaxed);
        let source = self.source_of(set);
        let limits = match source {
            // What is half open, or over, holds a port for as short, and rests as long, whatever the protocol.
            Some(_) if slot.state() <= State::Opening => &self.policy.ports,
            _ if is_udp(maps, vip) => &self.policy.udp,
            Some(_) => &self.policy.ports,
            None => &self.policy.tcp,
        };
        let finished = matches!(slot.state(), State::Awaiting | State::Streaming) && info() & FINISHED != 0;
        let next = age_out(slot, now, limits, finished).map(|next| match slot.state() {
            // A port rests when its flow has expired too: late answers are not for its next owner.
            State::Idle | State::Streaming | State::Awaiting if source.is_some() && next == Slot::EMPTY => {
                slot.with(slot.backend(), State::Closed, now)
            }
            _ => next,
        });
        if let Some(next) = next
            && word.compare_exchange(slot.0, next.0) == slot.0
        {
            move_gauges(maps, vip, slot, next);
            self.pass.expired += u64::from(next == Slot::EMPTY);
            slot = next;
        }
        // Half as it was and half as it is now: flows that fall idle only ever do so here, and counted as either
        // alone they would differ from the gauge in every pass.
        self.half_count(found);
        self.half_count(slot);
        if slot.state() != State::Empty {
            self.hold(slot, source);
        }
    }

    /// The source address, by its number, of whose ports a set is made up.
    fn source_of(&self, set: usize) -> Option<usize> {
        Some(set.checked_sub(self.meta.flow_sets as usize)? / PORT_SETS as usize)
    }

    fn half_count(&mut self, slot: Slot) {
        let counts = &mut self.counts[usize::from(slot.backend())];
        counts.iter_mut().zip(slot.counts()).for_each(|(sum, one)| *sum += i64::from(one));
    }

    fn hold(&mut self, slot: Slot, source: Option<usize>) {
        match source {
            Some(source) => self.pass.ports[source] += 1,
            None => self.pass.used += 1,
        }
        self.pass.held[usize::from(slot.backend())] += 1;
    }

    fn finish(&mut self) -> Pass {
        let after = gauges(&self.maps);
        for (backend, (after, ranges)) in after.iter().zip(&mut self.ranges).enumerate() {
            let counts = std::mem::take(&mut self.counts[backend]);
            for (gauge, range) in ranges.iter_mut().enumerate() {
                // Slots were counted at moments spread over the pass: what they add up to is compared with
                // the gauge's mean over it, so that steadily rising traffic shows no difference.
                range.note(self.before[backend][gauge] + after[gauge] - counts[gauge]);
            }
        }
        if self.pass.number.is_multiple_of(LASTING) {
            self.judge();
        }
        self.before = gauges(&self.maps);
        self.next = 0;
        let next = empty_pass(self.pass.number + 1, &self.meta);
        std::mem::replace(&mut self.pass, next)
    }

    /// Corrects what all of the last passes agree on.
    fn judge(&mut self) {
        for backend in 0..MAX_BACKENDS {
            let ranges = std::mem::replace(&mut self.ranges[backend], [Range::EMPTY; GAUGES]);
            for (gauge, range) in ranges.iter().enumerate() {
                let off = range.shown_by_all();
                if off == 0 {
                    continue;
                }
                add(self.maps.loads.half(backend, GAUGES_OF_LOAD + gauge * 4), -off);
                let vip = usize::from(vip_of(&self.maps, backend as u16));
                add(self.maps.totals.half(vip, GAUGES_OF_TOTAL + gauge * 4), -off);
                self.pass.corrected += 1;
            }
        }
    }
}

fn empty_pass(number: u64, meta: &Meta) -> Pass {
    let ports = vec![0; (meta.port_sets / PORT_SETS) as usize];
    Pass { number, ports, held: vec![0; MAX_BACKENDS], ..Pass::default() }
}

/// Every backend's gauges as they are now.
fn gauges(maps: &Maps) -> Vec<[i64; GAUGES]> {
    let gauge = |backend, gauge: usize| {
        let word = maps.loads.half(backend, GAUGES_OF_LOAD + gauge * 4);
        i64::from(word.load(Ordering::SeqCst) as i32)
    };
    (0..MAX_BACKENDS).map(|backend| std::array::from_fn(|number| gauge(backend, number))).collect()
}

const TRACK_FLAGS: usize =
    std::mem::offset_of!(FlowInfo, track) + std::mem::offset_of!(lb_common::track::Track, flags);
const GAUGES_OF_LOAD: usize = std::mem::offset_of!(Load, gauges);
const GAUGES_OF_TOTAL: usize = std::mem::offset_of!(Total, gauges);

fn add(word: &AtomicU32, by: i64) {
    word.fetch_add(by as u32, Ordering::SeqCst);
}

fn vip_of(maps: &Maps, backend: u16) -> u16 {
    maps.backends.read(usize::from(backend)).hops[0].vip
}

/// Either row of a VIP says what protocol it is of.
fn is_udp(maps: &Maps, vip: u16) -> bool {
    const UDP: u8 = 17;
    maps.vips.read(usize::from(vip) * 2).endpoint.protocol == UDP
}

fn move_gauges(maps: &Maps, vip: u16, from: Slot, to: Slot) {
    for (gauge, (before, after)) in from.counts().into_iter().zip(to.counts()).enumerate() {
        if before != after {
            let by = i64::from(after) - i64::from(before);
            add(maps.loads.half(usize::from(from.backend()), GAUGES_OF_LOAD + gauge * 4), by);
            add(maps.totals.half(usize::from(vip), GAUGES_OF_TOTAL + gauge * 4), by);
        }
    }
}

#[cfg(test)]
#[path = "sweep_tests.rs"]
mod tests;
