//! The pick in user space, over the very maps that the kernel reads.

use std::net::SocketAddr;

pub use guidevane::dataplane::pool::VipPool as Mirror;
use lb_common::pick::Why;

use crate::plane::Plane;

/// The mirror of the service at this place of the specification.
pub fn mirror(plane: &Plane, position: usize) -> Mirror {
    let endpoint = plane.dataplane.steering.services()[position].spec.endpoint;
    Mirror::new(plane.maps(), plane.row(&endpoint))
}

/// Clients at one address, by their ports, whose flows to the service are not those that go to their first
/// candidate whatever its load.
pub fn ordinary_clients(plane: &Plane, position: usize, address: &str) -> Vec<SocketAddr> {
    let (mirror, vip) = (mirror(plane, position), plane.vip_id(position));
    let address = address.parse().expect("an address");
    let clients = (1024..u16::MAX).map(|port| SocketAddr::new(address, port));
    clients
        .filter(|client| {
            let hash = plane.hash(*client, vip);
            mirror.pick(hash, hash, 0).is_none_or(|choice| choice.why != Why::Explored)
        })
        .take(1000)
        .collect()
}
