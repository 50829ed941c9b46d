//! The pick's view of a VIP, read from the maps that the kernel reads.
//!
//! The one reading in user space of what a pick looks at: it must see what the kernel would, and never writes.

use std::sync::{Arc, atomic::Ordering};

use lb_common::{
    address::Endpoint,
    branchless::Hide,
    index::{Active, HANDLES, Handle},
    layout::{Control, TABLE_LINE, Vip, vip_flags},
    pick::{Candidate, Choice, Context, Pool, live, pick},
};

use super::loader::{Maps, STALE_SECONDS};

/// The live row of the VIP at an endpoint, found as the kernel finds it: that of its very port, or else that of all
/// ports of its address.
pub fn vip_at(maps: &Maps, endpoint: &Endpoint) -> Option<Vip> {
    row_at(maps, endpoint).or_else(|| {
        let address = row_at(maps, &Endpoint::address_only(endpoint.address))?;
        let any_port = address.flags & vip_flags::ANY_PORT != 0;
        any_port.then(|| row_at(maps, &Endpoint { port_be: 0, ..*endpoint }))?
    })
}

fn row_at(maps: &Maps, endpoint: &Endpoint) -> Option<Vip> {
    const ACTIVE: usize = std::mem::offset_of!(Control, vip_index);
    let active = Active(maps.control.word(0, ACTIVE).load(Ordering::SeqCst));
    let bucket = maps.vip_index.read(active.element(endpoint) as usize);
    let handles = (0..HANDLES).map(|position| Handle::of(bucket, position)).filter(|handle| handle.is_some());
    handles.map(|handle| maps.vips.read(handle.element() as usize)).find(|row| row.endpoint == *endpoint)
}

/// A VIP's backends, as the maps hold them at this moment.
pub struct VipPool {
    maps: Arc<Maps>,
    vip: Vip,
}

impl VipPool {
    /// Of the VIP with this live row.
    pub fn new(maps: Arc<Maps>, vip: Vip) -> Self {
        Self { maps, vip }
    }

    /// The pick for an affinity hash of a flow with hash `flow_hash`, `silence` jiffies after the governor's last
    /// tick.
    pub fn pick(&self, hash: u64, flow_hash: u64, silence: u64) -> Option<Choice> {
        pick(&self.context(hash, flow_hash, silence), self)
    }

    /// What holds for all candidates of that pick.
    pub fn context(&self, hash: u64, flow_hash: u64, silence: u64) -> Context {
        let total = self.maps.totals.read(usize::from(self.vip.id));
        Context {
            rule: self.vip.rule,
            hash,
            flow_hash,
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

    /// Jiffies since the governor's last tick, when the kernel's are `now`; both are reckoned, and a tick that lies
    /// ahead is no silence.
    pub fn silence(&self, now: u64) -> u64 {
        now.saturating_sub(self.maps.control.read(0).heartbeat)
    }

    /// Jiffies without a heartbeat after which the kernel ignores corrections.
    pub fn patience(&self) -> u64 {
        u64::from(self.maps.meta.read(0).hz * STALE_SECONDS)
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

impl Hide for VipPool {}

impl Pool for VipPool {
    fn table(&self, slot: u32) -> u16 {
        self.entry(self.vip.table + slot)
    }

    fn member(&self, position: u32) -> u16 {
        self.entry(self.vip.members + position)
    }

    fn look(&self, id: u16) -> Option<Candidate> {
        let id = usize::from(id);
        (id < self.maps.loads.len()).then(|| Candidate::of(&self.maps.loads.read(id)))
    }

    /// The turn that is next, without taking it.
    fn turn(&self) -> u32 {
        self.maps.totals.read(usize::from(self.vip.id)).cursor
    }
}
