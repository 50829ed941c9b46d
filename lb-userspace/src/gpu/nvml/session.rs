//! Questions to the driver, and what has to be kept from one to the next.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use nvml_wrapper::{
    Device, GpmSample,
    enum_wrappers::device::{Clock, EccCounter, MemoryError, Sampling, TemperatureSensor},
    enums::{
        device::{SampleValue, UsedGpuMemory},
        gpm::GpmMetricId,
    },
    error::nvml_try,
    gpm::gpm_metrics_get,
    struct_wrappers::device::ProcessInfo,
};

use super::Library;
use crate::gpu::{
    driver::{Answer, Driver, DriverError, Instance, Listing, Question, Unit},
    readings::{Clocks, Gpm, Memory, Power, Process, ProcessTime},
};

/// The performance monitor's samples must lie at least this far apart (`nvmlGpmSampleGet` in `nvml.h`).
pub const GPM_SPACING: Duration = Duration::from_millis(100);

/// The driver samples the time of processes once a second at the least: for so long an answer without a sample says
/// nothing, and after it that nothing ran.
const PROCESS_SAMPLING: Duration = Duration::from_millis(1500);

/// What is asked of the performance monitor.
const GPM_METRICS: [GpmMetricId; 5] = [
    GpmMetricId::GraphicsUtil,
    GpmMetricId::SmUtil,
    GpmMetricId::SmOccupancy,
    GpmMetricId::AnyTensorUtil,
    GpmMetricId::DramBwUtil,
];

/// What one thread knows of a device between two questions.
#[derive(Debug)]
struct Known<'a> {
    device: Device<'a>,
    /// The driver's number of an instance's part of the GPU.
    gpu_instance: Option<u32>,
    /// The newest sample of utilization, and of time by process, on the driver's clock.
    sampled: u64,
    processes_sampled: u64,
    /// When there last was a new sample of time by process.
    processes_heard: Option<Instant>,
    /// The last sample of the performance monitor, and when it was taken.
    gpm: Option<(Instant, GpmSample<'a>)>,
}

/// The [`Driver`] of one thread.
#[derive(Debug)]
pub struct Session<'a> {
    library: &'a Library,
    devices: HashMap<String, Known<'a>>,
}

impl<'a> Session<'a> {
    pub(super) fn of(library: &'a Library) -> Self {
        Self { library, devices: HashMap::new() }
    }

    fn enter(
        &mut self,
        device: Device<'a>,
        index: u32,
        instance: Option<Instance>,
    ) -> Result<Unit, DriverError> {
        let uuid = self.library.call(|| device.uuid())?;
        let name = self.library.call(|| device.name()).unwrap_or_default();
        let gpu_instance = instance.as_ref().and_then(|instance| instance.gpu_instance);
        match self.devices.get_mut(&uuid) {
            // What was learned of it stays: only new samples count.
            Some(known) => (known.device, known.gpu_instance) = (device, gpu_instance),
            None => {
                let known = Known {
                    device,
                    gpu_instance,
                    sampled: 0,
                    processes_sampled: 0,
                    processes_heard: None,
                    gpm: None,
                };
                self.devices.insert(uuid.clone(), known);
            }
        }
        Ok(Unit { uuid, index, name, instance })
    }

    /// The instances of a GPU; none where it is not divided.
    fn instances(&mut self, parent: &Unit, units: &mut Vec<Unit>) {
        let library = self.library;
        let Some(known) = self.devices.get(&parent.uuid) else { return };
        // Any other value than 1 is of a GPU that is not divided now.
        if !library.call(|| known.device.mig_mode()).is_ok_and(|mode| mode.current == 1) {
            return;
        }
        let most = library.call(|| known.device.mig_device_count()).unwrap_or(0);
        let found = (0..most).filter_map(|number| {
            // Numbers that no instance has are skipped.
            let device = library.call(|| known.device.mig_device_by_index(number)).ok()?;
            Some((number, device))
        });
        for (number, device) in found.collect::<Vec<_>>() {
            let gpu_instance = gpu_instance(library, &device);
            let instance = Instance { parent: parent.uuid.clone(), number, gpu_instance };
            units.extend(self.enter(device, parent.index, Some(instance)));
        }
    }
}

/// What the wrapper has no call for.
fn gpu_instance(library: &Library, device: &Device<'_>) -> Option<u32> {
    let get = library.nvml.lib().nvmlDeviceGetGpuInstanceId.as_ref().ok()?;
    // SAFETY: the handle is used while `device` lives.
    let handle = unsafe { device.handle() };
    let mut id = 0;
    // SAFETY: the library is loaded, the handle is of one of its devices, and `id` outlives the call.
    let code = library.cost.of(|| unsafe { get(handle, &raw mut id) });
    nvml_try(code).is_ok().then_some(id)
}

impl Driver for Session<'_> {
    fn list(&mut self) -> Result<Listing, DriverError> {
        let mut listing = Listing::default();
        for (index, device) in self.library.whole_gpus()? {
            match device.and_then(|device| self.enter(device, index, None)) {
                Ok(unit) => {
                    listing.units.push(unit.clone());
                    self.instances(&unit, &mut listing.units);
                }
                Err(error @ DriverError::Gone(_)) => return Err(error),
                Err(error) => listing.silent.push((index, error)),
            }
        }
        Ok(listing)
    }

    fn ask(&mut self, uuid: &str, question: Question) -> Result<Answer, DriverError> {
        if !self.devices.contains_key(uuid) {
            self.list()?;
        }
        let library = self.library;
        let known = self.devices.get_mut(uuid).ok_or(DriverError::Lost)?;
        match question {
            Question::Utilization => known.utilization(library),
            Question::Clocks => known.clocks(library),
            Question::ProcessTime => known.process_time(library),
            Question::Ecc => library
                .call(|| known.device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile))
                .map(Answer::Ecc),
            Question::Memory => library
                .call(|| known.device.memory_info())
                .map(|memory| Answer::Memory(Memory { used_bytes: memory.used, total_bytes: memory.total })),
            Question::Power => known.power(library),
            Question::Temperature => {
                library.call(|| known.device.temperature(TemperatureSensor::Gpu)).map(Answer::Temperature)
            }
            Question::Gpm => known.gpm(library),
            Question::Processes => known.processes(library),
        }
    }
}

impl<'a> Known<'a> {
    /// The mean of the samples since the last question; where there are no samples, of the driver's own last period.
    fn utilization(&mut self, library: &Library) -> Result<Answer, DriverError> {
        match library.call(|| self.device.samples(Sampling::GpuUtilization, self.sampled)) {
            Ok(samples) if samples.is_empty() => Err(DriverError::NoData),
            Ok(samples) => {
                self.sampled = samples.iter().map(|sample| sample.timestamp).fold(self.sampled, u64::max);
                let sum: f64 = samples.iter().map(|sample| number(&sample.value)).sum();
                Ok(Answer::Utilization(part(sum / samples.len() as f64)))
            }
            Err(DriverError::Unsupported) => library
                .call(|| self.device.utilization_rates())
                .map(|rates| Answer::Utilization(part(rates.gpu.into()))),
            Err(error) => Err(error),
        }
    }

    /// The reasons first: a clock that is read after them is held down by them.
    fn clocks(&self, library: &Library) -> Result<Answer, DriverError> {
        let reasons = library.call(|| self.device.current_throttle_reasons())?.bits();
        let sm_mhz = library.call(|| self.device.clock_info(Clock::SM))?;
        let sm_max_mhz = library.call(|| self.device.max_clock_info(Clock::SM))?;
        let memory_mhz = library.call(|| self.device.clock_info(Clock::Memory)).ok();
        Ok(Answer::Clocks(Clocks { sm_mhz, sm_max_mhz, memory_mhz, reasons }))
    }

    fn process_time(&mut self, library: &Library) -> Result<Answer, DriverError> {
        let since = self.processes_sampled;
        let samples = match library.call(|| self.device.process_utilization_stats(since)) {
            Err(DriverError::NoData) => Vec::new(),
            samples => samples?,
        };
        if samples.iter().any(|sample| sample.timestamp > since) {
            self.processes_heard = Some(Instant::now());
        } else if self.processes_heard.is_some_and(|heard| heard.elapsed() < PROCESS_SAMPLING) {
            return Err(DriverError::NoData);
        }
        self.processes_sampled = samples.iter().map(|sample| sample.timestamp).fold(since, u64::max);
        // The driver may give samples that it gave before, and several of one process.
        let mut sums: HashMap<u32, (f64, f64)> = HashMap::new();
        for sample in samples.iter().filter(|sample| sample.timestamp > since) {
            let (sum, count) = sums.entry(sample.pid).or_default();
            (*sum, *count) = (*sum + part(sample.sm_util.into()), *count + 1.0);
        }
        let times = sums.into_iter().map(|(pid, (sum, count))| ProcessTime { pid, part: sum / count });
        Ok(Answer::ProcessTime(times.collect()))
    }

    fn power(&self, library: &Library) -> Result<Answer, DriverError> {
        let watts = |milliwatts: u32| f64::from(milliwatts) / 1000.0;
        let draw_watts = watts(library.call(|| self.device.power_usage())?);
        let limit_watts = library.call(|| self.device.enforced_power_limit()).ok().map(watts);
        Ok(Answer::Power(Power { draw_watts, limit_watts }))
    }

    /// Between the last sample and a new one, which becomes the last.
    fn gpm(&mut self, library: &'a Library) -> Result<Answer, DriverError> {
        if !library.call(|| self.device.gpm_support())? {
            return Err(DriverError::Unsupported);
        }
        if self.gpm.as_ref().is_some_and(|(taken, _)| taken.elapsed() < GPM_SPACING) {
            return Err(DriverError::NoData);
        }
        let sample = match self.gpu_instance {
            // The monitor of an instance is asked through the whole GPU.
            Some(instance) => {
                let parent = library.call(|| self.device.mig_parent_device())?;
                library.call(|| parent.gpm_mig_sample(instance))?
            }
            None => library.call(|| self.device.gpm_sample())?,
        };
        let now = Instant::now();
        let Some((_, before)) = self.gpm.take() else {
            self.gpm = Some((now, sample));
            return Err(DriverError::NoData);
        };
        let metrics = library.call(|| gpm_metrics_get(&library.nvml, &before, &sample, &GPM_METRICS));
        self.gpm = Some((now, sample));
        let metrics = metrics?;
        let value = |at: usize| metrics.get(at)?.as_ref().ok().map(|metric| part(metric.value));
        Ok(Answer::Gpm(Gpm {
            graphics: value(0),
            sm: value(1),
            occupancy: value(2),
            tensor: value(3),
            memory_bandwidth: value(4),
        }))
    }

    fn processes(&self, library: &Library) -> Result<Answer, DriverError> {
        let processes = library.call(|| self.device.running_compute_processes())?;
        let process = |process: ProcessInfo| Process {
            pid: process.pid,
            memory_bytes: match process.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Some(bytes),
                UsedGpuMemory::Unavailable => None,
            },
        };
        Ok(Answer::Processes(processes.into_iter().map(process).collect()))
    }
}

fn number(value: &SampleValue) -> f64 {
    match *value {
        SampleValue::F64(value) => value,
        SampleValue::U32(value) => value.into(),
        SampleValue::U64(value) => value as f64,
        SampleValue::I64(value) => value as f64,
    }
}

/// Per cent as a part; what is none counts as nothing.
fn part(percent: f64) -> f64 {
    if percent.is_finite() { (percent / 100.0).clamp(0.0, 1.0) } else { 0.0 }
}
