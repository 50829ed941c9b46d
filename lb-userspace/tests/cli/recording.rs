//! `guidevane sim --record` and `--replay`, as people use them.

use std::fs;

use guidevane::api::Sampling;
use guidevane::config::{GovernorMode, PolicyKind};
use guidevane::recording::{BackendSample, Header, Line, Sample, Vip, VipSample, Written};

use super::{FAILURE, Running, SUCCESS, USAGE, assert_output, guidevane};

/// A VIP of two backends, one at twice the cost, to which a flow comes with each sample: three of four to the first.
pub struct FakeRecording(u64);

impl FakeRecording {
    pub fn begin() -> Self {
        Self(0)
    }
}

impl Sampling for FakeRecording {
    async fn next(&mut self) -> Option<Line> {
        self.0 += 1;
        Some(match self.0 - 1 {
            0 => Line::Recording(Header::new(vec![vip()])),
            number => Line::Sample(sample(number)),
        })
    }

    fn lost(&self) -> u64 {
        0
    }
}

fn vip() -> Vip {
    Vip {
        name: "chat".to_owned(),
        policy: PolicyKind::Least,
        awaiting_weight: 16,
        epsilon: 0.0,
        governor: GovernorMode::Freeze,
        backends: vec!["gpu-0".to_owned(), "gpu-1".to_owned()],
    }
}

fn sample(number: u64) -> Sample {
    let backend = |opened, cost| BackendSample {
        opening: 0,
        awaiting: 0,
        prompts: 0,
        streaming: 0,
        idle: 0,
        opened,
        requests: opened,
        progressed: 0,
        progress_count: 0,
        progress_sum_ns: 0,
        weight: 100,
        configured_limit: None,
        usable: true,
        reported: None,
        hardware: None,
        written: Written { cost, correction: 0, limit: 0, static_cost: 1024, share: 32_768 },
    };
    let backends = vec![backend(number - number / 4, 1024), backend(number / 4, 2048)];
    Sample {
        at_us: number * 100_000,
        vips: vec![VipSample { opening_cap: u32::MAX, duty: 16, prompt: 1 << 15, backends }],
    }
}

const TABLE: &str = "\
VIP chat: 40 new flows in 4.0 s, 40 intervals; picked by least, governor freeze

SHARE_PCT  RECORDED  AS_WRITTEN  ROUND_ROBIN
gpu-0            75         100           50
gpu-1            25           0           50
MEAN_LOAD      17.0        17.0         17.0

Shares are good to 16 points. Each flow met the live flows that were really there: a share says where
flows would have gone one step on, not what a policy would have led to.

TERMS      COST_WRITTEN  COST_ON  CORRECTION_WRITTEN  CORRECTION_ON  LIMIT_WRITTEN LIMIT_ON
gpu-0              1.00     1.00                +0.0           +0.0              -        -
gpu-1              2.00     1.00                +0.0           +0.0              -        -
";

#[test]
fn what_is_recorded_from_a_daemon_can_be_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("recording");
    let path = file.to_str().unwrap();
    let recorded = Running::start().guidevane(&["sim", "--record", path, "--for", "4s"]);
    assert_output(&recorded, SUCCESS, &format!("{path}: 41 samples, 0 lost\n"), "");
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 43, "a header, the samples and the end");

    let replay = |more: &[&str]| guidevane().args(["sim", "--replay", path]).args(more).output().unwrap();
    assert_output(&replay(&["--policy", "as-written,round-robin"]), SUCCESS, TABLE, "");

    let json = replay(&["-o", "json"]);
    let figures: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let vip = &figures["vips"][0];
    assert_eq!(vip["recorded"]["shares"], serde_json::json!([0.75, 0.25]));
    let names: Vec<_> = vip["ways"].as_array().unwrap().iter().map(|way| &way["name"]).collect();
    assert_eq!(
        names,
        ["as-written", "round-robin", "hash", "least-connections", "live-counts", "guidevane"],
        "all by default"
    );
    let known = replay(&["--policy", "observe,on"]);
    let known: String = String::from_utf8(known.stdout).unwrap();
    assert!(known.contains("LEAST_CONNECTIONS  GUIDEVANE\n"), "{known}");
}

#[test]
fn what_cannot_be_replayed_is_refused_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("recording");
    let path = file.to_str().unwrap();
    let replay = |policy: &str| {
        let output = guidevane().args(["sim", "--replay", path, "--policy", policy]).output().unwrap();
        assert_eq!(output.status.code(), FAILURE);
        String::from_utf8(output.stderr).unwrap()
    };
    let error = replay("all");
    assert!(error.starts_with(&format!("error: cannot read {path}: No such file")), "{error}");
    fs::write(&file, "{\"status\":{}}\n").unwrap();
    let error = replay("all");
    assert!(
        error.starts_with(&format!("error: {path}:1: no line of a recording: unknown variant")),
        "{error}"
    );
    assert!(error.ends_with("; `guidevane sim --record FILE` makes one\n"), "{error}");
    let error = replay("oracle-ttft");
    assert!(
        error.starts_with("error: \"oracle-ttft\" cannot be replayed; there are all, as-written, "),
        "{error}"
    );
}

#[test]
fn a_simulation_needs_a_trace_or_a_recording_and_not_both() {
    let usage = |arguments: &[&str], words: &str| {
        let output = guidevane().arg("sim").args(arguments).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), USAGE, "{arguments:?}: {error}");
        assert!(error.contains(words), "{arguments:?}: `{words}` is not in: {error}");
    };
    usage(&[], "--trace <FILE>");
    usage(&["--replay", "a", "--trace", "b"], "cannot be used with");
    usage(&["--replay", "a", "--record", "b"], "cannot be used with");
    usage(&["--replay", "a", "--for", "1s"], "cannot be used with");
    usage(&["--record", "a", "--every", "10us"], "must be 1ms at least");
}
