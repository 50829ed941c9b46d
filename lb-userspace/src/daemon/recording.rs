//! Recordings under way: who gets what the governor saw and wrote.
//!
//! The governor's thread waits for nobody: a recording that does not keep up loses samples, counted.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::mpsc;

use crate::{
    api::Sampling,
    recording::{Header, Line, Sample},
};

/// Samples that wait for a recording's client: seconds of the usual ones.
const BACKLOG: usize = 64;

/// One moment, and whose it is.
#[derive(Clone)]
pub struct Frame {
    pub header: Arc<Header>,
    pub sample: Arc<Sample>,
}

/// All recordings under way; clones are of the same.
#[derive(Clone, Default)]
pub struct Recorders(Arc<Mutex<Vec<Recorder>>>);

struct Recorder {
    every: Duration,
    /// When it wants the next frame; at once before the first.
    due: Option<Duration>,
    sender: mpsc::Sender<Frame>,
    lost: Arc<AtomicU64>,
}

/// One recording, as its client has it.
pub struct Recording {
    receiver: mpsc::Receiver<Frame>,
    lost: Arc<AtomicU64>,
    header: Option<Arc<Header>>,
    /// What comes after its header.
    next: Option<Arc<Sample>>,
}

impl Recorders {
    /// Begins one that gets a frame each time `every` has passed, from the next tick on.
    pub fn begin(&self, every: Duration) -> Recording {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let lost = Arc::new(AtomicU64::new(0));
        self.lock().push(Recorder { every, due: None, sender, lost: Arc::clone(&lost) });
        Recording { receiver, lost, header: None, next: None }
    }

    /// Whether somebody wants to know of the tick at `now`. Those who have gone are forgotten.
    pub fn are_due(&self, now: Duration) -> bool {
        let mut recorders = self.lock();
        recorders.retain(|recorder| !recorder.sender.is_closed());
        recorders.iter().any(|recorder| recorder.is_due(now))
    }

    /// Gives a frame to all who are due.
    pub fn hand_out(&self, now: Duration, frame: &Frame) {
        for recorder in self.lock().iter_mut().filter(|recorder| recorder.is_due(now)) {
            // The rhythm is kept, and late ones are not made up for.
            let next = recorder.due.unwrap_or(now) + recorder.every;
            recorder.due = Some(if next > now { next } else { now + recorder.every });
            if recorder.sender.try_send(frame.clone()).is_err() {
                recorder.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Recorder>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorder {
    fn is_due(&self, now: Duration) -> bool {
        self.due.is_none_or(|due| due <= now)
    }
}

impl Sampling for Recording {
    async fn next(&mut self) -> Option<Line> {
        if let Some(sample) = self.next.take() {
            return Some(Line::Sample(Arc::unwrap_or_clone(sample)));
        }
        let Frame { header, sample } = self.receiver.recv().await?;
        if self.header.as_ref().is_some_and(|known| Arc::ptr_eq(known, &header) || *known == header) {
            return Some(Line::Sample(Arc::unwrap_or_clone(sample)));
        }
        self.header = Some(Arc::clone(&header));
        self.next = Some(sample);
        Some(Line::Recording((*header).clone()))
    }

    fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::{BACKLOG, Frame, Recorders};
    use crate::{
        api::Sampling as _,
        recording::{Header, Line, Sample},
    };

    const TICK: Duration = Duration::from_millis(5);

    fn tick(recorders: &Recorders, number: u32, header: &Arc<Header>) {
        let now = TICK * number;
        if recorders.are_due(now) {
            let sample = Arc::new(Sample { at_us: now.as_micros() as u64, vips: Vec::new() });
            recorders.hand_out(now, &Frame { header: Arc::clone(header), sample });
        }
    }

    #[tokio::test]
    async fn each_recording_has_its_own_rhythm_and_a_header_before_what_is_new() {
        let recorders = Recorders::default();
        assert!(!recorders.are_due(TICK), "nobody asked");
        let header = Arc::new(Header::new(Vec::new()));
        let (mut all, mut some) = (recorders.begin(TICK), recorders.begin(TICK * 4));
        (1..=8).for_each(|number| tick(&recorders, number, &header));
        let same = Arc::new((*header).clone());
        let other = Arc::new(Header { version: "other".to_owned(), ..(*header).clone() });
        tick(&recorders, 9, &same);
        tick(&recorders, 10, &other);
        let mut times = Vec::new();
        for number in 0..12 {
            match all.next().await {
                Some(Line::Recording(_)) => assert!(number == 0 || number == 10, "line {number} is a header"),
                Some(Line::Sample(sample)) => times.push(sample.at_us / 5000),
                other => panic!("line {number} is {other:?}"),
            }
        }
        assert_eq!(times, (1..=10).collect::<Vec<_>>());
        assert_eq!(some.next().await, Some(Line::Recording((*header).clone())));
        drop(all);
        for expected in [1, 5, 9] {
            let Some(Line::Sample(sample)) = some.next().await else { panic!("no sample {expected}") };
            assert_eq!(sample.at_us / 5000, expected);
        }
        drop(some);
        assert!(!recorders.are_due(TICK * 100), "all have gone");
    }

    #[test]
    fn a_slow_client_loses_samples_and_nobody_waits_for_it() {
        let recorders = Recorders::default();
        let header = Arc::new(Header::new(Vec::new()));
        let recording = recorders.begin(TICK);
        (0..BACKLOG as u32 + 3).for_each(|number| tick(&recorders, number, &header));
        assert_eq!(recording.lost(), 3);
    }
}
