//! Traffic that is made where it is steered: floods of forged packets, and flows that come and go.
//!
//! Each packet is written over the last one, so it makes no difference whether frames are live ones, sent on for
//! real, or all the same one. IPv4 checksums stay the template's: nothing on the way reads them.

mod layout;

use aya_ebpf::{
    bindings::xdp_action, btf_maps::Array, helpers::bpf_get_smp_processor_id, macros::btf_map,
    programs::XdpContext,
};
use lb_common::track::Flags;

use crate::bytes::Bytes;
use layout::{
    ACKNOWLEDGED, ANSWER, CPUS, End, Kind, PACKETS_OF_FLOW, REQUEST, SEQUENCE, Storm, TEMPLATE_WORDS,
    elder_of, end_of, random,
};

#[btf_map]
pub static BENCH_STORM: Array<Storm, CPUS> = Array::new();

/// The headers of a frame.
type Headers = Bytes<{ TEMPLATE_WORDS * 8 }>;

const TOTAL_LENGTH: usize = 16;
const IDENTIFICATION: usize = 18;
const FRAGMENT: usize = 20;
const SOURCE: usize = 26;
const SOURCE_PORT: usize = 34;
const SEQUENCE_NUMBER: usize = 38;
const ACKNOWLEDGEMENT: usize = 42;
const TCP_FLAGS: usize = 47;

/// IPv4 and TCP headers without options.
const HEADERS: u32 = 40;

/// Steers the next packet. What is left out is passed, uncounted.
#[inline(always)]
pub fn steer(ctx: &XdpContext) -> u32 {
    match prepare(ctx) {
        Some(true) => crate::steer::packet(ctx),
        Some(false) => xdp_action::XDP_PASS,
        None => xdp_action::XDP_ABORTED,
    }
}

/// Writes the next packet; false if there is none this time.
#[inline(always)]
fn prepare(ctx: &XdpContext) -> Option<bool> {
    // SAFETY: the helper takes nothing and has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let place = BENCH_STORM.get_ptr_mut(cpu)?;
    // SAFETY: a field of a map element, of which this CPU is the only user at the time.
    let number = unsafe { (&raw const (*place).next).read() };
    // SAFETY: as above.
    unsafe { (&raw mut (*place).next).write(number + 1) };
    // SAFETY: a whole element, which nothing changes until the next packet.
    let storm = unsafe { &*place };
    let headers = Headers::at(ctx, 0).ok()?;
    restore(headers, &storm.template);
    if storm.kind == Kind::Churn as u32 {
        return Some(churn(headers, storm, number));
    }
    forge(headers, storm, number);
    Some(true)
}

#[inline(always)]
fn restore(headers: Headers, template: &[u64; TEMPLATE_WORDS]) {
    headers.set_u64::<0>(template[0]);
    headers.set_u64::<8>(template[1]);
    headers.set_u64::<16>(template[2]);
    headers.set_u64::<24>(template[3]);
    headers.set_u64::<32>(template[4]);
    headers.set_u64::<40>(template[5]);
    headers.set_u64::<48>(template[6]);
    headers.set_u64::<56>(template[7]);
    headers.set_u64::<64>(template[8]);
    headers.set_u64::<72>(template[9]);
    headers.set_u64::<80>(template[10]);
    headers.set_u64::<88>(template[11]);
}

/// A packet from a source that nobody else has: in 32.0.0.0/3.
#[inline(always)]
fn forge(headers: Headers, storm: &Storm, number: u64) {
    /// More fragments follow; and one that lies behind 1,480 bytes of payload.
    const FIRST: u16 = 0x2000;
    const LATER: u16 = 185;
    let fragments = storm.kind == Kind::Fragments as u32;
    // Of four packets two are of one datagram.
    let pair = fragments && number & 2 == 0;
    let drawn = random(storm.seed, if pair { number & !1 } else { number });
    headers.set_u32::<SOURCE>(((drawn as u32 >> 3) | 0x2000_0000).to_be());
    headers.set_u16::<SOURCE_PORT>((drawn >> 32) as u16 | 1);
    if storm.kind == Kind::Segments as u32 {
        let numbers = random(!storm.seed, number);
        headers.set_u32::<SEQUENCE_NUMBER>(numbers as u32);
        headers.set_u32::<ACKNOWLEDGEMENT>((numbers >> 32) as u32);
    } else if storm.kind != Kind::Datagrams as u32 {
        headers.set_u16::<IDENTIFICATION>((drawn >> 48) as u16);
        headers.set_u16::<FRAGMENT>(if number & 3 == 0 { FIRST } else { LATER }.to_be());
    }
}

/// A flow's SYN, request or acknowledgement of the answer, or the end of another flow.
#[inline(always)]
fn churn(headers: Headers, storm: &Storm, number: u64) -> bool {
    const PORT_BITS: u32 = 15;
    const PORT_BASE: u16 = 0x4000;
    let newest = number / PACKETS_OF_FLOW;
    let (mut flow, mut payload) = (newest, 0);
    let (mut sequence, mut acknowledged) = (SEQUENCE + 1, ACKNOWLEDGED);
    let flags = match number % PACKETS_OF_FLOW {
        0 => {
            (sequence, acknowledged) = (SEQUENCE, 0);
            Flags::SYN
        }
        1 => {
            payload = REQUEST;
            Flags::ACK
        }
        2 => {
            (sequence, acknowledged) = (sequence + REQUEST, acknowledged + ANSWER);
            Flags::ACK
        }
        _ => {
            let Some(elder) = elder_of(storm.live, newest) else { return false };
            flow = elder;
            (sequence, acknowledged) = (sequence + REQUEST, acknowledged + ANSWER);
            match end_of(storm.seed, elder) {
                End::Finish => Flags::FIN | Flags::ACK,
                End::Reset => Flags::RST,
                End::Silence => return false,
            }
        }
    };
    headers.set_u16::<TOTAL_LENGTH>(((HEADERS + payload) as u16).to_be());
    headers.set_u32::<SOURCE>((storm.client + (flow >> PORT_BITS) as u32).to_be());
    headers.set_u16::<SOURCE_PORT>((PORT_BASE + (flow as u16 & ((1 << PORT_BITS) - 1))).to_be());
    headers.set_u32::<SEQUENCE_NUMBER>(sequence.to_be());
    headers.set_u32::<ACKNOWLEDGEMENT>(acknowledged.to_be());
    headers.set_u8::<TCP_FLAGS>(flags);
    true
}
