//! CPU time of another process, by thread, as the scheduler counts it.

use std::{collections::BTreeMap, fs, io, path::Path, time::Duration};

use nix::{time::ClockId, unistd::Pid};

/// What threads of one name have used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// CPU time.
    pub time: Duration,
    /// How often they have waited.
    pub waits: u64,
}

/// By name of threads.
pub type Usage = BTreeMap<String, Used>;

/// What all threads of a process have used so far.
///
/// # Errors
/// There is no such process.
pub fn of(process: u32) -> io::Result<Usage> {
    let mut usage = Usage::new();
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        // One that has ended in the meantime is left out.
        if let Ok((name, used)) = of_thread(&task?.path()) {
            let sum = usage.entry(name).or_default();
            (sum.time, sum.waits) = (sum.time + used.time, sum.waits + used.waits);
        }
    }
    Ok(usage)
}

/// The CPU time of a process so far, with that of threads which have ended.
///
/// # Errors
/// There is no such process.
pub fn whole(process: u32) -> io::Result<Duration> {
    let process = i32::try_from(process).map_err(io::Error::other)?;
    Ok(ClockId::pid_cpu_clock_id(Pid::from_raw(process))?.now()?.into())
}

fn of_thread(task: &Path) -> io::Result<(String, Used)> {
    let read = |file: &str| fs::read_to_string(task.join(file));
    let number = |text: Option<&str>| {
        text.and_then(|text| text.trim().parse::<u64>().ok()).ok_or(io::ErrorKind::InvalidData)
    };
    let time = Duration::from_nanos(number(read("schedstat")?.split(' ').next())?);
    let status = read("status")?;
    let waits = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    Ok((read("comm")?.trim().to_owned(), Used { time, waits: number(waits)? }))
}

/// What was used between two moments.
pub fn between(before: &Usage, after: &Usage) -> Usage {
    let grown = |(name, after): (&String, &Used)| {
        let before = before.get(name).copied().unwrap_or_default();
        let time = after.time.saturating_sub(before.time);
        (name.clone(), Used { time, waits: after.waits.saturating_sub(before.waits) })
    };
    after.iter().map(grown).collect()
}

#[cfg(test)]
mod tests {
    use std::{process, time::Duration};

    use super::{between, of, whole};

    #[test]
    fn work_of_a_thread_is_seen_under_its_name() {
        let before = of(process::id()).expect("this process");
        let worker = std::thread::Builder::new().name("works".into()).spawn(|| {
            let mut sum = 0_u64;
            (0..20_000_000_u64).for_each(|n| sum = std::hint::black_box(sum ^ n));
            of(process::id()).expect("this process")
        });
        let after = worker.expect("a thread").join().expect("no panic");
        let used = between(&before, &after)["works"];
        assert!(used.time > Duration::from_millis(1), "{used:?}");
        assert!(whole(process::id()).expect("this process") >= used.time, "an ended thread counts");
    }
}
