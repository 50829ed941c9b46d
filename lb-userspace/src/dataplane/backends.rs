//! Backend ids and their rows: who has one, how it is reached, and when an id may be given away again.

use std::{
    collections::HashMap,
    mem::offset_of,
    sync::{Arc, atomic::Ordering},
};

use lb_common::{
    address::Endpoint,
    checksum::sum_endpoint,
    layout::{Backend, Histogram, Hop, Load, NO_SERVER_ID, backend_bits},
    pick::{COST_MAX, COST_ONE, Nominal, Steer},
    slot::MAX_BACKENDS,
};

use super::{
    error::Error,
    grace,
    loader::Maps,
    spec::{BackendSpec, NextHop, Standing},
};

/// Weight of a backend of nominal cost.
const NOMINAL_WEIGHT: u32 = 100;

/// A backend that has an id.
#[derive(Clone, Debug)]
pub struct Known {
    /// The VIP's id.
    pub vip: u16,
    /// What it was configured as.
    pub spec: BackendSpec,
    /// What holds for it.
    pub standing: Standing,
    /// The sweep's pass in which it ceased to be configured; it keeps its flows until the last one ends.
    pub left_in: Option<u64>,
}

/// All backend ids in use.
pub struct Backends {
    maps: Arc<Maps>,
    known: HashMap<u16, Known>,
}

/// The cost that a weight alone gives.
pub fn static_cost(weight: u32) -> u32 {
    match weight {
        0 => COST_MAX,
        weight => (COST_ONE * NOMINAL_WEIGHT / weight).clamp(1, COST_MAX),
    }
}

impl Backends {
    /// The backends that adopted maps hold: as if no longer configured, until they are.
    ///
    /// # Errors
    ///
    /// When a grace period cannot be had.
    pub fn adopt(maps: Arc<Maps>) -> Result<Self, Error> {
        let known = (0..MAX_BACKENDS as u16)
            .filter_map(|id| {
                let backend = maps.backends.read(usize::from(id));
                (backend.control & backend_bits::PRESENT != 0).then(|| (id, adopted(id, &backend)))
            })
            .collect();
        let backends = Self { maps, known };
        backends.settle()?;
        Ok(backends)
    }

    /// Ends the changes of next hops that an earlier daemon did not live to end.
    fn settle(&self) -> Result<(), Error> {
        let mut moved = false;
        for &id in self.known.keys() {
            let backend = self.maps.backends.read(usize::from(id));
            if backend.control & backend_bits::ROW != 0 {
                self.write_hop(id, 0, &backend.hops[1]);
                let settled = backend.control & !backend_bits::ROW;
                set_control(&self.maps, id, settled);
                moved = true;
            }
        }
        if moved { grace::wait() } else { Ok(()) }
    }

    /// A backend by its id.
    pub fn get(&self, id: u16) -> Option<&Known> {
        self.known.get(&id)
    }

    /// Every id in use.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &Known)> {
        self.known.iter().map(|(&id, known)| (id, known))
    }

    /// Whether a VIP still has a backend, configured or leaving.
    pub fn any_of(&self, vip: u16) -> bool {
        self.known.values().any(|known| known.vip == vip)
    }

    /// How many ids are free.
    pub fn free(&self) -> usize {
        MAX_BACKENDS - self.known.len()
    }

    /// The id of a VIP's backend at an endpoint.
    pub fn find(&self, vip: u16, endpoint: &Endpoint) -> Option<u16> {
        self.known
            .iter()
            .find(|(_, known)| known.vip == vip && known.spec.endpoint == *endpoint)
            .map(|(&id, _)| id)
    }

    /// Gives a configured backend its id: the one it has, or a free one. It takes no flows until it has a
    /// standing.
    ///
    /// # Errors
    ///
    /// When no id is free.
    pub fn enter(&mut self, vip: u16, spec: &BackendSpec) -> Result<u16, Error> {
        if let Some(id) = self.find(vip, &spec.endpoint) {
            if let Some(known) = self.known.get_mut(&id) {
                known.spec = spec.clone();
                known.left_in = None;
                // The weight is part of it: zero takes no new flows.
                set_control(&self.maps, id, control_of(known));
            }
            return Ok(id);
        }
        let id = (0..MAX_BACKENDS as u16)
            .find(|id| !self.known.contains_key(id))
            .ok_or_else(|| Error::Exhausted { what: "backend", name: spec.name.clone() })?;
        let static_cost = static_cost(spec.weight);
        let load = Load {
            steer: Steer { cost: static_cost, correction: 0 }.to_word(),
            nominal: Nominal { static_cost, share: 0 }.to_word(),
            ..Load::default()
        };
        self.maps.loads.write(usize::from(id), &load);
        self.maps.progress.write(usize::from(id), &Histogram::EMPTY);
        let hop = Hop { vip, ..hop_of(spec, vip, None) };
        let row = Backend { control: backend_bits::PRESENT, hops: [hop; 2], ..Backend::default() };
        self.maps.backends.write(usize::from(id), &row);
        self.known
            .insert(id, Known { vip, spec: spec.clone(), standing: Standing::default(), left_in: None });
        Ok(id)
    }

    /// Ceases to give a backend new flows, for good; its id is free once no flow holds it.
    pub fn leave(&mut self, id: u16, pass: u64) -> Result<(), Error> {
        let Some(known) = self.known.get_mut(&id) else { return Ok(()) };
        known.left_in.get_or_insert(pass);
        let standing = Standing { active: false, ..known.standing };
        self.stand([(id, standing)])
    }

    /// Frees the ids of backends that have left and that no flow holds, by the counts of the sweep's last
    /// whole pass.
    ///
    /// # Errors
    ///
    /// When a grace period cannot be had.
    pub fn release(&mut self, pass: u64, held: &[u32]) -> Result<(), Error> {
        let gone: Vec<u16> = self
            .iter()
            // The pass must have begun after the backend left: flows may have opened while one was under way.
            .filter(|(id, known)| {
                known.left_in.is_some_and(|left| pass > left + 1) && held[usize::from(*id)] == 0
            })
            .map(|(id, _)| id)
            .collect();
        if gone.is_empty() {
            return Ok(());
        }
        for id in &gone {
            set_control(&self.maps, *id, 0);
        }
        grace::wait()?;
        for id in gone {
            self.known.remove(&id);
        }
        Ok(())
    }

    /// Brings the rows of backends in line with what they are configured as now.
    ///
    /// # Errors
    ///
    /// When a grace period cannot be had.
    pub fn renew(&mut self, ids: impl IntoIterator<Item = u16>) -> Result<(), Error> {
        let known = |id: u16| self.get(id).map(|known| (id, known.standing));
        let standings: Vec<_> = ids.into_iter().filter_map(known).collect();
        self.stand(standings)
    }

    /// Says what holds for backends now.
    ///
    /// # Errors
    ///
    /// When a grace period cannot be had.
    pub fn stand(&mut self, standings: impl IntoIterator<Item = (u16, Standing)>) -> Result<(), Error> {
        let mut moved = Vec::new();
        for (id, standing) in standings {
            let Some(known) = self.known.get_mut(&id) else { continue };
            let before = std::mem::replace(&mut known.standing, standing);
            let (control, hop) = (control_of(known), hop_of(&known.spec, known.vip, standing.hop));
            let live = self.maps.backends.read(usize::from(id)).hops[0];
            match (before.hop, standing.hop) {
                (Some(_), Some(_)) if live != hop => {
                    // The spare row carries the traffic while the first is rewritten.
                    self.write_hop(id, 1, &hop);
                    set_control(&self.maps, id, control | backend_bits::ROW);
                    moved.push((id, control, hop));
                    continue;
                }
                // Nobody follows a row that is not reachable: it can be written in place.
                (None, Some(_)) => self.write_hop(id, 0, &hop),
                (None, None) => self.write_hop(id, 0, &Hop { server_id: hop.server_id, ..live }),
                _ => {}
            }
            set_control(&self.maps, id, control);
        }
        if moved.is_empty() {
            return Ok(());
        }
        grace::wait()?;
        for (id, control, hop) in moved {
            self.write_hop(id, 0, &hop);
            set_control(&self.maps, id, control);
        }
        grace::wait()
    }

    fn write_hop(&self, id: u16, row: usize, hop: &Hop) {
        let mut backend = self.maps.backends.read(usize::from(id));
        backend.hops[row] = *hop;
        self.maps.backends.write(usize::from(id), &backend);
    }

    /// Whether a backend gets new flows.
    pub fn is_eligible(&self, id: u16) -> bool {
        self.get(id).is_some_and(|known| control_of(known) & backend_bits::ELIGIBLE == backend_bits::ELIGIBLE)
    }
}

/// Writes a backend's control word where packets look for it, and where picks do.
fn set_control(maps: &Maps, id: u16, control: u32) {
    let id = usize::from(id);
    maps.backends.half(id, offset_of!(Backend, control)).store(control, Ordering::SeqCst);
    maps.loads.half(id, offset_of!(Load, control)).store(control, Ordering::SeqCst);
}

fn control_of(known: &Known) -> u32 {
    let bit = |set: bool, bit: u32| if set { bit } else { 0 };
    let Standing { healthy, active, hop } = known.standing;
    let welcome = active && known.left_in.is_none() && known.spec.weight > 0;
    backend_bits::PRESENT
        | bit(healthy, backend_bits::HEALTHY)
        | bit(welcome, backend_bits::ACTIVE)
        | bit(hop.is_some(), backend_bits::REACHABLE)
}

fn hop_of(spec: &BackendSpec, vip: u16, hop: Option<NextHop>) -> Hop {
    let sum = sum_endpoint(&spec.endpoint.address, spec.endpoint.port_be);
    let server_id = spec.server_id.unwrap_or(NO_SERVER_ID);
    let known = Hop { endpoint: spec.endpoint, checksum: sum, vip, server_id, ..Hop::default() };
    let Some(NextHop { mac, source_mac, interface, mtu }) = hop else { return known };
    Hop { mac, source_mac, interface, mtu, ..known }
}

fn adopted(id: u16, backend: &Backend) -> Known {
    let hop = &backend.hops[(backend.control & backend_bits::ROW) as usize];
    let has = |bit: u32| backend.control & bit != 0;
    let next = NextHop { mac: hop.mac, source_mac: hop.source_mac, interface: hop.interface, mtu: hop.mtu };
    Known {
        vip: hop.vip,
        spec: BackendSpec {
            name: format!("adopted-{id}"),
            endpoint: hop.endpoint,
            weight: NOMINAL_WEIGHT,
            server_id: (hop.server_id != NO_SERVER_ID).then_some(hop.server_id),
        },
        standing: Standing {
            healthy: has(backend_bits::HEALTHY),
            active: has(backend_bits::ACTIVE),
            hop: has(backend_bits::REACHABLE).then_some(next),
        },
        left_in: Some(0),
    }
}
