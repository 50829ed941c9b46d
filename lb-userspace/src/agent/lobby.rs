//! Who is on the way in: connections whose peer has not shown a certificate yet.
//!
//! They are counted apart from subscribers, and for each address, so that nobody without a certificate keeps
//! balancers out.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Handshakes at once, in all and from one address: a balancer makes a connection for each backend of a host, and after
/// an agent's restart all of them together.
const PLACES: usize = 256;
const PLACES_OF_ONE: usize = 32;

/// A host with IPv6 has all addresses of such a prefix.
const HOST_PREFIX: u128 = !0 << 64;

/// The places for handshakes.
#[derive(Clone)]
pub(super) struct Lobby {
    places: Arc<Semaphore>,
    peers: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A place that is free.
pub(super) struct Place {
    lobby: Lobby,
    permit: OwnedSemaphorePermit,
}

/// A place that a peer holds for as long as this lives.
pub(super) struct Guest {
    lobby: Lobby,
    peer: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Lobby {
    /// All places are free.
    pub(super) fn new() -> Self {
        Self { places: Arc::new(Semaphore::new(PLACES)), peers: Arc::default() }
    }

    /// Waits for a free place.
    pub(super) async fn place(&self) -> Place {
        let permit = Arc::clone(&self.places).acquire_owned().await.expect("it is never closed");
        Place { lobby: self.clone(), permit }
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Gives it to a peer; none if that has its part already.
    pub(super) fn seat(self, peer: IpAddr) -> Option<Guest> {
        let Self { lobby, permit } = self;
        let peer = host(peer);
        {
            let mut peers = lobby.peers();
            let count = peers.entry(peer).or_default();
            if *count >= PLACES_OF_ONE {
                return None;
            }
            *count += 1;
        }
        Some(Guest { lobby, peer, _permit: permit })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut peers = self.lobby.peers();
        if let Some(count) = peers.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&self.peer);
            }
        }
    }
}

/// The same for all addresses that one host may have.
fn host(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & HOST_PREFIX).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{Lobby, PLACES, PLACES_OF_ONE};

    #[tokio::test]
    async fn who_fills_its_part_keeps_nobody_else_out() {
        for (peer, same, other) in [
            ("10.0.0.1", "10.0.0.1", "10.0.0.2"),
            ("10.0.0.1", "::ffff:10.0.0.1", "::ffff:10.0.0.2"),
            ("fd00::1", "fd00::2", "fd00:0:0:1::1"),
        ] {
            let [peer, same, other] = [peer, same, other].map(|text| text.parse::<IpAddr>().expect(text));
            let lobby = Lobby::new();
            let mut guests = Vec::new();
            for number in 0..PLACES_OF_ONE {
                guests.push(lobby.place().await.seat(peer).unwrap_or_else(|| panic!("{peer}: {number}")));
            }
            for _ in 0..PLACES {
                assert!(lobby.place().await.seat(same).is_none(), "{same} is {peer}");
            }
            assert!(lobby.place().await.seat(other).is_some(), "{other} is another than {peer}");
            guests.pop();
            assert!(lobby.place().await.seat(same).is_some(), "{peer}: one has left");
            guests.clear();
            assert!(lobby.peers().is_empty(), "{peer}: all have left");
        }
    }
}
