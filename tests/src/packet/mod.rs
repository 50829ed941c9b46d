//! Frames, byte for byte: built and checked by `etherparse`, which shares no line with what it tests.

mod build;
mod neighbour;
pub mod tunnel;

pub use build::{FRAME_MINIMUM, Packet, checksum_place, flags};
pub use neighbour::{ArpRequest, Solicitation, advertisement, arp_reply};

/// A MAC address.
pub type Mac = [u8; 6];
