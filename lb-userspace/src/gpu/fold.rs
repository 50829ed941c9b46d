//! Readings of the GPUs below one backend into one [`Hardware`]. Pure.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use super::readings::{Readings, Timed};
use crate::signals::{Fault, Hardware};

/// Values older than this say nothing any more: twice the time between two passes over everything.
const STALE: Duration = Duration::from_secs(2);

/// What is known of one GPU or instance.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    /// Its own readings.
    pub own: &'a Readings,
    /// Those of the whole GPU: the same, except for an instance.
    pub whole: &'a Readings,
    /// Why it must not be used, and when that was last known.
    pub fault: Option<(Fault, Instant)>,
}

/// The times of the values that went in.
struct Span(Option<(Instant, Instant)>);

impl Span {
    fn take(&mut self, start: Instant, end: Instant) {
        let (first, last) = self.0.unwrap_or((start, end));
        self.0 = Some((first.min(start), last.max(end)));
    }

    /// A value, if it is fresh.
    fn of<'a, T>(&mut self, now: Instant, timed: Option<&'a Timed<T>>) -> Option<&'a T> {
        let timed = timed.filter(|timed| now.saturating_duration_since(timed.start) < STALE)?;
        self.take(timed.start, timed.end);
        Some(&timed.value)
    }
}

/// All parts together; the server's own processes are `own`, if they are known. None while nothing fresh is known.
pub fn fold<'a>(
    parts: impl IntoIterator<Item = Part<'a>>,
    own: Option<&HashSet<u32>>,
    now: Instant,
) -> Option<Hardware> {
    let mut span = Span(None);
    let (mut speed, mut foreign, mut utilization, mut memory, mut fault) = (None, None, None, None, None);
    for part in parts {
        if let Some(clocks) = span.of(now, part.whole.clocks.as_ref()) {
            keep(&mut speed, clocks.speed(), f64::min);
        }
        // On an instance nobody else's kernels run, and the driver does not count by process there.
        let times = if part.is_instance() { None } else { part.own.process_time.as_ref() };
        if let Some(own) = own
            && let Some(times) = span.of(now, times)
        {
            let others = times.iter().filter(|time| !own.contains(&time.pid));
            keep(&mut foreign, others.map(|time| time.part).sum::<f64>().min(1.0), f64::max);
        }
        if let Some(part) = part.utilization(now, &mut span) {
            keep(&mut utilization, part, f64::max);
        }
        if let Some(used) = span.of(now, part.own.memory.as_ref()) {
            keep(&mut memory, used.part(), f64::max);
        }
        fault = fault.or(part.fault);
    }
    // A fault does not age: the readings of a GPU that is lost do.
    if let (None, Some((_, known))) = (span.0, fault) {
        span.take(known, known);
    }
    let (taken_start, taken_end) = span.0?;
    let fault = fault.map(|(fault, _)| fault);
    Some(Hardware { speed, foreign, utilization, memory, fault, taken_start, taken_end })
}

impl Part<'_> {
    fn is_instance(&self) -> bool {
        !std::ptr::eq(self.own, self.whole)
    }

    /// Of the GPU, or as the performance monitor counts it for an instance.
    fn utilization(&self, now: Instant, span: &mut Span) -> Option<f64> {
        if !self.is_instance() {
            return span.of(now, self.own.utilization.as_ref()).copied();
        }
        span.of(now, self.own.gpm.as_ref()).and_then(|gpm| gpm.graphics)
    }
}

fn keep(slot: &mut Option<f64>, value: f64, choose: fn(f64, f64) -> f64) {
    *slot = Some(slot.map_or(value, |so_far| choose(so_far, value)));
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        time::{Duration, Instant},
    };

    use super::{Part, fold};
    use crate::{
        gpu::{
            driver::Answer,
            readings::{Clocks, Gpm, Memory, ProcessTime, Readings},
        },
        signals::Fault,
    };

    fn readings(at: Instant, answers: impl IntoIterator<Item = Answer>) -> Readings {
        let mut readings = Readings::default();
        for answer in answers {
            readings.note(answer, at, at + Duration::from_millis(1));
        }
        readings
    }

    fn clocks(sm_mhz: u32, reasons: u64) -> Answer {
        Answer::Clocks(Clocks { sm_mhz, sm_max_mhz: 2000, memory_mhz: None, reasons })
    }

    fn times(parts: &[(u32, f64)]) -> Answer {
        Answer::ProcessTime(parts.iter().map(|&(pid, part)| ProcessTime { pid, part }).collect())
    }

    fn whole(readings: &Readings) -> Part<'_> {
        Part { own: readings, whole: readings, fault: None }
    }

    #[test]
    fn the_slowest_busiest_and_fullest_gpu_counts() {
        let now = Instant::now();
        let memory = |used_bytes| Answer::Memory(Memory { used_bytes, total_bytes: 100 });
        let first =
            readings(now, [clocks(500, 0x20), times(&[(1, 0.3)]), Answer::Utilization(0.3), memory(90)]);
        let second = readings(
            now,
            [
                clocks(1700, 0x4),
                times(&[(1, 0.2), (7, 0.35), (8, 0.25)]),
                Answer::Utilization(0.8),
                memory(40),
            ],
        );
        let own = HashSet::from([1]);
        let both = fold([whole(&first), whole(&second)], Some(&own), now).expect("fresh readings");
        assert_eq!((both.speed, both.utilization, both.memory), (Some(0.25), Some(0.8), Some(0.9)));
        assert_eq!((both.foreign, both.fault), (Some(0.6), None));
        assert_eq!((both.taken_start, both.taken_end), (now, now + Duration::from_millis(1)));
        let unknown = fold([whole(&second)], None, now).expect("fresh readings");
        assert_eq!(unknown.foreign, None, "whose are the processes?");
    }

    #[test]
    fn old_values_are_left_out_and_the_oldest_that_counts_gives_the_age() {
        let now = Instant::now();
        let later = |millis| now + Duration::from_millis(millis);
        let mut gpu = readings(now, [clocks(500, 0x20)]);
        gpu.note(Answer::Utilization(0.5), later(1500), later(1501));
        let fresh = fold([whole(&gpu)], None, later(1900)).expect("fresh readings");
        assert_eq!((fresh.speed, fresh.taken_start), (Some(0.25), now));
        let half = fold([whole(&gpu)], None, later(2100)).expect("fresh readings");
        assert_eq!((half.speed, half.utilization), (None, Some(0.5)));
        assert_eq!(half.taken_start, later(1500));
        assert_eq!(fold([whole(&gpu)], None, later(4000)), None);
    }

    #[test]
    fn an_instance_has_its_own_memory_and_the_clocks_of_the_whole() {
        let now = Instant::now();
        let parent = readings(now, [clocks(1000, 0x40), times(&[(9, 0.9)]), Answer::Utilization(0.1)]);
        let gpm = Gpm { graphics: Some(0.7), ..Gpm::default() };
        let memory = Memory { used_bytes: 3, total_bytes: 4 };
        let own = readings(now, [Answer::Gpm(gpm), Answer::Memory(memory)]);
        let part = Part { own: &own, whole: &parent, fault: None };
        let hardware = fold([part], Some(&HashSet::new()), now).expect("fresh readings");
        assert_eq!((hardware.speed, hardware.utilization), (Some(0.5), Some(0.7)));
        assert_eq!((hardware.memory, hardware.foreign), (Some(0.75), None));
    }

    #[test]
    fn a_fault_stays_when_nothing_else_can_be_read() {
        let now = Instant::now();
        let (good, silent) = (readings(now, [Answer::Utilization(0.2)]), Readings::default());
        let lost = Part { fault: Some((Fault::Lost, now)), ..whole(&silent) };
        let later = now + Duration::from_secs(60);
        let alone = fold([lost], None, later).expect("a fault");
        assert_eq!((alone.fault, alone.taken_end), (Some(Fault::Lost), now));
        let beside = fold([whole(&good), lost], None, now).expect("a fault");
        assert_eq!((beside.fault, beside.utilization), (Some(Fault::Lost), Some(0.2)));
        assert_eq!(fold([whole(&silent)], None, now), None);
    }
}
