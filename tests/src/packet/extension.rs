//! IPv6 extension headers.

use super::ETHERNET;

const IPV6: usize = 40;
const NEXT_HEADER: usize = ETHERNET + 6;
const PAYLOAD_LENGTH: std::ops::Range<usize> = ETHERNET + 4..ETHERNET + 6;

/// One extension header (RFC 8200 section 4, RFC 4302 section 2), filled with padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Hop-by-hop options, in units of eight bytes.
    HopByHop(u8),
    /// A routing header with no segments left, likewise.
    Routing(u8),
    /// Destination options, likewise.
    Destination(u8),
    /// An authentication header, in units of four bytes, at least three.
    Authentication(u8),
    /// A fragment header: offset in units of eight bytes, whether more follow, identification.
    Fragment(u16, bool, u32),
}

impl Extension {
    /// Its protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::HopByHop(_) => 0,
            Self::Routing(_) => 43,
            Self::Fragment(..) => 44,
            Self::Authentication(_) => 51,
            Self::Destination(_) => 60,
        }
    }

    /// Its bytes, followed by a header of type `next`.
    pub fn bytes(self, next: u8) -> Vec<u8> {
        // One option "PadN" takes what is left; in routing headers the same bytes are type 1 and no segments.
        let units = |units: u8| {
            let mut bytes = vec![0; usize::from(units) * 8];
            let padding = units * 8 - 4;
            bytes[..4].copy_from_slice(&[next, units - 1, 1, padding]);
            bytes
        };
        match self {
            Self::HopByHop(length) | Self::Destination(length) => units(length),
            Self::Routing(length) => {
                let mut bytes = units(length);
                bytes[3] = 0;
                bytes
            }
            Self::Authentication(words) => {
                let mut bytes = vec![0xa5; usize::from(words) * 4];
                bytes[..4].copy_from_slice(&[next, words - 2, 0, 0]);
                bytes
            }
            Self::Fragment(offset, more, id) => {
                let offset = (offset << 3 | u16::from(more)).to_be_bytes();
                [&[next, 0], &offset[..], &id.to_be_bytes()].concat()
            }
        }
    }
}

/// An IPv6 frame without tags, with extension headers put behind its fixed header in the order given.
///
/// # Panics
/// The frame is shorter than that header.
pub fn extended(frame: &[u8], extensions: &[Extension]) -> Vec<u8> {
    let (mut head, rest) = (frame[..ETHERNET + IPV6].to_vec(), &frame[ETHERNET + IPV6..]);
    let upper = head[NEXT_HEADER];
    let numbers: Vec<u8> = extensions.iter().map(|one| one.number()).chain([upper]).collect();
    let headers: Vec<u8> =
        extensions.iter().zip(&numbers[1..]).flat_map(|(one, &next)| one.bytes(next)).collect();
    let length = u16::from_be_bytes([head[PAYLOAD_LENGTH.start], head[PAYLOAD_LENGTH.start + 1]]);
    let longer = length + u16::try_from(headers.len()).expect("a frame is not that long");
    head[NEXT_HEADER] = numbers[0];
    head[PAYLOAD_LENGTH].copy_from_slice(&longer.to_be_bytes());
    [&head, &headers[..], rest].concat()
}

#[cfg(test)]
mod tests {
    use etherparse::{LaxSlicedPacket, TransportSlice};

    use super::{Extension, extended};
    use crate::packet::Packet;

    #[test]
    fn the_transport_is_found_behind_every_header() {
        let (from, to) = ("[2001:db8::1]:1", "[2001:db8::2]:2");
        let packet = Packet::udp(from.parse().expect("an address"), to.parse().expect("an address"));
        let frame = extended(
            &packet.payload(b"question").build(),
            &[
                Extension::HopByHop(1),
                Extension::Routing(3),
                Extension::Fragment(0, false, 7),
                Extension::Authentication(6),
                Extension::Destination(2),
            ],
        );
        let sliced = LaxSlicedPacket::from_ethernet(&frame).expect("a frame");
        let Some(TransportSlice::Udp(udp)) = &sliced.transport else { panic!("{sliced:?}") };
        assert_eq!((udp.destination_port(), udp.payload()), (2, &b"question"[..]));
        assert!(sliced.stop_err.is_none());
    }
}
