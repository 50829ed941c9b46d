//! What single segments and short exchanges do to a flow.

use lb_common::{
    slot::State,
    track::{
        ANSWERED, BOTH_WAYS, CLOSING_SLACK, Event, FINISHED, Flags, Record, Segment, Track, Verdict,
        is_early, is_quiet, on_answer, on_datagram, on_quiet, on_segment, on_syn, on_syn_ack, opened,
        size_of_request,
    },
};
use proptest::{
    prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_assume, prop_oneof, proptest},
    sample::select,
};

use crate::slot::states;

const SKIP: u32 = 200;
/// The client's next sequence number and acknowledgement in the table cases.
const NEXT: u32 = 5_000;
const SEEN: u32 = 90_000;
/// Payload further behind than this is a new connection's.
const REUSED: i32 = 1 << 24;
const TRACK: Track = Track { high_sequence: NEXT, baseline: SEEN, flags: 0 };

/// A segment of the client: `payload` bytes of something other than a handshake, acknowledging `acknowledged`.
const fn data(sequence: u32, payload: u32, acknowledged: u32) -> Segment {
    Segment { flags: Flags(Flags::ACK), sequence, acknowledged, payload, record: Record::Other }
}

const fn ack(acknowledged: u32) -> Segment {
    data(NEXT, 0, acknowledged)
}

const fn with(flags: u8, segment: Segment) -> Segment {
    Segment { flags: Flags(segment.flags.0 | flags), ..segment }
}

const fn handshake(segment: Segment) -> Segment {
    Segment { record: Record::Handshake, ..segment }
}

/// Puts segments through, and gives what was counted and the last verdict.
fn follow(state: State, track: Track, segments: &[Segment]) -> (Vec<Event>, Verdict) {
    let mut last = Verdict { state, track, event: Event::None };
    let mut events = Vec::new();
    for segment in segments {
        last = if segment.flags.opens() {
            on_syn(last.state, last.track, segment)
        } else if is_quiet(last.state, segment) {
            on_quiet(last.state, last.track, segment)
        } else {
            on_segment(last.state, last.track, segment, SKIP)
        };
        if last.event != Event::None {
            events.push(last.event);
        }
    }
    (events, last)
}

fn tracks() -> impl Strategy<Value = Track> {
    (any::<u32>(), any::<u32>(), 0..4u32).prop_map(|(high_sequence, baseline, flags)| Track {
        high_sequence,
        baseline,
        flags,
    })
}

/// Segments near a flow's numbers, where the decisions are.
fn segments(track: Track) -> impl Strategy<Value = Segment> {
    let near = || prop_oneof![-3_000..3_000i32, select(&[-1, 0, 1, 64, 65, 200, 201][..]), any::<i32>()];
    let payload = prop_oneof![0..3u32, 0..1_500u32];
    (0..32u8, near(), near(), payload, any::<bool>()).prop_map(
        move |(flags, sequence, acknowledged, payload, handshake)| Segment {
            flags: Flags(flags),
            sequence: track.high_sequence.wrapping_add_signed(sequence),
            acknowledged: track.baseline.wrapping_add_signed(acknowledged),
            payload,
            record: if handshake { Record::Handshake } else { Record::Other },
        },
    )
}

fn situations() -> impl Strategy<Value = (State, Track, Segment)> {
    (select(&State::ALL[1..]), tracks())
        .prop_flat_map(|(state, track)| segments(track).prop_map(move |segment| (state, track, segment)))
}

fn is_fresh(track: &Track, segment: &Segment) -> bool {
    let end = segment.sequence.wrapping_add(segment.payload);
    let ahead = end.wrapping_sub(track.high_sequence) as i32;
    segment.payload > 0 && !(-REUSED..=0).contains(&ahead)
}

proptest! {
    #[test]
    fn only_payload_beyond_the_highest_seen_is_a_request((state, track, segment) in situations()) {
        let verdict = on_segment(state, track, &segment, SKIP);
        if verdict.event == Event::Request {
            prop_assert!(is_fresh(&track, &segment) && !segment.flags.has(Flags::RST));
            prop_assert_eq!(verdict.track.baseline, segment.acknowledged, "the answer is counted from here");
        }
        if is_fresh(&track, &segment) && !segment.flags.has(Flags::RST) {
            prop_assert_eq!(verdict.track.high_sequence, segment.sequence.wrapping_add(segment.payload));
        } else {
            prop_assert_eq!(verdict.track.high_sequence, track.high_sequence);
        }
    }

    #[test]
    fn a_handshake_record_is_no_request((state, track, segment) in situations()) {
        prop_assume!(state != State::Awaiting);
        let verdict = on_segment(state, track, &handshake(segment), SKIP);
        prop_assert!(verdict.event != Event::Request);
    }

    #[test]
    fn a_request_waits_for_progress_beyond_the_skipped_bytes((_, track, segment) in situations(), skip in 0..=u32::from(u16::MAX)) {
        let verdict = on_segment(State::Awaiting, track, &segment, skip);
        let progress = segment.acknowledged.wrapping_sub(track.baseline) as i32;
        let counts = verdict.event != Event::None;
        // Behind a short answer that was taken for headers comes another request.
        let asks_anew = verdict.event == Event::Request && progress > 64 && segment.payload > 0;
        prop_assert_eq!(counts, (progress > skip as i32 || asks_anew) && !segment.flags.has(Flags::RST));
        if !counts && !segment.flags.has(Flags::RST) {
            prop_assert_eq!((verdict.state, verdict.track.baseline), (State::Awaiting, track.baseline));
        }
    }

    #[test]
    fn progress_stops_a_clock_that_runs((state, track, segment) in situations()) {
        let verdict = on_segment(state, track, &segment, SKIP);
        if verdict.event == Event::Progress {
            prop_assert_eq!(state, State::Awaiting);
            prop_assert!(verdict.state != State::Awaiting);
        }
    }

    #[test]
    fn only_distances_count_not_where_numbers_start(
        (state, track, segment) in situations(), sequence: u32, acknowledged: u32,
    ) {
        let shifted = Track {
            high_sequence: track.high_sequence.wrapping_add(sequence),
            baseline: track.baseline.wrapping_add(acknowledged),
            ..track
        };
        let moved = Segment {
            sequence: segment.sequence.wrapping_add(sequence),
            acknowledged: segment.acknowledged.wrapping_add(acknowledged),
            ..segment
        };
        let (here, there) = (on_segment(state, track, &segment, SKIP), on_segment(state, shifted, &moved, SKIP));
        prop_assert_eq!((here.state, here.event, here.track.flags), (there.state, there.event, there.track.flags));
        prop_assert_eq!(here.track.high_sequence.wrapping_add(sequence), there.track.high_sequence);
        prop_assert_eq!(here.track.baseline.wrapping_add(acknowledged), there.track.baseline);
    }

    #[test]
    fn a_reset_closes_if_its_number_is_near_and_forgets_nothing((state, track, segment) in situations()) {
        let verdict = on_segment(state, track, &with(Flags::RST, segment), SKIP);
        let near = (segment.sequence.wrapping_sub(track.high_sequence) as i32).unsigned_abs() <= 1 << 16;
        let anyones = matches!(state, State::Opening | State::Stale) && track.flags & BOTH_WAYS == 0;
        let state = if near && !anyones { State::Closed } else { state };
        prop_assert_eq!(verdict, Verdict { state, track, event: Event::None });
    }

    #[test]
    fn a_request_after_a_blind_reset_is_as_if_there_had_been_none(
        track in tracks(), ahead in 1..1_000_000u32, payload in 1..1_500u32, acknowledged: u32,
        state in select(&[State::Idle, State::Streaming][..]),
    ) {
        let request = data(track.high_sequence.wrapping_add(ahead).wrapping_sub(payload), payload, acknowledged);
        let reset = on_segment(state, track, &with(Flags::RST, ack(0)), SKIP);
        let verdict = on_segment(reset.state, reset.track, &request, SKIP);
        prop_assert_eq!(verdict, on_segment(state, track, &request, SKIP));
        prop_assert_eq!(verdict.event, Event::Request);
    }

    #[test]
    fn quiet_is_what_changes_nothing_but_the_age_and_the_baseline((state, track, segment) in situations()) {
        let bare = segment.payload == 0 && !segment.flags.has(Flags::SYN | Flags::FIN | Flags::RST);
        prop_assert_eq!(is_quiet(state, &segment), state == State::Streaming && bare);
        if is_quiet(state, &segment) {
            let verdict = on_segment(state, track, &segment, SKIP);
            prop_assert_eq!(verdict, Verdict { state, track, event: Event::None });
            let noted = Track { baseline: segment.acknowledged, ..track };
            prop_assert_eq!(on_quiet(state, track, &segment), Verdict { state, track: noted, event: Event::None });
        }
    }

    #[test]
    fn a_syn_reopens_a_closing_flow_and_no_other(state in states(), track in tracks(), sequence: u32) {
        let syn = Segment { flags: Flags(Flags::SYN), sequence, ..Segment::default() };
        let verdict = on_syn(state, track, &syn);
        if state == State::Closing {
            let expected = Track { high_sequence: sequence.wrapping_add(1), baseline: 0, flags: 0 };
            prop_assert_eq!(verdict, Verdict { state: State::Opening, track: expected, event: Event::None });
        } else {
            prop_assert_eq!(verdict, Verdict { state, track, event: Event::None });
        }
    }

    #[test]
    fn an_answer_counts_for_who_awaits_it((_, track, segment) in situations(), state in states()) {
        let end = segment.acknowledged;
        let verdict = on_answer(state, track, end, SKIP);
        let began = state == State::Awaiting && end.wrapping_sub(track.baseline) as i32 > SKIP as i32;
        let expected = if began { (State::Streaming, Event::Progress) } else { (state, Event::None) };
        prop_assert_eq!((verdict.state, verdict.event), expected);
        prop_assert_eq!(verdict.track, track);
    }

    #[test]
    fn only_the_exact_acknowledgement_of_a_syn_ack_confirms(sequence: u32, off in 1..=u32::MAX, state in select(&[State::Opening, State::Stale][..])) {
        let answered = on_syn_ack(TRACK, sequence);
        prop_assert_eq!(answered.flags & ANSWERED, ANSWERED);
        let exact = sequence.wrapping_add(1);
        let verdict = on_segment(state, answered, &ack(exact), SKIP);
        prop_assert_eq!((verdict.state, verdict.event), (State::Idle, Event::None));
        let forged = on_segment(state, answered, &ack(exact.wrapping_add(off)), SKIP);
        prop_assert_eq!(forged, Verdict { state, track: answered, event: Event::None });
        let unseen = Track { flags: 0, ..answered };
        prop_assert_eq!(on_segment(state, unseen, &ack(exact), SKIP).state, state, "no SYN-ACK was seen");
    }
}

#[test]
fn only_a_syn_without_ack_or_rst_opens() {
    for bits in 0..=u8::MAX {
        let opens = bits & Flags::SYN != 0 && bits & (Flags::ACK | Flags::RST) == 0;
        assert_eq!(Flags(bits).opens(), opens, "{bits:#010b}");
    }
}

#[test]
fn the_syn_takes_one_sequence_number() {
    let syn = Segment { flags: Flags(Flags::SYN), sequence: u32::MAX, ..Segment::default() };
    assert_eq!(opened(&syn, 0), Track::default());
    assert!(!is_fresh(&opened(&syn, 0), &data(0, 0, 1)) && is_fresh(&opened(&syn, 0), &data(0, 1, 1)));
}

#[test]
fn segments_lead_where_the_table_says() {
    use State::{Awaiting, Closed, Closing, Idle, Opening, Stale, Streaming};
    let fin = |segment| with(Flags::FIN, segment);
    let (request, old, probe) = (data(NEXT, 100, SEEN), data(NEXT - 100, 100, SEEN), data(NEXT - 1, 1, SEEN));
    let hello = handshake(request);
    let (nothing, some, enough) = (ack(SEEN), ack(SEEN + 1), ack(SEEN + SKIP + 1));
    let (within_slack, beyond_slack) = (ack(SEEN + CLOSING_SLACK), ack(SEEN + CLOSING_SLACK + 1));
    let cases = [
        ("a half-open flow's first request", Opening, request, Awaiting, Event::Request),
        ("a stale flow's first request", Stale, request, Awaiting, Event::Request),
        ("a half-open flow's handshake record", Opening, hello, Idle, Event::None),
        ("a bare ACK that a flood can forge", Opening, some, Opening, Event::None),
        ("a bare ACK of a stale flow", Stale, some, Stale, Event::None),
        ("an idle flow's next request", Idle, request, Awaiting, Event::Request),
        ("an idle flow's retransmit", Idle, old, Idle, Event::None),
        ("an idle flow's keep-alive probe", Idle, probe, Idle, Event::None),
        ("an idle flow's duplicate ACK", Idle, nothing, Idle, Event::None),
        ("an idle flow's progress", Idle, some, Streaming, Event::None),
        ("a request's second segment", Awaiting, request, Awaiting, Event::None),
        ("a request's retransmit", Awaiting, old, Awaiting, Event::None),
        ("the skipped bytes", Awaiting, ack(SEEN + SKIP), Awaiting, Event::None),
        ("an answer's first byte", Awaiting, enough, Streaming, Event::Progress),
        (
            "the next request, with the answer's ACK",
            Awaiting,
            data(NEXT, 9, SEEN + 999),
            Awaiting,
            Event::Request,
        ),
        ("the next request while streaming", Streaming, request, Awaiting, Event::Request),
        ("a retransmit while streaming", Streaming, old, Streaming, Event::None),
        ("a client's FIN while idle", Idle, fin(nothing), Closing, Event::None),
        ("a client's FIN while streaming", Streaming, fin(some), Closing, Event::None),
        ("a request with FIN", Idle, fin(request), Awaiting, Event::Request),
        ("a FIN behind a request", Awaiting, fin(nothing), Awaiting, Event::None),
        ("a FIN with the answer's ACK", Awaiting, fin(enough), Closing, Event::Progress),
        ("a half-open flow's FIN", Opening, fin(some), Closing, Event::None),
        ("the last ACKs of a closing flow", Closing, within_slack, Closing, Event::None),
        ("an answer that goes on behind FIN", Closing, beyond_slack, Streaming, Event::None),
        ("a retransmitted FIN", Closing, fin(nothing), Closing, Event::None),
        ("data behind a forged RST", Closed, request, Awaiting, Event::Request),
        ("progress behind a forged RST", Closed, some, Streaming, Event::None),
        ("a duplicate ACK behind RST", Closed, nothing, Closed, Event::None),
        ("a retransmit behind RST", Closed, old, Closed, Event::None),
    ];
    for (what, state, segment, next, event) in cases {
        let verdict = on_segment(state, TRACK, &segment, SKIP);
        assert_eq!((verdict.state, verdict.event), (next, event), "{what}");
        let finished = segment.flags.has(Flags::FIN);
        assert_eq!(verdict.track.flags & FINISHED != 0, finished, "{what}: FINISHED");
    }
}

#[test]
fn a_tls_handshake_is_no_request_and_the_first_record_behind_it_is() {
    let start =
        opened(&Segment { flags: Flags(Flags::SYN), sequence: u32::MAX - 700, ..Segment::default() }, 0);
    let at = start.high_sequence;
    let hello = handshake(data(at, 517, 1));
    let finished = handshake(data(at.wrapping_add(517), 80, 4_000));
    let next = at.wrapping_add(597);
    let setup = [data(at, 0, 1), hello, hello, data(at.wrapping_add(517), 0, 4_000), finished];
    let (events, verdict) = follow(State::Opening, start, &setup);
    assert_eq!(events, []);
    assert!(matches!(verdict.state, State::Idle | State::Streaming), "{:?}", verdict.state);
    let request = Segment { record: Record::Data, ..data(next, 300, 4_000) };
    let exchange = [request, data(next.wrapping_add(300), 0, 4_900)];
    let (events, verdict) = follow(verdict.state, verdict.track, &exchange);
    assert_eq!((events, verdict.state), (vec![Event::Request, Event::Progress], State::Streaming));
}

#[test]
fn a_client_hello_in_two_segments_is_no_request() {
    let hello = [handshake(data(NEXT, 1_448, SEEN)), data(NEXT + 1_448, 300, SEEN)];
    let (events, verdict) = follow(State::Opening, TRACK, &hello);
    assert_eq!((events, verdict.state), (vec![], State::Idle));
}

#[test]
fn a_handshake_record_behind_an_answer_is_no_request() {
    let renegotiation = handshake(data(NEXT, 500, SEEN + SKIP + 1));
    let (events, verdict) = follow(State::Awaiting, TRACK, &[renegotiation]);
    assert_eq!((events, verdict.state), (vec![Event::Progress], State::Streaming));
}

#[test]
fn a_keep_alive_probe_does_not_wake_an_idle_flow() {
    // The kernel side notes the first quiet segment of a tick; the rest of the answer came in the same tick.
    let noted = on_quiet(State::Streaming, TRACK, &ack(SEEN + 1_000));
    let probe = data(NEXT - 1, 0, SEEN + 5_000);
    assert_eq!(on_segment(State::Idle, noted.track, &probe, SKIP).state, State::Idle);
}

#[test]
fn a_flow_that_a_reset_closed_lives_on() {
    for state in [State::Idle, State::Streaming, State::Awaiting] {
        let (_, verdict) = follow(state, TRACK, &[with(Flags::RST, ack(0)), ack(SEEN + SKIP + 1)]);
        assert_eq!(verdict.state, State::Streaming, "from {state:?}");
        let (events, verdict) =
            follow(verdict.state, verdict.track, &[data(NEXT, 10, SEEN + 900), ack(SEEN + 1_200)]);
        assert_eq!((events, verdict.state), (vec![Event::Request, Event::Progress], State::Streaming));
    }
}

#[test]
fn progress_behind_a_fin_is_counted_from_the_fin() {
    // What was acknowledged before, however much, is no sign of an answer that goes on.
    let fin = with(Flags::FIN, ack(SEEN + 10_000));
    for (more, state) in
        [(0, State::Closing), (CLOSING_SLACK, State::Closing), (CLOSING_SLACK + 1, State::Streaming)]
    {
        let (_, verdict) = follow(State::Streaming, TRACK, &[fin, ack(SEEN + 10_000 + more)]);
        assert_eq!(verdict.state, state, "{more} bytes behind the FIN");
    }
}

#[test]
fn a_second_datagram_makes_a_flow_live() {
    for (state, next) in [
        (State::Empty, State::Opening),
        (State::Closed, State::Opening),
        (State::Opening, State::Streaming),
        (State::Stale, State::Streaming),
        (State::Idle, State::Streaming),
        (State::Streaming, State::Streaming),
    ] {
        assert_eq!(on_datagram(state), next, "{state:?}");
    }
}

#[test]
fn a_request_has_the_size_of_all_its_segments_and_the_next_one_its_own() {
    let mut state = State::Idle;
    let mut track = TRACK;
    let mut next = NEXT;
    for (payload, acknowledged, size) in
        [(300, 0, 0), (600, 0, 0), (200, 0, 1), (30_000, 0, 5), (9_000_000, 0, 8), (200, 5_000, 0)]
    {
        let verdict = on_segment(state, track, &data(next, payload, SEEN + acknowledged), 0);
        (state, track, next) = (verdict.state, verdict.track, next.wrapping_add(payload));
        assert_eq!((state, track.size()), (State::Awaiting, size), "{payload} bytes more");
    }
}

#[test]
fn sizes_are_powers_of_two_of_a_kibibyte() {
    for (bytes, size) in
        [(0, 0), (1023, 0), (1024, 1), (2047, 1), (2048, 2), (131_071, 7), (131_072, 8), (u32::MAX, 8)]
    {
        assert_eq!(size_of_request(bytes), size, "{bytes} bytes");
    }
}

#[test]
fn what_is_excused_is_no_progress_and_what_comes_on_top_is() {
    let (hello, ask) = (handshake(data(NEXT, 100, SEEN)), data(NEXT + 100, 10, SEEN));
    let ask = Segment { record: Record::Data, ..ask };
    let (events, verdict) = follow(State::Opening, TRACK, &[hello, ask]);
    assert_eq!((events, verdict.track.has_tickets()), (vec![Event::Request], true));
    for (early, progress) in [(50, SKIP + 1), (SKIP + 400, SKIP + 401), (1020, 1021)] {
        let track = verdict.track.excuse(SEEN + early);
        let at = |acknowledged| on_segment(verdict.state, track, &ack(SEEN + acknowledged), SKIP);
        assert_eq!(at(early).event, Event::None, "{early} bytes of tickets");
        // Kept in units of four bytes.
        let answered = at(progress + 3);
        assert_eq!((answered.event, answered.track.has_tickets()), (Event::Progress, false), "after {early}");
    }
    assert_eq!(verdict.track.excuse(SEEN + 1100), verdict.track, "so much is an answer");
    assert!(is_early(45_000_000, 2_000_000) && !is_early(47_000_000, 2_000_000));
}

#[test]
fn a_short_answer_that_was_taken_for_headers_has_come_when_the_next_request_does() {
    let ask = |sequence, acknowledged| data(sequence, 100, SEEN + acknowledged);
    let (events, verdict) =
        follow(State::Idle, TRACK, &[ask(NEXT, 0), ack(SEEN + 150), ask(NEXT + 100, 150)]);
    assert_eq!((events, verdict.state), (vec![Event::Request, Event::Request], State::Awaiting));
    assert_eq!(verdict.track.size(), 0, "the next one has its own size");
    // Nothing but `100 Continue` so far: the rest of one request.
    let (events, _) = follow(State::Idle, TRACK, &[ask(NEXT, 0), ack(SEEN + 25), ask(NEXT + 100, 25)]);
    assert_eq!(events, vec![Event::Request]);
}
