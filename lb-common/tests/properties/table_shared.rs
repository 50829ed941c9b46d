//! Threads that open, change, sweep and push out flows of one table: gauges and recount agree.

use std::{
    array::from_fn,
    sync::atomic::{AtomicI64, Ordering},
    thread,
};

use lb_common::{
    slot::{GAUGES, Slot, State, tag},
    table::{Limits, SPARE, WAYS, Word as _, age_out, find, first_set, other_set, place, settle},
    track::{Event, Track, Verdict},
};
use rand::{Rng as _, seq::IndexedRandom as _};

use crate::support::{Memory, seeded, set_of};

const SETS: usize = 4;
const BACKENDS: usize = 3;
const MASK: u32 = SETS as u32 - 1;
const LIMITS: Limits = Limits { idle_after: 2, idle_timeout: 40, half_open: 8, closing: 6, linger: 4 };

/// A table small enough that threads meet in it all the time.
struct Shared {
    sets: [[Memory; WAYS]; SETS],
    gauges: [[AtomicI64; GAUGES]; BACKENDS],
}

impl Shared {
    fn new() -> Self {
        Self { sets: from_fn(|_| set_of([0; WAYS])), gauges: Default::default() }
    }

    fn count(&self, slot: Slot, by: i64) {
        if let Some(gauge) = slot.state().gauge() {
            self.gauges[usize::from(slot.backend())][gauge as usize].fetch_add(by, Ordering::SeqCst);
        }
    }

    /// The one way in which a slot changes: only the winner moves gauges.
    fn change(&self, word: &Memory, old: Slot, new: Slot) -> bool {
        // Threads of a small machine rarely meet by themselves: let another run between read and write.
        if (old.0 ^ new.0).count_ones().is_multiple_of(4) {
            thread::yield_now();
        }
        if word.compare_exchange(old.0, new.0) != old.0 {
            return false;
        }
        self.count(old, -1);
        self.count(new, 1);
        true
    }

    fn find(&self, hash: u64) -> Option<(&Memory, Slot)> {
        let first = first_set(hash, MASK);
        [first, other_set(first, tag(hash), MASK)].into_iter().find_map(|set| {
            let set = &self.sets[set as usize];
            let found = find(set, tag(hash));
            (found.slot != Slot::EMPTY).then_some((&set[found.position], found.slot))
        })
    }

    /// A packet of the flow: opens it, or moves it to `state`. Gives whether it won.
    fn packet(&self, hash: u64, backend: u16, state: State, now: u32) -> bool {
        if let Some((word, slot)) = self.find(hash) {
            let next = settle(slot, &Verdict { state, track: Track::default(), event: Event::None }, now);
            return self.change(word, slot, next);
        }
        let first = first_set(hash, MASK);
        let pair = [first, other_set(first, tag(hash), MASK)].map(|set| &self.sets[set as usize]);
        let place = place(pair[0], pair[1], now, SPARE);
        let word = &pair[usize::from(place.second)][place.position];
        self.change(word, Slot(word.load()), Slot::new(hash, backend, State::Opening, now))
    }

    fn sweep(&self, now: u32) {
        for word in self.sets.iter().flatten() {
            let slot = Slot(word.load());
            if let Some(next) = age_out(slot, now, &LIMITS, slot.0 & 1 << 40 != 0) {
                self.change(word, slot, next);
            }
        }
    }

    fn recount(&self) -> [[i64; GAUGES]; BACKENDS] {
        let mut counts = [[0; GAUGES]; BACKENDS];
        for slot in self.sets.iter().flatten().map(|word| Slot(word.load())) {
            if let Some(gauge) = slot.state().gauge() {
                counts[usize::from(slot.backend())][gauge as usize] += 1;
            }
        }
        counts
    }
}

/// Packets of a few flows, some sweeps among them; gives how many changes were lost to another thread.
fn drive(table: &Shared, seed: u64, packets: u32) -> u32 {
    let mut random = seeded(seed);
    // More flows than slots, the same for every thread.
    let flows: [u64; 3 * SETS * WAYS] = from_fn(|n| (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut lost = 0;
    for packet in 0..packets {
        let now = packet / 64;
        let backend = random.random_range(0..BACKENDS as u16);
        let state = *State::ALL[1..].choose(&mut random).unwrap();
        lost += u32::from(!table.packet(*flows.choose(&mut random).unwrap(), backend, state, now));
        if packet.is_multiple_of(256) {
            table.sweep(now);
        }
    }
    lost
}

#[test]
fn after_rest_gauges_equal_the_recount() {
    const PACKETS: u32 = 50_000;
    let table = Shared::new();
    let lost: u32 = thread::scope(|scope| {
        let threads = [1, 2, 3].map(|seed| {
            scope.spawn({
                let table = &table;
                move || drive(table, seed, PACKETS)
            })
        });
        threads.map(|thread| thread.join().unwrap()).iter().sum()
    });
    println!("{lost} of {} changes lost to another thread", 3 * PACKETS);
    let gauges = table.gauges.each_ref().map(|gauges| gauges.each_ref().map(|g| g.load(Ordering::SeqCst)));
    assert_eq!(gauges, table.recount());
    assert!(table.recount().iter().flatten().sum::<i64>() > 0, "nothing is left to count");
}

#[test]
fn a_compare_exchange_on_an_old_word_changes_nothing() {
    let word = Memory::default();
    assert_eq!(word.compare_exchange(0, 7), 0);
    assert_eq!(word.compare_exchange(0, 9), 7);
    assert_eq!(word.load(), 7);
}
