//! QUIC datagrams whose connection ID names their server.

use aya_ebpf::programs::XdpContext;
use lb_common::{
    header::UDP,
    layout::{Vip, backend_bits, server_endpoint},
    quic,
};
use network_types::udp::UdpHdr;

use crate::{backends, bytes::Bytes, packet::Packet};

/// The backend that a datagram's connection ID names, if it can take packets.
#[inline(always)]
pub fn backend(ctx: &XdpContext, packet: &Packet, vip: &Vip) -> Option<u16> {
    /// The first octet of a connection ID, and the longest server ID behind it.
    const OCTETS: usize = 1 + quic::SERVER_ID_BYTES;
    const ALIVE: u32 = backend_bits::PRESENT | backend_bits::HEALTHY | backend_bits::REACHABLE;
    if vip.quic == 0 || packet.protocol != UDP {
        return None;
    }
    let payload = packet.transport() + UdpHdr::LEN;
    let first = Bytes::<1>::at(ctx, payload).ok()?.u8::<0>();
    let place = quic::connection_id(first)?;
    if packet.length < (UdpHdr::LEN + place + OCTETS) as u32 {
        return None;
    }
    if place != quic::SHORT_START {
        // Only a long header says how long the connection ID is, and its types are the version's own.
        let header = Bytes::<{ quic::LONG_START }>::at(ctx, payload).ok()?;
        let (version, length) = (u32::from_be(header.u32::<1>()), header.u8::<5>());
        if version != quic::VERSION_1 || !quic::has_server_id(vip.quic, length) {
            return None;
        }
    }
    let id = Bytes::<OCTETS>::at(ctx, payload + place).ok()?;
    let server = quic::server_id(vip.quic, id.u8::<0>(), u64::from_be(id.u64::<1>()))?;
    let backend = backends::named(&server_endpoint(vip.id, server), server)?;
    let (control, _) = backends::backend(backend)?;
    (control & ALIVE == ALIVE).then_some(backend)
}
