//! The host's network as Guidevane sees it: interfaces, next hops and announced addresses.
//!
//! Everything here talks to the kernel's network stack and to nothing else; it knows no maps, no
//! configuration and no policy.

pub mod addresses;
pub mod announce;
mod frames;
pub mod interface;
pub(crate) mod jitter;
pub mod neighbour;
mod rtnl;
mod view;

#[cfg(test)]
mod testbed;

pub use rtnl::{Error, Netlink};

/// An Ethernet address, in transmission order.
pub type Mac = [u8; 6];
