//! What a packet does to a flow, judged from the client's direction alone, so that it holds under direct
//! server return and through TLS.

use crate::slot::{self, State};

/// TCP flags as they stand in the header's 14th byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;

    /// Whether any of `bits` is set.
    #[inline(always)]
    pub const fn has(self, bits: u8) -> bool {
        self.0 & bits != 0
    }

    /// Whether this opens a connection: SYN without ACK or RST.
    #[inline(always)]
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST) == Self::SYN
    }
}

/// One TCP segment from the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Flags.
    pub flags: Flags,
    /// Sequence number, host byte order.
    pub sequence: u32,
    /// Acknowledgement number, host byte order.
    pub acknowledged: u32,
    /// Bytes of payload.
    pub payload: u32,
    /// What the payload starts with.
    pub record: Record,
}

/// What a payload starts with, as far as requests can be told by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Record {
    /// No TLS record: plain text, or the middle of one.
    #[default]
    Other = 0,
    /// A TLS handshake or change-cipher-spec record: part of opening the connection, not a request.
    Handshake = 1,
    /// A TLS record of application data.
    Data = 2,
}

impl Record {
    /// From its number.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Handshake,
            2 => Self::Data,
            _ => Self::Other,
        }
    }
}

/// What is remembered of a flow's numbers; part of its cold line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Track {
    /// End of the highest payload seen from the client.
    pub high_sequence: u32,
    /// The client's acknowledgement when the request went out, or when it was last noted. In `nat`, and
    /// half-open, the acknowledgement that would confirm the server's SYN-ACK.
    pub baseline: u32,
    /// [`FINISHED`], [`ANSWERED`], [`TLS`] and [`BOTH_WAYS`], whether session tickets may come and how much has, a count
    /// of SYNs sent again, and how much the request under way asks.
    pub flags: u32,
}

impl Track {
    /// More of the request under way.
    #[inline(always)]
    const fn ask(self, payload: u32) -> Self {
        let asked = (self.flags >> ASKED) + (payload + ASKED_UNIT / 2) / ASKED_UNIT;
        let asked = if asked > ASKED_MOST { ASKED_MOST } else { asked };
        Self { flags: self.flags & !ASKED_MASK | asked << ASKED, ..self }
    }

    /// Whether what comes may be session tickets, which are no answer: see [`Track::excuse`].
    #[inline(always)]
    pub const fn has_tickets(&self) -> bool {
        self.flags & TICKETS != 0
    }

    /// The same, but what a server has sent up to `acknowledged` is no progress: it was [too early](is_early).
    #[inline(always)]
    pub const fn excuse(self, acknowledged: u32) -> Self {
        let sent = advance(self.baseline, acknowledged);
        if sent <= 0 || sent > EARLY_MOST as i32 {
            return self;
        }
        let early = (sent as u32).div_ceil(EARLY_UNIT) << EARLY;
        Self { flags: self.flags & !EARLY_MASK | early, ..self }
    }

    /// Bytes of an answer that are no progress, of which `headers` are so always.
    #[inline(always)]
    const fn skip(&self, headers: u32) -> u32 {
        let early = ((self.flags & EARLY_MASK) >> EARLY) * EARLY_UNIT;
        if early > headers { early } else { headers }
    }

    #[inline(always)]
    const fn answered(self) -> Self {
        Self { flags: self.flags & !(TICKETS | EARLY_MASK), ..self }
    }

    /// The size of the request under way, as slots have it: below [`slot::SIZES`].
    #[inline(always)]
    pub const fn size(&self) -> u32 {
        size_of_request((self.flags >> ASKED) * ASKED_UNIT)
    }
}

/// The size of a request of so many bytes, as slots have it.
#[inline(always)]
pub const fn size_of_request(bytes: u32) -> u32 {
    let size = u32::BITS - (bytes >> 10).leading_zeros();
    if size < slot::SIZES { size } else { slot::SIZES - 1 }
}

/// The client has sent FIN.
pub const FINISHED: u32 = 1;
/// The server's SYN-ACK was seen, and `baseline` is what acknowledges it (`nat`).
pub const ANSWERED: u32 = 2;

/// A TLS handshake was seen: payload that starts with no record is the rest of one (hellos with
/// post-quantum keys do not fit one segment), never a request.
pub const TLS: u32 = 4;

/// Answers pass here too (`nat`), so a connection that is real has a SYN-ACK: no payload promotes a half-open
/// flow without it.
pub const BOTH_WAYS: u32 = 8;

/// A TLS handshake was seen and no answer since: the server's session tickets may come first (RFC 8446 section 4.6.1).
const TICKETS: u32 = 16;

/// From which bit on the flags hold how much of what came first was excused, in units of so many bytes: eight bits.
const EARLY: u32 = 10;
const EARLY_UNIT: u32 = 4;
const EARLY_MASK: u32 = 0xff << EARLY;

/// Two tickets of some 250 bytes are the rule (OpenSSL's default), and headers may come with them. More is an answer.
const EARLY_MOST: u32 = (EARLY_MASK >> EARLY) * EARLY_UNIT;

/// A handshake that took longer than a round trip round the world was a client that took its time.
const TRIP_NS: u64 = 300_000_000;

/// Linux holds an acknowledgement back by 40 ms at most (`TCP_DELACK_MIN`), and a busy server may need 4 ms.
const GRACE_NS: u64 = 44_000_000;

/// Whether it is too early for an answer, so long after the first request of a TLS connection: tickets, and headers
/// that do not wait for a first token, are there after a round trip, as long as the handshake took.
#[inline(always)]
pub const fn is_early(since_request_ns: u64, handshake_ns: u64) -> bool {
    let trip = if handshake_ns < TRIP_NS { handshake_ns } else { TRIP_NS };
    since_request_ns <= trip + GRACE_NS
}

/// More than servers say before they have the whole request: a status line of HTTP is shorter than its headers, and
/// `100 Continue` and updates of HTTP/2's windows are all there is.
const SHORTEST_ANSWER: i32 = 64;

/// From which bit on the flags hold how much was asked, in units of so many bytes: twelve bits, 256 KiB.
const ASKED: u32 = 20;
const ASKED_UNIT: u32 = 64;
const ASKED_MASK: u32 = u32::MAX << ASKED;
const ASKED_MOST: u32 = ASKED_MASK >> ASKED;

/// Where the flags count SYNs sent again without an answer, in two bits.
const RETRANSMITS: u32 = 8;
/// How often a SYN is sent again before the silence says something about the server: the first time may be
/// loss (RFC 6298 waits one second, then two).
const UNANSWERED: u32 = 2;

/// A payload this far behind the highest is from a new connection of the same port, whose start was missed.
const REUSED: i32 = 1 << 24;

/// A reset counts if its number is this close to the highest seen: a blind one has a chance in 32,000.
const RESET_WINDOW: u32 = 1 << 16;

/// Bytes a client may acknowledge after its FIN before the flow counts as live again: what was in flight,
/// the server's own FIN, a last chunk's trailer.
pub const CLOSING_SLACK: u32 = 64;

/// What happened, for those who keep statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing of note.
    None,
    /// A new request went out: its clock starts.
    Request,
    /// The first progress of the answer: the request's clock stops.
    Progress,
    /// The client has sent its SYN a third time: nobody answers it.
    Unanswered,
}

/// What a segment leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The flow's next state.
    pub state: State,
    /// The flow's numbers from now on.
    pub track: Track,
    /// What to count.
    pub event: Event,
}

/// Whether a segment can change nothing but a flow's age, so that the cold line need not be read.
///
/// True of what most packets of an answer are: a bare ACK while streaming.
#[inline(always)]
pub const fn is_quiet(state: State, segment: &Segment) -> bool {
    matches!(state, State::Streaming)
        && segment.payload == 0
        && !segment.flags.has(Flags::SYN | Flags::FIN | Flags::RST)
}

/// A quiet segment that is the first in its tick: its acknowledgement is noted, so that a later one in
/// silence is not taken for progress.
#[inline(always)]
pub const fn on_quiet(state: State, track: Track, segment: &Segment) -> Verdict {
    Verdict { state, track: Track { baseline: segment.acknowledged, ..track }, event: Event::None }
}

/// Signed distance from `from` to `to` in sequence space (RFC 9293 section 3.4).
#[inline(always)]
const fn advance(from: u32, to: u32) -> i32 {
    to.wrapping_sub(from) as i32
}

/// A segment of a known flow from its client. `skip` is how many bytes of answer are headers, not progress.
///
/// SYNs that open a connection are not for this function: they go to [`on_syn`].
#[inline(always)]
pub fn on_segment(state: State, track: Track, segment: &Segment, skip: u32) -> Verdict {
    if segment.flags.has(Flags::RST) {
        // Before the first payload no number tells the client's reset from a forged one; the flow is no load for
        // long, and keeps its server for the SYN that comes again.
        if matches!(state, State::Opening | State::Stale) && track.flags & BOTH_WAYS == 0 {
            return Verdict { state, track, event: Event::None };
        }
        let near = advance(track.high_sequence, segment.sequence).unsigned_abs() <= RESET_WINDOW;
        return Verdict { state: if near { State::Closed } else { state }, track, event: Event::None };
    }
    let end = segment.sequence.wrapping_add(segment.payload);
    let ahead = advance(track.high_sequence, end);
    let fresh = segment.payload > 0 && !(-REUSED..=0).contains(&ahead);
    let asks = fresh && is_request(&track, segment.record);
    let progress = advance(track.baseline, segment.acknowledged);
    let mut verdict = match state {
        State::Awaiting if progress > track.skip(skip) as i32 => answered(track, segment, asks),
        // An answer that is no longer than headers are has come and gone.
        State::Awaiting if asks && progress > SHORTEST_ANSWER => request(track.answered(), segment),
        State::Awaiting => Verdict { state, track, event: Event::None },
        State::Opening | State::Stale if track.flags & (BOTH_WAYS | ANSWERED) == BOTH_WAYS => {
            Verdict { state, track, event: Event::None }
        }
        _ if asks => request(track, segment),
        State::Opening | State::Stale => on_handshake(state, track, segment, fresh),
        State::Idle | State::Closed
            if progress > 0 && advance(track.high_sequence, segment.sequence) >= 0 =>
        {
            streaming(track, segment)
        }
        State::Closing if progress > CLOSING_SLACK as i32 => streaming(track, segment),
        _ => Verdict { state, track, event: Event::None },
    };
    if fresh {
        verdict.track.high_sequence = end;
        if matches!(segment.record, Record::Handshake) {
            verdict.track.flags |= TLS | TICKETS;
        }
        if matches!(verdict.state, State::Awaiting) {
            // What came before is not asked twice; where the start was missed, all of it is new.
            let new =
                if ahead > 0 && (ahead as u32) < segment.payload { ahead as u32 } else { segment.payload };
            verdict.track = verdict.track.ask(new);
        }
    }
    if segment.flags.has(Flags::FIN) {
        verdict.track.flags |= FINISHED;
        if !matches!(verdict.state, State::Awaiting) {
            verdict.state = State::Closing;
            verdict.track.baseline = segment.acknowledged;
        }
    }
    verdict
}

/// Whether fresh payload asks for something, rather than opening a TLS connection.
#[inline(always)]
const fn is_request(track: &Track, record: Record) -> bool {
    match record {
        Record::Handshake => false,
        Record::Data => true,
        Record::Other => track.flags & TLS == 0,
    }
}

/// The answer has begun; a payload in the same segment is already the next request.
#[inline(always)]
fn answered(track: Track, segment: &Segment, asks: bool) -> Verdict {
    let track = track.answered();
    if asks {
        return request(track, segment);
    }
    Verdict { event: Event::Progress, ..streaming(track, segment) }
}

#[inline(always)]
fn request(track: Track, segment: &Segment) -> Verdict {
    let flags = track.flags & !ASKED_MASK;
    let track = Track { baseline: segment.acknowledged, flags, ..track };
    Verdict { state: State::Awaiting, track, event: Event::Request }
}

#[inline(always)]
fn streaming(track: Track, segment: &Segment) -> Verdict {
    let track = Track { baseline: segment.acknowledged, ..track };
    Verdict { state: State::Streaming, track, event: Event::None }
}

/// Half-open flows are promoted by payload, or by the acknowledgement of a SYN-ACK that was really seen:
/// bare ACKs are what a flood can forge.
#[inline(always)]
fn on_handshake(state: State, track: Track, segment: &Segment, fresh: bool) -> Verdict {
    let confirmed = track.flags & ANSWERED != 0 && segment.acknowledged == track.baseline;
    if fresh || confirmed {
        return Verdict { state: State::Idle, ..streaming(track, segment) };
    }
    Verdict { state, track, event: Event::None }
}

/// A SYN for a flow that is in the table.
///
/// Only a `closing` flow opens anew, with its backend; any other keeps its state: it is a retransmit, or a
/// forgery. A `closed` one is not for this function: it is picked anew.
#[inline(always)]
pub const fn on_syn(state: State, track: Track, segment: &Segment) -> Verdict {
    match state {
        State::Closing => Verdict {
            state: State::Opening,
            track: opened(segment, track.flags & BOTH_WAYS),
            event: Event::None,
        },
        State::Opening | State::Stale => on_syn_again(state, track, segment),
        _ => Verdict { state, track, event: Event::None },
    }
}

#[inline(always)]
const fn on_syn_again(state: State, track: Track, segment: &Segment) -> Verdict {
    let sent = track.flags >> RETRANSMITS & 3;
    let same = track.high_sequence == segment.sequence.wrapping_add(1);
    if !same || track.flags & ANSWERED != 0 || sent >= UNANSWERED {
        return Verdict { state, track, event: Event::None };
    }
    let event = if sent + 1 == UNANSWERED { Event::Unanswered } else { Event::None };
    Verdict { state, track: Track { flags: track.flags + (1 << RETRANSMITS), ..track }, event }
}

/// The numbers of a flow that opens with `segment`; `flags` are 0 or [`BOTH_WAYS`].
#[inline(always)]
pub const fn opened(segment: &Segment, flags: u32) -> Track {
    // The SYN takes one number, so the first payload byte is the next.
    Track { high_sequence: segment.sequence.wrapping_add(1), baseline: segment.acknowledged, flags }
}

/// Whether the numbers in the line of a flow's slot, which are of the same client and port, are of this very
/// connection: those of a half-open one are not written down before its second SYN, unless answers pass here.
#[inline(always)]
pub const fn is_begun(state: State, track: &Track, segment: &Segment) -> bool {
    match state {
        State::Opening | State::Stale if track.flags & BOTH_WAYS == 0 => {
            if segment.flags.opens() {
                track.high_sequence == segment.sequence.wrapping_add(1)
            } else {
                // The first payload stands for itself; a reset must fit the numbers, whosever they are.
                segment.payload == 0
            }
        }
        _ => true,
    }
}

/// Whether a segment is enough to begin the numbers of a flow whose opening nobody wrote down.
#[inline(always)]
pub const fn begins(segment: &Segment) -> bool {
    !segment.flags.has(Flags::RST) && (segment.payload > 0 || segment.flags.has(Flags::SYN | Flags::FIN))
}

/// The numbers of a flow whose opening nobody wrote down, from the first segment that says something of it: its
/// payload is the first.
#[inline(always)]
pub const fn found(segment: &Segment) -> Track {
    match segment.flags.opens() {
        true => opened(segment, 0),
        false => Track { high_sequence: segment.sequence, baseline: segment.acknowledged, flags: 0 },
    }
}

/// The server's SYN-ACK, seen on the return path of `nat`.
#[inline(always)]
pub const fn on_syn_ack(track: Track, sequence: u32) -> Track {
    Track { baseline: sequence.wrapping_add(1), flags: track.flags | ANSWERED, ..track }
}

/// Payload of an answer, seen on the return path of `nat`: `end` is the sequence number behind it.
#[inline(always)]
pub const fn on_answer(state: State, track: Track, end: u32, skip: u32) -> Verdict {
    match state {
        State::Awaiting if advance(track.baseline, end) > track.skip(skip) as i32 => {
            Verdict { state: State::Streaming, track: track.answered(), event: Event::Progress }
        }
        _ => Verdict { state, track, event: Event::None },
    }
}

/// A datagram of a known flow: half-open until its second, then it lives by time-out.
#[inline(always)]
pub const fn on_datagram(state: State) -> State {
    match state {
        State::Empty | State::Closed => State::Opening,
        _ => State::Streaming,
    }
}
