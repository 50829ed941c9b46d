//! The backends as one balancer's pick sees them.

use std::cell::Cell;

use lb_common::{
    branchless::Hide,
    maglev::{self, Member, Scratch},
    pick::{Candidate, Pool, Steer},
    slot::{self, GAUGES},
};

use crate::governor::Output;

/// Gauges, the governor's last word and the tables of one VIP.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) gauges: Vec<[u32; GAUGES]>,
    pub(crate) outputs: Vec<Output>,
    members: Vec<u16>,
    table: Vec<u16>,
    turn: Cell<u32>,
}

impl View {
    pub(crate) fn new(outputs: Vec<Output>) -> Self {
        let weights = vec![100; outputs.len()];
        Self::with_weights(&weights, outputs)
    }

    /// Backends of weight 0 take no flows.
    pub(crate) fn with_weights(weights: &[u32], outputs: Vec<Output>) -> Self {
        let weighed = weights.iter().enumerate().filter(|(_, weight)| **weight > 0);
        let members: Vec<Member> = weighed
            .map(|(backend, &weight)| Member {
                backend: backend as u16,
                identity: backend as u64 + 1,
                weight,
            })
            .collect();
        let mut table = vec![maglev::NOBODY; maglev::size_for(members.len()) as usize];
        maglev::build(&members, &mut table, &mut vec![Scratch::default(); members.len()]);
        let members = members.iter().map(|member| member.backend).collect();
        Self { gauges: vec![[0; GAUGES]; outputs.len()], outputs, members, table, turn: Cell::new(0) }
    }

    /// How many backends take flows.
    pub(super) fn members(&self) -> u32 {
        self.members.len() as u32
    }

    pub(crate) fn table_size(&self) -> u32 {
        self.table.len() as u32
    }

    /// Open connections to a backend, as a proxy counts them.
    pub(crate) fn open(&self, backend: usize) -> u32 {
        slot::flows(&self.gauges[backend])
    }
}

impl Hide for View {}

impl Pool for View {
    fn table(&self, slot: u32) -> u16 {
        self.table[slot as usize]
    }

    fn member(&self, position: u32) -> u16 {
        self.members[position as usize]
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
