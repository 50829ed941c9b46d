//! The way of a packet through the program, and the count of what became of it.
//!
//! Its parts are BPF global functions of the context, each verified by itself for any packet; between them a
//! packet's values lie in [`crate::packet::current`].

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use lb_common::{
    address::Endpoint,
    layout::{self, NO_VIP, vip_flags},
    reason::{Action, REASONS, Reason},
    slot::MAX_BACKENDS,
};

use crate::{
    backends, client,
    deliver::{self, Way},
    fragments,
    headers::{self, kind},
    icmp, maps, neighbour, opening,
    packet::{self, Packet},
    server, too_big,
};

/// What to do with a packet, and why.
pub type Outcome = Result<(u32, Reason), Reason>;

/// What a part of the program gives to the next, as one number:
///
/// | bits | field |
/// |---|---|
/// | 3..0 | action, or [`DELIVER`] |
/// | 9..4 | reason |
/// | 20..10 | the VIP it is counted for |
/// | 32..21 | the backend to deliver to |
/// | 63..33 | the flow's number, all ones without one |
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Verdict(pub u64);

/// No XDP actions: the packet is to be delivered to a backend; to one yet to be guessed; to one yet to be picked
/// for a new flow.
const DELIVER: u64 = 15;
const GUESS: u64 = 14;
const PICK: u64 = 13;

const REASON_SHIFT: u32 = 4;
const OWNER_SHIFT: u32 = 10;
const BACKEND_SHIFT: u32 = 21;
const NUMBER_SHIFT: u32 = 33;

/// The number of no flow.
const NO_NUMBER: u32 = u32::MAX >> 1;

const _: () = assert!(REASONS <= 1 << 6 && (NO_VIP as u32) < 1 << 11 && MAX_BACKENDS <= 1 << 12);

impl Verdict {
    /// What cannot happen: this CPU has no packet.
    pub const INTERNAL: Self = Self::packed(xdp_action::XDP_DROP as u64, Reason::Internal, NO_VIP);

    #[inline(always)]
    const fn packed(action: u64, reason: Reason, owner: u16) -> Self {
        Self(action | (reason as u64) << REASON_SHIFT | (owner as u64) << OWNER_SHIFT)
    }

    /// Packs an outcome.
    #[inline(always)]
    pub fn new(outcome: Outcome, owner: u16) -> Self {
        let (action, reason) = match outcome {
            Ok(done) => done,
            Err(reason) => (action_of(reason), reason),
        };
        Self::packed(u64::from(action & 7), reason, owner)
    }

    /// The packet goes to a backend.
    #[inline(always)]
    pub fn deliver(vip: u16, backend: u16, way: Way, reason: Reason) -> Self {
        let number = match way {
            Way::Flow(number) => number & NO_NUMBER,
            Way::Table => NO_NUMBER,
        };
        let Self(packed) = Self::packed(DELIVER, reason, vip);
        Self(packed | u64::from(backend) << BACKEND_SHIFT | u64::from(number) << NUMBER_SHIFT)
    }

    /// The packet opens a flow: see [`opening::pick`].
    #[inline(always)]
    pub fn pick(vip: u16) -> Self {
        Self::packed(PICK, Reason::NewFlow, vip)
    }

    /// The packet goes where packets of unknown flows go: see [`opening::guess`].
    #[inline(always)]
    pub fn guess(vip: u16, reason: Reason) -> Self {
        Self::packed(GUESS, reason, vip)
    }

    /// The same, now that the backend is known.
    #[inline(always)]
    pub fn to(self, backend: u16) -> Self {
        let number = u64::from(NO_NUMBER) << NUMBER_SHIFT;
        Self(self.0 | DELIVER | u64::from(backend) << BACKEND_SHIFT | number)
    }

    /// The VIP it is counted for.
    #[inline(always)]
    pub const fn owner(self) -> u16 {
        (self.0 >> OWNER_SHIFT) as u16 & 0x7ff
    }

    /// The backend to deliver to.
    #[inline(always)]
    pub const fn backend(self) -> u16 {
        (self.0 >> BACKEND_SHIFT) as u16 & (MAX_BACKENDS as u16 - 1)
    }

    /// How it was found.
    #[inline(always)]
    pub const fn way(self) -> Way {
        match (self.0 >> NUMBER_SHIFT) as u32 {
            NO_NUMBER => Way::Table,
            number => Way::Flow(number),
        }
    }

    /// The same for the same reason, now that it is delivered.
    #[inline(always)]
    pub const fn done(self, action: u32) -> Self {
        Self(self.0 & !DELIVER | action as u64 & 7)
    }

    #[inline(always)]
    const fn action(self) -> u64 {
        self.0 & 15
    }

    #[inline(always)]
    const fn reason(self) -> u8 {
        (self.0 >> REASON_SHIFT) as u8 & 63
    }
}

/// Takes a packet through the program.
#[inline(always)]
pub fn packet(ctx: &XdpContext) -> u32 {
    let Some(packet) = packet::current() else { return xdp_action::XDP_PASS };
    let kind = match packet::read_plain(ctx, packet) {
        true => kind::FLOW,
        false => headers::guidevane_headers(ctx.ctx),
    };
    let verdict = match kind {
        kind::FLOW => flow(ctx, packet),
        kind::ICMP => Verdict(icmp::guidevane_icmp(ctx.ctx)),
        kind::LATER => Verdict(fragments::guidevane_fragment(ctx.ctx)),
        _ => Verdict(neighbour::guidevane_other(ctx.ctx, kind)),
    };
    let verdict = match verdict.action() {
        PICK => opening::pick(ctx, packet, verdict),
        GUESS => opening::guess(packet, verdict),
        _ => verdict,
    };
    count(match verdict.action() {
        DELIVER => deliver(ctx, packet, verdict),
        _ => verdict,
    })
}

#[inline(always)]
fn flow(ctx: &XdpContext, packet: &mut Packet) -> Verdict {
    match client::vip_of(packet) {
        Some((element, vip)) => client::to_vip(ctx, packet, element, vip),
        None => Verdict(server::guidevane_server(ctx.ctx)),
    }
}

#[inline(always)]
fn deliver(ctx: &XdpContext, packet: &mut Packet, verdict: Verdict) -> Verdict {
    let verdict = deliver::deliver(ctx, packet, verdict);
    if verdict.reason() == Reason::TooBig as u8 {
        return Verdict(too_big::guidevane_too_big(ctx.ctx, verdict.owner().into()));
    }
    verdict
}

/// Counts a verdict and gives its action.
#[inline(always)]
fn count(verdict: Verdict) -> u32 {
    if let Some(seen) =
        maps::REASONS_SEEN.get_ptr_mut(layout::reason_place(verdict.owner(), verdict.reason()))
    {
        // SAFETY: this CPU's own element of the map.
        unsafe { *seen += 1 };
    }
    verdict.action() as u32
}

/// `reason` if the packet is for the address of a VIP, else it is not ours.
#[inline(always)]
pub fn for_address(packet: &Packet, reason: Reason) -> Reason {
    match backends::vip_at(&Endpoint::address_only(packet.destination)) {
        Some((_, address)) if address.flags & vip_flags::SOURCE_ADDRESS == 0 => reason,
        _ => Reason::NotOurs,
    }
}

/// The XDP action of a packet that is not forwarded.
#[inline(always)]
const fn action_of(reason: Reason) -> u32 {
    match reason.action() {
        Action::Pass => xdp_action::XDP_PASS,
        _ => xdp_action::XDP_DROP,
    }
}
