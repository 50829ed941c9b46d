//! ICMP and ICMPv6: echo, errors about flows, and errors of our own.

use std::net::IpAddr;

use super::{
    config::{Backend, Mode, Vip},
    decide::{Act, Decision, Model, NOT_OURS, OTHER_PROTOCOL, Outcome, Seen, TRUNCATED, may_go_on},
    output::{Draft, octets},
    read::{Packet, half},
    sums::{adjust, checksum},
};

const HEADER: usize = 8;
const TCP: u8 = 6;
const UDP: u8 = 17;
const TTL: u8 = 64;

/// What an error quotes.
struct Quoted {
    /// Where its network header starts in the frame, and its transport header.
    l3: usize,
    l4: usize,
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
    protocol: u8,
}

/// Why there is no quote to go by.
enum Unquoted {
    /// It is cut short.
    Short,
    /// It is of nothing that has ports.
    Other,
}

impl Model {
    pub(super) fn icmp(&mut self, packet: &Packet<'_>, seen: Option<Seen<'_>>) -> Outcome {
        let (ours, v6) = (self.config.is_ours(packet.destination), packet.is_v6());
        if packet.part.is_some() {
            return Err(self.if_ours(packet.destination, OTHER_PROTOCOL));
        }
        if v6 && let Some(answer) = self.solicitation(packet) {
            return Ok(answer);
        }
        let Some(header) = packet.within(HEADER) else {
            return Err(self.if_ours(packet.destination, TRUNCATED));
        };
        let kind = header[0];
        let is_error = if v6 { (1..=4).contains(&kind) } else { matches!(kind, 3 | 11 | 12) };
        match (ours, is_error) {
            (true, true) => self.about_ours(packet, seen),
            (true, false) if kind == if v6 { 128 } else { 8 } => {
                if packet.is_whole() {
                    Ok(echo(packet))
                } else {
                    Err(TRUNCATED)
                }
            }
            (true, false) => Err(OTHER_PROTOCOL),
            (false, true) => self.about_backend(packet),
            (false, false) => Err(NOT_OURS),
        }
    }

    /// An error to a VIP's address.
    fn about_ours(&mut self, packet: &Packet<'_>, seen: Option<Seen<'_>>) -> Outcome {
        let quoted = quoted(packet).map_err(|why| match why {
            Unquoted::Short => TRUNCATED,
            Unquoted::Other => OTHER_PROTOCOL,
        })?;
        if !packet.is_whole() {
            return Err(TRUNCATED);
        }
        if quoted.source.0 != packet.destination {
            return Err(OTHER_PROTOCOL);
        }
        let number =
            self.config.vip_at(quoted.source.0, quoted.source.1, quoted.protocol).ok_or(OTHER_PROTOCOL)?;
        may_go_on(packet)?;
        let vip = &self.config.vips[number];
        let flow = self.state.flows.get(&(quoted.destination.0, quoted.destination.1, number));
        let translated = matches!(vip.mode, Mode::Nat | Mode::OneArmedNat);
        let backend = match flow {
            Some(flow) if flow.shown => flow.backend,
            Some(_) => self.choose(vip, seen)?,
            None if translated => return Err((Act::Drop, "unknown_flow_nat")),
            None => self.choose(vip, seen)?,
        };
        let mut draft = Draft::of(packet);
        draft.decrement_ttl();
        if translated {
            let server = &vip.backends[backend];
            let (mut before, mut after) = draft.readdress(None, Some(server.address));
            if !packet.is_v6() {
                // ICMP has no pseudo-header over IPv4.
                (before, after) = (Vec::new(), Vec::new());
            }
            let port = flow.and_then(|flow| flow.port);
            requote(&mut draft, &quoted, Some((server.address, server.port)), port, (before, after));
        }
        self.send(&mut draft, vip, backend, None, seen)?;
        Ok(draft.done("icmp_error"))
    }

    /// An error about what was sent to a backend of a `nat` VIP: to the client, or to the address of our own that
    /// stood for it.
    fn about_backend(&self, packet: &Packet<'_>) -> Outcome {
        let quoted = quoted(packet).map_err(|_unquoted| NOT_OURS)?;
        let one_armed = self.config.sources.contains(&packet.destination);
        let mode = if one_armed { Mode::OneArmedNat } else { Mode::Nat };
        let (address, port) = quoted.destination;
        let (number, backend) =
            self.config.backend_at(mode, address, port, quoted.protocol).ok_or(NOT_OURS)?;
        let key = match one_armed {
            true => self.flow_from(number, backend, quoted.source).ok_or(NOT_OURS)?,
            false => (quoted.source.0, quoted.source.1, number),
        };
        let flow = self.state.flows.get(&key).ok_or(NOT_OURS)?;
        if flow.backend != backend || quoted.source.0 != packet.destination || !packet.is_whole() {
            return Err(NOT_OURS);
        }
        may_go_on(packet)?;
        let vip = &self.config.vips[number];
        let client = one_armed.then_some((key.0, key.1));
        let mut draft = Draft::of(packet);
        draft.decrement_ttl();
        let mut outside = draft.readdress(None, client.map(|(address, _)| address));
        if !packet.is_v6() {
            outside = Default::default();
        }
        requote(&mut draft, &quoted, client, Some((vip.address, vip.port)), outside);
        draft.macs(flow.macs.0, flow.macs.1);
        Ok(draft.done("icmp_error_returned"))
    }

    /// The answer to a packet that does not fit a tunnel.
    pub(super) fn too_big(packet: &Packet<'_>, vip: &Vip, server: &Backend) -> Option<Decision> {
        let Mode::Tunnel { gue } = vip.mode else { return None };
        let overhead = if server.address.is_ipv6() { 40 } else { 20 } + if gue { 8 } else { 0 };
        if packet.length() + overhead <= server.mtu {
            return None;
        }
        let fits = (server.mtu - overhead) as u16;
        let (own, client) = (octets(packet.destination), octets(packet.source));
        let inner = &packet.frame[packet.l3..packet.end];
        let mut frame = [&packet.frame[6..12], &packet.frame[..6], &packet.frame[12..packet.l3]].concat();
        if packet.is_v6() {
            let quote = &inner[..inner.len().min(128)];
            let mut message = [&[2, 0, 0, 0, 0, 0], &fits.to_be_bytes()[..], quote].concat();
            let length = message.len() as u16;
            let pseudo = [&own[..], &client, &[0, 0], &length.to_be_bytes(), &[0, 0, 0, 58]].concat();
            let sum = checksum(&[&pseudo, &message]);
            message[2..4].copy_from_slice(&sum);
            frame.extend([0x60, 0, 0, 0].into_iter().chain(length.to_be_bytes()).chain([58, TTL]));
            frame.extend([own, client, message].concat());
        } else {
            let header = packet.l4 - packet.l3;
            let quote = &inner[..inner.len().min(header + 8)];
            let mut message = [&[3, 4, 0, 0, 0, 0], &fits.to_be_bytes()[..], quote].concat();
            let sum = checksum(&[&message]);
            message[2..4].copy_from_slice(&sum);
            let total = (20 + message.len() as u16).to_be_bytes();
            let mut header = [&[0x45, 0], &total[..], &[0, 0, 0x40, 0, TTL, 1, 0, 0], &own, &client].concat();
            let sum = checksum(&[&header]);
            header[10..12].copy_from_slice(&sum);
            frame.extend([header, message].concat());
        }
        Some(Decision { act: Act::Answer, reason: "too_big", frame })
    }
}

fn echo(packet: &Packet<'_>) -> Decision {
    let mut draft = Draft::of(packet);
    let (to, from) = (packet.frame[6..12].to_vec(), packet.frame[..6].to_vec());
    draft.replace(0, &to);
    draft.replace(6, &from);
    draft.readdress(Some(packet.destination), Some(packet.source));
    draft.set_ttl(TTL);
    let (kind, code) = (packet.frame[packet.l4], packet.frame[packet.l4 + 1]);
    let reply = if packet.is_v6() { 129 } else { 0 };
    draft.frame[packet.l4] = reply;
    adjust(&mut draft.frame, packet.l4 + 2, &[kind, code], &[reply, code]);
    Decision { act: Act::Answer, reason: "echo", frame: draft.frame }
}

/// Reads what an error quotes.
fn quoted(packet: &Packet<'_>) -> Result<Quoted, Unquoted> {
    let quote = packet.upper().get(HEADER..).ok_or(Unquoted::Short)?;
    let (header, protocol, later) = if packet.is_v6() {
        let header = quote.get(..40).ok_or(Unquoted::Short)?;
        if header[0] >> 4 != 6 {
            return Err(Unquoted::Other);
        }
        (40, header[6], false)
    } else {
        let header = quote.get(..20).ok_or(Unquoted::Short)?;
        if header[0] >> 4 != 4 || header[0] & 15 < 5 {
            return Err(Unquoted::Other);
        }
        (usize::from(header[0] & 15) * 4, header[9], half(header, 6).unwrap_or(0) & 0x1fff != 0)
    };
    if later || !matches!(protocol, TCP | UDP) {
        return Err(Unquoted::Other);
    }
    // Old routers quote eight bytes; the ports are in the first four.
    let ports = quote.get(header..header + 4).ok_or(Unquoted::Short)?;
    let address = |from: usize, length: usize| {
        let bytes = &quote[from..from + length];
        match <[u8; 4]>::try_from(bytes) {
            Ok(v4) => IpAddr::from(v4),
            Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).expect("sixteen bytes")),
        }
    };
    let (length, places) = if packet.is_v6() { (16, [8, 24]) } else { (4, [12, 16]) };
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    let l3 = packet.l4 + HEADER;
    Ok(Quoted {
        l3,
        l4: l3 + header,
        source: (address(places[0], length), port(0)),
        destination: (address(places[1], length), port(2)),
        protocol,
    })
}

/// Changes the ends of a quoted packet, its network header's checksum and that of the message, which also
/// follows `outside`. The quoted transport's checksum, which is often not there, is left.
fn requote(
    draft: &mut Draft,
    quoted: &Quoted,
    source: Option<(IpAddr, u16)>,
    destination: Option<(IpAddr, u16)>,
    outside: (Vec<u8>, Vec<u8>),
) {
    let (mut before, mut after) = outside;
    let (mut old, mut new) = (Vec::new(), Vec::new());
    let places = if draft.v6 { [8, 24] } else { [12, 16] };
    for (place, (at, end)) in places.into_iter().zip([(0, source), (2, destination)]) {
        let Some((address, port)) = end else { continue };
        let address = octets(address);
        old.extend(draft.replace(quoted.l3 + place, &address));
        new.extend(address);
        before.extend(draft.replace(quoted.l4 + at, &port.to_be_bytes()));
        after.extend(port.to_be_bytes());
    }
    if !draft.v6 {
        let at = quoted.l3 + 10;
        before.extend(&draft.frame[at..at + 2]);
        adjust(&mut draft.frame, at, &old, &new);
        after.extend(&draft.frame[at..at + 2]);
    }
    before.extend(old);
    after.extend(new);
    let sum = draft.l4 + 2;
    adjust(&mut draft.frame, sum, &before, &after);
}
