//! One GPU or instance, and what is known of it.

use std::{collections::HashSet, time::Instant};

use super::{
    driver::{Question, Unit},
    readings::Readings,
};
use crate::signals::Fault;

/// A GPU or instance and what is known of it.
#[derive(Debug)]
pub struct Known {
    pub unit: Unit,
    pub readings: Readings,
    /// What the driver reported; it stays until somebody says that it is mended.
    pub fault: Option<(Fault, Instant)>,
    /// Since when it does not answer.
    pub lost: Option<Instant>,
    /// What it never answers.
    pub closed: HashSet<Question>,
}

impl Known {
    pub fn new(unit: Unit) -> Self {
        Self { unit, readings: Readings::default(), fault: None, lost: None, closed: HashSet::new() }
    }

    /// A GPU that did not even tell its UUID.
    pub fn is_placeholder(&self) -> bool {
        self.unit.uuid == format!("GPU {}", self.unit.index)
    }

    pub fn is_placeholder_of(&self, unit: &Unit) -> bool {
        self.is_placeholder() && unit.instance.is_none() && unit.index == self.unit.index
    }

    pub fn parent(&self) -> Option<&str> {
        self.unit.instance.as_ref().map(|instance| instance.parent.as_str())
    }

    pub fn takes(&self, question: Question) -> bool {
        (self.unit.instance.is_none() || question.suits_instances()) && !self.closed.contains(&question)
    }

    pub fn is_used_by(&self, own: &HashSet<u32>) -> bool {
        let processes = self.readings.processes.iter().flat_map(|processes| &processes.value);
        processes.into_iter().any(|process| own.contains(&process.pid))
    }

    /// Why it must not be used, and since when that is known.
    pub fn state(&self) -> Option<(Fault, Instant)> {
        self.fault.or(self.lost.map(|since| (Fault::Lost, since)))
    }
}
