//! VIPs in the kernel: their rows, their tables, and how a change reaches packets whole.
//!
//! A change is written beside what is live, and then one aligned word, the index's generation and seed, is
//! flipped. What was live before is reused only after a grace period.

use std::{
    collections::{BTreeMap, HashMap},
    mem::offset_of,
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use lb_common::{
    address::{Address, Endpoint},
    index::Handle,
    layout::{Control, MAX_VIPS, Meta, Mode, TABLE_LINE, Total, VIP_IDS, Vip, server_endpoint},
    maglev::Member,
    pick::{FLOW, PROMPT},
    slot::PROMPTS_LEAST,
};

use super::{
    adoption,
    arena::Arena,
    backends::Backends,
    error::Error,
    grace, index,
    loader::Maps,
    rows,
    spec::{Sources, Standing, TunnelSource, VipSpec},
    table::{self, NoRoom, Table},
};

/// Half-open flows of one backend that count as load, until the governor says otherwise.
const OPENING_CAP: u32 = 1024;

/// A VIP and the ids of its configured backends, in the order of its specification.
#[derive(Clone, Debug)]
pub struct Service {
    /// The VIP's id.
    pub id: u16,
    /// What was asked for.
    pub spec: VipSpec,
    /// Ids of `spec.backends`.
    pub backends: Vec<u16>,
    /// Its table.
    pub(super) table: Table,
}

impl Service {
    /// Entries of its Maglev table that moved with the table's last change; none where that is not known.
    pub const fn moved(&self) -> Option<u32> {
        self.table.moved
    }
}

/// What the kernel steers by.
pub struct Steering {
    maps: Arc<Maps>,
    meta: Meta,
    arena: Arena,
    /// Source addresses of one-armed `nat`, IPv4 first.
    nat_sources: Vec<Address>,
    sources: Sources,
    /// Rows by what they answer to: services and bare addresses.
    rows: HashMap<Endpoint, (Handle, Vip)>,
    /// Where answers come back from that are translated, and backends by what QUIC connection IDs call them.
    reals: Vec<(Endpoint, Handle)>,
    services: Vec<Service>,
    /// Lines that no row leads to after the next flip: of tables that were replaced, or of an earlier daemon's.
    retired: Vec<Range<u32>>,
    /// Backends of all services.
    pub backends: Backends,
}

impl Steering {
    /// Starts from what the maps hold: nothing, or what an earlier daemon left.
    ///
    /// # Errors
    ///
    /// When a grace period cannot be had.
    pub fn new(maps: Arc<Maps>, nat_sources: Vec<Address>) -> Result<Self, Error> {
        let mut arena = Arena::new(maps.table.len() as u32);
        let rows = adoption::rows(&maps.control, &maps.vip_index, &maps.vips);
        let retired: Vec<_> = rows.values().map(|(_, row)| table::lines_of(row)).collect();
        for lines in &retired {
            arena.claim(lines.clone());
        }
        let backends = Backends::adopt(Arc::clone(&maps))?;
        for (number, address) in nat_sources.iter().enumerate() {
            maps.sources.write(number, address);
        }
        Ok(Self {
            meta: maps.meta.read(0),
            maps,
            arena,
            nat_sources,
            sources: Sources::default(),
            rows,
            reals: Vec::new(),
            services: Vec::new(),
            retired,
            backends,
        })
    }

    /// Says where packets to backends come from. Tunnels use it at once; to be followed by [`Steering::apply`].
    ///
    /// A family whose source is taken away keeps the former one for the packets that are still on their way.
    pub fn set_sources(&mut self, sources: &Sources) {
        let control = |offset| self.maps.control.half(0, offset);
        // With no bit that varies every address in between is one of the two prefixes'.
        if let Some(TunnelSource { address, spread }) = sources.tunnel_v4 {
            control(offset_of!(Control, spread_v4)).store(0, Ordering::SeqCst);
            control(offset_of!(Control, source_v4)).store(address.0[3], Ordering::SeqCst);
            control(offset_of!(Control, spread_v4)).store(spread, Ordering::SeqCst);
        }
        if let Some(TunnelSource { address, spread }) = sources.tunnel_v6 {
            control(offset_of!(Control, spread_v6)).store(0, Ordering::SeqCst);
            for (number, word) in address.0.into_iter().enumerate() {
                control(offset_of!(Control, source_v6) + number * 4).store(word, Ordering::SeqCst);
            }
            control(offset_of!(Control, spread_v6)).store(spread, Ordering::SeqCst);
        }
        self.sources = sources.clone();
    }

    /// Ids of all VIPs that have a row, adopted ones included.
    pub fn vip_ids(&self) -> impl Iterator<Item = u16> {
        self.rows.values().map(|(handle, _)| handle.id())
    }

    /// The services, in the order they were asked for.
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// Takes over a whole new set of VIPs; `pass` is the sweep's current one.
    ///
    /// Backends that stay keep their ids, standing and flows; those that are gone keep their flows.
    ///
    /// # Errors
    ///
    /// When ids or room run out; nothing has changed then.
    pub fn apply(&mut self, specs: &[VipSpec], pass: u64) -> Result<(), Error> {
        let services = self.enter(specs)?;
        let configured: Vec<u16> =
            services.iter().flat_map(|service| service.backends.iter().copied()).collect();
        let leaving: Vec<u16> =
            self.backends.iter().map(|(id, _)| id).filter(|id| !configured.contains(id)).collect();
        for id in leaving {
            self.backends.leave(id, pass)?;
        }
        let before = std::mem::replace(&mut self.services, services);
        let tables = before.into_iter().map(|service| (service.spec.endpoint, service.table));
        let mut tables: HashMap<_, _> = tables.collect();
        for service in &mut self.services {
            service.table = tables.remove(&service.spec.endpoint).unwrap_or_default();
        }
        self.retired.extend(tables.into_values().map(|table| table.lines));
        self.publish()
    }

    fn enter(&mut self, specs: &[VipSpec]) -> Result<Vec<Service>, Error> {
        if specs.len() > MAX_VIPS {
            return Err(Error::Exhausted { what: "VIP", name: specs[MAX_VIPS].name.clone() });
        }
        let mut taken: Vec<u16> = self.rows.values().map(|(handle, _)| handle.id()).collect();
        let mut services = Vec::with_capacity(specs.len());
        let mut fresh = 0;
        for spec in specs {
            let id = match self.rows.get(&spec.endpoint) {
                Some((handle, _)) => handle.id(),
                None => self.free_vip(&taken).ok_or_else(|| exhausted("VIP", &spec.name))?,
            };
            taken.push(id);
            fresh += spec.backends.iter().filter(|b| self.backends.find(id, &b.endpoint).is_none()).count();
            services.push(Service { id, spec: spec.clone(), backends: Vec::new(), table: Table::default() });
        }
        if fresh > self.backends.free() {
            return Err(exhausted("backend", &format!("({fresh} new ones)")));
        }
        for service in &mut services {
            for backend in &service.spec.backends {
                service.backends.push(self.backends.enter(service.id, backend)?);
            }
        }
        self.backends.renew(services.iter().flat_map(|service| service.backends.iter().copied()))?;
        Ok(services)
    }

    /// An id that neither a row nor a backend that is still leaving goes by.
    fn free_vip(&self, taken: &[u16]) -> Option<u16> {
        (0..VIP_IDS as u16).find(|id| !taken.contains(id) && !self.backends.any_of(*id))
    }

    /// Says what holds for backends now, and rebuilds what follows from it.
    ///
    /// # Errors
    ///
    /// When a grace period cannot be had, or there is no room for a table.
    pub fn stand(&mut self, standings: impl IntoIterator<Item = (u16, Standing)>) -> Result<(), Error> {
        self.backends.stand(standings)?;
        self.publish()
    }

    /// Builds the tables that changed, writes the rows that changed, and flips to them.
    fn publish(&mut self) -> Result<(), Error> {
        for position in 0..self.services.len() {
            self.build_table(position)?;
        }
        let mut rows = HashMap::new();
        let mut taken: Vec<u16> = self.rows.values().map(|(handle, _)| handle.id()).collect();
        taken.extend(self.services.iter().map(|service| service.id));
        for (endpoint, mut row) in rows::wanted(&self.services, &self.meta, &self.nat_sources, &self.sources)
        {
            let live = self.rows.get(&endpoint).copied();
            let id = match live {
                Some((handle, _)) => handle.id(),
                None if endpoint.protocol == 0 => {
                    self.free_vip(&taken).ok_or_else(|| exhausted("VIP", "of an address"))?
                }
                None => row.id,
            };
            taken.push(id);
            row.id = id;
            let handle = self.write_row(live, &row);
            rows.insert(endpoint, (handle, row));
        }
        let reals = self.named();
        if rows == self.rows && reals == self.reals {
            return Ok(());
        }
        self.flip(&rows, &reals)?;
        (self.rows, self.reals) = (rows, reals);
        grace::wait()?;
        for lines in self.retired.drain(..) {
            self.arena.give_back(lines);
        }
        self.write_spare_rows();
        Ok(())
    }

    /// Makes both rows of every id alike: the return path does not know which of the two is live. Not before
    /// the grace period: packets of clients may still follow the spare one.
    fn write_spare_rows(&self) {
        for (handle, row) in self.rows.values() {
            let spare = Handle::new(handle.id(), (handle.0 & 1) ^ 1);
            self.maps.vips.write(spare.element() as usize, row);
        }
    }

    /// Builds a service's table anew if its members changed.
    fn build_table(&mut self, position: usize) -> Result<(), Error> {
        let service = &mut self.services[position];
        let weighted = service.spec.weighs_table();
        let ids = service.backends.iter().zip(&service.spec.backends);
        let eligible = ids.filter(|(id, _)| self.backends.is_eligible(**id));
        let members = eligible.map(|(&backend, spec)| Member {
            backend,
            identity: spec.identity(),
            weight: if weighted { spec.weight } else { 1 },
        });
        let Some(table) = Table::build(members.collect(), &service.table, &mut self.arena, &self.maps.table)
        else {
            return Ok(());
        };
        let table = table.map_err(|NoRoom| Error::TableFull {
            name: service.spec.name.clone(),
            lines: self.maps.table.len() as u32,
            each: TABLE_LINE,
        })?;
        self.retired.push(std::mem::replace(&mut service.table, table).lines);
        Ok(())
    }

    /// Writes a row beside the live one, if it differs from it.
    fn write_row(&self, live: Option<(Handle, Vip)>, row: &Vip) -> Handle {
        let handle = match live {
            Some((handle, old)) if old == *row => return handle,
            Some((handle, _)) => Handle::new(row.id, (handle.0 & 1) ^ 1),
            None => {
                let total = Total {
                    opening_cap: OPENING_CAP,
                    duty: FLOW,
                    prompt: PROMPT / PROMPTS_LEAST,
                    ..Total::default()
                };
                self.maps.totals.write(usize::from(row.id), &total);
                // The return path reads a VIP's identity from either row.
                self.maps.vips.write(Handle::new(row.id, 1).element() as usize, row);
                Handle::new(row.id, 0)
            }
        };
        self.maps.vips.write(handle.element() as usize, row);
        handle
    }

    /// The endpoints from which answers come back through here that nothing else tells, and those that QUIC
    /// connection IDs name.
    fn named(&self) -> Vec<(Endpoint, Handle)> {
        let vips: HashMap<u16, &VipSpec> =
            self.services.iter().map(|service| (service.id, &service.spec)).collect();
        let mut reals = BTreeMap::new();
        let mut backends: Vec<_> = self.backends.iter().collect();
        // Of two backends with one name the configured one counts: it comes last.
        backends.sort_by_key(|(id, known)| (known.left_in.is_none(), *id));
        for (id, known) in backends {
            let Some(spec) = vips.get(&known.vip) else { continue };
            let endpoint = match (spec.mode, spec.quic, known.spec.server_id) {
                (Mode::Nat, ..) if !spec.source_nat => known.spec.endpoint,
                (Mode::L2 | Mode::Tunnel, Some(_), Some(server)) => server_endpoint(known.vip, server),
                _ => continue,
            };
            reals.insert(
                (endpoint.address, endpoint.port_be, endpoint.protocol),
                (endpoint, Handle::new(id, 0)),
            );
        }
        reals.into_values().collect()
    }

    /// Builds both indexes in their spare halves and makes them live.
    fn flip(
        &self,
        rows: &HashMap<Endpoint, (Handle, Vip)>,
        reals: &[(Endpoint, Handle)],
    ) -> Result<(), Error> {
        let vips: Vec<_> = rows.iter().map(|(endpoint, (handle, _))| (*endpoint, *handle)).collect();
        let control = &self.maps.control;
        index::flip(&self.maps.vip_index, control.word(0, VIP_INDEX_WORD), &vips, "VIP index")?;
        index::flip(&self.maps.real_index, control.word(0, REAL_INDEX_WORD), reals, "backend index")
    }
}

/// Where the index words lie in `CONTROL`.
const VIP_INDEX_WORD: usize = offset_of!(Control, vip_index);
const REAL_INDEX_WORD: usize = offset_of!(Control, real_index);

fn exhausted(what: &'static str, name: &str) -> Error {
    Error::Exhausted { what, name: name.to_owned() }
}

#[cfg(test)]
#[path = "steering_tests.rs"]
mod tests;
