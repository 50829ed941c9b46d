//! The decision: whose a packet is, which flow, which backend.

use std::{net::IpAddr, time::Duration};

use super::{
    config::{Config, Mode, Quic, Vip},
    output::Draft,
    read::{Packet, Unread, read},
    state::{Flow, Key, State, Way},
};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// First fragments are remembered for two seconds, and clocks differ.
const SURELY_REMEMBERED: Duration = Duration::from_millis(1000);
const SURELY_FORGOTTEN: Duration = Duration::from_millis(3500);

/// What is done with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Left to the host's stack, as it came.
    Pass,
    /// Dropped.
    Drop,
    /// Sent on.
    Forward,
    /// Answered.
    Answer,
}

/// What the program ought to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// With the frame.
    pub act: Act,
    /// Why, by the name that is counted.
    pub reason: &'static str,
    /// The frame afterwards; as it came when it is dropped.
    pub frame: Vec<u8>,
}

/// What the program did, for choices that are its own.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The reason counted; empty where nobody looked, and the model then goes by what it remembers.
    pub reason: &'a str,
    /// The frame it left.
    pub frame: &'a [u8],
}

/// The model: a configuration and what has happened under it.
#[derive(Clone, Debug)]
pub struct Model {
    pub(super) config: Config,
    pub(super) state: State,
}

/// What a client's packet is in its flow's life.
struct Step {
    opens: bool,
    ends: bool,
}

impl Model {
    /// A model that has seen nothing.
    pub fn new(config: Config) -> Self {
        Self { config, state: State::default() }
    }

    /// What ought to become of a frame, which is remembered; `seen` is what did.
    pub fn decide(&mut self, frame: &[u8], seen: Option<Seen<'_>>) -> Decision {
        self.decided(frame, seen).unwrap_or_else(|(act, reason)| Decision {
            act,
            reason,
            frame: frame.to_vec(),
        })
    }

    fn decided(&mut self, frame: &[u8], seen: Option<Seen<'_>>) -> Outcome {
        let packet = match read(frame) {
            Ok(packet) => packet,
            Err(Unread::Foreign) => return Err(NOT_OURS),
            Err(Unread::Unreadable) => return Err((Act::Pass, "unreadable")),
            Err(Unread::Arp(at)) => return self.arp(frame, at),
            Err(Unread::CutShort(destination)) => return Err(self.if_ours(destination, TRUNCATED)),
        };
        if packet.is_later() {
            return self.later_part(&packet, seen);
        }
        match (packet.protocol, packet.is_v6()) {
            (TCP | UDP, _) => self.transport(&packet, seen),
            (1, false) | (58, true) => self.icmp(&packet, seen),
            _ => Err(self.if_ours(packet.destination, OTHER_PROTOCOL)),
        }
    }

    /// A verdict on what is for one of our addresses.
    pub(super) fn if_ours(&self, destination: IpAddr, verdict: Verdict) -> Verdict {
        if self.config.is_ours(destination) { verdict } else { NOT_OURS }
    }

    /// Tells what time it is, from any beginning.
    pub const fn set_clock(&mut self, now: Duration) {
        self.state.now = now;
    }

    /// Whether a first fragment is remembered for sure; none when that depends on the program's clock.
    fn remembers(&self, since: Duration) -> Option<bool> {
        match self.state.now.saturating_sub(since) {
            age if age < SURELY_REMEMBERED => Some(true),
            age if age > SURELY_FORGOTTEN => Some(false),
            _ => None,
        }
    }

    fn later_part(&self, packet: &Packet<'_>, seen: Option<Seen<'_>>) -> Outcome {
        let key = part_key(packet).expect("it is a part");
        let did = seen.is_none_or(|seen| !matches!(seen.reason, "fragment_unknown" | "not_ours"));
        let known = self.state.parts.get(&key).filter(|(_, since)| self.remembers(*since).unwrap_or(did));
        let Some((way, _)) = known else {
            // The stack puts the fragments of an echo request together: it got the first one, too.
            let left = matches!(packet.protocol, 1 | 58);
            let verdict = if left { (Act::Pass, "other_protocol") } else { (Act::Drop, "fragment_unknown") };
            return Err(self.if_ours(packet.destination, verdict));
        };
        if !packet.is_whole() {
            return Err(TRUNCATED);
        }
        may_go_on(packet)?;
        let mut draft = Draft::of(packet);
        draft.decrement_ttl();
        match *way {
            Way::ToClient(vip, client, (to, from)) => {
                draft.readdress(Some(vip), client);
                draft.macs(to, from);
            }
            Way::ToBackend(vip, backend, source) => {
                let vip = &self.config.vips[vip];
                if let Mode::Nat | Mode::OneArmedNat = vip.mode {
                    draft.readdress(source, Some(vip.backends[backend].address));
                }
                self.send(&mut draft, vip, backend, None, seen)?;
            }
        }
        Ok(draft.done("fragment"))
    }

    fn transport(&mut self, packet: &Packet<'_>, seen: Option<Seen<'_>>) -> Outcome {
        let (from, to) = packet.ports().ok_or_else(|| self.if_ours(packet.destination, TRUNCATED))?;
        let protocol = packet.protocol;
        if let Some(vip) = self.config.vip_at(packet.destination, to, protocol) {
            return self.of_client(packet, vip, from, seen);
        }
        if self.config.sources.contains(&packet.destination) {
            let (vip, backend) =
                self.config.backend_at(Mode::OneArmedNat, packet.source, from, protocol).ok_or(NOT_OURS)?;
            let key = self.flow_from(vip, backend, (packet.destination, to)).ok_or(NOT_OURS)?;
            return self.of_backend(packet, key);
        }
        let (vip, backend) =
            self.config.backend_at(Mode::Nat, packet.source, from, protocol).ok_or(NOT_OURS)?;
        let key = (packet.destination, to, vip);
        match self.state.flows.get(&key) {
            Some(flow) if flow.backend == backend => self.of_backend(packet, key),
            _ => Err(NOT_OURS),
        }
    }

    /// The flow of a one-armed VIP to a backend that an address and port of our own stand for.
    pub(super) fn flow_from(&self, vip: usize, backend: usize, own: (IpAddr, u16)) -> Option<Key> {
        let mut flows = self.state.flows.iter();
        let of = |((.., number), flow): &(&Key, &Flow)| {
            (*number, flow.backend, flow.port) == (vip, backend, Some(own))
        };
        flows.find(of).map(|(key, _)| *key)
    }

    fn of_client(
        &mut self,
        packet: &Packet<'_>,
        number: usize,
        port: u16,
        seen: Option<Seen<'_>>,
    ) -> Outcome {
        let step = step(packet)?;
        may_go_on(packet)?;
        let (key, vip) = ((packet.source, port, number), &self.config.vips[number]);
        if let Some(backend) = vip.quic.and_then(|quic| named(vip, quic, packet)) {
            return self.deliver(packet, key, backend, "connection_id", seen);
        }
        let reopened = seen.is_some_and(|seen| seen.reason == "new_flow");
        let (backend, reason) = match self.state.flows.get_mut(&key) {
            Some(flow) if !(step.opens && flow.may_have_ended && reopened) => {
                flow.may_have_ended |= step.ends;
                let shown = flow.shown.then_some(flow.backend);
                (shown.map_or_else(|| self.choose(vip, seen), Ok)?, "established")
            }
            _ if step.opens => (self.choose(vip, seen)?, "new_flow"),
            _ if matches!(vip.mode, Mode::Nat | Mode::OneArmedNat) => {
                return Err((Act::Drop, "unknown_flow_nat"));
            }
            _ => (self.choose(vip, seen)?, "unknown_flow"),
        };
        if reason == "new_flow" {
            let mac = |at: usize| packet.frame[at..at + 6].try_into().expect("six bytes");
            let macs = (mac(6), mac(0));
            let flow = Flow { backend, shown: false, may_have_ended: step.ends, macs, port: None };
            self.state.flows.insert(key, flow);
        }
        let delivered = self.deliver(packet, key, backend, reason, seen);
        let went = delivered.as_ref().is_ok_and(|decision| decision.act == Act::Forward);
        if let Some(flow) = self.state.flows.get_mut(&key) {
            if went {
                (flow.backend, flow.shown) = (backend, true);
            } else {
                // It may have opened its flow or not.
                flow.may_have_ended |= !flow.shown;
            }
        }
        delivered
    }

    /// One that may get a flow: the one that got it, if it may.
    pub(super) fn choose(&self, vip: &Vip, seen: Option<Seen<'_>>) -> Result<usize, Verdict> {
        let may = |backend: &usize| vip.backends[*backend].eligible;
        let did = |backend: &usize| seen.is_some_and(|seen| seen.frame[..6] == vip.backends[*backend].mac);
        let all = || (0..vip.backends.len()).filter(may);
        all().find(did).or_else(|| all().next()).ok_or((Act::Drop, "no_backend"))
    }

    fn deliver(
        &mut self,
        packet: &Packet<'_>,
        key: Key,
        backend: usize,
        reason: &'static str,
        seen: Option<Seen<'_>>,
    ) -> Outcome {
        let vip = &self.config.vips[key.2];
        let server = &vip.backends[backend];
        let mut draft = Draft::of(packet);
        draft.decrement_ttl();
        let source = match vip.mode {
            Mode::OneArmedNat => Some(self.source_for(packet, key, seen).ok_or((Act::Drop, "no_port"))?),
            _ => None,
        };
        if let Mode::Nat | Mode::OneArmedNat = vip.mode {
            draft.translate(source, Some((server.address, server.port)));
        }
        if let Some(answer) = Self::too_big(packet, vip, server) {
            // No ICMP error is sent about a later fragment, nor about ICMP.
            let answered =
                packet.part.is_none_or(|part| part.offset == 0) && matches!(packet.protocol, 6 | 17);
            return if answered { Ok(answer) } else { Err((Act::Drop, "too_big_unanswered")) };
        }
        let outer = self.send(&mut draft, vip, backend, self.state.outer.get(&key), seen)?;
        if let Some(outer) = outer {
            self.state.outer.insert(key, outer);
        }
        if let (Some(flow), Some(_)) = (self.state.flows.get_mut(&key), source) {
            flow.port = source;
        }
        if let Some(part) = part_key(packet) {
            let way = Way::ToBackend(key.2, backend, source.map(|(address, _)| address));
            self.state.parts.insert(part, (way, self.state.now));
        }
        Ok(draft.done(reason))
    }

    /// The address and port that stand for a client: those it has, or a free one that the program took.
    fn source_for(&self, packet: &Packet<'_>, key: Key, seen: Option<Seen<'_>>) -> Option<(IpAddr, u16)> {
        if let Some(port) = self.state.flows.get(&key).and_then(|flow| flow.port) {
            return Some(port);
        }
        let taken = seen.and_then(|seen| {
            let out = read(seen.frame).ok()?;
            Some((out.source, out.ports()?.0))
        });
        let free = |at: &(IpAddr, u16)| {
            let is_free = !self.state.flows.values().any(|flow| flow.port == Some(*at));
            self.config.sources.contains(&at.0) && at.1 >= 1024 && is_free
        };
        let own = self.config.sources.iter().find(|own| own.is_ipv4() == packet.source.is_ipv4())?;
        taken.filter(free).or(Some((*own, 1024)))
    }

    fn of_backend(&mut self, packet: &Packet<'_>, key: Key) -> Outcome {
        may_go_on(packet)?;
        let step = step(packet)?;
        let flow = self.state.flows.get_mut(&key).expect("the flow was found");
        flow.may_have_ended |= step.ends;
        let vip = &self.config.vips[key.2];
        let client = flow.port.map(|_| (key.0, key.1));
        let mut draft = Draft::of(packet);
        draft.decrement_ttl();
        draft.translate(Some((vip.address, vip.port)), client);
        draft.macs(flow.macs.0, flow.macs.1);
        if let Some(part) = part_key(packet) {
            let way = Way::ToClient(vip.address, client.map(|(address, _)| address), flow.macs);
            self.state.parts.insert(part, (way, self.state.now));
        }
        Ok(draft.done("returned"))
    }
}

/// What is done, and why, with a frame that stays as it is.
pub(super) type Verdict = (Act, &'static str);
/// A changed frame, or a verdict on the one that came.
pub(super) type Outcome = Result<Decision, Verdict>;

pub(super) const NOT_OURS: Verdict = (Act::Pass, "not_ours");
pub(super) const OTHER_PROTOCOL: Verdict = (Act::Pass, "other_protocol");
pub(super) const TRUNCATED: Verdict = (Act::Drop, "truncated");

pub(super) fn may_go_on(packet: &Packet<'_>) -> Result<(), Verdict> {
    if packet.ttl <= 1 { Err((Act::Drop, "ttl_expired")) } else { Ok(()) }
}

fn part_key(packet: &Packet<'_>) -> Option<(IpAddr, IpAddr, u32, u8)> {
    packet.part.map(|part| (packet.source, packet.destination, part.id, part.protocol))
}

/// Checks that the transport header is whole, and tells what the packet does.
fn step(packet: &Packet<'_>) -> Result<Step, Verdict> {
    const UDP_HEADER: usize = 8;
    const TCP_HEADER: usize = 20;
    if packet.protocol == UDP {
        packet.within(UDP_HEADER).filter(|_| packet.is_whole()).ok_or(TRUNCATED)?;
        return Ok(Step { opens: true, ends: false });
    }
    let header = packet.within(TCP_HEADER).filter(|_| packet.is_whole()).ok_or(TRUNCATED)?;
    let length = usize::from(header[12] >> 4) * 4;
    if length < TCP_HEADER || packet.within(length).is_none() {
        return Err(TRUNCATED);
    }
    let [fin, syn, rst, ack] = [1, 2, 4, 16].map(|bit| header[13] & bit != 0);
    Ok(Step { opens: syn && !ack && !rst, ends: fin || rst })
}

/// The backend that a QUIC packet's connection ID names (RFC 8999; draft-ietf-quic-load-balancers).
fn named(vip: &Vip, quic: Quic, packet: &Packet<'_>) -> Option<usize> {
    let payload = packet.upper().get(8..)?;
    let first = *payload.first()?;
    let start = match first & 0x80 {
        0 => 1,
        // Other versions number their types otherwise.
        _ if payload.get(1..5)? != [0, 0, 0, 1] => return None,
        _ if first >> 4 & 3 != 2 => return None,
        _ if usize::from(*payload.get(5)?) <= quic.length => return None,
        _ => 6,
    };
    // A packet is never so short that an ID of the greatest length would not fit.
    let id = payload.get(start..start + 9)?;
    let bytes = &id[1..=quic.length];
    if id[0] >> 5 != quic.config {
        return None;
    }
    let name = bytes.iter().fold(0, |name, byte| name << 8 | u64::from(*byte));
    vip.backends.iter().position(|backend| backend.server_id == Some(name) && backend.eligible)
}
