//! ARP (RFC 826) and neighbour discovery (RFC 4861) for VIPs that are announced.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    decide::{Act, Decision, Model, NOT_OURS, Outcome},
    output::octets,
    read::Packet,
    sums::checksum,
};
use crate::packet::Mac;

impl Model {
    fn announced(&self, address: IpAddr) -> Option<Mac> {
        self.config.vips.iter().find(|vip| vip.address == address)?.answers
    }

    pub(super) fn arp(&self, frame: &[u8], at: usize) -> Outcome {
        const IPV4_REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
        let packet = frame.get(at..at + 28).ok_or((Act::Pass, "unreadable"))?;
        if packet[..8] != IPV4_REQUEST {
            return Err(NOT_OURS);
        }
        let (asker, target) = (&packet[8..18], <[u8; 4]>::try_from(&packet[24..28]).expect("four bytes"));
        let own = self.announced(Ipv4Addr::from(target).into()).ok_or(NOT_OURS)?;
        let mut answer = frame.to_vec();
        answer[..6].copy_from_slice(&asker[..6]);
        answer[6..12].copy_from_slice(&own);
        answer[at + 7] = 2;
        answer[at + 8..at + 28].copy_from_slice(&[&own[..], &target, asker].concat());
        Ok(Decision { act: Act::Answer, reason: "arp", frame: answer })
    }

    pub(super) fn solicitation(&self, packet: &Packet<'_>) -> Option<Decision> {
        const MESSAGE: usize = 32;
        let message = packet.within(MESSAGE).filter(|_| packet.end == packet.l4 + MESSAGE)?;
        let option = [&message[..2], &message[24..26]].concat();
        if option != [135, 0, 1, 1]
            || packet.ttl != 255
            || packet.source == IpAddr::from(Ipv6Addr::UNSPECIFIED)
        {
            return None;
        }
        let target: [u8; 16] = message[8..24].try_into().expect("sixteen bytes");
        let own = self.announced(Ipv6Addr::from(target).into())?;
        let asker = octets(packet.source);
        let mut answer = [&[136, 0, 0, 0, 0x60, 0, 0, 0], &target[..], &[2, 1], &own].concat();
        let pseudo = [&target[..], &asker, &[0, 0, 0, 32, 0, 0, 0, 58]].concat();
        let sum = checksum(&[&pseudo, &answer]);
        answer[2..4].copy_from_slice(&sum);
        let mut frame = packet.frame.to_vec();
        frame.copy_within(6..12, 0);
        frame[6..12].copy_from_slice(&own);
        frame[packet.l3 + 8..packet.l3 + 40].copy_from_slice(&[&target[..], &asker].concat());
        frame[packet.l4..packet.l4 + MESSAGE].copy_from_slice(&answer);
        Some(Decision { act: Act::Answer, reason: "neighbour_solicitation", frame })
    }
}
