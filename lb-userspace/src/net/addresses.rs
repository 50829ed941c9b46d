//! The addresses of one interface, followed as they come and go.

use std::{collections::BTreeSet, net::IpAddr};

use super::rtnl::{AddressChanges, Error, Netlink};

/// What the addresses are, and word of changes.
pub struct Addresses {
    netlink: Netlink,
    changes: AddressChanges,
    index: u32,
    now: BTreeSet<IpAddr>,
    /// A change was heard of and not looked at yet.
    outdated: bool,
}

impl Addresses {
    /// Reads the addresses of the interface with that index, and watches them from then on.
    ///
    /// # Errors
    ///
    /// The kernel cannot be asked.
    pub async fn watch(netlink: Netlink, index: u32) -> Result<Self, Error> {
        // Listening comes first, so that nothing is missed in between.
        let changes = AddressChanges::open()?;
        let now = netlink.addresses_of(index).await?;
        Ok(Self { netlink, changes, index, now, outdated: false })
    }

    /// The addresses, as last read.
    pub const fn now(&self) -> &BTreeSet<IpAddr> {
        &self.now
    }

    /// Waits until they are others, and tells whether the interface is still there. Cancel safe.
    ///
    /// # Errors
    ///
    /// The kernel cannot be asked, or its events have ended.
    pub async fn changed(&mut self) -> Result<bool, Error> {
        loop {
            if !self.outdated {
                self.changes.next().await?;
                self.outdated = true;
            }
            if !self.netlink.links().await?.iter().any(|link| link.header.index == self.index) {
                return Ok(false);
            }
            let now = self.netlink.addresses_of(self.index).await?;
            self.outdated = false;
            if now != self.now {
                self.now = now;
                return Ok(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::IpAddr};

    use super::Addresses;
    use crate::net::{Netlink, interface::lookup, testbed::Pair};

    fn hosts(addresses: &Addresses) -> BTreeSet<String> {
        let global = addresses.now().iter().filter(|address| match address {
            IpAddr::V4(_) => true,
            IpAddr::V6(v6) => !v6.is_unicast_link_local(),
        });
        global.map(ToString::to_string).collect()
    }

    #[test]
    #[ignore = "needs root: network namespace"]
    fn addresses_are_followed_until_the_interface_is_gone() {
        let pair = Pair::new();
        pair.host.block_on(async {
            let netlink = Netlink::open().expect("netlink");
            let near = lookup(&netlink, "near").await.expect("near exists");
            let mut addresses = Addresses::watch(netlink, near.index).await.expect("watch");
            assert_eq!(hosts(&addresses), ["10.77.0.1", "fd77::1"].map(str::to_owned).into());
            pair.host.ip("address add 10.77.0.9/24 dev near");
            while hosts(&addresses).len() < 3 {
                assert!(addresses.changed().await.expect("events"), "near is there");
            }
            assert!(addresses.now().contains(&IpAddr::from([10, 77, 0, 9])));
            pair.host.ip("address del 10.77.0.1/24 dev near");
            while hosts(&addresses).contains("10.77.0.1") {
                assert!(addresses.changed().await.expect("events"), "near is there");
            }
            pair.host.ip("link del near");
            while addresses.changed().await.expect("events") {}
        });
    }
}
