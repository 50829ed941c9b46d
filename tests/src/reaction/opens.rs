//! Connections that are opened one after the other, and which server took each.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    ops::Range,
    os::fd::AsRawFd as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::{
    socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt},
    time::TimeVal,
};

use crate::bed::Topology;

/// Where servers listen.
pub const PORT: u16 = 8000;

/// Threads that open connections: one alone would stop while the scheduler has it wait.
const THREADS: u32 = 2;

/// How long a server waits for a connection before it looks whether it is still wanted.
const PATIENCE: Duration = Duration::from_millis(50);

/// How long a connection may take, and all of them to be taken by the servers.
const CONNECT: Duration = Duration::from_secs(5);

/// Connections that the client keeps before it breaks them off, and that a server keeps, which are more: a connection
/// that the server breaks off while its handshake ends is an error to the client.
const CLIENT_KEEPS: usize = 32;
const SERVER_KEEPS: usize = 128;

/// Ports of the client, each in turn, and how long they rest: the balancer may know a connection for a minute after its
/// end, and one from the same port stays where that was.
const PORTS: Range<u16> = 2_000..65_000;
const REST: Duration = Duration::from_secs(75);

/// Bursts are shorter than this by far.
const LONGEST_BURST: u32 = 2;

/// Which server took the connection from a port.
type Taken = Arc<Mutex<HashMap<u16, usize>>>;

/// Servers that take connections of the client and keep them for a while.
pub struct Servers {
    taken: Taken,
    /// The client's next port, and since when they are used in turn.
    port: AtomicU16,
    lap: Instant,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// A connection.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// When `connect` was called.
    pub at: Instant,
    /// The server that took it.
    pub server: usize,
}

impl Servers {
    /// One on every server of a bed.
    ///
    /// # Errors
    /// A port is taken.
    pub fn start(bed: &Topology) -> Result<Self> {
        let (taken, stop) = (Taken::default(), Arc::new(AtomicBool::new(false)));
        // Probes come from elsewhere.
        let client = bed.client.address().v4;
        let mut servers =
            Self { taken, port: AtomicU16::new(PORTS.start), lap: Instant::now(), stop, threads: Vec::new() };
        for (number, server) in bed.servers.iter().enumerate() {
            let listener = server
                .namespace
                .run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))
                .with_context(|| format!("listen on server {number}"))?;
            let patience = TimeVal::new(0, PATIENCE.subsec_micros().into());
            setsockopt(&listener, sockopt::ReceiveTimeout, &patience)?;
            let (taken, stop) = (Arc::clone(&servers.taken), Arc::clone(&servers.stop));
            servers.threads.push(std::thread::spawn(move || {
                let mut kept = Kept::at_most(SERVER_KEEPS);
                while !stop.load(Ordering::Relaxed) {
                    let Ok((stream, from)) = listener.accept() else { continue };
                    if from.ip() == client {
                        lock(&taken).insert(from.port(), number);
                        kept.keep(stream);
                    }
                }
            }));
        }
        Ok(servers)
    }

    /// Opens `rate` connections a second to the VIP of the bed while `during` runs, which is given the number of those
    /// so far; gives what it returns, and the connections in the order of their time.
    ///
    /// # Errors
    /// A connection fails.
    pub fn open<T>(
        &mut self,
        bed: &Topology,
        rate: u32,
        during: impl FnOnce(&AtomicUsize) -> Result<T>,
    ) -> Result<(T, Vec<Opened>)> {
        lock(&self.taken).clear();
        self.rest_if_used_up(rate);
        let (over, count) = (AtomicBool::new(false), AtomicUsize::new(0));
        let opener = Opener {
            own: bed.client.address().v4,
            vip: SocketAddrV4::new(bed.vip.v4, PORT),
            port: &self.port,
            gap: Duration::from_secs(1) * THREADS / rate,
        };
        std::thread::scope(|scope| {
            let work = || bed.client.namespace.run(|| opener.open_until(&over, &count));
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
            let outcome = during(&count);
            over.store(true, Ordering::Relaxed);
            let mut sent = Vec::new();
            for thread in threads {
                sent.extend(thread.join().expect("no panic").context("connect to the VIP")?);
            }
            Ok((outcome?, self.taken(sent)?))
        })
    }

    /// Begins with the first port again, once that has rested, if there may be too few.
    fn rest_if_used_up(&mut self, rate: u32) {
        let left = PORTS.end - *self.port.get_mut();
        if u32::from(left) < rate * LONGEST_BURST {
            std::thread::sleep((self.lap + REST).saturating_duration_since(Instant::now()));
            (*self.port.get_mut(), self.lap) = (PORTS.start, Instant::now());
        }
    }

    fn taken(&self, sent: Vec<Sent>) -> Result<Vec<Opened>> {
        let until = Instant::now() + CONNECT;
        while lock(&self.taken).len() < sent.len() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        let taken = lock(&self.taken);
        let found = |sent: &Sent| Some(Opened { at: sent.at, server: *taken.get(&sent.port)? });
        let mut opened: Vec<Opened> = sent.iter().filter_map(found).collect();
        ensure!(
            opened.len() == sent.len(),
            "{} of {} connections came to a server",
            opened.len(),
            sent.len()
        );
        opened.sort_by_key(|opened| opened.at);
        Ok(opened)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _reported_on_its_own_thread = thread.join();
        }
    }
}

struct Sent {
    at: Instant,
    port: u16,
}

/// The last connections of one end.
struct Kept {
    streams: VecDeque<TcpStream>,
    most: usize,
}

impl Kept {
    fn at_most(most: usize) -> Self {
        Self { streams: VecDeque::new(), most }
    }

    /// Keeps one, and breaks the oldest off if there are too many: no port waits for the old age of a connection.
    fn keep(&mut self, stream: TcpStream) {
        // A connection that is over already waits for nothing.
        let _ = setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
        self.streams.push_back(stream);
        if self.streams.len() > self.most {
            self.streams.pop_front();
        }
    }
}

/// Opens connections at a rate.
struct Opener<'a> {
    own: Ipv4Addr,
    vip: SocketAddrV4,
    port: &'a AtomicU16,
    gap: Duration,
}

impl Opener<'_> {
    fn open_until(&self, over: &AtomicBool, count: &AtomicUsize) -> io::Result<Vec<Sent>> {
        let (mut sent, mut kept) = (Vec::new(), Kept::at_most(CLIENT_KEEPS));
        let mut next = Instant::now();
        while !over.load(Ordering::Relaxed) {
            let (opened, stream) = self.open()?;
            sent.push(opened);
            kept.keep(stream);
            count.fetch_add(1, Ordering::Relaxed);
            next = (next + self.gap).max(Instant::now());
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(sent)
    }

    fn open(&self) -> io::Result<(Sent, TcpStream)> {
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(CONNECT.as_secs().cast_signed(), 0))?;
        let port = self.port.fetch_add(1, Ordering::Relaxed);
        bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(self.own, port)))?;
        let at = Instant::now();
        connect(socket.as_raw_fd(), &SockaddrIn::from(self.vip))?;
        Ok((Sent { at, port }, socket.into()))
    }
}

fn lock(taken: &Taken) -> MutexGuard<'_, HashMap<u16, usize>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}
