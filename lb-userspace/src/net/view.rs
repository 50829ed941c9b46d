//! What is known of links, neighbours and routes, and what follows from it for a target.
//!
//! Pure: it is told events and answers questions. It never talks to the kernel.

use std::{collections::HashMap, net::IpAddr};

use super::{
    Mac,
    neighbour::{NextHop, Reason, Resolution},
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub name: String,
    /// `None` where the link layer is not Ethernet.
    pub mac: Option<Mac>,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Up, with carrier.
    pub running: bool,
    pub loopback: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Via {
        ifindex: u32,
        /// The gateway, or the target itself when it is on the link.
        next_hop: IpAddr,
        /// The route's own limit: configured, or learned from routers that said "too big".
        mtu: Option<u32>,
    },
    /// The target is an address of this host.
    Local,
    /// The routing table refuses it, for this reason.
    None(String),
}

/// The kernel's neighbour states, by what they mean to a forwarder (`rtnetlink(7)`, `NUD_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reachability {
    /// Confirmed, configured, or being confirmed while still in use.
    Usable,
    /// Known, but not confirmed lately: usable, and worth a probe.
    Stale,
    /// Solicited, without an answer yet.
    Asking,
    /// Solicited in vain.
    Failed,
    /// An entry that nothing has been asked for.
    Idle,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    pub ifindex: u32,
    pub address: IpAddr,
    pub mac: Option<Mac>,
    pub reachability: Reachability,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Link(u32, Link),
    LinkGone(u32),
    Neighbour(Neighbour),
    NeighbourGone(u32, IpAddr),
    RoutesChanged,
    /// The kernel dropped events for want of room.
    Lost,
}

/// What an event makes out of date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outdated {
    Nothing,
    Routes,
    Everything,
}

#[derive(Debug, Default)]
pub(super) struct View {
    pub links: HashMap<u32, Link>,
    pub neighbours: HashMap<(u32, IpAddr), Neighbour>,
    pub routes: HashMap<IpAddr, Route>,
}

impl View {
    pub(super) fn absorb(&mut self, event: Event) -> Outdated {
        match event {
            Event::Link(index, link) => {
                let changed = self.links.insert(index, link.clone()) != Some(link);
                if changed { Outdated::Routes } else { Outdated::Nothing }
            }
            Event::LinkGone(index) => {
                self.links.remove(&index);
                self.neighbours.retain(|(ifindex, _), _| *ifindex != index);
                Outdated::Routes
            }
            Event::Neighbour(mut neighbour) => {
                let key = (neighbour.ifindex, neighbour.address);
                // Asking again after a failure is no news: the neighbour stays given up until it answers.
                let given_up =
                    self.neighbours.get(&key).is_some_and(|n| n.reachability == Reachability::Failed);
                if given_up && neighbour.reachability == Reachability::Asking {
                    neighbour.reachability = Reachability::Failed;
                }
                self.neighbours.insert(key, neighbour);
                Outdated::Nothing
            }
            Event::NeighbourGone(ifindex, address) => {
                self.neighbours.remove(&(ifindex, address));
                Outdated::Nothing
            }
            Event::RoutesChanged => Outdated::Routes,
            Event::Lost => Outdated::Everything,
        }
    }

    pub(super) fn resolve(&self, target: IpAddr) -> Resolution {
        match self.next_hop(target) {
            Ok(hop) => Resolution::Resolved(hop),
            Err(reason) => Resolution::Unresolved(reason),
        }
    }

    fn next_hop(&self, target: IpAddr) -> Result<NextHop, Reason> {
        let (ifindex, address, limit) = match self.routes.get(&target) {
            None => return Err(Reason::NotLookedUp),
            Some(Route::Local) => return Err(Reason::OwnAddress),
            Some(Route::None(detail)) => return Err(Reason::NoRoute { detail: detail.clone() }),
            Some(Route::Via { ifindex, next_hop, mtu }) => (*ifindex, *next_hop, *mtu),
        };
        let Some(link) = self.links.get(&ifindex) else {
            return Err(Reason::LinkGone { ifindex });
        };
        let interface = || link.name.clone();
        if link.loopback {
            return Err(Reason::OwnAddress);
        }
        if !link.running {
            return Err(Reason::LinkDown { interface: interface() });
        }
        let source_mac = link.mac.ok_or_else(|| Reason::NotEthernet { interface: interface() })?;
        let neighbour = self.neighbours.get(&(ifindex, address));
        match neighbour.map_or(Reachability::Idle, |n| n.reachability) {
            Reachability::Usable | Reachability::Stale => {}
            Reachability::Asking | Reachability::Idle => {
                return Err(Reason::Asking { neighbour: address, interface: interface() });
            }
            Reachability::Failed => {
                return Err(Reason::NoAnswer { neighbour: address, interface: interface() });
            }
        }
        let mac = neighbour.and_then(|n| n.mac);
        let mac = mac.ok_or_else(|| Reason::NotEthernet { interface: interface() })?;
        let mtu = limit.map_or(link.mtu, |limit| limit.min(link.mtu));
        Ok(NextHop { ifindex, source_mac, mac, mtu: u16::try_from(mtu).unwrap_or(u16::MAX) })
    }

    /// The neighbour that the kernel should be made to ask about, if there is one for this target.
    pub(super) fn wants_solicitation(&self, target: IpAddr) -> Option<(u32, IpAddr)> {
        let Some(Route::Via { ifindex, next_hop, .. }) = self.routes.get(&target) else { return None };
        let link = self.links.get(ifindex)?;
        if link.loopback || !link.running || link.mac.is_none() {
            return None;
        }
        let key = (*ifindex, *next_hop);
        match self.neighbours.get(&key).map_or(Reachability::Idle, |n| n.reachability) {
            Reachability::Stale | Reachability::Failed | Reachability::Idle => Some(key),
            Reachability::Usable | Reachability::Asking => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, IpAddr, Link, Neighbour, Outdated, Reachability, Route, View};
    use crate::net::neighbour::{NextHop, Resolution};

    const ETH: u32 = 3;
    const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn ethernet() -> Link {
        Link { name: "eth0".into(), mac: Some(OWN), mtu: 1500, running: true, loopback: false }
    }

    fn entry(address: &str, reachability: Reachability, mac: Option<[u8; 6]>) -> Event {
        Event::Neighbour(Neighbour { ifindex: ETH, address: ip(address), mac, reachability })
    }

    fn view(link: Link, route: Option<Route>, neighbour: Option<Event>) -> View {
        let mut view = View::default();
        view.absorb(Event::Link(ETH, link));
        view.routes.extend(route.map(|route| (ip("10.0.0.2"), route)));
        if let Some(event) = neighbour {
            view.absorb(event);
        }
        view
    }

    fn on_link() -> Option<Route> {
        Some(Route::Via { ifindex: ETH, next_hop: ip("10.0.0.2"), mtu: None })
    }

    #[test]
    fn each_neighbour_state_says_whether_to_forward_and_whether_to_ask() {
        let resolved = Resolution::Resolved(NextHop { ifindex: ETH, source_mac: OWN, mac: PEER, mtu: 1500 });
        for (state, mac, usable, ask) in [
            (Reachability::Usable, Some(PEER), true, false),
            (Reachability::Stale, Some(PEER), true, true),
            (Reachability::Asking, None, false, false),
            (Reachability::Failed, None, false, true),
            (Reachability::Failed, Some(PEER), false, true),
            (Reachability::Idle, None, false, true),
        ] {
            let view = view(ethernet(), on_link(), Some(entry("10.0.0.2", state, mac)));
            let resolution = view.resolve(ip("10.0.0.2"));
            assert_eq!(resolution == resolved, usable, "{state:?} with {mac:?}: {resolution:?}");
            let asked = view.wants_solicitation(ip("10.0.0.2"));
            assert_eq!(asked, ask.then_some((ETH, ip("10.0.0.2"))), "{state:?}");
        }
    }

    #[test]
    fn the_smaller_of_the_links_and_the_routes_mtu_holds() {
        for (link, route, expected) in [
            (1500, None, 1500),
            (1500, Some(1400), 1400),
            (1500, Some(9000), 1500),
            (9000, Some(9000), 9000),
            (65_536, None, u16::MAX),
        ] {
            let via = Route::Via { ifindex: ETH, next_hop: ip("10.0.0.2"), mtu: route };
            let answers = entry("10.0.0.2", Reachability::Usable, Some(PEER));
            match view(Link { mtu: link, ..ethernet() }, Some(via), Some(answers)).resolve(ip("10.0.0.2")) {
                Resolution::Resolved(hop) => assert_eq!(hop.mtu, expected, "link {link}, route {route:?}"),
                other => panic!("link {link}, route {route:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_stands_in_the_way_is_named() {
        let gateway = Some(Route::Via { ifindex: ETH, next_hop: ip("10.0.0.254"), mtu: None });
        for (link, route, neighbour, reason) in [
            (ethernet(), None, None, "the route has not been looked up yet"),
            (ethernet(), Some(Route::Local), None, "it is an address of this host"),
            (
                ethernet(),
                Some(Route::None("network unreachable".into())),
                None,
                "no route (network unreachable)",
            ),
            (Link { running: false, ..ethernet() }, on_link(), None, "interface eth0 is down"),
            (
                Link { mac: None, ..ethernet() },
                on_link(),
                None,
                "interface eth0 does not carry ethernet addresses",
            ),
            (Link { loopback: true, ..ethernet() }, on_link(), None, "it is an address of this host"),
            (ethernet(), on_link(), None, "neighbour 10.0.0.2 on eth0 has not answered yet"),
            (ethernet(), gateway.clone(), None, "neighbour 10.0.0.254 on eth0 has not answered yet"),
            (
                ethernet(),
                gateway,
                Some(entry("10.0.0.254", Reachability::Failed, None)),
                "neighbour 10.0.0.254 on eth0 does not answer",
            ),
            (
                ethernet(),
                Some(Route::Via { ifindex: 9, next_hop: ip("10.0.0.2"), mtu: None }),
                None,
                "interface 9 of its route is gone",
            ),
        ] {
            match view(link, route, neighbour).resolve(ip("10.0.0.2")) {
                Resolution::Unresolved(found) => assert_eq!(found.to_string(), reason),
                Resolution::Resolved(hop) => panic!("resolved to {hop:?}, expected \"{reason}\""),
            }
        }
    }

    #[test]
    fn nothing_is_asked_of_a_link_that_cannot_answer() {
        for link in [
            Link { running: false, ..ethernet() },
            Link { mac: None, ..ethernet() },
            Link { loopback: true, ..ethernet() },
        ] {
            let view = view(link.clone(), on_link(), None);
            assert_eq!(view.wants_solicitation(ip("10.0.0.2")), None, "{link:?}");
        }
    }

    #[test]
    fn a_link_that_goes_takes_its_neighbours_along() {
        let mut view = view(ethernet(), on_link(), Some(entry("10.0.0.2", Reachability::Usable, Some(PEER))));
        assert_eq!(view.absorb(Event::LinkGone(ETH)), Outdated::Routes);
        assert!(view.neighbours.is_empty(), "{:?}", view.neighbours);
        assert!(matches!(view.resolve(ip("10.0.0.2")), Resolution::Unresolved(_)));
    }

    #[test]
    fn a_neighbour_that_failed_stays_failed_while_it_is_asked_again() {
        let mut view = view(ethernet(), on_link(), Some(entry("10.0.0.2", Reachability::Failed, None)));
        let failed = view.resolve(ip("10.0.0.2"));
        view.absorb(entry("10.0.0.2", Reachability::Asking, None));
        assert_eq!(view.resolve(ip("10.0.0.2")), failed);
        view.absorb(entry("10.0.0.2", Reachability::Usable, Some(PEER)));
        assert!(matches!(view.resolve(ip("10.0.0.2")), Resolution::Resolved(_)));
    }

    #[test]
    fn only_a_link_that_changed_makes_routes_outdated() {
        let mut view = view(ethernet(), None, None);
        assert_eq!(view.absorb(Event::Link(ETH, ethernet())), Outdated::Nothing);
        assert_eq!(view.absorb(Event::Link(ETH, Link { running: false, ..ethernet() })), Outdated::Routes);
        assert_eq!(view.absorb(Event::Lost), Outdated::Everything);
        assert_eq!(view.absorb(Event::NeighbourGone(ETH, ip("10.0.0.2"))), Outdated::Nothing);
    }
}
