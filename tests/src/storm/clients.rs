//! Streams that must not break, and connections that open while something else goes on. Every packet of them goes
//! through the real program, and where it goes is looked at.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
};

use anyhow::{Context as _, Result};
use guidevane::dataplane::loader::Kernel;

use super::{
    bed::{BACKENDS, forward},
    frames::segment,
};
use crate::packet::flags::{ACK, FIN, PSH, SYN};

/// Clients for each address: ports from here on.
const PORTS: u32 = 10_000;
const FIRST_PORT: u16 = 20_000;

const REQUEST: &[u8] = b"POST /v1/completions";
const SEQUENCE: u32 = 1000;
const ACKNOWLEDGED: u32 = 500;
/// Bytes that a client acknowledges of an answer at a time.
const CHUNK: u32 = 1448;

/// What a stream does while others must not break it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// Acknowledges more and more of its answer.
    Streams,
    /// Waits for its answer without a packet.
    Waits,
    /// Has all of its answer, and rests.
    Rests,
}

impl Habit {
    const fn of(number: u32) -> Self {
        match number % 8 {
            0 => Self::Waits,
            1 => Self::Rests,
            _ => Self::Streams,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    client: SocketAddr,
    habit: Habit,
    backend: usize,
    acknowledged: u32,
}

/// Established streams.
pub struct Streams {
    streams: Vec<Stream>,
    next: usize,
    /// Packets that were looked at.
    pub checked: u64,
    /// Packets that went elsewhere than to their stream's backend.
    pub strayed: u64,
}

fn client(network: u8, number: u32) -> SocketAddr {
    let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, network, 0, 1).to_bits() + number / PORTS);
    SocketAddr::new(address.into(), FIRST_PORT + (number % PORTS) as u16)
}

/// Opens a connection and gives the place of its backend; an error if its request goes elsewhere than its SYN.
fn connect(kernel: &Kernel, client: SocketAddr) -> Result<usize> {
    let backend = forward(kernel, &segment(client, SYN, SEQUENCE, 0, b""))?;
    let asked = forward(kernel, &segment(client, PSH | ACK, SEQUENCE + 1, ACKNOWLEDGED, REQUEST))?;
    (backend == asked).then_some(backend).with_context(|| format!("{client} broke at its request"))
}

fn acknowledge(kernel: &Kernel, client: SocketAddr, acknowledged: u32) -> Result<usize> {
    forward(kernel, &segment(client, ACK, SEQUENCE + 1 + REQUEST.len() as u32, acknowledged, b""))
}

impl Streams {
    /// Establishes `count` streams.
    ///
    /// # Errors
    /// One of them is not steered.
    pub fn establish(kernel: &Kernel, count: u32) -> Result<Self> {
        let establish = |number| {
            let (client, habit) = (client(20, number), Habit::of(number));
            let backend = connect(kernel, client)?;
            let mut stream = Stream { client, habit, backend, acknowledged: ACKNOWLEDGED };
            if habit != Habit::Waits {
                stream.go_on(kernel)?;
            }
            Ok(stream)
        };
        let streams = (0..count).map(establish).collect::<Result<_>>()?;
        Ok(Self { streams, next: 0, checked: 0, strayed: 0 })
    }

    /// The next packets of the next `count` of them.
    ///
    /// # Errors
    /// One goes nowhere.
    pub fn go_on(&mut self, kernel: &Kernel, count: usize) -> Result<()> {
        for _ in 0..count {
            let place = self.next;
            self.next = (self.next + 1) % self.streams.len();
            if self.streams[place].habit == Habit::Streams {
                self.check(kernel, place)?;
            }
        }
        Ok(())
    }

    /// One more packet of each, also of those that were silent.
    ///
    /// # Errors
    /// One goes nowhere.
    pub fn check_all(&mut self, kernel: &Kernel) -> Result<()> {
        (0..self.streams.len()).try_for_each(|place| self.check(kernel, place))
    }

    fn check(&mut self, kernel: &Kernel, place: usize) -> Result<()> {
        let stream = &mut self.streams[place];
        self.checked += 1;
        self.strayed += u64::from(stream.go_on(kernel)? != stream.backend);
        Ok(())
    }
}

impl Stream {
    fn go_on(&mut self, kernel: &Kernel) -> Result<usize> {
        self.acknowledged = self.acknowledged.wrapping_add(CHUNK);
        acknowledge(kernel, self.client, self.acknowledged)
    }
}

/// Connections that open one after the other, are answered and end, some of them at once.
pub struct Connections {
    open: VecDeque<(SocketAddr, usize)>,
    at_once: usize,
    next: u32,
    /// How many each backend got.
    pub opened: [u64; BACKENDS],
    /// Those whose later packets went elsewhere.
    pub broken: u64,
}

impl Connections {
    /// Connections of which `at_once` are open together.
    pub fn new(at_once: usize) -> Self {
        Self { open: VecDeque::new(), at_once, next: 0, opened: [0; BACKENDS], broken: 0 }
    }

    /// How many were opened.
    pub const fn count(&self) -> u32 {
        self.next
    }

    /// Opens one; the eldest gets its answer and ends when there are too many.
    ///
    /// # Errors
    /// A packet goes nowhere.
    pub fn open(&mut self, kernel: &Kernel) -> Result<()> {
        let client = client(30, self.next);
        self.next += 1;
        match connect(kernel, client) {
            Ok(backend) => {
                self.opened[backend] += 1;
                self.open.push_back((client, backend));
            }
            Err(_) => self.broken += 1,
        }
        if self.open.len() > self.at_once
            && let Some((client, backend)) = self.open.pop_front()
        {
            let acknowledged = ACKNOWLEDGED + CHUNK;
            let answered = acknowledge(kernel, client, acknowledged)?;
            let sequence = SEQUENCE + 1 + REQUEST.len() as u32;
            let ended = forward(kernel, &segment(client, FIN | ACK, sequence, acknowledged, b""))?;
            self.broken += u64::from(answered != backend || ended != backend);
        }
        Ok(())
    }

    /// Each backend's part of them.
    pub fn shares(&self) -> [f64; BACKENDS] {
        let all = self.opened.iter().sum::<u64>().max(1) as f64;
        self.opened.map(|count| count as f64 / all)
    }
}
