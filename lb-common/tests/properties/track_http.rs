//! A client that keeps its connection, on a network that repeats and reorders: every request and every
//! answer is counted once.

use lb_common::{
    slot::State,
    track::{
        BOTH_WAYS, Event, Flags, Record, Segment, Track, is_quiet, on_answer, on_quiet, on_segment,
        on_syn_ack, opened,
    },
};
use proptest::{
    collection::vec,
    prelude::{any, prop_assert_eq, proptest},
};
use rand::{Rng as _, rngs::SmallRng, seq::SliceRandom as _};

use crate::support::seeded;

const SKIP: u32 = 300;

/// A flow as the kernel side keeps it, and what it counted.
struct Flow {
    state: State,
    track: Track,
    requests: usize,
    answers: usize,
}

impl Flow {
    fn packet(&mut self, segment: &Segment, first_in_tick: bool) {
        let verdict = match is_quiet(self.state, segment) {
            true if !first_in_tick => return,
            true => on_quiet(self.state, self.track, segment),
            false => on_segment(self.state, self.track, segment, SKIP),
        };
        (self.state, self.track) = (verdict.state, verdict.track);
        self.count(verdict.event);
    }

    fn count(&mut self, event: Event) {
        self.requests += usize::from(event == Event::Request);
        self.answers += usize::from(event == Event::Progress);
    }

    /// What the daemon's sweep does after a second of silence.
    fn silence(&mut self) {
        if self.state == State::Streaming {
            self.state = State::Idle;
        }
    }
}

/// The client's end of the connection, and the network's whims.
struct Client {
    next: u32,
    received: u32,
    random: SmallRng,
}

impl Client {
    fn segment(&self, back: u32, payload: u32) -> Segment {
        let sequence = self.next.wrapping_sub(back);
        Segment {
            flags: Flags(Flags::ACK),
            sequence,
            acknowledged: self.received,
            payload,
            record: Record::Other,
        }
    }

    fn send(&mut self, flow: &mut Flow, segment: &Segment) {
        flow.packet(segment, self.random.random());
    }

    /// What comes by itself on a connection: probes, duplicates, window updates.
    fn noise(&mut self, flow: &mut Flow) {
        for _ in 0..self.random.random_range(0..3) {
            let byte = self.random.random_range(0..2);
            let noise = if self.random.random() { self.segment(1, byte) } else { self.segment(0, 0) };
            self.send(flow, &noise);
        }
    }

    /// Sends a request in segments of these sizes, some out of order, some twice.
    fn ask(&mut self, flow: &mut Flow, sizes: &[u32]) -> Vec<Segment> {
        let mut segments = Vec::new();
        for &size in sizes {
            segments.push(self.segment(0, size));
            self.next = self.next.wrapping_add(size);
        }
        let sent = segments.clone();
        segments.extend(sent.iter().filter(|_| self.random.random_ratio(1, 3)));
        if self.random.random() {
            segments.shuffle(&mut self.random);
        }
        for segment in &segments {
            self.send(flow, segment);
        }
        sent
    }

    /// Acknowledges an answer of these parts: skipped bytes first, the rest in any order.
    fn read(&mut self, flow: &mut Flow, header: u32, parts: &[u32], asked: &[Segment]) {
        let before = self.received;
        self.received = before.wrapping_add(header);
        let headers = self.segment(0, 0);
        self.send(flow, &headers);
        assert_eq!(flow.state, State::Awaiting, "headers are no progress");
        self.received = before.wrapping_add(SKIP);
        let mut acknowledgements = vec![headers];
        for part in parts {
            self.received = self.received.wrapping_add(*part);
            acknowledgements.push(self.segment(0, 0));
        }
        acknowledgements.extend(asked.iter().filter(|_| self.random.random_ratio(1, 4)));
        if self.random.random() {
            acknowledgements.shuffle(&mut self.random);
        }
        for segment in &acknowledgements {
            self.send(flow, segment);
        }
    }
}

proptest! {
    #[test]
    fn every_request_and_every_answer_is_counted_once(
        exchanges in vec((vec(1..1_460u32, 1..6), 0..=SKIP, vec(1..20_000u32, 1..8)), 1..12),
        first: u32, answer: u32, seed in any::<u64>(),
    ) {
        let syn = Segment { flags: Flags(Flags::SYN), sequence: first, ..Segment::default() };
        let mut flow = Flow { state: State::Opening, track: opened(&syn, 0), requests: 0, answers: 0 };
        let mut client = Client { next: first.wrapping_add(1), received: answer, random: seeded(seed) };
        client.noise(&mut flow);
        prop_assert_eq!(flow.state, State::Opening, "nothing bare promotes a half-open flow");
        for (number, (request, header, parts)) in exchanges.iter().enumerate() {
            let asked = client.ask(&mut flow, request);
            prop_assert_eq!((flow.state, flow.requests), (State::Awaiting, number + 1), "asked");
            client.noise(&mut flow);
            flow.silence();
            client.read(&mut flow, *header, parts, &asked);
            prop_assert_eq!((flow.state, flow.answers), (State::Streaming, number + 1), "answered");
            client.noise(&mut flow);
            if client.random.random() {
                flow.silence();
                client.noise(&mut flow);
            }
            if client.random.random_ratio(1, 4) {
                let reset = Segment { flags: Flags(Flags::RST), ..client.segment(0, 0) };
                client.send(&mut flow, &reset);
            }
        }
        let fin = Segment { flags: Flags(Flags::FIN | Flags::ACK), ..client.segment(0, 0) };
        client.send(&mut flow, &fin);
        client.send(&mut flow, &fin);
        prop_assert_eq!(flow.state, State::Closing);
        prop_assert_eq!((flow.requests, flow.answers), (exchanges.len(), exchanges.len()));
    }

    #[test]
    fn in_nat_the_servers_own_payload_stops_the_clock(
        exchanges in vec((1..1_460u32, vec(1..1_460u32, 1..6)), 1..10), first: u32, server: u32,
    ) {
        let syn = Segment { flags: Flags(Flags::SYN), sequence: first, ..Segment::default() };
        let track = on_syn_ack(opened(&syn, BOTH_WAYS), server);
        let mut flow = Flow { state: State::Opening, track, requests: 0, answers: 0 };
        let mut client = Client { next: first.wrapping_add(1), received: server.wrapping_add(1), random: seeded(1) };
        let confirmation = client.segment(0, 0);
        client.send(&mut flow, &confirmation);
        prop_assert_eq!((flow.state, flow.requests), (State::Idle, 0));
        for (number, (request, parts)) in exchanges.iter().enumerate() {
            client.ask(&mut flow, &[*request]);
            let mut sent = client.received;
            for part in [SKIP].iter().chain(parts) {
                sent = sent.wrapping_add(*part);
                // Twice: servers retransmit as well.
                for _ in 0..2 {
                    let verdict = on_answer(flow.state, flow.track, sent, SKIP);
                    (flow.state, flow.track) = (verdict.state, verdict.track);
                    flow.count(verdict.event);
                }
            }
            client.received = sent;
            let last = client.segment(0, 0);
            client.send(&mut flow, &last);
            prop_assert_eq!((flow.state, flow.requests, flow.answers), (State::Streaming, number + 1, number + 1));
        }
    }
}
