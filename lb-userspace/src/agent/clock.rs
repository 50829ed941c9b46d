//! When a report was sent, on our clock: clocks of different hosts need not agree, and a network may hold reports
//! back and then deliver them all at once.
//!
//! An agent says how long after taking the subscription it sent each report. It took it after we asked and before
//! we had its answer, so its clock's zero is known to within one round trip; and each report bounds it from above,
//! the one that was under way for the shortest time the most. The shortest of the last half minute counts, so that
//! clocks that run at different rates (100 parts in a million are 3 ms in that time) do not drift out of the bracket.
//! Servers that say nothing of the kind sent a report sometime since the one before.

use std::time::{Duration, Instant};

/// How long the shortest way counts: between once and twice this.
const WINDOW: Duration = Duration::from_secs(30);

/// A moment is between these two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bracket {
    /// Not before.
    pub earliest: Instant,
    /// Not after.
    pub latest: Instant,
}

/// What is known of the way that the reports of one subscription take.
#[derive(Debug)]
pub struct Transit {
    /// From asking to having the first answer.
    round_trip: Duration,
    /// When the last report came; at first, when it was asked for.
    before: Instant,
    /// What the sender said when it sent the last report.
    said: Duration,
    window_start: Instant,
    /// The sender's zero on our clock, at the latest: by the reports of this window, and of the one before.
    zeros: [Option<Instant>; 2],
}

impl Transit {
    /// The subscription was asked for and then answered at these moments.
    pub fn new(asked: Instant, answered: Instant) -> Self {
        Self {
            round_trip: answered.saturating_duration_since(asked),
            before: asked,
            said: Duration::ZERO,
            window_start: answered,
            zeros: [Some(answered), None],
        }
    }

    /// When the report was sent that came at `received` and says that it was `sent` so long after the subscription
    /// was taken. One that goes back in time is taken for one that does not say.
    pub fn receive(&mut self, received: Instant, sent: Option<Duration>) -> Bracket {
        let before = std::mem::replace(&mut self.before, received);
        let zero = sent.filter(|sent| *sent >= self.said).and_then(|sent| {
            self.said = sent;
            self.note(received, received.checked_sub(sent)?);
            let zero = self.zeros.iter().flatten().min()?;
            Some((*zero, sent))
        });
        let Some((zero, sent)) = zero else { return Bracket { earliest: before, latest: received } };
        let latest = (zero + sent).min(received);
        Bracket { earliest: latest.checked_sub(self.round_trip).unwrap_or(latest), latest }
    }

    fn note(&mut self, now: Instant, zero: Instant) {
        if now.saturating_duration_since(self.window_start) >= WINDOW {
            self.window_start = now;
            self.zeros = [None, self.zeros[0]];
        }
        let least = self.zeros[0].map_or(zero, |known| known.min(zero));
        self.zeros[0] = Some(least);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Bracket, Transit};

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_moment_of_sending_is_in_the_bracket_whatever_the_network_does() {
        let asked = Instant::now();
        // The agent takes the subscription 3 ms after it was asked, and its answer is 2 ms under way.
        let zero = asked + ms(3);
        let mut transit = Transit::new(asked, asked + ms(5));
        let mut shortest = u64::MAX;
        // When each report is sent after the zero, and how long it is under way. A stall of 2 s is in there: all
        // that was sent meanwhile comes at once.
        let ways =
            [(0, 9), (5, 4), (10, 2), (15, 3), (20, 2000), (25, 1995), (1000, 1020), (2000, 20), (2100, 2)];
        for (sent, way) in ways {
            let sent = ms(sent);
            let bracket = transit.receive(zero + sent + ms(way), Some(sent));
            shortest = shortest.min(way);
            let truth = zero + sent;
            assert!(bracket.earliest <= truth && truth <= bracket.latest, "{bracket:?} for {truth:?}");
            assert!(bracket.latest <= truth + ms(shortest), "after {way} ms: a held-up report looks fresh");
            assert_eq!(bracket.latest - bracket.earliest, ms(5));
        }
    }

    #[test]
    fn clocks_of_different_rates_do_not_drift_out_of_the_bracket() {
        let asked = Instant::now();
        let (zero, way) = (asked + ms(1), ms(1));
        for rate in [0.9998, 1.0002] {
            let mut transit = Transit::new(asked, asked + ms(2));
            for second in 0..36_000_u64 {
                let sent = Duration::from_millis(second * 100);
                let bracket = transit.receive(zero + sent + way, Some(sent.mul_f64(rate)));
                // 200 parts in a million, twice 30 s.
                let slack = ms(13);
                let truth = zero + sent;
                assert!(bracket.earliest <= truth + slack && truth <= bracket.latest + slack, "{second}");
                assert!(bracket.latest <= truth + way + slack && bracket.earliest + ms(4) + slack >= truth);
            }
        }
    }

    #[test]
    fn who_does_not_say_when_sent_it_since_the_report_before() {
        let asked = Instant::now();
        let mut transit = Transit::new(asked, asked + ms(5));
        let first = transit.receive(asked + ms(6), None);
        assert_eq!(first, Bracket { earliest: asked, latest: asked + ms(6) });
        let second = transit.receive(asked + ms(1000), None);
        assert_eq!(second, Bracket { earliest: asked + ms(6), latest: asked + ms(1000) });
    }

    #[test]
    fn no_clock_makes_a_report_younger_than_its_arrival() {
        let asked = Instant::now();
        let mut transit = Transit::new(asked, asked + ms(5));
        let mut received = asked;
        for sent in [ms(0), ms(50), ms(10), Duration::from_secs(1 << 40), Duration::MAX, ms(7)] {
            received += ms(10);
            let bracket = transit.receive(received, Some(sent));
            assert!(
                bracket.earliest <= bracket.latest && bracket.latest <= received,
                "{sent:?}: {bracket:?}"
            );
        }
    }
}
