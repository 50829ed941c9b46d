//! The frame's link layer: Ethernet with up to two VLAN tags, which stay on the packet.

use aya_ebpf::programs::XdpContext;
use lb_common::decap::Reason;
use network_types::eth::EthHdr;

use crate::bytes::Bytes;

/// EtherTypes as they lie in the packet.
pub const ETHERTYPE_IPV4: u16 = 0x0800u16.to_be();
/// IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86ddu16.to_be();
/// A VLAN tag (IEEE 802.1Q).
const ETHERTYPE_VLAN: u16 = 0x8100u16.to_be();
/// The outer one of two (IEEE 802.1ad).
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8u16.to_be();

/// Length of a VLAN tag.
const TAG: usize = 4;
/// Length of the headers with one tag.
const WITH_TAG: usize = EthHdr::LEN + TAG;
/// Length of the headers with two.
const WITH_TAGS: usize = WITH_TAG + TAG;

/// The link layer's headers, read.
#[derive(Clone, Copy)]
pub struct Link {
    /// The EtherType behind the tags.
    pub ether_type: u16,
    /// Bytes of the headers.
    pub length: usize,
    addresses: (u64, u32),
    tags: [u32; 2],
}

/// `LENGTH` bytes at `offset` of the packet, or `missing`.
#[inline(always)]
pub fn bytes<const LENGTH: usize>(
    ctx: &XdpContext,
    offset: usize,
    missing: Reason,
) -> Result<Bytes<LENGTH>, Reason> {
    Bytes::at(ctx, offset).map_err(|_| missing)
}

#[inline(always)]
const fn is_tag(ether_type: u16) -> bool {
    matches!(ether_type, ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN)
}

impl Link {
    /// Reads the headers.
    #[inline(always)]
    pub fn read(ctx: &XdpContext) -> Result<Self, Reason> {
        let frame = bytes::<{ EthHdr::LEN }>(ctx, 0, Reason::Unreadable)?;
        let mut link = Self {
            ether_type: frame.u16::<12>(),
            length: EthHdr::LEN,
            addresses: (frame.u64::<0>(), frame.u32::<8>()),
            tags: [0; 2],
        };
        if is_tag(link.ether_type) {
            let frame = bytes::<WITH_TAG>(ctx, 0, Reason::Unreadable)?;
            link.tags[0] = frame.u32::<12>();
            (link.ether_type, link.length) = (frame.u16::<16>(), WITH_TAG);
        }
        if link.length == WITH_TAG && is_tag(link.ether_type) {
            let frame = bytes::<WITH_TAGS>(ctx, 0, Reason::Unreadable)?;
            link.tags[1] = frame.u32::<16>();
            (link.ether_type, link.length) = (frame.u16::<20>(), WITH_TAGS);
        }
        Ok(link)
    }

    /// Writes the headers to the head of the packet, with another EtherType.
    #[inline(always)]
    pub fn write(&self, ctx: &XdpContext, ether_type: u16) -> Result<(), Reason> {
        let frame = bytes::<{ EthHdr::LEN }>(ctx, 0, Reason::Internal)?;
        frame.set_u64::<0>(self.addresses.0);
        frame.set_u32::<8>(self.addresses.1);
        match self.length {
            WITH_TAGS => {
                let frame = bytes::<WITH_TAGS>(ctx, 0, Reason::Internal)?;
                frame.set_u32::<12>(self.tags[0]);
                frame.set_u32::<16>(self.tags[1]);
                frame.set_u16::<20>(ether_type);
            }
            WITH_TAG => {
                let frame = bytes::<WITH_TAG>(ctx, 0, Reason::Internal)?;
                frame.set_u32::<12>(self.tags[0]);
                frame.set_u16::<16>(ether_type);
            }
            _ => frame.set_u16::<12>(ether_type),
        }
        Ok(())
    }
}
