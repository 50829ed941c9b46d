//! Between the governor's terms and those of a recording.

use std::time::Duration;

use lb_common::layout::Total;

use super::{BackendSample, Gpus, Report, VipSample, Written};
use crate::governor::{HardwareReading, Input, Output, Reported};

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl VipSample {
    /// What a tick was told of a VIP's backends, and what it wrote.
    pub fn of(total: &Total, inputs: &[Input], outputs: &[Output]) -> Self {
        let backends = inputs.iter().zip(outputs).map(|(input, output)| BackendSample::of(input, output));
        Self {
            opening_cap: total.opening_cap,
            duty: total.duty,
            prompt: total.prompt,
            backends: backends.collect(),
        }
    }
}

impl BackendSample {
    fn of(input: &Input, output: &Output) -> Self {
        let [opening, awaiting, streaming, idle, prompts] = input.gauges;
        Self {
            opening,
            awaiting,
            streaming,
            idle,
            prompts,
            opened: input.opened,
            requests: input.requests,
            progressed: input.progressed,
            progress_count: input.progress_count,
            progress_sum_ns: input.progress_sum_ns,
            weight: input.weight,
            configured_limit: input.configured_limit,
            usable: input.usable,
            reported: input.reported.as_ref().map(Report::of),
            hardware: input.hardware.as_ref().map(Gpus::of),
            written: Written {
                cost: output.cost,
                correction: output.correction,
                limit: output.limit,
                static_cost: output.static_cost,
                share: output.share,
            },
        }
    }

    /// What the tick was told.
    pub fn input(&self) -> Input {
        Input {
            gauges: [self.opening, self.awaiting, self.streaming, self.idle, self.prompts],
            opened: self.opened,
            requests: self.requests,
            progressed: self.progressed,
            progress_count: self.progress_count,
            progress_sum_ns: self.progress_sum_ns,
            weight: self.weight,
            configured_limit: self.configured_limit,
            usable: self.usable,
            reported: self.reported.as_ref().map(Report::told),
            hardware: self.hardware.as_ref().map(Gpus::told),
        }
    }

    /// What it wrote.
    pub fn output(&self) -> Output {
        let Written { cost, correction, limit, static_cost, share } = self.written;
        Output { cost, correction, limit, static_cost, share }
    }
}

impl Report {
    fn of(report: &Reported) -> Self {
        Self {
            running: report.running,
            waiting: report.waiting,
            kv_usage: report.kv_usage,
            generation_tokens: report.generation_tokens,
            prompt_tokens: report.prompt_tokens,
            max_num_seqs: report.max_num_seqs,
            cadence_us: report.cadence.map(micros),
            taken_start_us: micros(report.taken_start),
            taken_end_us: micros(report.taken_end),
        }
    }

    fn told(&self) -> Reported {
        Reported {
            running: self.running,
            waiting: self.waiting,
            kv_usage: self.kv_usage,
            generation_tokens: self.generation_tokens,
            prompt_tokens: self.prompt_tokens,
            max_num_seqs: self.max_num_seqs,
            cadence: self.cadence_us.map(Duration::from_micros),
            taken_start: Duration::from_micros(self.taken_start_us),
            taken_end: Duration::from_micros(self.taken_end_us),
        }
    }
}

impl Gpus {
    fn of(reading: &HardwareReading) -> Self {
        Self {
            speed: reading.speed,
            foreign: reading.foreign,
            taken_start_us: micros(reading.taken_start),
            taken_end_us: micros(reading.taken_end),
        }
    }

    fn told(&self) -> HardwareReading {
        HardwareReading {
            speed: self.speed,
            foreign: self.foreign,
            taken_start: Duration::from_micros(self.taken_start_us),
            taken_end: Duration::from_micros(self.taken_end_us),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lb_common::layout::Total;

    use super::{BackendSample, VipSample};
    use crate::governor::{HardwareReading, Input, Output, Reported};

    #[test]
    fn what_goes_through_a_line_of_text_comes_back_whole() {
        let us = Duration::from_micros;
        let input = Input {
            gauges: [1, 2, 3, 4, 5],
            opened: 5,
            requests: 6,
            progressed: 7,
            progress_count: 8,
            progress_sum_ns: u64::MAX,
            weight: 100,
            configured_limit: Some(9),
            usable: true,
            reported: Some(Reported {
                running: Some(1.5),
                waiting: Some(0.1 + 0.2),
                kv_usage: None,
                generation_tokens: Some(1e15),
                cadence: Some(us(50_000)),
                prompt_tokens: Some(3.0),
                max_num_seqs: Some(256),
                taken_start: us(10),
                taken_end: us(20),
            }),
            hardware: Some(HardwareReading {
                speed: Some(0.25),
                foreign: None,
                taken_start: us(1),
                taken_end: us(2),
            }),
        };
        let output = Output { cost: 2048, correction: -300, limit: 32, static_cost: 1024, share: 65_536 };
        let total = Total { opening_cap: u32::MAX, duty: 16, prompt: 17, ..Total::default() };
        let sample = VipSample::of(&total, &[input], &[output]);
        let text = serde_json::to_string(&sample).expect("plain data");
        let back: VipSample = serde_json::from_str(&text).expect("its own text");
        let read = |backend: &BackendSample| (backend.input(), backend.output());
        assert_eq!(back.backends.iter().map(read).collect::<Vec<_>>(), [(input, output)], "{text}");
        assert_eq!(back, sample);
    }
}
