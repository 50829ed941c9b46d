//! The pick in user space, over the very maps that the kernel reads.

use std::{net::SocketAddr, sync::Arc};

use guidevane::dataplane::loader::Maps;
use lb_common::{
    branchless::Hide,
    layout::{TABLE_LINE, Vip},
    pick::{Candidate, Choice, Context, Pool, Why, live, pick},
};

use crate::plane::Plane;

/// A VIP's backends, as the maps hold them at this moment.
pub struct Mirror {
    maps: Arc<Maps>,
    vip: Vip,
}

impl Mirror {
    /// Of the service at this place of the specification.
    pub fn of(plane: &Plane, position: usize) -> Self {
        let endpoint = plane.dataplane.steering.services()[position].spec.endpoint;
        Self { maps: plane.maps(), vip: plane.row(&endpoint) }
    }

    /// The pick for an affinity hash, `silence` jiffies after the governor's last tick.
    pub fn pick(&self, hash: u64, silence: u64) -> Option<Choice> {
        pick(&self.context(hash, silence), self)
    }

    /// What holds for all candidates of that pick.
    pub fn context(&self, hash: u64, silence: u64) -> Context {
        let total = self.maps.totals.read(usize::from(self.vip.id));
        Context {
            rule: self.vip.rule,
            hash,
            flow_hash: hash,
            table_size: self.vip.table_size,
            members: u32::from(self.vip.member_count),
            opening_cap: total.opening_cap,
            duty: total.duty,
            prompt: total.prompt,
            total: live::<Self>(&total.gauges, total.opening_cap, total.duty),
            silence,
            patience: self.patience(),
        }
    }

    /// Jiffies without a heartbeat after which the kernel ignores corrections.
    pub fn patience(&self) -> u64 {
        const SECONDS: u64 = 2;
        u64::from(self.maps.meta.read(0).hz) * SECONDS
    }

    /// Entries of the Maglev table.
    pub fn size(&self) -> u32 {
        self.vip.table_size
    }

    /// The member list.
    pub fn members(&self) -> Vec<u16> {
        (0..u32::from(self.vip.member_count)).map(|position| self.member(position)).collect()
    }

    fn entry(&self, number: u32) -> u16 {
        let number = number as usize;
        self.maps.table.read(number / TABLE_LINE)[number % TABLE_LINE]
    }
}

impl Hide for Mirror {}

impl Pool for Mirror {
    fn table(&self, slot: u32) -> u16 {
        self.entry(self.vip.table + slot)
    }

    fn member(&self, position: u32) -> u16 {
        self.entry(self.vip.members + position)
    }

    fn look(&self, id: u16) -> Option<Candidate> {
        if usize::from(id) >= self.maps.loads.len() {
            return None;
        }
        Some(Candidate::of(&self.maps.loads.read(usize::from(id))))
    }

    /// The turn that is next, without taking it.
    fn turn(&self) -> u32 {
        self.maps.totals.read(usize::from(self.vip.id)).cursor
    }
}

/// Clients at one address, by their ports, whose flows to the service are not those that go to their first
/// candidate whatever its load.
pub fn ordinary_clients(plane: &Plane, position: usize, address: &str) -> Vec<SocketAddr> {
    let (mirror, vip) = (Mirror::of(plane, position), plane.vip_id(position));
    let address = address.parse().expect("an address");
    let clients = (1024..u16::MAX).map(|port| SocketAddr::new(address, port));
    clients
        .filter(|client| {
            mirror.pick(plane.hash(*client, vip), 0).is_none_or(|choice| choice.why != Why::Explored)
        })
        .take(1000)
        .collect()
}
