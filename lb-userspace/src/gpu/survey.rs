//! Everything that a driver tells, asked once: what `guidevane gpu` shows.

use std::{collections::BTreeMap, time::Instant};

use serde::Serialize;

use super::{
    driver::{Driver, DriverError, Question, Unit},
    nvml::GPM_SPACING,
    readings::Readings,
};

/// The GPUs of a host.
#[derive(Debug, Serialize)]
pub struct Survey {
    /// GPUs and their instances.
    pub gpus: Vec<Surveyed>,
    /// Why others tell nothing at all, by their number.
    pub silent: BTreeMap<u32, String>,
}

/// A GPU or instance.
#[derive(Debug, Serialize)]
pub struct Surveyed {
    /// Which one.
    #[serde(flatten)]
    pub unit: Unit,
    /// What it tells.
    #[serde(flatten)]
    pub readings: Readings,
    /// Why it does not tell the rest, by question.
    pub unavailable: BTreeMap<&'static str, String>,
}

/// Asks every unit every question.
///
/// # Errors
///
/// When the driver lists nothing.
pub fn survey(driver: &mut dyn Driver) -> Result<Survey, DriverError> {
    let listing = driver.list()?;
    let surveyed = |unit| Surveyed { unit, readings: Readings::default(), unavailable: BTreeMap::new() };
    let mut gpus: Vec<Surveyed> = listing.units.into_iter().map(surveyed).collect();
    gpus.iter_mut().for_each(|gpu| gpu.ask(driver, |_| true));
    // The performance monitor compares two samples; what else had no data yet may have some now.
    std::thread::sleep(GPM_SPACING * 2);
    gpus.iter_mut().for_each(|gpu| {
        let unanswered: Vec<_> = gpu.unavailable.keys().copied().collect();
        gpu.ask(driver, |question| unanswered.contains(&name(question)));
    });
    let silent = listing.silent.into_iter().map(|(index, error)| (index, error.to_string())).collect();
    Ok(Survey { gpus, silent })
}

impl Surveyed {
    fn ask(&mut self, driver: &mut dyn Driver, wanted: impl Fn(Question) -> bool) {
        for question in Question::ALL {
            if !wanted(question) || (self.unit.instance.is_some() && !question.suits_instances()) {
                continue;
            }
            let start = Instant::now();
            match driver.ask(&self.unit.uuid, question) {
                Ok(answer) => {
                    self.readings.note(answer, start, Instant::now());
                    self.unavailable.remove(name(question));
                }
                Err(error) => {
                    self.unavailable.insert(name(question), error.to_string());
                }
            }
        }
    }
}

/// What a question is called where its answer is shown.
fn name(question: Question) -> &'static str {
    match question {
        Question::Utilization => "utilization",
        Question::Clocks => "clocks",
        Question::ProcessTime => "process_time",
        Question::Ecc => "ecc_uncorrected",
        Question::Memory => "memory",
        Question::Power => "power",
        Question::Temperature => "temperature_celsius",
        Question::Gpm => "gpm",
        Question::Processes => "processes",
    }
}
