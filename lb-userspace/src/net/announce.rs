//! Putting a VIP on an interface and telling the segment about it.
//!
//! It undoes only what it did: an address that was there before stays there.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    libc,
    sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike as _, sendto, socket},
};

use super::{
    frames::{ArpForm, gratuitous_arp, unsolicited_advertisement},
    interface::Interface,
    rtnl::{Error, Netlink},
};

/// The VIP addresses that this process put on interfaces.
#[derive(Debug)]
pub struct VipAddresses {
    netlink: Netlink,
    added: BTreeSet<(u32, IpAddr)>,
}

impl VipAddresses {
    /// Owns no address yet.
    pub fn new(netlink: Netlink) -> Self {
        Self { netlink, added: BTreeSet::new() }
    }

    /// Makes sure that `vip` is an address of `interface`, as /32 or /128. Returns whether this call
    /// added it; an address that is already there is left as it is and never removed.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`], for want of `CAP_NET_ADMIN` for one.
    pub async fn add(&mut self, interface: &Interface, vip: IpAddr) -> Result<bool, Error> {
        match self.netlink.add_host_address(interface.index, vip).await {
            Ok(()) => {
                self.added.insert((interface.index, vip));
                Ok(true)
            }
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Takes `vip` off `interface`, if [`add`](Self::add) put it there. Returns whether it did; one
    /// that somebody else took away meanwhile counts as removed.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`]; the address then still counts as ours.
    pub async fn remove(&mut self, interface: &Interface, vip: IpAddr) -> Result<bool, Error> {
        self.remove_from(interface.index, vip).await
    }

    /// Takes off every address that [`add`](Self::add) put on.
    ///
    /// # Errors
    ///
    /// The last refusal; the others are tried nevertheless.
    pub async fn remove_all(&mut self) -> Result<(), Error> {
        let mut outcome = Ok(());
        for (index, vip) in self.added.clone() {
            if let Err(e) = self.remove_from(index, vip).await {
                outcome = Err(e);
            }
        }
        outcome
    }

    async fn remove_from(&mut self, index: u32, vip: IpAddr) -> Result<bool, Error> {
        if !self.added.contains(&(index, vip)) {
            return Ok(false);
        }
        match self.netlink.remove_host_address(index, vip).await {
            Ok(()) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => {}
            Err(e) => return Err(e),
        }
        Ok(self.added.remove(&(index, vip)))
    }
}

/// Puts whole Ethernet frames on the wire.
pub trait Transmit {
    /// Sends `frame`, from its Ethernet header on, out of the interface with that index.
    ///
    /// # Errors
    ///
    /// Whatever the operating system says.
    fn transmit(&self, ifindex: u32, frame: &[u8]) -> io::Result<()>;
}

/// A packet socket that only sends.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// Opens the socket in the network namespace of this thread.
    ///
    /// # Errors
    ///
    /// The operating system's, for want of `CAP_NET_RAW` for one.
    pub fn open() -> io::Result<Self> {
        // No protocol: nothing is received on this socket.
        let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
        Ok(Self { fd })
    }
}

impl Transmit for PacketSocket {
    fn transmit(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        sendto(self.fd.as_raw_fd(), frame, &link_address(ifindex)?, MsgFlags::empty())?;
        Ok(())
    }
}

fn link_address(ifindex: u32) -> io::Result<LinkAddr> {
    let raw = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::c_ushort,
        sll_protocol: 0,
        sll_ifindex: i32::try_from(ifindex).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of_val(&raw) as libc::socklen_t;
    // SAFETY: `raw` is a whole sockaddr_ll of the family AF_PACKET, `length` is its size, and it is
    // copied before this function returns.
    let address = unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(length)) };
    address.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Why a VIP could not be announced.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    /// The interface has no Ethernet address to tell.
    #[error("cannot announce {vip} on {interface}: it does not carry ethernet addresses")]
    NotEthernet {
        /// The address to announce.
        vip: IpAddr,
        /// The interface's name.
        interface: String,
    },
    /// The frame could not be sent.
    #[error("announce {vip} on {interface}: {source}")]
    Transmit {
        /// The address to announce.
        vip: IpAddr,
        /// The interface's name.
        interface: String,
        /// The operating system's answer.
        source: io::Error,
    },
}

/// Tells the segment of `interface` that `vip` is there: a gratuitous ARP request and reply, or an
/// unsolicited neighbour advertisement that overrides what caches hold.
///
/// # Errors
///
/// See [`AnnounceError`].
pub fn announce(wire: &impl Transmit, interface: &Interface, vip: IpAddr) -> Result<(), AnnounceError> {
    let name = || interface.name.clone();
    let mac = interface.mac.ok_or_else(|| AnnounceError::NotEthernet { vip, interface: name() })?;
    let frames = match vip {
        IpAddr::V4(v4) => {
            vec![gratuitous_arp(ArpForm::Request, mac, v4), gratuitous_arp(ArpForm::Reply, mac, v4)]
        }
        IpAddr::V6(v6) => vec![unsolicited_advertisement(mac, v6)],
    };
    for frame in frames {
        wire.transmit(interface.index, &frame).map_err(|source| AnnounceError::Transmit {
            vip,
            interface: name(),
            source,
        })?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "announce_tests.rs"]
mod tests;
