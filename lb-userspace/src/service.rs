//! What a service manager hears of a long-running command, by systemd's protocol (sd_notify(3)).
//!
//! Without `NOTIFY_SOCKET` all of it does nothing. That nobody listens never stops a command.

use std::{
    convert::Infallible,
    future::pending,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Signs of life within the time after which the service manager gives up: one that comes late does no harm.
const SIGNS_IN_TIME: u32 = 4;

/// The command does its work from now on; `status` says what.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Its configuration is being read again; [`ready`] ends that.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!("the service manager does not hear of the reload: {error}"),
    }
}

/// It was told to stop, and cleans up.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("the service manager does not hear of this: {error}");
    }
}

/// What the command is doing, in one line; said when it changes.
#[derive(Debug, Default)]
pub(crate) struct Status(String);

impl Status {
    /// Says it, unless it was the last thing said.
    pub(crate) fn set(&mut self, status: String) {
        if self.0 != status {
            tell(&[NotifyState::Status(&status)]);
            self.0 = status;
        }
    }
}

/// Signs of life from the runtime that this is polled on, for as long as it turns its tasks over.
pub(crate) async fn give_signs_of_life() -> Infallible {
    let mut watchdog = Watchdog::new();
    loop {
        watchdog.due().await;
        watchdog.feed();
    }
}

/// Signs of life, for a service manager that restarts what gives none (`WatchdogSec=`).
#[derive(Debug)]
pub(crate) struct Watchdog {
    every: Option<Interval>,
    /// The stamp that came with the last sign.
    stamp: Option<Instant>,
    starved: bool,
}

impl Watchdog {
    /// As the environment asks for; must be made within a tokio runtime.
    pub(crate) fn new() -> Self {
        Self::every(sd_notify::watchdog_enabled())
    }

    fn every(limit: Option<Duration>) -> Self {
        let every = limit.map(|limit| (limit / SIGNS_IN_TIME).max(Duration::from_millis(1))).map(|every| {
            let mut every = interval(every);
            every.set_missed_tick_behavior(MissedTickBehavior::Delay);
            every
        });
        Self { every, stamp: None, starved: false }
    }

    /// Waits until a sign is due: for ever, where none is asked for. Cancel safe.
    pub(crate) async fn due(&mut self) {
        match &mut self.every {
            Some(every) => drop(every.tick().await),
            None => pending().await,
        }
    }

    /// A sign of life.
    pub(crate) fn feed(&self) {
        tell(&[NotifyState::Watchdog]);
    }

    /// A sign of life of a loop elsewhere, if it has come round since the last one; `stamp` is when it last did.
    pub(crate) fn feed_if_moved(&mut self, stamp: Option<Instant>) {
        let moved = self.moved(stamp);
        if moved {
            self.feed();
        } else if !self.starved {
            tracing::warn!("the control loop does not come round; the service manager hears nothing of it");
        }
        self.starved = !moved;
    }

    fn moved(&mut self, stamp: Option<Instant>) -> bool {
        stamp.is_some() && std::mem::replace(&mut self.stamp, stamp) != stamp
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Watchdog;

    #[tokio::test]
    async fn a_loop_that_stands_still_gives_no_sign_of_life() {
        let mut watchdog = Watchdog::every(Some(Duration::from_secs(10)));
        let first = Instant::now();
        let second = first + Duration::from_millis(5);
        for (what, stamp, expected) in [
            ("before its first round", None, false),
            ("after its first round", Some(first), true),
            ("in the same round", Some(first), false),
            ("after another round", Some(second), true),
            ("in the same round again", Some(second), false),
        ] {
            assert_eq!(watchdog.moved(stamp), expected, "{what}");
        }
    }
}
