//! Frames as they come in on an interface.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::{
    socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike as _, bind, recv,
        setsockopt, socket, sockopt::ReceiveTimeout,
    },
    time::TimeVal,
};

const LONGEST: usize = 65_536;
/// How soon one that waits for a frame looks up from it.
const PAUSE: TimeVal = TimeVal::new(0, 50_000);

/// A packet socket that receives what comes in.
pub struct Capture(OwnedFd);

impl Capture {
    /// Opens the socket in the network namespace of this thread.
    pub fn open(index: u32) -> io::Result<Self> {
        let socket =
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
        bind(socket.as_raw_fd(), &link_address(index)?)?;
        setsockopt(&socket, ReceiveTimeout, &PAUSE)?;
        Ok(Self(socket))
    }

    /// The next frame; none when there is none for a while.
    pub fn next(&self) -> io::Result<Option<Vec<u8>>> {
        let mut frame = vec![0; LONGEST];
        match recv(self.0.as_raw_fd(), &mut frame, MsgFlags::empty()) {
            Ok(length) => {
                frame.truncate(length);
                Ok(Some(frame))
            }
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn link_address(index: u32) -> io::Result<LinkAddr> {
    let raw = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::c_ushort,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: i32::try_from(index).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of_val(&raw) as libc::socklen_t;
    // SAFETY: `raw` is a whole sockaddr_ll of the family AF_PACKET, `length` is its size, and it is copied before
    // this function returns.
    let address = unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(length)) };
    address.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
