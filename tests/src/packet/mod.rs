//! Frames, byte for byte: built and checked by `etherparse`, which shares no line with what it tests.
//!
//! [`Packet`] makes whole TCP and UDP frames and [`Icmp`] messages; the functions here take a frame and give
//! what becomes of it under way: tagged, with extension headers, in fragments, in a tunnel.

mod build;
mod checksum;
mod encap;
mod extension;
mod fragment;
mod icmp;
mod neighbour;
mod quic;
pub mod tunnel;
mod vlan;

pub use build::{FRAME_MINIMUM, Packet, checksum_place, flags};
pub use checksum::{assert_right, internet};
pub use encap::{GUE_PORT, Outer};
pub use extension::{Extension, extended};
pub use fragment::fragments;
pub use icmp::{Icmp, Problem, quote};
pub use neighbour::{ArpRequest, Solicitation, advertisement, arp_reply};
pub use quic::{Long, long, short};
pub use vlan::{Tag, tagged};

/// A MAC address.
pub type Mac = [u8; 6];

/// Bytes of an Ethernet header without tags.
pub const ETHERNET: usize = 14;
