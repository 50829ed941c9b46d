//! A future on a thread of its own, cancelled when its handle goes.

use std::{
    panic,
    thread::{self, JoinHandle},
};

use tokio::{
    runtime::Builder,
    sync::oneshot::{self, Sender},
};

/// A future that runs in the background.
///
/// Dropping it cancels the future and waits for its thread.
#[derive(Debug)]
pub struct Background<T> {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<Option<T>>>,
}

impl<T: Send + 'static> Background<T> {
    /// Starts a thread that runs `prepare`, then drives the future to its end or until it is cancelled.
    pub(super) fn spawn<Running>(
        name: &str,
        prepare: impl FnOnce() + Send + 'static,
        work: impl FnOnce() -> Running + Send + 'static,
    ) -> Self
    where
        Running: Future<Output = T>,
    {
        let (stop, stopped) = oneshot::channel();
        let drive = move || {
            prepare();
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
            let outcome = runtime.block_on(async {
                tokio::select! {
                    outcome = work() => Some(outcome),
                    _ = stopped => None,
                }
            });
            // A blocking call of the future must not hold up the end of the test.
            runtime.shutdown_background();
            outcome
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(drive).expect("a thread can be made");
        Self { stop: Some(stop), thread: Some(thread) }
    }

    /// Waits until the future has ended by itself and returns its value.
    ///
    /// # Panics
    /// When the future did, with the same payload.
    pub fn join(mut self) -> T {
        let thread = self.thread.take().expect("only `join` and `drop` take the thread");
        let outcome = thread.join().unwrap_or_else(|payload| panic::resume_unwind(payload));
        outcome.expect("nothing else can cancel the future")
    }
}

impl<T> Drop for Background<T> {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _reported_on_its_own_thread = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future, sync::mpsc};

    use super::*;

    #[test]
    fn a_future_that_ends_hands_back_its_value() {
        assert_eq!(Background::spawn("ends", || {}, || async { 7 }).join(), 7);
    }

    #[test]
    fn dropping_the_handle_cancels_the_future() {
        struct Witness(mpsc::Sender<()>);
        impl Drop for Witness {
            fn drop(&mut self) {
                self.0.send(()).expect("the test listens");
            }
        }
        let (sender, dropped) = mpsc::channel();
        let witness = Witness(sender);
        let endless = Background::spawn(
            "endless",
            || {},
            move || async move {
                let _witness = witness;
                future::pending::<()>().await;
            },
        );
        drop(endless);
        dropped.try_recv().expect("the future is gone once drop returns");
    }

    #[test]
    #[should_panic(expected = "inside the future")]
    fn a_panic_reaches_whoever_joins() {
        Background::spawn("panics", || {}, || async { panic!("inside the future") }).join();
    }
}
