//! VLAN tags.

/// One tag (IEEE 802.1Q): what announces it, and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The EtherType in front of it.
    pub kind: u16,
    /// Priority and VLAN number.
    pub control: u16,
}

impl Tag {
    /// A customer's tag, type 0x8100.
    pub const fn customer(control: u16) -> Self {
        Self { kind: 0x8100, control }
    }

    /// A provider's tag, type 0x88a8.
    pub const fn provider(control: u16) -> Self {
        Self { kind: 0x88a8, control }
    }
}

/// The frame with tags in front of its EtherType, the outermost first.
pub fn tagged(frame: &[u8], tags: &[Tag]) -> Vec<u8> {
    const ADDRESSES: usize = 12;
    let (addresses, rest) = frame.split_at(ADDRESSES);
    let tags = tags.iter().flat_map(|tag| [tag.kind.to_be_bytes(), tag.control.to_be_bytes()].concat());
    addresses.iter().copied().chain(tags).chain(rest.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::{Tag, tagged};
    use etherparse::LaxSlicedPacket;

    #[test]
    fn tags_are_found_in_the_order_given() {
        let packet = crate::packet::Packet::udp(
            "192.0.2.1:1".parse().expect("an address"),
            "192.0.2.2:2".parse().expect("an address"),
        );
        let frame = tagged(&packet.build(), &[Tag::provider(5), Tag::customer(0x2007)]);
        let sliced = LaxSlicedPacket::from_ethernet(&frame).expect("a frame");
        let ids = sliced.vlan_ids().iter().map(|id| id.value()).collect::<Vec<_>>();
        assert_eq!(ids, [5, 7]);
        assert!(sliced.transport.is_some());
    }
}
