//! Rounds: harness, reference and ours in turn, so that what disturbs one disturbs the others.

use std::hint::black_box;

use anyhow::Result;
use lb_common::reason::Reason;

use super::{
    bed::{Bed, Counts, FORGET, GUIDEVANE, HARNESS, REFERENCE},
    cases::{Before, Case, Event, Packets, TRANSMIT},
    layout::Seen,
    shots::{Salvo, Shot},
};

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds; figures are medians of these.
    pub rounds: u32,
    /// Packets of a run.
    pub repeat: u32,
}

/// The median of some rounds, and how far they went apart, in nanoseconds a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figure {
    /// The middle one.
    pub median: i64,
    /// The least.
    pub least: i64,
    /// The most.
    pub most: i64,
}

impl Figure {
    fn of(rounds: &[u32]) -> Self {
        let mut sorted: Vec<i64> = rounds.iter().map(|&ns| ns.into()).collect();
        sorted.sort_unstable();
        let (Some(&least), Some(&most)) = (sorted.first(), sorted.last()) else { return Self::default() };
        Self { median: sorted[sorted.len() / 2], least, most }
    }

    /// Without `harness` nanoseconds.
    pub const fn net(self, harness: i64) -> Self {
        Self { median: self.median - harness, least: self.least - harness, most: self.most - harness }
    }
}

/// What one balancer made of its packets: the share, in per cent, of each thing that happened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mix(pub Vec<(&'static str, f64)>);

/// What was measured of a case.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The harness, pushing a header of the same size.
    pub harness: Figure,
    /// Ours, harness included.
    pub ours: Figure,
    /// The reference, harness included.
    pub reference: Figure,
    /// What happened to our packets.
    pub mix: Mix,
    /// What happened to the reference's.
    pub reference_mix: Mix,
    /// What was not as the case's name says.
    pub wrong: Vec<String>,
}

/// A share above this is all: a fingerprint in millions may meet its twin.
const ALL: f64 = 99.9;

/// Measures a case. Each balancer has flows of its own, opened through its own program.
///
/// # Errors
/// The kernel refuses a run.
pub fn measure(bed: &mut Bed, case: &Case, effort: Effort) -> Result<Measured> {
    bed.reset()?;
    let mut field = Field::new(bed, case, effort);
    let mut wrong = field.warm_up(bed)?;
    let (mut harness, mut ours, mut reference) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..effort.rounds {
        harness.push(bed.shoot(HARNESS, &field.salvo, 0, effort.repeat)?.nanoseconds);
        field.prepare(bed)?;
        // Whoever comes second finds caches that the first has filled: it takes turns.
        if round % 2 == 0 {
            reference.push(field.reference(bed)?);
            ours.push(field.ours(bed)?);
        } else {
            ours.push(field.ours(bed)?);
            reference.push(field.reference(bed)?);
        }
        field.advance();
    }
    let packets = u64::from(effort.rounds) * u64::from(field.repeat);
    let mix = field.our_mix(packets, &mut wrong);
    let reference_mix = field.reference_mix(packets, &mut wrong);
    Ok(Measured {
        harness: Figure::of(&harness),
        ours: Figure::of(&ours),
        reference: Figure::of(&reference),
        mix,
        reference_mix,
        wrong,
    })
}

/// Measures a program that steers nothing, on a packet of the simplest case.
///
/// # Errors
/// The kernel refuses a run.
pub fn alone(bed: &mut Bed, program: &'static str, effort: Effort) -> Result<Figure> {
    let salvo = Salvo::of(&bed.services[0], Shot::Ack, 0);
    let round = |_| Ok(bed.shoot(program, &salvo, 0, effort.repeat)?.nanoseconds);
    Ok(Figure::of(&(0..effort.rounds).map(round).collect::<Result<Vec<_>>>()?))
}

/// A case under way.
struct Field<'a> {
    case: &'a Case,
    salvo: Salvo,
    warm: Vec<Salvo>,
    lead: Option<Salvo>,
    service: Option<usize>,
    empties: bool,
    lap: u64,
    repeat: u32,
    next: u64,
    counted: Counts,
    seen: [u64; Seen::ALL.len()],
    verdicts: Vec<String>,
}

impl<'a> Field<'a> {
    fn new(bed: &Bed, case: &'a Case, effort: Effort) -> Self {
        let mut field = Self {
            case,
            salvo: Salvo::fixed(vec![0; 64]),
            warm: Vec::new(),
            lead: None,
            service: None,
            empties: false,
            lap: 1,
            repeat: effort.repeat,
            next: 0,
            counted: Counts::default(),
            seen: [0; Seen::ALL.len()],
            verdicts: Vec::new(),
        };
        match &case.packets {
            Packets::Frame(frame) => field.salvo = Salvo::fixed(frame.clone()),
            &Packets::Flows { service, bits, warm, before, shot } => {
                let salvo = |shot| Salvo::of(&bed.services[service], shot, bits);
                field.salvo = salvo(shot);
                field.warm = warm.iter().map(|&shot| salvo(shot).in_order()).collect();
                field.lead = match before {
                    Before::Same => Some(salvo(shot)),
                    Before::Requests => Some(salvo(Shot::Request)),
                    Before::Nothing | Before::Empty => None,
                };
                field.service = Some(service);
                field.empties = before == Before::Empty;
                field.lap = 1 << bits;
            }
        }
        if case.is_one_lap() {
            field.repeat = effort.repeat.min(field.lap as u32);
        }
        field
    }

    /// Opens the flows, and sees that packets leave with the header that they should have.
    fn warm_up(&mut self, bed: &mut Bed) -> Result<Vec<String>> {
        for salvo in &self.warm {
            for program in [GUIDEVANE, REFERENCE] {
                bed.shoot(program, salvo, self.next, self.lap as u32)?;
            }
            self.next += self.lap;
            bed.accept();
        }
        if self.empties {
            // A new LRU map hands out its entries in the order of memory: one in use never does.
            bed.shoot(REFERENCE, &self.salvo, 0, self.repeat)?;
        }
        let mut kept = self.salvo.clone();
        kept.run.length = 0;
        let mut wrong = Vec::new();
        let push = self.service.map_or((0, 0), |service| {
            let service = &bed.services[service];
            (service.push(), service.reference_push())
        });
        for (program, verdict, push) in
            [(GUIDEVANE, self.case.ours.1, push.0), (REFERENCE, self.case.reference.1, push.1)]
        {
            let push = if verdict == TRANSMIT { i64::from(push) } else { 0 };
            let volley = bed.shoot(program, &kept, self.next, 1)?;
            let grown = volley.length as i64 - self.salvo.frame.len() as i64;
            if grown != push {
                wrong.push(format!("{program} made a frame longer by {grown} bytes, not {push}"));
            }
        }
        self.next += self.lap;
        Ok(wrong)
    }

    /// What goes before a round: the tables of those that start from empty ones.
    fn prepare(&self, bed: &mut Bed) -> Result<()> {
        if self.empties {
            bed.empty_ours();
            // In another order than they were entered, so that the room they leave has none.
            let all = u64::from(self.repeat) == self.lap;
            let salvo = if all { self.salvo.clone().in_order() } else { self.salvo.clone() };
            bed.shoot(FORGET, &salvo, 0, self.repeat)?;
        }
        Ok(())
    }

    fn ours(&mut self, bed: &mut Bed) -> Result<u32> {
        let next = self.lead(bed, GUIDEVANE)?;
        let before = bed.counts(self.service)?;
        let volley = bed.shoot(GUIDEVANE, &self.salvo, next, self.repeat)?;
        self.check(GUIDEVANE, volley.verdict, self.case.ours.1);
        add(&mut self.counted, &bed.counts(self.service)?, &before);
        Ok(volley.nanoseconds)
    }

    fn reference(&mut self, bed: &mut Bed) -> Result<u32> {
        let next = self.lead(bed, REFERENCE)?;
        let before = bed.seen()?;
        let volley = bed.shoot(REFERENCE, &self.salvo, next, self.repeat)?;
        self.check(REFERENCE, volley.verdict, self.case.reference.1);
        for ((sum, now), before) in self.seen.iter_mut().zip(bed.seen()?).zip(before) {
            *sum += now - before;
        }
        Ok(volley.nanoseconds)
    }

    /// The unmeasured lap before a run; gives the number that the run starts with.
    fn lead(&self, bed: &mut Bed, program: &'static str) -> Result<u64> {
        if self.empties {
            cool();
        }
        let Some(lead) = &self.lead else { return Ok(self.next) };
        let packets = if self.case.is_one_lap() { self.repeat } else { self.lap as u32 };
        bed.shoot(program, lead, self.next, packets)?;
        Ok(self.next + self.lap)
    }

    fn advance(&mut self) {
        self.next += self.lap + u64::from(self.repeat).next_multiple_of(self.lap);
    }

    fn check(&mut self, program: &str, verdict: u32, expected: u32) {
        if verdict != expected {
            self.verdicts.push(format!("{program} gave verdict {verdict}, not {expected}"));
        }
    }

    fn our_mix(&mut self, packets: u64, wrong: &mut Vec<String>) -> Mix {
        wrong.append(&mut self.verdicts);
        let share = |count: u64| 100.0 * count as f64 / packets as f64;
        let counted = &self.counted;
        let mut mix: Vec<_> =
            counted.reasons.iter().map(|(reason, &count)| (reason.name(), share(count))).collect();
        let of = |reason: Reason| share(counted.reasons.get(&reason).copied().unwrap_or(0));
        let mut must = |what: &str, got: f64| {
            if got < ALL {
                wrong.push(format!("{got:.2} % of packets were {what}"));
            }
        };
        must(self.case.ours.0.name(), of(self.case.ours.0));
        for (event, name, count) in [
            (Event::Request, "requests", counted.requests),
            (Event::Progress, "first progress", counted.progresses),
        ] {
            if self.case.event == Some(event) {
                must(name, share(count));
            }
            if count > 0 {
                mix.push((name, share(count)));
            }
        }
        mix.push(("evicted", share(counted.evicted)));
        Mix(mix)
    }

    fn reference_mix(&self, packets: u64, wrong: &mut Vec<String>) -> Mix {
        let share = |kind: Seen| 100.0 * self.seen[kind as usize] as f64 / packets as f64;
        let expected = self.case.reference.0;
        if share(expected) < ALL {
            wrong.push(format!(
                "{:.2} % of the reference's packets were {}",
                share(expected),
                name(expected)
            ));
        }
        let kinds = Seen::ALL.into_iter().filter(|&kind| self.seen[kind as usize] > 0);
        Mix(kinds.map(|kind| (name(kind), share(kind))).collect())
    }
}

fn add(sum: &mut Counts, now: &Counts, before: &Counts) {
    for (&reason, count) in &now.reasons {
        let count = count - before.reasons.get(&reason).copied().unwrap_or(0);
        if count > 0 {
            *sum.reasons.entry(reason).or_default() += count;
        }
    }
    sum.evicted += now.evicted - before.evicted;
    sum.requests += now.requests - before.requests;
    sum.progresses += now.progresses - before.progresses;
}

const fn name(seen: Seen) -> &'static str {
    match seen {
        Seen::Hit => "hit",
        Seen::New => "new",
        Seen::Miss => "miss",
        Seen::Returned => "returned",
        Seen::NotOurs => "not_ours",
        Seen::Dropped => "dropped",
    }
}

/// Pushes everything out of the caches: emptying a table leaves it in there, which no packet could.
fn cool() {
    const BYTES: usize = 64 << 20;
    const LINE: usize = 64;
    let other = vec![1u8; BYTES];
    black_box(other.iter().step_by(LINE).map(|&byte| u64::from(byte)).sum::<u64>());
}

#[cfg(test)]
mod tests {
    use super::Figure;

    #[test]
    fn a_figure_is_the_middle_round_and_its_net_is_without_the_harness() {
        let figure = Figure::of(&[70, 50, 90, 60, 65]);
        assert_eq!(figure, Figure { median: 65, least: 50, most: 90 });
        assert_eq!(figure.net(30), Figure { median: 35, least: 20, most: 60 });
    }
}
