//! A VIP's backends in ordinary memory, for picks to read.

use std::cell::Cell;

use lb_common::{
    branchless::Hide,
    maglev::{self, Member, Scratch, draw},
    pick::{CANDIDATES, COST_ONE, Candidate, Context, PROMPT, Policy, Pool, Rule, Steer},
    slot::GAUGES,
};
use rand::Rng as _;

use crate::support::seeded;

/// Draws that a flow makes where not all members can be weighed.
const DRAWS: u32 = 8;

/// A VIP's backends: the id is the place in the list.
pub struct Model {
    /// The Maglev table.
    pub table: Vec<u16>,
    /// The backends; the member list is all of them in this order.
    pub candidates: Vec<Candidate>,
    /// The round robin's next turn.
    pub turn: Cell<u32>,
}

impl Model {
    /// A VIP of these backends, its table unweighted and as large as the daemon makes it.
    pub fn new(candidates: Vec<Candidate>) -> Self {
        let weights = vec![1; candidates.len()];
        Self::weighted(candidates, &weights)
    }

    /// The same with a weighted table.
    pub fn weighted(candidates: Vec<Candidate>, weights: &[u32]) -> Self {
        let mut members: Vec<Member> = weights
            .iter()
            .enumerate()
            .map(|(id, &weight)| Member { backend: id as u16, identity: seeded(id as u64).random(), weight })
            .collect();
        members.sort_by_key(|member| member.identity);
        let mut table = vec![0; maglev::size_for(members.len()) as usize];
        maglev::build(&members, &mut table, &mut vec![Scratch::default(); members.len()]);
        Self { table, candidates, turn: Cell::new(0) }
    }

    /// A context in which nothing is special.
    pub fn context(&self, policy: Policy, hash: u64) -> Context {
        Context {
            rule: Rule { policy: policy as u8, awaiting_weight: 4, epsilon: 256 },
            hash,
            flow_hash: hash,
            table_size: self.table.len() as u32,
            members: self.candidates.len() as u32,
            opening_cap: 8,
            duty: 128,
            prompt: PROMPT,
            total: 0,
            silence: 0,
            patience: 500,
        }
    }

    /// The backends that a pick weighs or walks through, in the order of their draws.
    pub fn drawn(&self, context: &Context) -> Vec<u16> {
        (0..DRAWS).map(|n| self.table[draw(context.hash, n, context.table_size) as usize]).collect()
    }

    /// The backends whose loads a pick may compare.
    pub fn weighed(&self, context: &Context) -> Vec<u16> {
        if self.candidates.len() <= CANDIDATES {
            (0..self.candidates.len() as u16).collect()
        } else {
            self.drawn(context)
        }
    }
}

impl Hide for Model {}

impl Pool for Model {
    fn table(&self, slot: u32) -> u16 {
        self.table[slot as usize]
    }

    fn member(&self, position: u32) -> u16 {
        assert!((position as usize) < self.candidates.len(), "member {position} is not in the list");
        position as u16
    }

    fn look(&self, backend: u16) -> Option<Candidate> {
        self.candidates.get(usize::from(backend)).copied()
    }

    fn turn(&self) -> u32 {
        self.turn.replace(self.turn.get().wrapping_add(1))
    }
}

/// A backend of nominal cost that can take flows and has none.
pub const FREE: Candidate = Candidate {
    lacks: 0,
    gauges: [0; GAUGES],
    steer: Steer { cost: COST_ONE, correction: 0 },
    limit: 0,
    static_cost: COST_ONE,
    share: 0,
};
