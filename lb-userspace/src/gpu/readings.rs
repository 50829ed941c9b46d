//! What is known of a GPU, each value with the time at which it was read.

use std::time::Instant;

use serde::{Serialize, Serializer};

use super::driver::Answer;

/// A value and the moments just before and after it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed<T> {
    /// The value.
    pub value: T,
    /// Before the driver was asked.
    pub start: Instant,
    /// After it had answered.
    pub end: Instant,
}

/// As its value: what is shown was read just now.
impl<T: Serialize> Serialize for Timed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

/// The last answer to each question; `None` until there is one.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Readings {
    /// Part of the time in which any kernel ran, 0 to 1.
    pub utilization: Option<Timed<f64>>,
    /// Clocks, and what holds them down.
    pub clocks: Option<Timed<Clocks>>,
    /// GPU time by process.
    pub process_time: Option<Timed<Vec<ProcessTime>>>,
    /// Memory errors since the driver was loaded that could not be corrected.
    pub ecc_uncorrected: Option<Timed<u64>>,
    /// Memory in use.
    pub memory: Option<Timed<Memory>>,
    /// Power draw.
    pub power: Option<Timed<Power>>,
    /// Temperature in degrees Celsius.
    pub temperature_celsius: Option<Timed<u32>>,
    /// What the performance monitor counts.
    pub gpm: Option<Timed<Gpm>>,
    /// Processes that use it.
    pub processes: Option<Timed<Vec<Process>>>,
}

impl Readings {
    /// Takes an answer that was given between two moments.
    pub fn note(&mut self, answer: Answer, start: Instant, end: Instant) {
        fn put<T>(place: &mut Option<Timed<T>>, value: T, start: Instant, end: Instant) {
            *place = Some(Timed { value, start, end });
        }
        match answer {
            Answer::Utilization(part) => put(&mut self.utilization, part, start, end),
            Answer::Clocks(clocks) => put(&mut self.clocks, clocks, start, end),
            Answer::ProcessTime(times) => put(&mut self.process_time, times, start, end),
            Answer::Ecc(count) => put(&mut self.ecc_uncorrected, count, start, end),
            Answer::Memory(memory) => put(&mut self.memory, memory, start, end),
            Answer::Power(power) => put(&mut self.power, power, start, end),
            Answer::Temperature(degrees) => put(&mut self.temperature_celsius, degrees, start, end),
            Answer::Gpm(gpm) => put(&mut self.gpm, gpm, start, end),
            Answer::Processes(processes) => put(&mut self.processes, processes, start, end),
        }
    }
}

/// Clocks in MHz, and what holds them down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Clocks {
    /// Of the multiprocessors now.
    pub sm_mhz: u32,
    /// The highest that the product goes to.
    pub sm_max_mhz: u32,
    /// Of the memory now; `None` where the driver does not say.
    pub memory_mhz: Option<u32>,
    /// What holds them down: bits of `nvmlClocksEventReasons`, shown in words.
    #[serde(serialize_with = "in_words")]
    pub reasons: u64,
}

/// What holds the clocks of a GPU down although it has work: `nvmlClocksEventReasons` in NVIDIA's `nvml.h`.
///
/// Not among them: idle (0x1), clocks that somebody has set (0x2, 0x100), the power cap (0x4), which every large GPU
/// meets under full load, and another GPU of the group (0x10), which has a reason of its own.
const SLOWDOWN: u64 = HW_SLOWDOWN | SW_THERMAL | HW_THERMAL | HW_POWER_BRAKE;
const HW_SLOWDOWN: u64 = 0x8;
const SW_THERMAL: u64 = 0x20;
const HW_THERMAL: u64 = 0x40;
const HW_POWER_BRAKE: u64 = 0x80;
const REASONS: [(u64, &str); 9] = [
    (0x1, "idle"),
    (0x2, "application clocks"),
    (0x4, "power cap"),
    (HW_SLOWDOWN, "hardware slowdown"),
    (0x10, "sync boost"),
    (SW_THERMAL, "software thermal slowdown"),
    (HW_THERMAL, "hardware thermal slowdown"),
    (HW_POWER_BRAKE, "power brake"),
    (0x100, "display clocks"),
];

fn in_words<S: Serializer>(reasons: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(words(*reasons))
}

fn words(reasons: u64) -> impl Iterator<Item = &'static str> {
    REASONS.iter().filter(move |(bit, _)| reasons & bit != 0).map(|(_, word)| *word)
}

impl Clocks {
    /// Whether the GPU is held down by something that is not normal.
    pub fn is_throttled(&self) -> bool {
        self.reasons & SLOWDOWN != 0
    }

    /// Part of its full clock at which it may run, 0 to 1.
    pub fn speed(&self) -> f64 {
        if !self.is_throttled() || self.sm_max_mhz == 0 {
            return 1.0;
        }
        (f64::from(self.sm_mhz) / f64::from(self.sm_max_mhz)).min(1.0)
    }

    /// The reasons in words.
    pub fn reasons_in_words(&self) -> Vec<&'static str> {
        words(self.reasons).collect()
    }
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// In use.
    pub used_bytes: u64,
    /// In all.
    pub total_bytes: u64,
}

impl Memory {
    /// Part in use, 0 to 1.
    pub fn part(&self) -> f64 {
        if self.total_bytes == 0 { 0.0 } else { self.used_bytes as f64 / self.total_bytes as f64 }
    }
}

/// Power in watts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Power {
    /// Drawn now.
    pub draw_watts: f64,
    /// The most it may draw; `None` where the driver does not say.
    pub limit_watts: Option<f64>,
}

/// What one process took of a GPU since it was last asked.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ProcessTime {
    /// The process.
    pub pid: u32,
    /// Part of the time, 0 to 1.
    pub part: f64,
}

/// A process that uses a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Process {
    /// The process.
    pub pid: u32,
    /// Memory it has there; `None` where the driver does not say.
    pub memory_bytes: Option<u64>,
}

/// Parts, 0 to 1, of what the performance monitor counts; `None` for what this GPU does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Gpm {
    /// Time in which anything ran.
    pub graphics: Option<f64>,
    /// Multiprocessors with work.
    pub sm: Option<f64>,
    /// Warps of all that could be.
    pub occupancy: Option<f64>,
    /// Tensor units with work.
    pub tensor: Option<f64>,
    /// Memory bandwidth.
    pub memory_bandwidth: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::Clocks;

    #[test]
    fn only_what_is_not_normal_makes_a_gpu_slow() {
        let cases = [
            (0x0, 1.0),
            (0x1, 1.0),
            (0x4, 1.0),
            (0x2 | 0x10 | 0x100, 1.0),
            (0x8, 0.25),
            (0x20, 0.25),
            (0x40 | 0x4, 0.25),
            (0x80, 0.25),
        ];
        for (reasons, speed) in cases {
            let clocks = Clocks { sm_mhz: 495, sm_max_mhz: 1980, memory_mhz: None, reasons };
            assert_eq!(clocks.speed(), speed, "reasons {reasons:#x}");
        }
        let unknown = Clocks { sm_mhz: 495, sm_max_mhz: 0, memory_mhz: None, reasons: 0x20 };
        assert_eq!(unknown.speed(), 1.0, "of what is the clock a part?");
        assert_eq!(unknown.reasons_in_words(), ["software thermal slowdown"]);
    }
}
