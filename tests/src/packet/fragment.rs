//! Cutting packets into fragments.

use super::{ETHERNET, Extension, checksum::internet};

const IPV6: usize = 40;
const UNIT: usize = 8;

/// The fragments of a frame without tags and padding, each with `piece` bytes of its content but the last
/// (RFC 791 section 2.3, RFC 8200 section 4.5). IPv6 extension headers count as content.
///
/// # Panics
/// `piece` is no multiple of eight.
pub fn fragments(frame: &[u8], piece: usize, id: u32) -> Vec<Vec<u8>> {
    assert!(piece > 0 && piece.is_multiple_of(UNIT), "fragments are cut at multiples of eight bytes");
    let v6 = frame[ETHERNET] >> 4 == 6;
    let header = if v6 { IPV6 } else { usize::from(frame[ETHERNET] & 0x0f) * 4 };
    let (head, content) = frame.split_at(ETHERNET + header);
    let count = content.len().div_ceil(piece);
    let one = |(number, part): (usize, &[u8])| {
        let (offset, more) = (u16::try_from(number * piece / UNIT).expect("13 bits"), number + 1 < count);
        if v6 { fragment_v6(head, part, offset, more, id) } else { fragment_v4(head, part, offset, more, id) }
    };
    content.chunks(piece).enumerate().map(one).collect()
}

fn fragment_v4(head: &[u8], part: &[u8], offset: u16, more: bool, id: u32) -> Vec<u8> {
    const MORE: u16 = 0x2000;
    let mut head = head.to_vec();
    let total = u16::try_from(head.len() - ETHERNET + part.len()).expect("a frame is not that long");
    let flags = offset | if more { MORE } else { 0 };
    let mut set = |place: usize, value: [u8; 2]| {
        head[ETHERNET + place..ETHERNET + place + 2].copy_from_slice(&value);
    };
    set(2, total.to_be_bytes());
    set(4, (id as u16).to_be_bytes());
    set(6, flags.to_be_bytes());
    set(10, [0, 0]);
    let checksum = internet(&[&head[ETHERNET..]]);
    head[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&checksum);
    [&head, part].concat()
}

fn fragment_v6(head: &[u8], part: &[u8], offset: u16, more: bool, id: u32) -> Vec<u8> {
    let mut head = head.to_vec();
    let next = head[ETHERNET + 6];
    head[ETHERNET + 6] = 44;
    let length = u16::try_from(UNIT + part.len()).expect("a frame is not that long");
    head[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&length.to_be_bytes());
    [&head, &Extension::Fragment(offset, more, id).bytes(next)[..], part].concat()
}

#[cfg(test)]
mod tests {
    use etherparse::{LaxNetSlice, LaxSlicedPacket};

    use super::fragments;
    use crate::packet::{ETHERNET, Packet, assert_right};

    #[test]
    fn the_parts_make_the_whole() {
        for (from, to, header) in
            [("192.0.2.1:1", "192.0.2.2:2", 20), ("[2001:db8::1]:1", "[2001:db8::2]:2", 40)]
        {
            let packet = Packet::udp(from.parse().expect("an address"), to.parse().expect("an address"));
            let whole = packet.payload(&[7; 50]).build();
            let parts = fragments(&whole, 24, 99);
            let mut content = Vec::new();
            for (number, part) in parts.iter().enumerate() {
                assert_right(part, "a fragment");
                let sliced = LaxSlicedPacket::from_ethernet(part).expect("a frame");
                let payload = match &sliced.net {
                    Some(LaxNetSlice::Ipv4(ip)) => {
                        assert_eq!(ip.header().identification(), 99);
                        assert_eq!(ip.header().more_fragments(), number < 2);
                        ip.payload()
                    }
                    Some(LaxNetSlice::Ipv6(ip)) => ip.payload(),
                    other => panic!("{other:?}"),
                };
                assert!(payload.fragmented);
                content.extend(payload.payload);
            }
            assert_eq!((parts.len(), &content[..]), (3, &whole[ETHERNET + header..]));
        }
    }
}
