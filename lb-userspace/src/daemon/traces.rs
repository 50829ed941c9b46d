//! Traces under way: who gets which of the kernel's events.
//!
//! The kernel samples for the densest trace, and each takes out what it asked for. Nobody waits for a trace: one
//! that does not keep up loses events, counted.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use lb_common::event::{Event, sampled};
use tokio::{io::unix::AsyncFd, sync::mpsc};

use super::telling::{Names, tell};
use crate::{
    api::{FlowEvent, Lost, TraceRequest, Tracing},
    dataplane::{
        Error,
        events::{self, Events, Losses},
        loader::Maps,
    },
};

/// Events that wait for a trace's client: some tenths of a second at the rate of a busy balancer.
const BACKLOG: usize = 4096;

/// Events after which other work of the daemon has its turn.
const BURST: usize = 256;

/// All traces under way; clones are of the same.
#[derive(Clone)]
pub struct Traces(Arc<Shared>);

struct Shared {
    maps: Arc<Maps>,
    losses: Losses,
    desk: Mutex<Desk>,
}

#[derive(Default)]
struct Desk {
    names: Names,
    readers: BTreeMap<u64, Reader>,
    next: u64,
}

/// One trace, as events get to it.
struct Reader {
    request: TraceRequest,
    sender: mpsc::Sender<FlowEvent>,
    lost: Arc<AtomicU64>,
}

/// One trace, as its client has it.
pub struct Trace {
    shared: Arc<Shared>,
    number: u64,
    receiver: mpsc::Receiver<FlowEvent>,
    lost: Arc<AtomicU64>,
    /// What the kernel had lost when it began.
    before: u64,
}

impl Traces {
    /// Reads `events` from now on; needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the ring buffer cannot be waited for.
    pub fn start(maps: Arc<Maps>, events: Events, losses: Losses) -> io::Result<Self> {
        // Whatever an earlier daemon traced, nobody reads it.
        events::set_sample(&maps, 0);
        let traces = Self(Arc::new(Shared { maps, losses, desk: Mutex::default() }));
        // SAFETY: the ring buffer owns its descriptor, which is the same for as long as it lives.
        let events = unsafe { AsyncFd::register(events) }?;
        tokio::spawn(traces.clone().read(events));
        Ok(traces)
    }

    async fn read(self, mut events: AsyncFd<Events>) {
        loop {
            let mut ready = match events.readable_mut().await {
                Ok(ready) => ready,
                Err(error) => return tracing::error!("no traces any more: {error}"),
            };
            let all = (0..BURST).all(|_| match ready.get_inner_mut().pop() {
                Some(event) => {
                    self.0.desk().hand_out(&event);
                    true
                }
                None => false,
            });
            if all {
                tokio::task::yield_now().await;
            } else {
                ready.clear_ready();
            }
        }
    }

    /// Takes over what ids are called now.
    pub fn rename(&self, names: Names) {
        self.0.desk().names = names;
    }

    /// Begins a trace of what is asked for, whose names are known to be good.
    ///
    /// # Errors
    ///
    /// When the kernel's count of lost events cannot be read.
    pub fn begin(&self, request: TraceRequest) -> Result<Trace, Error> {
        let before = self.0.losses.total()?;
        let mut desk = self.0.desk();
        let (number, receiver, lost) = desk.enter(request);
        events::set_sample(&self.0.maps, desk.densest());
        drop(desk);
        Ok(Trace { shared: Arc::clone(&self.0), number, receiver, lost, before })
    }

    /// One in how many new flows the kernel reports; 0 for none.
    pub fn sample(&self) -> u32 {
        events::sample(&self.0.maps)
    }

    /// Events that the kernel had no room for.
    ///
    /// # Errors
    ///
    /// When the count cannot be read.
    pub fn lost(&self) -> Result<u64, Error> {
        self.0.losses.total()
    }
}

impl Shared {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Desk {
    /// Takes a trace in; gives its number, and how its client gets at events and at the count of lost ones.
    fn enter(&mut self, request: TraceRequest) -> (u64, mpsc::Receiver<FlowEvent>, Arc<AtomicU64>) {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let lost = Arc::new(AtomicU64::new(0));
        let number = self.next;
        self.next += 1;
        self.readers.insert(number, Reader { request, sender, lost: Arc::clone(&lost) });
        (number, receiver, lost)
    }

    /// One in how many new flows the densest trace wants; 0 without one.
    fn densest(&self) -> u32 {
        self.readers.values().map(|reader| reader.request.every.max(1)).min().unwrap_or(0)
    }

    fn hand_out(&self, event: &Event) {
        let mut told = None;
        for reader in self.readers.values().filter(|reader| wants(&reader.request, event, &self.names)) {
            let told = told.get_or_insert_with(|| tell(event, &self.names));
            if reader.sender.try_send(told.clone()).is_err() {
                reader.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Tracing for Trace {
    async fn next(&mut self) -> Option<FlowEvent> {
        self.receiver.recv().await
    }

    fn lost(&self) -> Lost {
        // A count that cannot be read any more is no reason to keep the rest from the client.
        let kernel = self.shared.losses.total().map_or(0, |now| now.saturating_sub(self.before));
        Lost { kernel, reader: self.lost.load(Ordering::Relaxed) }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let mut desk = self.shared.desk();
        desk.readers.remove(&self.number);
        events::set_sample(&self.shared.maps, desk.densest());
    }
}

/// Whether an event is one that a trace asked for.
fn wants(request: &TraceRequest, event: &Event, names: &Names) -> bool {
    let named = |wanted: &Option<String>, all: &HashMap<u16, String>, id| {
        wanted.as_ref().is_none_or(|wanted| all.get(&id) == Some(wanted))
    };
    sampled(event.hash, request.every.max(1))
        && named(&request.vip, &names.vips, event.vip)
        && named(&request.backend, &names.backends, event.backend)
        && request.client.is_none_or(|network| network.contains(&IpAddr::from(event.client)))
        && request.reason.is_none_or(|reason| reason as u8 == event.reason)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use lb_common::{
        address::Address,
        event::{Event, Kind},
        reason::Reason,
    };

    use super::{BACKLOG, Desk, Names, wants};
    use crate::api::TraceRequest;

    /// Two VIPs with a backend each.
    fn names() -> Names {
        Names {
            vips: HashMap::from([(1, "chat".to_owned()), (2, "code".to_owned())]),
            backends: HashMap::from([(10, "gpu-0".to_owned()), (11, "gpu-1".to_owned())]),
        }
    }

    fn event() -> Event {
        Event {
            vip: 1,
            backend: 10,
            client: Address::from_v4([192, 0, 2, 7]),
            kind: Kind::Opened as u8,
            reason: Reason::NewFlow as u8,
            ..Event::default()
        }
    }

    fn request() -> TraceRequest {
        TraceRequest::default()
    }

    #[test]
    fn a_trace_gets_what_it_asked_for_alone() {
        let text = |name: &str| Some(name.to_owned());
        let network = |text: &str| Some(text.parse().expect("a network"));
        for (request, expected) in [
            (request(), true),
            (TraceRequest { vip: text("chat"), backend: text("gpu-0"), ..request() }, true),
            (TraceRequest { vip: text("code"), ..request() }, false),
            (TraceRequest { backend: text("gpu-1"), ..request() }, false),
            (TraceRequest { client: network("192.0.2.0/24"), ..request() }, true),
            (TraceRequest { client: network("198.51.100.0/24"), ..request() }, false),
            (TraceRequest { client: network("::/0"), ..request() }, false),
            (TraceRequest { reason: Some(Reason::NewFlow), ..request() }, true),
            (TraceRequest { reason: Some(Reason::NoBackend), ..request() }, false),
        ] {
            assert_eq!(wants(&request, &event(), &names()), expected, "{request:?}");
        }
    }

    #[test]
    fn the_kernel_samples_for_the_densest_trace_and_each_gets_its_own_part() {
        let mut desk = Desk::default();
        assert_eq!(desk.densest(), 0);
        let mut readers = Vec::new();
        for every in [16, 0, 4] {
            readers.push(desk.enter(TraceRequest { every, ..request() }));
        }
        assert_eq!(desk.densest(), 1, "0 is taken for 1");
        desk.readers.remove(&readers[1].0);
        assert_eq!(desk.densest(), 4);
        const FLOWS: u64 = 4000;
        for hash in 0..FLOWS {
            desk.hand_out(&Event { hash, ..event() });
        }
        let counts = [0, 2].map(|reader: usize| readers[reader].1.len() as u64);
        assert!(counts[0].abs_diff(FLOWS / 16) < 60, "one in sixteen of {FLOWS}: {}", counts[0]);
        assert!(counts[1].abs_diff(FLOWS / 4) < 120, "one in four of {FLOWS}: {}", counts[1]);
    }

    #[test]
    fn a_slow_reader_loses_what_it_does_not_take_and_nobody_waits_for_it() {
        const MORE: usize = 10;
        let mut desk = Desk { names: names(), ..Desk::default() };
        let (_, mut slow, slow_lost) = desk.enter(request());
        let (_, mut quick, quick_lost) = desk.enter(request());
        for cpu in 0..BACKLOG + MORE {
            desk.hand_out(&Event { cpu: cpu as u16, ..event() });
            let told = quick.try_recv().unwrap_or_else(|error| panic!("event {cpu}: {error}"));
            assert_eq!((usize::from(told.cpu), told.backend.as_deref()), (cpu, Some("gpu-0")));
        }
        assert_eq!(quick_lost.load(super::Ordering::Relaxed), 0);
        assert_eq!(slow_lost.load(super::Ordering::Relaxed), MORE as u64);
        assert_eq!(slow.len(), BACKLOG);
        assert_eq!(slow.try_recv().expect("the oldest is kept").cpu, 0);
    }
}
