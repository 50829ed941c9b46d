//! A continuous-batching engine in virtual time: what a vLLM-like server schedules, and how long each step takes.
//!
//! It owns the queue, the batch and the KV-cache accounting. It must never read a clock, sleep or do I/O: the
//! caller begins a step, lets its duration pass in whatever time it lives in, and finishes it.
//!
//! The scheduling rules are those of vLLM's V1 scheduler: running sequences first, in order of admission, each
//! taking tokens from the budget of the step (one for a decode, a chunk for a prefill); then waiting requests in
//! order of arrival while batch slots, budget and KV blocks last. When a running sequence cannot grow, the newest
//! one is preempted, loses its KV blocks, and is recomputed later from the head of the queue.

use std::{collections::VecDeque, mem, time::Duration};

#[cfg(test)]
mod tests;

/// Tokens in one KV-cache block (vLLM's default on CUDA).
pub const BLOCK_TOKENS: u32 = 16;

/// The slowest rate that [`Engine::set_rate`] accepts; below it a step would outlast any test.
pub const MIN_RATE: f64 = 1e-3;

/// Prompt and output tokens of one round of a foreign sequence.
const FOREIGN_PROMPT: u32 = 512;
const FOREIGN_OUTPUT: u32 = 512;

/// Foreign sequences are numbered from here; ids of requests stay below.
const FOREIGN_IDS: RequestId = 1 << 63;

/// Names a request within one engine; chosen by the caller, below 2^63 and never used twice.
pub type RequestId = u64;

/// What one request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The caller's name for it.
    pub id: RequestId,
    /// Tokens to prefill, at least 1.
    pub prompt_tokens: u32,
    /// Tokens to generate, at least 1; end-of-sequence is ignored.
    pub output_tokens: u32,
}

/// The time that a step takes, as a roofline over weights and compute plus what grows with the batch:
/// `max(floor, prefill_base + per_prefill_token·n + per_prefill_pair·Σ(end² − start²)) + per_sequence·batch +
/// per_kv_token·kv`, where `n` counts prefilled tokens, `batch` the decoding sequences and `kv` their context.
///
/// The maximum is there because a small prefill chunk rides on the weight reads of a decode for free.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepCosts {
    /// Seconds of any step: the weights are read once.
    pub floor: f64,
    /// Seconds for each decoding sequence.
    pub per_sequence: f64,
    /// Seconds for each token of context that decoding sequences read from the KV cache.
    pub per_kv_token: f64,
    /// Seconds of a prefill step before its first token.
    pub prefill_base: f64,
    /// Seconds for each prefilled token.
    pub per_prefill_token: f64,
    /// Seconds for each unit of `end² − start²` of a prefilled chunk: attention over what came before.
    pub per_prefill_pair: f64,
}

/// The work of one step, as [`StepCosts`] counts it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StepWork {
    /// Sequences that decode one token.
    pub decodes: u32,
    /// Context tokens that those sequences read.
    pub kv_tokens: u64,
    /// Tokens of prefill chunks.
    pub prefill_tokens: u32,
    /// Sum over chunks of `end² − start²`.
    pub prefill_pairs: f64,
}

impl StepCosts {
    /// Seconds that `work` takes at full rate.
    pub fn seconds(&self, work: &StepWork) -> f64 {
        let prefill = if work.prefill_tokens == 0 {
            0.0
        } else {
            self.prefill_base
                + self.per_prefill_token * f64::from(work.prefill_tokens)
                + self.per_prefill_pair * work.prefill_pairs
        };
        self.floor.max(prefill)
            + self.per_sequence * f64::from(work.decodes)
            + self.per_kv_token * work.kv_tokens as f64
    }
}

/// The fixed properties of an engine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineConfig {
    /// How long steps take.
    pub costs: StepCosts,
    /// KV-cache capacity in blocks of [`BLOCK_TOKENS`] tokens.
    pub kv_blocks: u32,
    /// Batch slots (vLLM's `--max-num-seqs`), at least 1.
    pub max_num_seqs: u32,
    /// Tokens per step, shared by prefill chunks and decodes (vLLM's `--max-num-batched-tokens`), at least 1.
    pub token_budget: u32,
}

impl EngineConfig {
    /// Tokens that the whole KV cache holds.
    pub fn context_tokens(&self) -> u64 {
        u64::from(self.kv_blocks) * u64::from(BLOCK_TOKENS)
    }

    /// Whether a request of this size could ever run.
    ///
    /// # Errors
    /// [`Refusal`] names the limit that it breaks.
    pub fn admits(&self, prompt_tokens: u32, output_tokens: u32) -> Result<(), Refusal> {
        if prompt_tokens == 0 || output_tokens == 0 {
            return Err(Refusal::Empty);
        }
        let tokens = u64::from(prompt_tokens) + u64::from(output_tokens);
        let capacity = self.context_tokens();
        if tokens > capacity {
            return Err(Refusal::TooLong { tokens, capacity });
        }
        Ok(())
    }

    /// Whether `count` foreign sequences fit and leave a batch slot to requests.
    ///
    /// # Errors
    /// [`Refusal`] names the limit that they break.
    pub fn admits_foreign(&self, count: u32) -> Result<(), Refusal> {
        if count == 0 {
            return Ok(());
        }
        if count >= self.max_num_seqs {
            return Err(Refusal::NoSlotLeft { foreign: count, slots: self.max_num_seqs });
        }
        self.admits(count.saturating_mul(FOREIGN_PROMPT), count.saturating_mul(FOREIGN_OUTPUT))
    }
}

/// Why a request cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A request without prompt or output tokens.
    #[error("a request needs at least one prompt token and one output token")]
    Empty,
    /// The request would not fit into an empty KV cache.
    #[error("the request needs {tokens} tokens of context; this server holds {capacity}")]
    TooLong {
        /// Prompt and output tokens together.
        tokens: u64,
        /// Tokens that the whole KV cache holds.
        capacity: u64,
    },
    /// Foreign sequences would leave no batch slot to requests.
    #[error("{foreign} foreign sequences leave none of {slots} batch slots free; ask for fewer")]
    NoSlotLeft {
        /// Foreign sequences asked for.
        foreign: u32,
        /// Batch slots of the engine.
        slots: u32,
    },
}

/// What happened in a step, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The request got its batch slot for the first time, at the beginning of the step.
    Started(RequestId),
    /// The request produced a token, at the end of the step.
    Token {
        /// Whose token.
        id: RequestId,
        /// Its number, from 1.
        number: u32,
        /// Whether the request is finished with it.
        last: bool,
    },
}

/// Totals since the engine was made, foreign sequences included, as a server's metrics count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Prompt tokens of requests whose prefill is done.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generation_tokens: u64,
    /// The part of `generation_tokens` that foreign sequences took.
    pub foreign_tokens: u64,
    /// Times that a running sequence lost its blocks.
    pub preemptions: u64,
    /// Requests that got all their tokens.
    pub finished: u64,
    /// Requests that were aborted before that.
    pub aborted: u64,
    /// Steps finished.
    pub steps: u64,
}

#[derive(Debug, Clone)]
struct Sequence {
    request: Request,
    generated: u32,
    /// Tokens whose keys and values are in the cache.
    computed: u32,
    /// Tokens that the step under way computes.
    scheduled: u32,
    blocks: u32,
    started: bool,
}

impl Sequence {
    fn new(request: Request) -> Self {
        Self { request, generated: 0, computed: 0, scheduled: 0, blocks: 0, started: false }
    }

    /// Tokens that must be in the cache before the next one comes out.
    fn known(&self) -> u32 {
        self.request.prompt_tokens + self.generated
    }

    fn is_foreign(&self) -> bool {
        self.request.id >= FOREIGN_IDS
    }

    /// Takes `tokens` of the step and says what work they are.
    fn schedule(&mut self, tokens: u32, work: &mut StepWork) {
        self.scheduled = tokens;
        let end = self.computed + tokens;
        if self.generated > 0 && self.computed + 1 == self.known() {
            work.decodes += 1;
            work.kv_tokens += u64::from(end);
        } else {
            work.prefill_tokens += tokens;
            work.prefill_pairs += f64::from(end).powi(2) - f64::from(self.computed).powi(2);
        }
    }
}

/// The engine. Time is its own: [`Engine::now`] moves only when a step ends or the caller says so.
#[derive(Debug, Clone)]
pub struct Engine {
    config: EngineConfig,
    rate: f64,
    now: Duration,
    step_end: Option<Duration>,
    waiting: VecDeque<Sequence>,
    /// In order of admission: the newest is last.
    running: Vec<Sequence>,
    free_blocks: u32,
    foreign: u32,
    counters: Counters,
    events: Vec<Event>,
}

impl Engine {
    /// An idle engine at time zero and full rate.
    pub fn new(config: EngineConfig) -> Self {
        Self {
            config,
            rate: 1.0,
            now: Duration::ZERO,
            step_end: None,
            waiting: VecDeque::new(),
            running: Vec::new(),
            free_blocks: config.kv_blocks,
            foreign: 0,
            counters: Counters::default(),
            events: Vec::new(),
        }
    }

    /// Puts a request at the end of the queue.
    ///
    /// # Errors
    /// [`Refusal`] when it could never run.
    pub fn submit(&mut self, request: Request) -> Result<(), Refusal> {
        self.config.admits(request.prompt_tokens, request.output_tokens)?;
        self.waiting.push_back(Sequence::new(request));
        Ok(())
    }

    /// Forgets a request wherever it is; its slot and blocks are free for the next step. False if it is not here.
    pub fn abort(&mut self, id: RequestId) -> bool {
        let found = self.remove(id);
        self.counters.aborted += u64::from(found);
        found
    }

    /// Multiplies the speed of steps begun from now on; 1 is the profile's own, values below [`MIN_RATE`] are raised to it.
    pub fn set_rate(&mut self, rate: f64) {
        self.rate = rate.max(MIN_RATE);
    }

    /// Keeps `count` foreign sequences in the batch: they decode for ever, restart at the head of the queue when
    /// their round is over, show up in every gauge and counter, and give no events.
    ///
    /// # Errors
    /// [`Refusal`] when they would take every slot or do not fit; the load is then unchanged.
    pub fn set_foreign(&mut self, count: u32) -> Result<(), Refusal> {
        self.config.admits_foreign(count)?;
        for index in count..self.foreign {
            self.remove(FOREIGN_IDS + RequestId::from(index));
        }
        for index in self.foreign..count {
            // The first rounds differ in length, so that restarts do not fall into one step.
            let output_tokens = FOREIGN_OUTPUT * (index - self.foreign + 1) / (count - self.foreign);
            self.push_foreign(FOREIGN_IDS + RequestId::from(index), output_tokens.max(1));
        }
        self.foreign = count;
        Ok(())
    }

    /// Schedules a step and returns how long it takes; none if there is nothing to do.
    ///
    /// # Panics
    /// If a step is already under way.
    pub fn begin_step(&mut self) -> Option<Duration> {
        assert!(self.step_end.is_none(), "a step is already under way");
        self.events.clear();
        let mut budget = self.config.token_budget;
        let mut work = StepWork::default();
        let preempted = self.schedule_running(&mut budget, &mut work);
        if !preempted {
            self.admit_waiting(&mut budget, &mut work);
        }
        if work == StepWork::default() {
            return None;
        }
        let duration = Duration::from_secs_f64(self.config.costs.seconds(&work) / self.rate);
        self.step_end = Some(self.now + duration);
        Some(duration)
    }

    /// Ends the step under way: time moves on and tokens come out.
    ///
    /// # Panics
    /// If no step is under way.
    pub fn finish_step(&mut self) -> &[Event] {
        self.now = self.step_end.take().expect("a step is under way");
        self.counters.steps += 1;
        let mut running = mem::take(&mut self.running);
        running.retain_mut(|sequence| self.advance(sequence));
        self.running = running;
        for index in 0..self.foreign {
            let id = FOREIGN_IDS + RequestId::from(index);
            if !self.holds(id) {
                self.push_foreign(id, FOREIGN_OUTPUT);
            }
        }
        &self.events
    }

    /// How long from now on the running request `id` takes to its last token if nothing else comes, in closed form;
    /// none where it takes more than steps of decodes: something waits or prefills, the cache may run out, or a
    /// step is under way.
    pub fn time_to_finish(&self, id: RequestId) -> Option<Duration> {
        let decodes =
            |sequence: &Sequence| sequence.generated > 0 && sequence.computed + 1 == sequence.known();
        let settled = self.step_end.is_none()
            && self.waiting.is_empty()
            && self.foreign == 0
            && self.running() <= self.config.token_budget
            && self.running.iter().all(decodes);
        let final_blocks = |sequence: &Sequence| {
            (sequence.request.prompt_tokens + sequence.request.output_tokens).div_ceil(BLOCK_TOKENS)
        };
        let blocks: u32 = self.running.iter().map(|one| final_blocks(one).saturating_sub(one.blocks)).sum();
        if !settled || blocks > self.free_blocks {
            return None;
        }
        let left = |sequence: &Sequence| sequence.request.output_tokens - sequence.generated;
        let steps = left(self.running.iter().find(|sequence| sequence.request.id == id)?);
        let (mut sequences, mut context) = (0.0, 0.0);
        for sequence in &self.running {
            let taken = f64::from(left(sequence).min(steps));
            sequences += taken;
            context += taken * f64::from(sequence.known()) + taken * (taken - 1.0) / 2.0;
        }
        let costs = &self.config.costs;
        let seconds =
            costs.floor * f64::from(steps) + costs.per_sequence * sequences + costs.per_kv_token * context;
        Some(Duration::from_secs_f64(seconds / self.rate))
    }

    /// Moves the time of an idle engine on to `time`; does nothing if that is past or a step is under way.
    pub fn advance_to(&mut self, time: Duration) {
        if self.step_end.is_none() {
            self.now = self.now.max(time);
        }
    }

    /// Whether a step is under way.
    pub fn is_stepping(&self) -> bool {
        self.step_end.is_some()
    }

    /// Virtual time since the engine was made.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Sequences in the batch, foreign ones included.
    pub fn running(&self) -> u32 {
        self.running.len() as u32
    }

    /// Requests in the queue, preempted ones included.
    pub fn waiting(&self) -> u32 {
        self.waiting.len() as u32
    }

    /// Foreign sequences asked for.
    pub fn foreign(&self) -> u32 {
        self.foreign
    }

    /// The part of the KV cache in use, from 0 to 1.
    pub fn kv_usage(&self) -> f64 {
        f64::from(self.config.kv_blocks - self.free_blocks) / f64::from(self.config.kv_blocks.max(1))
    }

    /// Totals so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What the engine was made with.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    fn schedule_running(&mut self, budget: &mut u32, work: &mut StepWork) -> bool {
        let mut preempted = false;
        let mut index = 0;
        while index < self.running.len() && *budget > 0 {
            let sequence = &self.running[index];
            let tokens = (sequence.known() - sequence.computed).min(*budget);
            if !self.grow(index, sequence.computed + tokens, &mut preempted) {
                break;
            }
            self.running[index].schedule(tokens, work);
            *budget -= tokens;
            index += 1;
        }
        preempted
    }

    /// Gives the sequence at `index` blocks for `tokens`, at the expense of newer ones; false if it fell itself.
    fn grow(&mut self, index: usize, tokens: u32, preempted: &mut bool) -> bool {
        let missing = tokens.div_ceil(BLOCK_TOKENS).saturating_sub(self.running[index].blocks);
        while self.free_blocks < missing {
            let mut victim = self.running.pop().expect("the sequence that grows is running");
            self.free_blocks += mem::take(&mut victim.blocks);
            victim.computed = 0;
            self.waiting.push_front(victim);
            self.counters.preemptions += 1;
            *preempted = true;
            if self.running.len() == index {
                return false;
            }
        }
        self.free_blocks -= missing;
        self.running[index].blocks += missing;
        true
    }

    /// Admits waiting requests; each reserves blocks for all its known tokens, so that a chunked prefill is never
    /// stranded half-way by the next admission.
    fn admit_waiting(&mut self, budget: &mut u32, work: &mut StepWork) {
        while *budget > 0 && self.running() < self.config.max_num_seqs {
            let Some(head) = self.waiting.front() else { return };
            let blocks = head.known().div_ceil(BLOCK_TOKENS);
            if blocks > self.free_blocks {
                return;
            }
            let Some(mut sequence) = self.waiting.pop_front() else { return };
            self.free_blocks -= blocks;
            sequence.blocks = blocks;
            if !mem::replace(&mut sequence.started, true) && !sequence.is_foreign() {
                self.events.push(Event::Started(sequence.request.id));
            }
            let tokens = sequence.known().min(*budget);
            sequence.schedule(tokens, work);
            *budget -= tokens;
            self.running.push(sequence);
        }
    }

    /// Applies the step to one sequence; false when it has left the batch.
    fn advance(&mut self, sequence: &mut Sequence) -> bool {
        if sequence.scheduled == 0 {
            return true;
        }
        sequence.computed += mem::take(&mut sequence.scheduled);
        if sequence.computed < sequence.known() {
            return true;
        }
        if sequence.generated == 0 {
            self.counters.prompt_tokens += u64::from(sequence.request.prompt_tokens);
        }
        sequence.generated += 1;
        self.counters.generation_tokens += 1;
        let last = sequence.generated == sequence.request.output_tokens;
        if last {
            self.free_blocks += sequence.blocks;
        }
        if sequence.is_foreign() {
            self.counters.foreign_tokens += 1;
        } else {
            self.counters.finished += u64::from(last);
            self.events.push(Event::Token { id: sequence.request.id, number: sequence.generated, last });
        }
        !last
    }

    fn push_foreign(&mut self, id: RequestId, output_tokens: u32) {
        self.waiting.push_front(Sequence::new(Request { id, prompt_tokens: FOREIGN_PROMPT, output_tokens }));
    }

    fn holds(&self, id: RequestId) -> bool {
        self.running.iter().chain(&self.waiting).any(|sequence| sequence.request.id == id)
    }

    fn remove(&mut self, id: RequestId) -> bool {
        if let Some(index) = self.running.iter().position(|sequence| sequence.request.id == id) {
            self.free_blocks += self.running.remove(index).blocks;
            return true;
        }
        let before = self.waiting.len();
        self.waiting.retain(|sequence| sequence.request.id != id);
        self.waiting.len() < before
    }
}
