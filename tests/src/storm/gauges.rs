//! What the table holds, beside what the gauges say.

use guidevane::dataplane::{counters, loader::Maps};
use lb_common::slot::{self, GAUGES, MAX_BACKENDS, Slot, State};

use super::bed::Bed;

/// A full count of the table that nothing works on.
#[derive(Clone, Debug, Default)]
pub struct Recount {
    /// Slots in use.
    pub used: u64,
    /// Flows that some gauge counts.
    pub live: u64,
    /// Gauges that say something else, each in words.
    pub wrong: Vec<String>,
}

/// Counts the table and holds every gauge of backends and VIPs to it.
pub fn recount(bed: &Bed) -> Recount {
    let maps = bed.dataplane.maps();
    let mut counts = vec![[0_u32; GAUGES]; MAX_BACKENDS];
    let mut recount = Recount::default();
    for slot in (0..maps.flows.len()).flat_map(|set| maps.flows.read(set)).map(Slot) {
        recount.used += u64::from(slot.state() != State::Empty);
        recount.live += u64::from(slot.state().gauge().is_some());
        let counted = &mut counts[usize::from(slot.backend())];
        counted.iter_mut().zip(slot.counts()).for_each(|(sum, one)| *sum += one);
    }
    for service in bed.dataplane.steering.services() {
        let mut sum = [0; GAUGES];
        for &id in &service.backends {
            let counted = std::mem::take(&mut counts[usize::from(id)]);
            sum.iter_mut().zip(counted).for_each(|(sum, one)| *sum += one);
            let gauges = maps.loads.read(id.into()).gauges;
            if gauges != counted {
                recount.wrong.push(format!("backend {id} has {gauges:?}, and {counted:?} were counted"));
            }
        }
        let gauges = maps.totals.read(service.id.into()).gauges;
        if gauges != sum {
            recount.wrong.push(format!("{} has {gauges:?}, and {sum:?} were counted", service.spec.name));
        }
    }
    for (id, _) in counts.iter().enumerate().filter(|(_, counted)| **counted != [0; GAUGES]) {
        recount.wrong.push(format!("flows of backend {id}, which nobody configured"));
    }
    recount
}

/// Live flows as the gauges of these VIPs have them.
pub fn live(maps: &Maps, vips: &[u16]) -> u64 {
    let flows = vips.iter().map(|&vip| slot::flows(&counters::live(&maps.totals.read(vip.into()).gauges)));
    flows.map(u64::from).sum()
}
