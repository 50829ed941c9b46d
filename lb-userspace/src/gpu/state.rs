//! GPUs, backends, which belong together, and what was said already. No side effects but the log's and the board's.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    time::Instant,
};

use super::{
    Target,
    driver::{Answer, DriverError, Event, Listing, Question, Unit},
    fold::{Part, fold},
    known::Known,
};
use crate::{
    config::GpuId,
    signals::{Board, Fault, Key},
};

/// A question to ask: of which unit, and what.
pub type Job = (String, Question);

/// What an event of the driver asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Follow {
    /// It said all.
    Nothing,
    /// This question, now.
    Ask(Job),
    /// A new list of the GPUs.
    List,
}

/// Everything that is known of the GPUs of this host.
#[derive(Debug, Default)]
pub struct State {
    targets: Vec<Target>,
    units: BTreeMap<String, Known>,
    listed: bool,
    owners: HashMap<Key, HashSet<u32>>,
    said: HashSet<String>,
    /// The GPUs of backends that were found by their process, as they were last said.
    found: HashMap<Key, Vec<String>>,
}

impl State {
    /// Replaces the backends.
    pub fn set_targets(&mut self, targets: Vec<Target>) {
        let stays = |key: &Key| targets.iter().any(|target| target.key == *key);
        self.owners.retain(|key, _| stays(key));
        self.found.retain(|key, _| stays(key));
        self.targets = targets;
    }

    /// The driver was opened anew: whatever it reported before, its GPUs were reset since.
    pub fn reopened(&mut self) {
        for known in self.units.values_mut() {
            known.fault = None;
            known.closed.clear();
        }
        self.listed = false;
        self.said.clear();
    }

    /// Takes the driver's list: GPUs that it no longer has are lost, instances that it no longer has are gone.
    pub fn list(&mut self, listing: Listing, now: Instant) {
        let listed: HashSet<String> = listing.units.iter().map(|unit| unit.uuid.clone()).collect();
        self.units.retain(|uuid, known| known.unit.instance.is_none() || listed.contains(uuid));
        for unit in listing.units {
            // It may have had another name while it did not answer.
            self.units.retain(|uuid, known| *uuid == unit.uuid || !known.is_placeholder_of(&unit));
            match self.units.get_mut(&unit.uuid) {
                Some(known) => known.unit = unit,
                None => {
                    self.units.insert(unit.uuid.clone(), Known::new(unit));
                }
            }
        }
        for (index, error) in &listing.silent {
            if self.units.values().all(|known| known.unit.index != *index) {
                self.say(format!("GPU {index} cannot be read: {error}"));
                let uuid = format!("GPU {index}");
                let unit = Unit { uuid: uuid.clone(), index: *index, name: String::new(), instance: None };
                self.units.insert(uuid, Known::new(unit));
            }
        }
        let silent: HashMap<u32, DriverError> = listing.silent.into_iter().collect();
        let is_lost = |known: &&Known| match silent.get(&known.unit.index) {
            Some(error) => *error == DriverError::Lost,
            None => !known.is_placeholder(),
        };
        let gone = self.units.values().filter(|known| !listed.contains(&known.unit.uuid)).filter(is_lost);
        let lost: Vec<String> = gone.map(|known| known.unit.uuid.clone()).collect();
        for uuid in lost {
            self.lose(&uuid, now);
        }
        self.listed = true;
        self.say_missing();
    }

    /// What to ask ten times a second: utilization, and one sign of life of what was lost.
    pub fn fast_jobs(&self) -> Vec<Job> {
        let used = self.used();
        let units = self.units.values().filter(|known| used.contains(known.unit.uuid.as_str()));
        let question = |known: &Known| {
            let question = match known.lost {
                Some(_) => Question::Clocks,
                None => Question::Utilization,
            };
            known.takes(question).then(|| (known.unit.uuid.clone(), question))
        };
        units.filter_map(question).collect()
    }

    /// What to ask once a second, in the order of importance; the processes only now and then, since the driver
    /// takes milliseconds for them.
    pub fn slow_jobs(&self, processes: bool) -> Vec<Job> {
        let used = self.used();
        let found = self.targets.iter().any(|target| target.gpus.is_none());
        let questions = Question::ALL.into_iter().filter(|question| *question != Question::Utilization);
        let asked = |question: Question, known: &&Known| {
            let wanted = match question {
                Question::Processes => processes && (found || used.contains(known.unit.uuid.as_str())),
                _ => used.contains(known.unit.uuid.as_str()),
            };
            wanted && known.lost.is_none() && known.takes(question)
        };
        questions
            .flat_map(|question| {
                let units = self.units.values().filter(move |known| asked(question, known));
                units.map(move |known| (known.unit.uuid.clone(), question))
            })
            .collect()
    }

    /// Takes an answer, or why there is none.
    pub fn note(
        &mut self,
        (uuid, question): &Job,
        result: Result<Answer, DriverError>,
        start: Instant,
        end: Instant,
    ) {
        let Some(known) = self.units.get_mut(uuid) else { return };
        match result {
            Ok(answer) => {
                if known.lost.take().is_some() {
                    tracing::info!("{uuid} answers again");
                }
                let before = known.readings.ecc_uncorrected.as_ref().map(|count| count.value);
                let more =
                    matches!(answer, Answer::Ecc(count) if before.is_some_and(|before| count > before));
                known.readings.note(answer, start, end);
                if more {
                    self.fail(uuid, Fault::Ecc, end);
                }
            }
            Err(DriverError::NoData | DriverError::Gone(_)) => {}
            Err(DriverError::Unsupported) => {
                known.closed.insert(*question);
            }
            Err(DriverError::Lost) => self.lose(uuid, end),
            Err(error @ DriverError::Denied) => {
                known.closed.insert(*question);
                self.say(format!("the driver does not tell {question:?} of GPUs: {error}"));
            }
            Err(DriverError::Failed(reason)) => {
                self.say(format!("{uuid} does not tell {question:?}: {reason}"));
            }
        }
    }

    /// Takes what the driver said by itself, and says what is to be asked because of it.
    pub fn event(&mut self, event: &Event, now: Instant) -> Follow {
        match event {
            Event::Divided => return Follow::List,
            Event::Clocks { uuid } => {
                if self.used().contains(uuid.as_str()) {
                    return Follow::Ask((uuid.clone(), Question::Clocks));
                }
            }
            Event::Ecc { uuid } => self.fail(uuid, Fault::Ecc, now),
            Event::Xid { uuid, number } => match Fault::of_xid(*number) {
                Some(fault) => self.fail(uuid, fault, now),
                None => tracing::info!("{uuid}: xid {number}, which is no fault of the GPU"),
            },
        }
        Follow::Nothing
    }

    /// Forgets the faults of a backend's GPUs.
    pub fn forgive(&mut self, key: &str) {
        let Some(target) = self.targets.iter().find(|target| *target.key == *key) else { return };
        let uuids: Vec<String> =
            self.units_of(target).iter().map(|known| self.whole(known).unit.uuid.clone()).collect();
        for uuid in uuids {
            if let Some(known) = self.units.get_mut(&uuid) {
                known.fault = None;
                known.lost = None;
            }
        }
    }

    /// The servers whose processes are to be found.
    pub fn servers(&self) -> Vec<(Key, &[SocketAddr])> {
        self.targets.iter().map(|target| (Key::clone(&target.key), target.addresses.as_slice())).collect()
    }

    /// Takes the processes of servers.
    pub fn set_owners(&mut self, owners: HashMap<Key, HashSet<u32>>) {
        self.owners = owners;
        let named =
            self.targets.iter().filter(|target| target.gpus.as_ref().is_some_and(|gpus| !gpus.is_empty()));
        let unknown: Vec<String> = named
            .filter(|target| !self.owners.contains_key(&target.key))
            .map(|target| {
                format!(
                    "no process of this host listens for backend {}: work of others on its GPUs cannot be told from \
                     its own",
                    target.key
                )
            })
            .collect();
        unknown.into_iter().for_each(|text| self.say(text));
    }

    /// Processes on any GPU, for whoever wants to know whether they have changed.
    pub fn users(&self) -> HashSet<u32> {
        let processes = self.units.values().filter_map(|known| known.readings.processes.as_ref());
        processes.flat_map(|processes| processes.value.iter().map(|process| process.pid)).collect()
    }

    /// Pins up what is known of each backend now.
    pub fn publish(&mut self, board: &Board, now: Instant) {
        let mut found = HashMap::new();
        for target in &self.targets {
            let units = self.units_of(target);
            if target.gpus.is_none() {
                let uuids: Vec<String> = units.iter().map(|known| known.unit.uuid.clone()).collect();
                found.insert(Key::clone(&target.key), uuids);
            }
            let parts = units.into_iter().map(|known| {
                let whole = self.whole(known);
                Part { own: &known.readings, whole: &whole.readings, fault: whole.state() }
            });
            board.publish(&target.key, fold(parts, self.owners.get(&target.key), now));
        }
        for (key, uuids) in found {
            if !uuids.is_empty() && self.found.get(&key) != Some(&uuids) {
                tracing::info!("backend {key} runs on {}", uuids.join(", "));
                self.found.insert(key, uuids);
            }
        }
    }

    /// A backend's GPUs: those that it names, or those that its processes use.
    fn units_of(&self, target: &Target) -> Vec<&Known> {
        let units = self.units.values();
        let Some(named) = &target.gpus else {
            let Some(own) = self.owners.get(&target.key) else { return Vec::new() };
            let used: Vec<&Known> = units.filter(|known| known.is_used_by(own)).collect();
            // The processes of an instance are also listed for the whole.
            let parents: HashSet<&str> = used.iter().filter_map(|known| known.parent()).collect();
            return used
                .iter()
                .copied()
                .filter(|known| !parents.contains(known.unit.uuid.as_str()))
                .collect();
        };
        let is_named = |known: &&Known| {
            named.iter().any(|gpu| match gpu {
                GpuId::Index(index) => known.unit.instance.is_none() && known.unit.index == *index,
                GpuId::Uuid(uuid) => known.unit.uuid == *uuid,
            })
        };
        units.filter(is_named).collect()
    }

    /// The GPU that something is an instance of, or the GPU itself.
    fn whole<'a>(&'a self, known: &'a Known) -> &'a Known {
        known.parent().and_then(|uuid| self.units.get(uuid)).unwrap_or(known)
    }

    /// UUIDs of the GPUs and instances of all backends, and of the GPUs that those are instances of.
    fn used(&self) -> HashSet<&str> {
        let units = self.targets.iter().flat_map(|target| self.units_of(target));
        units.flat_map(|known| [Some(known.unit.uuid.as_str()), known.parent()]).flatten().collect()
    }

    fn fail(&mut self, uuid: &str, fault: Fault, now: Instant) {
        let Some(known) = self.units.get_mut(uuid) else { return };
        if known.fault.is_none_or(|(before, _)| before != fault) {
            known.fault = Some((fault, now));
            self.tell_fault(uuid, fault);
        }
    }

    fn lose(&mut self, uuid: &str, now: Instant) {
        let whole = self.units.get(uuid).map(|known| self.whole(known).unit.uuid.clone());
        let Some((whole, known)) = whole.and_then(|whole| Some((whole.clone(), self.units.get_mut(&whole)?)))
        else {
            return;
        };
        if known.lost.replace(now).is_none() {
            self.tell_fault(&whole, Fault::Lost);
        }
    }

    fn tell_fault(&self, uuid: &str, fault: Fault) {
        let uses = |target: &&Target| {
            self.units_of(target).iter().any(|known| known.unit.uuid == uuid || known.parent() == Some(uuid))
        };
        let backends: Vec<&str> = self.targets.iter().filter(uses).map(|target| &*target.key).collect();
        if backends.is_empty() {
            tracing::warn!("{uuid}: {fault}; no backend uses it");
        } else {
            let backends = backends.join(", ");
            let until = match fault {
                Fault::Lost => "it answers again",
                Fault::Xid(_) | Fault::Ecc => "it is mended and `guidevane backends resume` says so",
            };
            tracing::warn!("{uuid}: {fault}; no new flows for {backends} until {until}");
        }
    }

    fn say_missing(&mut self) {
        let missing = |target: &Target| {
            let gpus = target.gpus.iter().flatten();
            let here = |gpu: &GpuId| {
                self.units.values().any(|known| match gpu {
                    GpuId::Index(index) => known.unit.index == *index,
                    GpuId::Uuid(uuid) => known.unit.uuid == *uuid,
                })
            };
            gpus.filter(|gpu| !here(gpu))
                .map(|gpu| format!("backend {}: this host has no {gpu}", target.key))
                .collect()
        };
        let missing: Vec<Vec<String>> = self.targets.iter().map(missing).collect();
        missing.into_iter().flatten().for_each(|text| self.say(text));
    }

    /// Says something once.
    fn say(&mut self, text: String) {
        if !self.said.contains(&text) {
            tracing::warn!("{text}");
            self.said.insert(text);
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
