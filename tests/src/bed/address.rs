//! The address plan: fixed, and the same in every bed, because nothing of a bed is visible outside it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Servers are the hosts 1 to 250 of group 1.
pub const MAX_SERVERS: usize = 250;

/// A /16 and a /64 of one link.
#[derive(Clone, Copy)]
pub struct Segment {
    v4: [u8; 2],
    v6: u16,
}

/// The servers' side, and with one arm everyone's.
pub const SERVERS: Segment = Segment { v4: [10, 77], v6: 0xfd77 };
/// The clients' side of a balancer with two arms.
pub const CLIENTS: Segment = Segment { v4: [10, 78], v6: 0xfd78 };

impl Segment {
    /// 10.x.group.host and fdxx::group:host.
    pub const fn address(self, group: u8, host: u8) -> Address {
        Address {
            v4: Ipv4Addr::new(self.v4[0], self.v4[1], group, host),
            v6: Ipv6Addr::new(self.v6, 0, 0, 0, 0, 0, group as u16, host as u16),
        }
    }

    /// Where the balancer is in every segment.
    pub const fn balancer(self) -> Address {
        self.address(0, 1)
    }

    /// Where the client is.
    pub const fn client(self) -> Address {
        self.address(0, 2)
    }
}

/// An address in each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Address {
    /// Both, for tests that do the same in each family.
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// A locally administered MAC address that holds the IPv4 address.
    pub fn mac(self) -> [u8; 6] {
        let [a, b, c, d] = self.v4.octets();
        [0x02, 0x67, a, b, c, d]
    }
}
