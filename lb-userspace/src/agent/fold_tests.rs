use std::time::{Duration, Instant};

use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use prost::Message as _;

use super::{Known, hardware, observation, report, samples, sent};
use crate::{
    agent::{clock::Bracket, message::OrcaLoadReport},
    signals::{Fault, Hardware, Observation, ServerKind, Totals},
};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn known(at: Instant) -> Known {
    Known {
        observation: Some(Observation {
            running: Some(7.0),
            waiting: Some(2.0),
            kv_usage: Some(0.5),
            generation_tokens: Some(123_456.0),
            prompt_tokens: Some(99.0),
            server: Some(ServerKind::Sglang),
            requests: Some(300.0),
            ttft: Some(Totals { sum: 40.5, count: 298.0 }),
            time_per_token: Some(Totals { sum: 1.5, count: 30.0 }),
            max_num_seqs: Some(12),
            cadence: Some(ms(40)),
            taken_start: at,
            taken_end: at + ms(10),
        }),
        hardware: Some(Hardware {
            speed: Some(0.25),
            foreign: Some(0.6),
            utilization: Some(1.0),
            memory: Some(0.9),
            fault: Some(Fault::Xid(79)),
            taken_start: at + ms(20),
            taken_end: at + ms(21),
        }),
        cpu: Some(0.1),
        memory: Some(0.2),
        rate: Some(3.5),
    }
}

/// A report of these metrics.
fn named(metrics: &[(&str, f64)]) -> OrcaLoadReport {
    OrcaLoadReport {
        named_metrics: metrics.iter().map(|&(name, value)| (name.to_owned(), value)).collect(),
        ..OrcaLoadReport::default()
    }
}

fn moment(at: Instant) -> Bracket {
    Bracket { earliest: at, latest: at }
}

#[test]
fn what_is_known_arrives_whole_and_as_old_as_it_is() {
    let at = Instant::now();
    let known = known(at);
    let now = at + ms(130);
    let report = report(&known, at + ms(30), now);
    assert_eq!(sent(&report), Some(ms(100)));
    assert_eq!((report.cpu_utilization, report.mem_utilization, report.rps_fractional), (0.1, 0.2, 3.5));
    assert_eq!(report.application_utilization, 0.75, "nine requests for twelve slots");

    // Five milliseconds under way, of which two are not known.
    let sending = Bracket { earliest: now + ms(1), latest: now + ms(3) };
    let read = observation(&report, sending).unwrap();
    let expected =
        Observation { taken_start: at + ms(1), taken_end: at + ms(13), ..known.observation.clone().unwrap() };
    assert_eq!(read, expected);
    let read = hardware(&report, sending).unwrap();
    let expected =
        Hardware { taken_start: at + ms(21), taken_end: at + ms(24), ..known.hardware.clone().unwrap() };
    assert_eq!(read, expected);
}

#[test]
fn reports_of_one_reading_date_it_equally() {
    let at = Instant::now();
    let of = |now| samples(&report(&known(at), at + ms(30), now));
    let (first, second) = (of(at + ms(40)), of(at + ms(61_003)));
    for (first, second) in [(first.0, second.0), (first.1, second.1)] {
        let difference = first.unwrap() - second.unwrap();
        assert!(difference.abs() < 1e-6, "{difference} ms");
    }
    assert_eq!(samples(&named(&[("num_requests_running", 1.0)])), (None, None));
}

#[test]
fn every_kind_of_fault_arrives() {
    let at = Instant::now();
    for fault in [None, Some(Fault::Xid(0)), Some(Fault::Xid(u32::MAX)), Some(Fault::Ecc), Some(Fault::Lost)]
    {
        let hardware_read = Hardware { fault, ..known(at).hardware.unwrap() };
        let known = Known { hardware: Some(hardware_read), ..Known::default() };
        let read = hardware(&report(&known, at, at + ms(30)), moment(at)).unwrap();
        assert_eq!(read.fault, fault);
    }
}

#[test]
fn a_server_of_others_is_understood_by_the_names_of_vllm() {
    let at = Instant::now();
    let sending = Bracket { earliest: at, latest: at + ms(200) };
    let metrics =
        [("num_requests_running", 4.0), ("num_requests_waiting", 3.0), ("kv_cache_usage_perc", 0.4)];
    let read = observation(&named(&metrics), sending).unwrap();
    assert_eq!((read.running, read.waiting, read.kv_usage), (Some(4.0), Some(3.0), Some(0.4)));
    assert_eq!((read.taken_start, read.taken_end), (at, at + ms(200)));
    assert_eq!(hardware(&named(&metrics), sending), None);
}

#[test]
fn a_utilization_is_no_count() {
    let plain = OrcaLoadReport {
        cpu_utilization: 0.9,
        application_utilization: 0.8,
        rps_fractional: 10.0,
        utilization: [("gpu".to_owned(), 0.7)].into(),
        named_metrics: [("temperature".to_owned(), 70.0)].into(),
        ..OrcaLoadReport::default()
    };
    let at = Instant::now();
    assert_eq!(observation(&plain, moment(at)), None);
    assert_eq!(hardware(&plain, moment(at)), None);
}

#[test]
fn values_that_cannot_be_are_not_said() {
    let at = Instant::now();
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
        let lies = named(&[
            ("num_requests_running", value),
            ("num_requests_waiting", 2.0),
            ("guidevane.ttft_seconds_sum", value),
            ("guidevane.ttft_seconds_count", 5.0),
            ("guidevane.sent_ms", value),
            ("guidevane.observation_age_ms", value),
            ("guidevane.gpu_speed", value),
            ("guidevane.gpu_fault_xid", value),
        ]);
        let read = observation(&lies, moment(at)).unwrap();
        assert_eq!((read.running, read.waiting, read.ttft), (None, Some(2.0), None), "{value}");
        assert_eq!(read.taken_end, at);
        assert_eq!((sent(&lies), hardware(&lies, moment(at))), (None, None), "{value}");
    }
    let beyond = named(&[("kv_cache_usage_perc", 1.5), ("guidevane.gpu_speed", 30.0)]);
    assert_eq!(observation(&beyond, moment(at)).unwrap().kv_usage, Some(1.0));
    assert_eq!(hardware(&beyond, moment(at)).unwrap().speed, Some(1.0));
}

#[test]
fn what_is_older_than_a_day_is_not_heard() {
    let at = Instant::now();
    for age in [1e9, 1e18, f64::MAX] {
        let old = [("num_requests_running", 4.0), ("guidevane.observation_age_ms", age)];
        // Ages beyond any duration cannot be, and count as not said.
        let read = observation(&named(&old), moment(at));
        assert!(read.is_none_or(|read| age == f64::MAX && read.taken_end == at), "{age}");
    }
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        0.0..1e4_f64,
        Just(f64::NAN),
        Just(f64::MAX),
        Just(1e9),
        Just(f64::MIN_POSITIVE)
    ]
}

/// Any metrics, most under names that mean something.
fn lies() -> impl Strategy<Value = OrcaLoadReport> {
    let at = Instant::now();
    let names: Vec<String> = report(&known(at), at, at).named_metrics.into_keys().collect();
    let name = prop_oneof![9 => proptest::sample::select(names), 1 => any::<String>()];
    let metrics = proptest::collection::hash_map(name, number(), 0..24);
    metrics.prop_map(|named_metrics| OrcaLoadReport { named_metrics, ..OrcaLoadReport::default() })
}

fn holds(report: &OrcaLoadReport) -> Result<(), proptest::test_runner::TestCaseError> {
    let earliest = Instant::now();
    let sending = Bracket { earliest, latest: earliest + ms(7) };
    if let Some(read) = observation(report, sending) {
        prop_assert!(read.taken_start <= read.taken_end && read.taken_end <= sending.latest);
        for count in [read.running, read.waiting, read.generation_tokens, read.prompt_tokens] {
            prop_assert!(count.is_none_or(|count| count.is_finite() && count >= 0.0));
        }
        prop_assert!(read.kv_usage.is_none_or(|usage| (0.0..=1.0).contains(&usage)));
        prop_assert!(read.ttft.is_none_or(|totals| totals.sum >= 0.0 && totals.count >= 0.0));
    }
    if let Some(read) = hardware(report, sending) {
        prop_assert!(read.taken_start <= read.taken_end && read.taken_end <= sending.latest);
        for part in [read.speed, read.foreign, read.utilization, read.memory] {
            prop_assert!(part.is_none_or(|part| (0.0..=1.0).contains(&part)));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn whatever_is_said_what_is_heard_can_be(report in lies()) {
        holds(&report)?;
        let again = OrcaLoadReport::decode(report.encode_to_vec().as_slice()).unwrap();
        prop_assert_eq!(again.named_metrics.len(), report.named_metrics.len());
    }

    #[test]
    fn whatever_bytes_come_are_refused_or_can_be(
        bytes in proptest::collection::vec(any::<u8>(), 0..256),
        report in lies(),
        cut in any::<proptest::sample::Index>(),
    ) {
        if let Ok(report) = OrcaLoadReport::decode(bytes.as_slice()) {
            holds(&report)?;
        }
        // What is nearly right gets further.
        let mut near = report.encode_to_vec();
        near.truncate(cut.index(near.len() + 1));
        near.extend(&bytes);
        if let Ok(report) = OrcaLoadReport::decode(near.as_slice()) {
            holds(&report)?;
        }
    }
}
