//! Where readings of hardware are pinned up, whoever brings them: the local driver or an agent.
//!
//! A fault is told at once to whoever waits for [`Board::faults`]; the rest is read when it is wanted.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::{Fault, Hardware, Key};

/// The backends whose GPUs must not be used, and why.
pub type Faults = Arc<BTreeMap<Key, Fault>>;

/// The last reading of each backend's hardware.
#[derive(Debug, Default)]
pub struct Board {
    places: Mutex<HashMap<Key, watch::Sender<Option<Hardware>>>>,
    faults: watch::Sender<Faults>,
}

impl Board {
    /// Makes a place for a backend, without a reading until one is published.
    pub fn enter(&self, key: &Key) {
        self.places().entry(Arc::clone(key)).or_default();
    }

    /// Removes all places but some, and the faults with them. Receivers keep what they had last.
    pub fn retain(&self, keep: &HashSet<Key>) {
        self.places().retain(|key, _| keep.contains(key));
        self.faults.send_if_modified(|faults| {
            let gone = faults.keys().any(|key| !keep.contains(key));
            if gone {
                Arc::make_mut(faults).retain(|key, _| keep.contains(key));
            }
            gone
        });
    }

    /// Replaces a backend's reading. Backends without a place are passed over: they have just left.
    pub fn publish(&self, key: &str, hardware: Option<Hardware>) {
        let places = self.places();
        let Some((key, place)) = places.get_key_value(key) else { return };
        let fault = hardware.as_ref().and_then(|hardware| hardware.fault);
        place.send_if_modified(|before| {
            let changed = *before != hardware;
            *before = hardware;
            changed
        });
        self.faults.send_if_modified(|faults| {
            if faults.get(key).copied() == fault {
                return false;
            }
            match fault {
                Some(fault) => Arc::make_mut(faults).insert(Arc::clone(key), fault),
                None => Arc::make_mut(faults).remove(key),
            };
            true
        });
    }

    /// The readings of a backend that has a place.
    pub fn subscribe(&self, key: &str) -> Option<watch::Receiver<Option<Hardware>>> {
        self.places().get(key).map(watch::Sender::subscribe)
    }

    /// All faults, now and whenever one comes or goes.
    pub fn faults(&self) -> watch::Receiver<Faults> {
        self.faults.subscribe()
    }

    fn places(&self) -> MutexGuard<'_, HashMap<Key, watch::Sender<Option<Hardware>>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, time::Instant};

    use super::Board;
    use crate::signals::{Fault, Hardware, Key};

    fn hardware(fault: Option<Fault>) -> Hardware {
        let now = Instant::now();
        Hardware {
            speed: Some(1.0),
            foreign: None,
            utilization: None,
            memory: None,
            fault,
            taken_start: now,
            taken_end: now,
        }
    }

    #[test]
    fn readers_see_the_last_reading_and_are_told_of_faults_alone() {
        let board = Board::default();
        let key = Key::from("gpu-0");
        board.publish("gpu-0", Some(hardware(None)));
        assert!(board.subscribe("gpu-0").is_none(), "it has no place yet");
        board.enter(&key);
        let (reader, mut faults) = (board.subscribe("gpu-0").expect("a place"), board.faults());
        board.publish("gpu-0", Some(hardware(None)));
        assert!(reader.borrow().is_some());
        assert!(!faults.has_changed().expect("the board lives"), "no fault came");
        board.publish("gpu-0", Some(hardware(Some(Fault::Xid(79)))));
        assert_eq!(faults.borrow_and_update().get("gpu-0"), Some(&Fault::Xid(79)));
        board.publish("gpu-0", Some(hardware(Some(Fault::Xid(79)))));
        assert!(!faults.has_changed().expect("the board lives"), "it is the same one");
        board.publish("gpu-0", None);
        assert!(faults.borrow_and_update().is_empty());
    }

    #[test]
    fn what_leaves_takes_its_fault_along() {
        let board = Board::default();
        for name in ["stays", "goes"] {
            board.enter(&Key::from(name));
            board.publish(name, Some(hardware(Some(Fault::Lost))));
        }
        board.retain(&HashSet::from([Key::from("stays")]));
        assert!(board.subscribe("goes").is_none() && board.subscribe("stays").is_some());
        let faults: Vec<_> = board.faults().borrow().keys().cloned().collect();
        assert_eq!(faults, [Key::from("stays")]);
    }
}
