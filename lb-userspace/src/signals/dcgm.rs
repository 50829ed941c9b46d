//! The DCGM exporter's exposition: what it says of a host's GPUs.
//!
//! A source for hosts without an agent, and a slow one: the exporter asks the driver every 30 s. So it tells faults, and
//! figures to look at. Its speed moves no cost: the governor takes no reading that may be older than two seconds.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    exposition::{Sample, label, samples_of},
    hardware::{Fault, Hardware},
};

/// How old the exporter's numbers may be when it is asked, unless it was started with another `-c`.
pub const CADENCE: Duration = Duration::from_secs(30);

/// DCGM prints what it cannot tell as a number near the end of its range (`DCGM_INT64_BLANK` and its kin: not found,
/// not supported, not permitted).
const BLANK: f64 = 9e18;

/// The most GPUs of a host, undivided or as instances: 64 GPUs of eight instances each are above what any has. An
/// exposition that tells of more is none of an exporter's, and the rest of it is passed over.
const MOST_UNITS: usize = 512;

/// From this part of its time on a GPU counts as busy. A GPU with nothing to do lowers its clock by itself.
const BUSY: f64 = 0.5;

/// Slowdown by heat, by hardware (8, 32, 64) or by the power brake (128): bits of `nvmlClocksEventReasons`.
const SLOWED: u64 = 0x8 | 0x20 | 0x40 | 0x80;

#[derive(Default)]
struct Gpu {
    utilization: Option<f64>,
    used: Option<f64>,
    free: f64,
    reserved: f64,
    clock: Option<f64>,
    full_clock: Option<f64>,
    reasons: u64,
    fault: Option<Fault>,
}

/// What `text` says of those of a host's GPUs that `gpus` names, by number or UUID; none named means all. None when
/// there is nothing about them in it.
pub fn read(text: &[u8], gpus: &[String], taken_start: Instant, taken_end: Instant) -> Option<Hardware> {
    // By what tells them apart: a GPU's number, or that and the instance's.
    let mut found: BTreeMap<_, Gpu> = BTreeMap::new();
    for sample in samples_of(text, |name| name.starts_with("DCGM_FI_")).flatten() {
        let Some(number) = label(sample.labels, "gpu") else { continue };
        let named = |name: &String| name == number || label(sample.labels, "UUID") == Some(name);
        if !(0.0..BLANK).contains(&sample.value) || !(gpus.is_empty() || gpus.iter().any(named)) {
            continue;
        }
        let labels = (number, label(sample.labels, "GPU_I_ID"));
        if found.len() < MOST_UNITS || found.contains_key(&labels) {
            found.entry(labels).or_default().note(&sample);
        }
    }
    if found.is_empty() {
        return None;
    }
    Some(Hardware {
        speed: found.values().filter_map(Gpu::speed).reduce(f64::min),
        foreign: None,
        utilization: found
            .values()
            .filter_map(|gpu| gpu.utilization)
            .reduce(f64::max)
            .map(|part| part.min(1.0)),
        memory: found.values().filter_map(Gpu::memory).reduce(f64::max),
        fault: found.values().find_map(|gpu| gpu.fault),
        taken_start: taken_start.checked_sub(CADENCE).unwrap_or(taken_start),
        taken_end,
    })
}

impl Gpu {
    fn note(&mut self, sample: &Sample<'_>) {
        const PERCENT: f64 = 100.0;
        let value = sample.value;
        let more = |so_far: Option<f64>, value: f64| Some(so_far.map_or(value, |so_far| so_far.max(value)));
        match sample.name {
            "DCGM_FI_DEV_GPU_UTIL" => self.utilization = more(self.utilization, value / PERCENT),
            // Known for MIG instances too.
            "DCGM_FI_PROF_GR_ENGINE_ACTIVE" => self.utilization = more(self.utilization, value),
            "DCGM_FI_DEV_FB_USED" => self.used = Some(value),
            "DCGM_FI_DEV_FB_FREE" => self.free = value,
            "DCGM_FI_DEV_FB_RESERVED" => self.reserved = value,
            "DCGM_FI_DEV_SM_CLOCK" => self.clock = Some(value),
            "DCGM_FI_DEV_MAX_SM_CLOCK" => self.full_clock = Some(value),
            // The second name is the newer.
            "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS" | "DCGM_FI_DEV_CLOCKS_EVENT_REASONS" => {
                self.reasons |= value as u64;
            }
            // The last error of the GPU's, until the exporter is restarted.
            "DCGM_FI_DEV_XID_ERRORS" => {
                // Numbers come as floats; no error has a number that one cannot hold.
                self.fault = self.fault.or(Fault::of_xid(value as u32));
            }
            "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL" if value > 0.0 => self.fault = self.fault.or(Some(Fault::Ecc)),
            _ => {}
        }
    }

    fn memory(&self) -> Option<f64> {
        let used = self.used?;
        Some(used / (used + self.free + self.reserved)).filter(|share| share.is_finite())
    }

    /// Only where the GPU has reason to run fast.
    fn speed(&self) -> Option<f64> {
        let slowed = self.reasons & SLOWED != 0 || self.utilization.is_some_and(|part| part >= BUSY);
        let full = self.full_clock.filter(|full| slowed && *full > 0.0)?;
        Some((self.clock? / full).min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{CADENCE, Fault, Hardware, MOST_UNITS, read};

    const TWO: &str = r#"# HELP DCGM_FI_DEV_SM_CLOCK SM clock frequency (in MHz).
# TYPE DCGM_FI_DEV_SM_CLOCK gauge
DCGM_FI_DEV_SM_CLOCK{gpu="0",UUID="GPU-a",device="nvidia0",modelName="X"} 1980
DCGM_FI_DEV_SM_CLOCK{gpu="1",UUID="GPU-b",device="nvidia1",modelName="X"} 495
DCGM_FI_DEV_MAX_SM_CLOCK{gpu="0",UUID="GPU-a"} 1980
DCGM_FI_DEV_MAX_SM_CLOCK{gpu="1",UUID="GPU-b"} 1980
DCGM_FI_DEV_MEMORY_TEMP{gpu="0",UUID="GPU-a"} 9223372036854775794
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-a"} 40
DCGM_FI_DEV_GPU_UTIL{gpu="1",UUID="GPU-b"} 95
DCGM_FI_DEV_XID_ERRORS{gpu="0",UUID="GPU-a",err_code="0",err_msg="No Error"} 0
DCGM_FI_DEV_XID_ERRORS{gpu="1",UUID="GPU-b",err_code="31"} 31
DCGM_FI_DEV_FB_FREE{gpu="0", UUID="GPU-a"} 20000
DCGM_FI_DEV_FB_USED{gpu="0", UUID="GPU-a"} 60000
DCGM_FI_DEV_FB_FREE{gpu="1", UUID="GPU-b"} 60000
DCGM_FI_DEV_FB_USED{gpu="1", UUID="GPU-b"} 20000
"#;

    fn hardware(text: &str, gpus: &[&str]) -> Option<Hardware> {
        let gpus: Vec<String> = gpus.iter().map(ToString::to_string).collect();
        let now = Instant::now();
        read(text.as_bytes(), &gpus, now, now)
    }

    #[test]
    fn the_worst_of_the_named_gpus_counts() {
        for (gpus, speed, utilization, memory) in [
            (&[][..], Some(0.25), 0.95, 0.75),
            (&["0"], None, 0.4, 0.75),
            (&["GPU-b"], Some(0.25), 0.95, 0.25),
            (&["1", "GPU-a"], Some(0.25), 0.95, 0.75),
        ] {
            let read = hardware(TWO, gpus).unwrap_or_else(|| panic!("{gpus:?} are not found"));
            assert_eq!(
                (read.speed, read.utilization, read.memory),
                (speed, Some(utilization), Some(memory)),
                "{gpus:?}"
            );
            assert_eq!((read.fault, read.foreign), (None, None), "{gpus:?}");
        }
        assert_eq!(hardware(TWO, &["2"]), None);
    }

    #[test]
    fn what_is_not_supported_is_not_known() {
        let blank =
            TWO.replace("} 95\n", "} 9223372036854775794\n").replace("} 40\n", "} 9223372036854775792\n");
        let read = hardware(&blank, &[]).expect("some is known");
        assert_eq!((read.utilization, read.speed), (None, None));
        assert_eq!(hardware("DCGM_FI_DEV_GPU_UTIL{gpu=\"0\"} NaN\n", &[]), None);
        assert_eq!(hardware("vllm:num_requests_running 1\nDCGM_FI_DEV_GPU_UTIL 1\n", &[]), None);
    }

    #[test]
    fn faults_are_those_of_the_gpu_and_not_of_a_program() {
        for (line, fault) in [
            ("DCGM_FI_DEV_XID_ERRORS{gpu=\"0\"} 79", Some(Fault::Xid(79))),
            ("DCGM_FI_DEV_XID_ERRORS{gpu=\"0\"} 13", None),
            ("DCGM_FI_DEV_XID_ERRORS{gpu=\"0\"} 0", None),
            ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL{gpu=\"0\"} 2", Some(Fault::Ecc)),
            ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL{gpu=\"0\"} 0", None),
        ] {
            let read = hardware(&format!("{line}\n"), &[]).unwrap_or_else(|| panic!("{line}: nothing"));
            assert_eq!(read.fault, fault, "{line}");
        }
    }

    #[test]
    fn a_slow_clock_counts_where_there_is_work_or_a_reason() {
        let clock = "DCGM_FI_DEV_SM_CLOCK{gpu=\"0\"} 495\nDCGM_FI_DEV_MAX_SM_CLOCK{gpu=\"0\"} 1980\n";
        for (reason, speed) in [
            ("DCGM_FI_DEV_GPU_UTIL{gpu=\"0\"} 0", None),
            ("DCGM_FI_DEV_GPU_UTIL{gpu=\"0\"} 80", Some(0.25)),
            ("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS{gpu=\"0\"} 1", None),
            ("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS{gpu=\"0\"} 4", None),
            ("DCGM_FI_DEV_CLOCKS_EVENT_REASONS{gpu=\"0\"} 32", Some(0.25)),
        ] {
            let read = hardware(&format!("{clock}{reason}\n"), &[]).unwrap_or_else(|| panic!("{reason}"));
            assert_eq!(read.speed, speed, "{reason}");
        }
    }

    #[test]
    fn instances_of_a_divided_gpu_are_told_apart() {
        let text = "DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu=\"0\",GPU_I_ID=\"1\"} 0.25\n\
                    DCGM_FI_DEV_FB_USED{gpu=\"0\",GPU_I_ID=\"1\"} 30\nDCGM_FI_DEV_FB_FREE{gpu=\"0\",GPU_I_ID=\"1\"} 10\n\
                    DCGM_FI_DEV_FB_USED{gpu=\"0\",GPU_I_ID=\"2\"} 10\nDCGM_FI_DEV_FB_FREE{gpu=\"0\",GPU_I_ID=\"2\"} 30\n";
        let read = hardware(text, &["0"]).expect("known");
        assert_eq!((read.utilization, read.memory), (Some(0.25), Some(0.75)));
    }

    #[test]
    fn more_gpus_than_a_host_can_have_are_passed_over() {
        let line = |number: usize, percent| format!("DCGM_FI_DEV_GPU_UTIL{{gpu=\"{number}\"}} {percent}\n");
        let mut text: String = (0..MOST_UNITS).map(|number| line(number, 10)).collect();
        text += &line(MOST_UNITS, 90);
        let utilization = |text: &str| hardware(text, &[]).and_then(|hardware| hardware.utilization);
        assert_eq!(utilization(&text), Some(0.1));
        text += &line(MOST_UNITS - 1, 80);
        assert_eq!(utilization(&text), Some(0.8), "one that is known");
    }

    #[test]
    fn it_is_as_old_as_the_exporter_may_let_it_be() {
        let now = Instant::now() + Duration::from_secs(60);
        let read = read(TWO.as_bytes(), &[], now, now).expect("known");
        assert_eq!((now - read.taken_start, read.taken_end), (CADENCE, now));
    }
}
