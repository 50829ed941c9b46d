//! What an interface is: looked up by the name that the configuration gives it.

use std::{fs, path::Path};

use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, State};

use super::{
    Mac,
    rtnl::{self, Error, Netlink},
};

/// A network interface at the moment of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's index, what packets are redirected to.
    pub index: u32,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Its Ethernet address; `None` for loopback, tunnels and the like.
    pub mac: Option<Mac>,
    /// Largest IP packet it takes, in bytes.
    pub mtu: u32,
    /// What virtual interfaces are: `veth`, `bond`, `vlan`, ..; `None` for hardware.
    pub kind: Option<String>,
    /// Index of the other end of a veth, where that is in this network namespace.
    pub peer: Option<u32>,
    /// The driver behind a hardware interface (`mlx5_core`), where sysfs tells.
    pub driver: Option<String>,
    /// Up, with carrier.
    pub running: bool,
    /// The operational state as `ip link` prints it: `UP`, `DOWN`, `LOWERLAYERDOWN`, ..
    pub oper_state: String,
    /// Whether it is the loopback interface.
    pub loopback: bool,
}

impl Interface {
    /// Whether it is one end of a veth pair, which needs care: its peer must run XDP or GRO to
    /// receive redirected frames, and checksums may be left undone by the sender.
    pub fn is_veth(&self) -> bool {
        self.kind.as_deref() == Some("veth")
    }

    fn from_message(message: &LinkMessage) -> Self {
        let link = rtnl::link(message);
        let mut interface = Self {
            index: message.header.index,
            driver: driver(&link.name),
            name: link.name,
            mac: link.mac.filter(|_| !link.loopback),
            mtu: link.mtu,
            kind: rtnl::link_kind(message),
            peer: None,
            running: link.running,
            oper_state: State::Unknown.to_string(),
            loopback: link.loopback,
        };
        let mut elsewhere = false;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::OperState(state) => interface.oper_state = state.to_string(),
                LinkAttribute::Link(index) => interface.peer = Some(*index),
                LinkAttribute::LinkNetNsId(_) => elsewhere = true,
                _ => {}
            }
        }
        // Others have an interface below them there.
        if elsewhere || !interface.is_veth() {
            interface.peer = None;
        }
        interface
    }
}

/// Why an interface could not be looked up.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// No interface has that name.
    #[error("interface {name} does not exist; interfaces here: {here}")]
    Missing {
        /// The name asked for.
        name: String,
        /// The names there are, separated by commas.
        here: String,
    },
    /// The kernel could not be asked.
    #[error(transparent)]
    Netlink(#[from] Error),
}

/// All interfaces of the network namespace that `netlink` was opened in, by index.
///
/// # Errors
///
/// When the kernel cannot be asked.
pub async fn list(netlink: &Netlink) -> Result<Vec<Interface>, Error> {
    let mut interfaces: Vec<Interface> = netlink.links().await?.iter().map(Interface::from_message).collect();
    interfaces.sort_by_key(|interface| interface.index);
    Ok(interfaces)
}

/// The interface called `name`.
///
/// # Errors
///
/// [`LookupError::Missing`] names the interfaces that there are.
pub async fn lookup(netlink: &Netlink, name: &str) -> Result<Interface, LookupError> {
    let interfaces = list(netlink).await?;
    let names: Vec<&str> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
    let here = names.join(", ");
    let found = interfaces.into_iter().find(|interface| interface.name == name);
    found.ok_or_else(|| LookupError::Missing { name: name.into(), here })
}

fn driver(name: &str) -> Option<String> {
    let link = fs::read_link(Path::new("/sys/class/net").join(name).join("device/driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::{LookupError, lookup};
    use crate::net::{Netlink, testbed::Pair};

    #[test]
    #[ignore = "needs root: network namespace"]
    fn a_veth_is_described_and_a_missing_interface_is_refused_with_the_names_there_are() {
        let pair = Pair::new();
        pair.host.ip("link set near mtu 1400");
        pair.host.block_on(async {
            let netlink = Netlink::open().expect("netlink");
            let near = lookup(&netlink, "near").await.expect("near exists");
            assert_eq!(near.mac, Some(Pair::NEAR_MAC));
            assert_eq!((near.mtu, near.oper_state.as_str()), (1400, "UP"));
            assert!(near.is_veth() && near.running && near.index > 0, "{near:?}");

            let loopback = lookup(&netlink, "lo").await.expect("lo exists");
            assert_eq!((loopback.mac, loopback.loopback), (None, true));

            let own = netlink.addresses().await.expect("addresses");
            for (address, expected) in
                [("10.77.0.1", true), ("fd77::1", true), ("127.0.0.1", true), ("10.77.0.2", false)]
            {
                let address: std::net::IpAddr = address.parse().expect("an address");
                assert_eq!(own.contains(&address), expected, "{address} among {own:?}");
            }

            match lookup(&netlink, "eth9").await {
                Err(e @ LookupError::Missing { .. }) => {
                    assert_eq!(e.to_string(), "interface eth9 does not exist; interfaces here: lo, near");
                }
                other => panic!("eth9: {other:?}"),
            }
        });
    }
}
