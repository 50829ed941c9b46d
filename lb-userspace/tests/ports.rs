//! How full the ports of a source address of one-armed `nat` get: a model of how flows are placed in them.

use lb_common::{
    layout::{PORT_SETS, RESERVED_SETS},
    slot,
    table::{WAYS, first_set, other_set},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

/// What the README says of the ports: up to here every new flow finds one, up to there nearly every.
const NONE_REFUSED: f64 = 0.65;
const FEW_REFUSED: (f64, f64) = (0.8, 0.01);

/// Ports in use by set, of so many source addresses.
struct Ports {
    used: Vec<usize>,
    mask: u32,
}

impl Ports {
    fn new(sources: u32) -> Self {
        Self { used: vec![0; (sources * PORT_SETS) as usize], mask: sources * PORT_SETS - 1 }
    }

    fn usable(&self) -> f64 {
        let sets = self.used.len() as u32 / PORT_SETS * (PORT_SETS - RESERVED_SETS);
        f64::from(sets) * WAYS as f64
    }

    /// A flow's two sets: what would be a set of reserved ports is one in the middle of the same address.
    fn sets(&self, hash: u64) -> [usize; 2] {
        let first = first_set(hash, self.mask);
        let second = other_set(first, slot::tag(hash), self.mask);
        [first, second].map(|set| {
            let moved = if set % PORT_SETS < RESERVED_SETS { set + PORT_SETS / 2 } else { set };
            moved as usize
        })
    }

    /// Gives a flow a port out of the emptier of its sets, if any is free.
    fn open(&mut self, hash: u64) -> bool {
        let [first, second] = self.sets(hash);
        let set = if self.used[second] < self.used[first] { second } else { first };
        let free = self.used[set] < WAYS;
        self.used[set] += usize::from(free);
        free
    }
}

/// The part of the ports in use when the first flow was refused, and the part of all flows that were refused until
/// that of [`FEW_REFUSED`] was reached.
fn fill(sources: u32, seed: u64) -> (f64, f64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut ports = Ports::new(sources);
    let (mut open, mut asked, mut first) = (0.0, 0.0, None);
    while open / ports.usable() < FEW_REFUSED.0 {
        asked += 1.0;
        if ports.open(random.random()) {
            open += 1.0;
        } else {
            first.get_or_insert(open / ports.usable());
        }
    }
    (first.unwrap_or(FEW_REFUSED.0), 1.0 - open / asked)
}

#[test]
fn new_flows_find_a_port_until_about_two_thirds_are_in_use() {
    for sources in [1, 4, 16] {
        let runs: Vec<(f64, f64)> = (0..4).map(|seed| fill(sources, seed)).collect();
        println!("{sources} sources: first refusal, part refused until 80 %: {runs:?}");
        for (first, refused) in runs {
            assert!(first > NONE_REFUSED, "{sources} sources: the first flow was refused at {first}");
            assert!(refused < FEW_REFUSED.1, "{sources} sources: {refused} of the flows were refused");
        }
    }
}
