//! The live flows within an interval: those there at its begin, and those dealt out since.
//!
//! As many leave each backend as really left, at even distances, of those that were there at the begin. A request
//! awaits its first progress for as long as requests lately did at that backend.

use std::{collections::VecDeque, time::Duration};

use lb_common::{
    pick::PROMPT,
    slot::{self, GAUGES, Gauge},
};

use super::Moment;
use crate::governor::Input;

/// One interval in one way to steer.
pub(super) struct Scene {
    time: Duration,
    /// By backend: how many leave.
    leaving: Vec<u32>,
    /// By backend: when flows came that still await, and how many that came await no more.
    awaiting: Vec<VecDeque<Duration>>,
    streaming: Vec<u32>,
}

impl Scene {
    /// The begin of the interval from `moment` to `next`.
    pub(super) fn of(moment: &Moment, next: &Moment) -> Self {
        let leaving = moment.inputs.iter().zip(&next.inputs).map(|(before, after)| {
            let live = |input: &Input| u64::from(slot::flows(&input.gauges));
            let came = after.opened.saturating_sub(before.opened);
            (live(before) + came).saturating_sub(live(after)).min(u64::from(u32::MAX)) as u32
        });
        let backends = moment.inputs.len();
        Self {
            time: next.at - moment.at,
            leaving: leaving.collect(),
            awaiting: vec![VecDeque::new(); backends],
            streaming: vec![0; backends],
        }
    }

    /// A flow comes to a backend, `since` the interval's begin.
    pub(super) fn place(&mut self, backend: usize, since: Duration) {
        self.awaiting[backend].push_back(since);
    }

    /// What the gauges show `since` the interval's begin; that never goes back.
    pub(super) fn advance(&mut self, moment: &Moment, since: Duration, gauges: &mut Vec<[u32; GAUGES]>) {
        gauges.clear();
        for (backend, (input, &wait)) in moment.inputs.iter().zip(&moment.waits).enumerate() {
            let awaiting = &mut self.awaiting[backend];
            while awaiting.pop_front_if(|came| since.saturating_sub(*came) >= wait).is_some() {
                self.streaming[backend] += 1;
            }
            let mut shown = input.gauges;
            // When they came is not known: evenly over the time that they wait.
            let answered = part_of(shown[Gauge::Awaiting as usize], since, wait);
            shown[Gauge::Awaiting as usize] -= answered;
            shown[Gauge::Streaming as usize] += answered;
            let mut leaving = part_of(self.leaving[backend], since, self.time);
            for gauge in [Gauge::Streaming, Gauge::Idle, Gauge::Awaiting, Gauge::Opening] {
                let count = &mut shown[gauge as usize];
                let gone = leaving.min(*count);
                (*count, leaving) = (*count - gone, leaving - gone);
            }
            // Who waits on has asked as much as who is answered, and those that came as much as is usual.
            let came = awaiting.len() as u32;
            shown[Gauge::Prompts as usize] = scaled(
                input.gauge(Gauge::Prompts),
                shown[Gauge::Awaiting as usize],
                input.gauge(Gauge::Awaiting),
            ) + scaled(came, PROMPT, moment.sample.prompt);
            shown[Gauge::Awaiting as usize] += came;
            shown[Gauge::Streaming as usize] += self.streaming[backend];
            gauges.push(shown);
        }
    }
}

/// How many of `count` have had their turn after `since` of `time`.
fn part_of(count: u32, since: Duration, time: Duration) -> u32 {
    (f64::from(count) * (since.as_secs_f64() / time.as_secs_f64()).min(1.0)) as u32
}

/// `count` times `part` over `whole`; none of nothing.
fn scaled(count: u32, part: u32, whole: u32) -> u32 {
    u64::from(count).saturating_mul(part.into()).checked_div(whole.into()).unwrap_or(0).min(u32::MAX.into())
        as u32
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lb_common::pick::PROMPT;

    use super::{Moment, Scene};
    use crate::{governor::Input, recording::VipSample};

    #[test]
    fn requests_await_for_as_long_as_they_lately_did() {
        let ms = Duration::from_millis;
        let moment = |at, gauges, opened| Moment {
            at: ms(at),
            sample: VipSample { opening_cap: 0, duty: 0, prompt: PROMPT, backends: Vec::new() },
            inputs: vec![Input { gauges, opened, ..Input::default() }; 2],
            on: Vec::new(),
            waits: vec![ms(20), Duration::MAX],
        };
        // Two came and four left.
        let (begin, end) = (moment(0, [1, 4, 2, 3, 20], 10), moment(100, [0, 0, 8, 0, 0], 12));
        let mut scene = Scene::of(&begin, &end);
        let mut gauges = Vec::new();
        scene.advance(&begin, ms(0), &mut gauges);
        assert_eq!(gauges, [[1, 4, 2, 3, 20]; 2]);
        for backend in 0..2 {
            scene.place(backend, ms(0));
        }
        scene.advance(&begin, ms(10), &mut gauges);
        assert_eq!(gauges, [[1, 3, 4, 3, 11], [1, 5, 2, 3, 21]]);
        scene.place(0, ms(10));
        scene.advance(&begin, ms(25), &mut gauges);
        assert_eq!(gauges, [[1, 1, 6, 3, 1], [1, 5, 1, 3, 21]], "one has left");
        scene.advance(&begin, ms(100), &mut gauges);
        assert_eq!(gauges, [[1, 0, 4, 3, 0], [1, 5, 0, 1, 21]], "four have left, those that stream first");
    }
}
