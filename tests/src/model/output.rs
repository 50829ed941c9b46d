//! What leaves: the frame that came, changed.

use std::net::IpAddr;

use super::{
    config::{Mode, Vip},
    decide::{Act, Decision, Model, Seen, Verdict},
    read::{Packet, half, read},
    sums::{adjust, checksum},
};
use crate::packet::Mac;

const TCP: u8 = 6;
const UDP: u8 = 17;
const GUE_PORT: u16 = 6080;
const GUE_SOURCES: u16 = 0xc000;

/// A frame being changed.
pub struct Draft {
    pub(super) frame: Vec<u8>,
    pub(super) l3: usize,
    pub(super) l4: usize,
    pub(super) v6: bool,
    protocol: u8,
    later: bool,
    length: usize,
}

/// The bytes of an address.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

impl Draft {
    /// The frame of a packet.
    pub fn of(packet: &Packet<'_>) -> Self {
        Self {
            frame: packet.frame.to_vec(),
            l3: packet.l3,
            l4: packet.l4,
            v6: packet.is_v6(),
            protocol: packet.protocol,
            later: packet.is_later(),
            length: packet.length(),
        }
    }

    /// The finished frame, sent on.
    pub fn done(self, reason: &'static str) -> Decision {
        Decision { act: Act::Forward, reason, frame: self.frame }
    }

    pub fn macs(&mut self, to: Mac, from: Mac) {
        self.frame[..6].copy_from_slice(&to);
        self.frame[6..12].copy_from_slice(&from);
    }

    pub fn decrement_ttl(&mut self) {
        let at = self.l3 + if self.v6 { 7 } else { 8 };
        let ttl = self.frame[at] - 1;
        self.set_ttl(ttl);
    }

    /// Sets TTL or hop limit; the header's checksum follows.
    pub fn set_ttl(&mut self, ttl: u8) {
        if self.v6 {
            self.frame[self.l3 + 7] = ttl;
            return;
        }
        let at = self.l3 + 8;
        let before = [self.frame[at], self.frame[at + 1]];
        self.frame[at] = ttl;
        adjust(&mut self.frame, self.l3 + 10, &before, &[ttl, before[1]]);
    }

    /// Replaces bytes and gives those that were there.
    pub fn replace(&mut self, at: usize, new: &[u8]) -> Vec<u8> {
        let place = &mut self.frame[at..at + new.len()];
        let old = place.to_vec();
        place.copy_from_slice(new);
        old
    }

    /// Other addresses; the network header's checksum follows. Gives the bytes before and after.
    pub fn readdress(&mut self, source: Option<IpAddr>, destination: Option<IpAddr>) -> (Vec<u8>, Vec<u8>) {
        let places = if self.v6 { [8, 24] } else { [12, 16] };
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for (place, address) in places.into_iter().zip([source, destination]) {
            let Some(address) = address else { continue };
            let new = octets(address);
            before.extend(self.replace(self.l3 + place, &new));
            after.extend(new);
        }
        if !self.v6 {
            adjust(&mut self.frame, self.l3 + 10, &before, &after);
        }
        (before, after)
    }

    /// Other addresses and ports; all checksums follow.
    pub fn translate(&mut self, source: Option<(IpAddr, u16)>, destination: Option<(IpAddr, u16)>) {
        debug_assert!(!self.later, "a later fragment has no ports");
        let (mut before, mut after) =
            self.readdress(source.map(|(address, _)| address), destination.map(|(address, _)| address));
        for (place, end) in [(0, source), (2, destination)] {
            let Some((_, port)) = end else { continue };
            let new = port.to_be_bytes();
            before.extend(self.replace(self.l4 + place, &new));
            after.extend(new);
        }
        let at = self.l4 + if self.protocol == TCP { 16 } else { 6 };
        let udp = self.protocol == UDP;
        if udp && half(&self.frame, at) == Some(0) {
            return;
        }
        adjust(&mut self.frame, at, &before, &after);
        if udp && half(&self.frame, at) == Some(0) {
            self.frame[at..at + 2].fill(0xff);
        }
    }

    /// Puts an outer header around the packet.
    fn encapsulate(&mut self, source: IpAddr, destination: IpAddr, gue: Option<u16>) {
        let class = if self.v6 {
            self.frame[self.l3] << 4 | self.frame[self.l3 + 1] >> 4
        } else {
            self.frame[self.l3 + 1]
        };
        let mut inner = self.length;
        let mut protocol = if self.v6 { 41 } else { 4 };
        let mut udp = Vec::new();
        if let Some(port) = gue {
            inner += 8;
            protocol = UDP;
            udp = [port, GUE_PORT, inner as u16, 0].map(u16::to_be_bytes).concat();
        }
        let (source, outer_v6) = (octets(source), destination.is_ipv6());
        let destination = octets(destination);
        let mut header = if outer_v6 {
            [&[0x60 | class >> 4, class << 4, 0, 0], &(inner as u16).to_be_bytes()[..], &[protocol, 64]]
                .concat()
        } else {
            let total = (inner as u16 + 20).to_be_bytes();
            [&[0x45, class], &total[..], &[0, 0, 0x40, 0, 64, protocol, 0, 0]].concat()
        };
        header.extend(source.into_iter().chain(destination));
        if !outer_v6 {
            let sum = checksum(&[&header]);
            header[10..12].copy_from_slice(&sum);
        }
        let kind: [u8; 2] = if outer_v6 { [0x86, 0xdd] } else { [8, 0] };
        self.frame[self.l3 - 2..self.l3].copy_from_slice(&kind);
        self.frame.splice(self.l3..self.l3, header.into_iter().chain(udp));
    }
}

impl Model {
    /// Addresses the frame to a backend's next hop, in a tunnel where there is one. Gives what stands outside.
    pub(super) fn send(
        &self,
        draft: &mut Draft,
        vip: &Vip,
        backend: usize,
        known: Option<&(IpAddr, Option<u16>)>,
        seen: Option<Seen<'_>>,
    ) -> Result<Option<(IpAddr, Option<u16>)>, Verdict> {
        let server = &vip.backends[backend];
        draft.macs(server.mac, server.own_mac);
        let Mode::Tunnel { gue } = vip.mode else { return Ok(None) };
        let outer = known.copied().unwrap_or_else(|| self.outer_for(server.address, gue, seen));
        draft.encapsulate(outer.0, server.address, outer.1);
        Ok(Some(outer))
    }

    /// The outer source that the program took if it was free to, else the first.
    fn outer_for(&self, to: IpAddr, gue: bool, seen: Option<Seen<'_>>) -> (IpAddr, Option<u16>) {
        let prefix = &self.config.outer[usize::from(to.is_ipv6())];
        let out = seen.and_then(|seen| read(seen.frame).ok());
        let source = out.as_ref().map(|out| out.source).filter(|source| prefix.holds(*source));
        let port = out.and_then(|out| Some(out.ports()?.0)).filter(|port| *port >= GUE_SOURCES);
        (source.unwrap_or(prefix.base), gue.then(|| port.unwrap_or(GUE_SOURCES)))
    }
}
