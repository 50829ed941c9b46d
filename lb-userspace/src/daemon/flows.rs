//! For those who ask: what is in the flow table, where a client's next connection would go, and whom a VIP's Maglev
//! table leads to.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use lb_common::{
    address::Endpoint,
    header::{TCP, UDP},
    layout::{FlowInfo, Vip},
    pick::Pool as _,
    slot::{AGE_MASK, State},
};

use super::{
    age_tick,
    core::Core,
    telling::{Names, name, tell},
};
use crate::{
    api::{
        BackendSlots, CommandError, Flow, FlowEvent, FlowPage, FlowState, FlowsRequest, Foresight,
        ForesightRequest, Pick, TableShares,
    },
    dataplane::{
        clock,
        flows::{self, Found},
        foresight,
        loader::Maps,
        pool::{self, VipPool},
    },
};

/// Slots that one request goes over: half a mebibyte of the table, well under a millisecond.
const SCAN: usize = 1 << 16;

/// Most flows of a page.
const PAGE: usize = 1000;

/// What it takes to tell of flows, apart from the core: nobody waits for a listing.
pub struct Reader {
    maps: Arc<Maps>,
    names: Names,
    /// The kernel's tick counter, the same on the clock of slots, and how long one tick of that lasts.
    jiffies: u64,
    now: u32,
    tick: Duration,
}

impl Reader {
    /// As names and times are now.
    pub fn of(core: &Core) -> Self {
        let (maps, jiffies) = (core.dataplane.maps(), core.dataplane.clock().jiffies());
        let meta = maps.meta.read(0);
        let now = (jiffies >> meta.age_shift) as u32 & AGE_MASK;
        Self { maps, names: core.names(), jiffies, now, tick: age_tick(&meta) }
    }

    /// A part of the table.
    ///
    /// # Errors
    ///
    /// When a name is unknown, or the page is none.
    pub fn page(&self, request: &FlowsRequest) -> Result<FlowPage, CommandError> {
        let unknown_vip = |name: &String| CommandError::UnknownVip { name: name.clone() };
        let unknown_backend = |name: &String| CommandError::UnknownBackend { name: name.clone() };
        let vip = id(&self.names.vips, request.vip.as_ref(), unknown_vip)?;
        let backend = id(&self.names.backends, request.backend.as_ref(), unknown_backend)?;
        let first: usize = match &request.page {
            None => 0,
            Some(page) => page.parse().map_err(|_bad| CommandError::UnknownPage { page: page.clone() })?,
        };
        let limit = match request.limit as usize {
            0 => PAGE,
            limit => limit.min(PAGE),
        };
        let slots = flows::slots(&self.maps);
        let end = slots.min(first.saturating_add(SCAN));
        let (mut found, mut next) = (Vec::new(), first);
        while next < end && found.len() < limit {
            found.extend(flows::at(&self.maps, next).filter(|found| {
                vip.is_none_or(|id| flows::vip_of(&self.maps, found) == id)
                    && backend.is_none_or(|id| found.slot.backend() == id)
                    && request.state.is_none_or(|state| state_of(found.slot.state()) == Some(state))
                    && self.silent_seconds(found) * 1000.0 >= request.silent_ms as f64
            }));
            next += 1;
        }
        let flows = found.iter().filter_map(|found| self.flow(found)).collect();
        Ok(FlowPage { flows, next: (next < slots).then(|| next.to_string()) })
    }

    fn silent_seconds(&self, found: &Found) -> f64 {
        f64::from(found.slot.silent_for(self.now)) * self.tick.as_secs_f64()
    }

    fn flow(&self, found: &Found) -> Option<Flow> {
        let line = flows::line(&self.maps, found);
        let client = |line: &FlowInfo| SocketAddr::new(line.client.into(), u16::from_be(line.client_port_be));
        let age = |line: &FlowInfo| clock::monotonic_ns().saturating_sub(line.opened_at) as f64 / 1e9;
        Some(Flow {
            client: line.as_ref().map(client),
            vip: name(&self.names.vips, flows::vip_of(&self.maps, found)),
            backend: name(&self.names.backends, found.slot.backend()),
            state: state_of(found.slot.state())?,
            silent_seconds: self.silent_seconds(found),
            open_seconds: line.as_ref().map(age),
        })
    }
}

fn id(
    names: &HashMap<u16, String>,
    wanted: Option<&String>,
    unknown: impl Fn(&String) -> CommandError,
) -> Result<Option<u16>, CommandError> {
    let Some(wanted) = wanted else { return Ok(None) };
    let found = names.iter().find(|(_, name)| *name == wanted).map(|(id, _)| *id);
    found.map(Some).ok_or_else(|| unknown(wanted))
}

/// What the kernel would do with a client's next SYN or first datagram.
///
/// # Errors
///
/// When there is no such VIP, or not for such a client.
pub fn foresee(core: &Core, request: &ForesightRequest) -> Result<Foresight, CommandError> {
    let ForesightRequest { client, vip } = request;
    let row = row(core, vip)?;
    if client.ip().to_canonical().is_ipv4() != row.endpoint.address.is_v4() {
        return Err(CommandError::OtherFamily { client: *client, vip: vip.clone() });
    }
    let reader = Reader::of(core);
    let foreseen = foresight::foresee(&reader.maps, row, *client, reader.jiffies);
    let FlowEvent { backend, policy, why, hash, governor_silent, candidates, .. } =
        tell(&foreseen.pick, &reader.names);
    Ok(Foresight {
        client: *client,
        vip: name(&reader.names.vips, row.id),
        backend: foreseen.backend().map(|id| name(&reader.names.backends, id)),
        goes_on: foreseen.goes_on,
        flow: foreseen.known.and_then(|found| {
            // It was found by the client's own hash.
            Some(Flow { client: Some(*client), ..reader.flow(&found)? })
        }),
        pick: Pick { backend, policy, why, hash, governor_silent, candidates },
    })
}

/// Which backends the Maglev table of the VIP with this name leads to.
///
/// # Errors
///
/// When there is no such VIP.
pub fn table(core: &Core, vip: &str) -> Result<TableShares, CommandError> {
    let unknown = || CommandError::UnknownVip { name: vip.to_owned() };
    let services = core.dataplane.steering.services();
    let service = services.iter().find(|service| service.spec.name == vip).ok_or_else(unknown)?;
    let row = pool::vip_at(&core.dataplane.maps(), &service.spec.endpoint).ok_or_else(unknown)?;
    let pool = VipPool::new(core.dataplane.maps(), row);
    let mut slots: HashMap<u16, u32> = HashMap::new();
    (0..pool.size()).for_each(|slot| *slots.entry(pool.table(slot)).or_default() += 1);
    let backends = service.backends.iter().zip(&service.spec.backends);
    let backends = backends.map(|(id, spec)| BackendSlots {
        backend: spec.name.clone(),
        slots: slots.get(id).copied().unwrap_or(0),
    });
    Ok(TableShares {
        vip: vip.to_owned(),
        slots: pool.size(),
        moved: service.moved(),
        backends: backends.collect(),
    })
}

/// The live row of the VIP with this name, or at this endpoint.
fn row(core: &Core, vip: &str) -> Result<Vip, CommandError> {
    let mut services = core.dataplane.steering.services().iter();
    let named = services.find(|service| service.spec.name == vip).map(|service| service.spec.endpoint);
    let wanted = named.or_else(|| endpoint(vip));
    let found = wanted.and_then(|endpoint| pool::vip_at(&core.dataplane.maps(), &endpoint));
    found.ok_or_else(|| CommandError::UnknownVip { name: vip.to_owned() })
}

/// From `ADDRESS:PORT/PROTOCOL`.
fn endpoint(text: &str) -> Option<Endpoint> {
    let (address, protocol) = text.split_once('/')?;
    let address: SocketAddr = address.parse().ok()?;
    let protocol = match protocol {
        "tcp" => TCP,
        "udp" => UDP,
        _ => return None,
    };
    Some(Endpoint::new(address.ip().into(), address.port(), protocol))
}

const fn state_of(state: State) -> Option<FlowState> {
    Some(match state {
        State::Empty => return None,
        State::Closed => FlowState::Closed,
        State::Closing => FlowState::Closing,
        State::Stale => FlowState::Stale,
        State::Opening => FlowState::Opening,
        State::Idle => FlowState::Idle,
        State::Streaming => FlowState::Streaming,
        State::Awaiting => FlowState::Awaiting,
    })
}

#[cfg(test)]
mod tests {
    use lb_common::{
        address::{Address, Endpoint},
        header::{TCP, UDP},
    };

    use super::endpoint;

    #[test]
    fn a_vip_may_be_named_by_its_endpoint() {
        let v4 = Address::from_v4([198, 51, 100, 1]);
        for (text, expected) in [
            ("198.51.100.1:443/tcp", Some(Endpoint::new(v4, 443, TCP))),
            ("198.51.100.1:443/udp", Some(Endpoint::new(v4, 443, UDP))),
            ("[2001:db8::1]:80/tcp", Some(Endpoint::new(v6(), 80, TCP))),
            ("198.51.100.1:443", None),
            ("198.51.100.1/tcp", None),
            ("198.51.100.1:443/sctp", None),
            ("chat", None),
        ] {
            assert_eq!(endpoint(text), expected, "{text}");
        }
    }

    fn v6() -> Address {
        Address::from("2001:db8::1".parse::<std::net::IpAddr>().expect("an address"))
    }
}
