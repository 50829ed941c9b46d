//! CPU time of single ticks of another process's thread, seen from outside.
//!
//! The scheduler's count grows when the thread gives its processor up, so between two looks that lie closer together
//! than ticks it has grown by one tick or not at all.

use std::{
    fs, io,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Looks in each tick.
const LOOKS: u32 = 3;

/// What the scheduler counts for a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Count {
    time: Duration,
    /// How often it was given a processor.
    turns: u64,
}

impl Count {
    /// Of a `schedstat` file: nanoseconds run, nanoseconds waited, turns.
    fn read(file: &fs::File) -> io::Result<Self> {
        let mut bytes = [0; 96];
        let length = file.read_at(&mut bytes, 0)?;
        let text = String::from_utf8_lossy(&bytes[..length]);
        let mut numbers = text.split_ascii_whitespace().map_while(|number| number.parse().ok());
        match (numbers.next(), numbers.nth(1)) {
            (Some(time), Some(turns)) => Ok(Self { time: Duration::from_nanos(time), turns }),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// The time of the tick since an earlier look, if it was exactly one, in one turn.
    fn tick_since(self, before: Self) -> Option<Duration> {
        (self.turns == before.turns + 1 && self.time > before.time).then(|| self.time - before.time)
    }
}

/// A look at a thread that goes on.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Watch {
    /// Begins to look at the thread of that name.
    ///
    /// # Errors
    /// There is no such process, or no such thread in it.
    pub fn start(process: u32, name: &str, tick: Duration) -> io::Result<Self> {
        let file = fs::File::open(task(process, name)?.join("schedstat"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let (mut ticks, mut before) = (Vec::new(), None);
            while !stopped.load(Ordering::Relaxed) {
                // A thread that has ended has no more ticks.
                let Ok(now) = Count::read(&file) else { break };
                ticks.extend(before.replace(now).and_then(|before| now.tick_since(before)));
                thread::sleep(tick / LOOKS);
            }
            ticks
        });
        Ok(Self { stop, thread })
    }

    /// Ends it, and gives the CPU time of every tick that was seen by itself, sorted.
    pub fn stop(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        let mut ticks = self.thread.join().unwrap_or_default();
        ticks.sort_unstable();
        ticks
    }
}

fn task(process: u32, name: &str) -> io::Result<Box<Path>> {
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let path = task?.path();
        // One that has ended in the meantime is another.
        if fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name) {
            return Ok(path.into());
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("process {process} has no thread {name}")))
}

#[cfg(test)]
mod tests {
    use std::{
        process,
        sync::mpsc::{self, RecvTimeoutError},
        thread,
        time::Duration,
    };

    use super::{Count, Watch};

    #[test]
    fn only_a_whole_tick_in_one_turn_is_taken() {
        let count = |micros, turns| Count { time: Duration::from_micros(micros), turns };
        let before = count(100, 7);
        assert_eq!(count(130, 8).tick_since(before), Some(Duration::from_micros(30)));
        for (other, now) in
            [("none", before), ("begun", count(100, 8)), ("two, or one in two turns", count(160, 9))]
        {
            assert_eq!(now.tick_since(before), None, "{other}");
        }
    }

    #[test]
    fn ticks_of_a_thread_are_seen_one_by_one() {
        let period = Duration::from_millis(5);
        let (stop, stopped) = mpsc::channel::<()>();
        let ticking = thread::Builder::new().name("ticks".into()).spawn(move || {
            while stopped.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                (0..10_000_u64).for_each(|n| _ = std::hint::black_box(n));
            }
        });
        let watch = loop {
            if let Ok(watch) = Watch::start(process::id(), "ticks", period) {
                break watch;
            }
        };
        thread::sleep(period * 100);
        let ticks = watch.stop();
        drop(stop);
        ticking.expect("a thread").join().expect("no panic");
        assert!(ticks.first().is_some_and(|least| *least > Duration::ZERO), "{ticks:?}");
    }
}
