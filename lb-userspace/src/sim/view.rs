//! The backends as one balancer's pick sees them.

use std::cell::Cell;

use lb_common::{
    branchless::Hide,
    maglev::{self, Member, Scratch},
    pick::{Candidate, Pool, Steer},
    slot::GAUGES,
};

use crate::governor::Output;

/// Gauges, the governor's last word and the tables of one VIP.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) gauges: Vec<[u32; GAUGES]>,
    pub(crate) outputs: Vec<Output>,
    table: Vec<u16>,
    turn: Cell<u32>,
}

impl View {
    pub(crate) fn new(outputs: Vec<Output>) -> Self {
        let members: Vec<Member> = (0..outputs.len() as u16)
            .map(|backend| Member { backend, identity: u64::from(backend) + 1, weight: 100 })
            .collect();
        let mut table = vec![maglev::NOBODY; maglev::size_for(members.len()) as usize];
        maglev::build(&members, &mut table, &mut vec![Scratch::default(); members.len()]);
        Self { gauges: vec![[0; GAUGES]; outputs.len()], outputs, table, turn: Cell::new(0) }
    }

    pub(crate) fn table_size(&self) -> u32 {
        self.table.len() as u32
    }

    /// Open connections to a backend, as a proxy counts them.
    pub(crate) fn open(&self, backend: usize) -> u32 {
        self.gauges[backend].iter().sum()
    }
}

impl Hide for View {}

impl Pool for View {
    fn table(&self, slot: u32) -> u16 {
        self.table[slot as usize]
    }

    fn member(&self, position: u32) -> u16 {
        position as u16
    }

    fn look(&self, backend: u16) -> Option<Candidate> {
        let output = self.outputs.get(usize::from(backend))?;
        Some(Candidate {
            lacks: 0,
            gauges: self.gauges[usize::from(backend)],
            steer: Steer { cost: output.cost, correction: output.correction },
            limit: output.limit,
            static_cost: output.static_cost,
            share: output.share,
        })
    }

    fn turn(&self) -> u32 {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        turn
    }
}
