//! What the model remembers.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use crate::packet::Mac;

/// A client and the number of its VIP.
pub type Key = (IpAddr, u16, usize);

/// A flow.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Its backend's number.
    pub backend: usize,
    /// Whether a packet of it has gone there, so that the program's choice has been seen.
    pub shown: bool,
    /// Whether it may have ended, so that the next opening packet may open it anew.
    pub may_have_ended: bool,
    /// Where answers go, and from where.
    pub macs: (Mac, Mac),
    /// One-armed: the address and port of our own that stand for the client.
    pub port: Option<(IpAddr, u16)>,
}

/// Source, destination, identification, protocol.
pub type PartKey = (IpAddr, IpAddr, u32, u8);

/// Where later fragments go.
#[derive(Clone, Debug)]
pub enum Way {
    /// To a VIP's backend; one-armed from a source of our own.
    ToBackend(usize, usize, Option<IpAddr>),
    /// From a VIP to a client, whose address it does not have yet with one arm, with the frame's addresses.
    ToClient(IpAddr, Option<IpAddr>, (Mac, Mac)),
}

/// Flows and fragments.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// What time it is.
    pub now: Duration,
    /// Known flows.
    pub flows: HashMap<Key, Flow>,
    /// First fragments that were forwarded.
    pub parts: HashMap<PartKey, (Way, Duration)>,
    /// Outer source and port of a flow's tunnel.
    pub outer: HashMap<Key, (IpAddr, Option<u16>)>,
}
