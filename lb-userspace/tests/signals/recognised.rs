//! Every exposition leads to the observation that it should.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use guidevane::signals::{Observation, ServerKind, Totals, reading::read};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/signals/expositions")
}

fn text(name: &str) -> Vec<u8> {
    let path = folder().join(format!("{name}.txt"));
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Expositions, and what is told in each.
fn cases() -> Vec<(&'static str, Observation)> {
    let now = Instant::now();
    let of = |server, cadence_ms| Observation {
        server: Some(server),
        cadence: Some(Duration::from_millis(cadence_ms)),
        ..Observation::silent(now, now)
    };
    let totals = |sum, count| Some(Totals { sum, count });
    let (vllm, sglang) = (of(ServerKind::Vllm, 50), of(ServerKind::Sglang, 1200));
    let (serve, trtllm) = (of(ServerKind::TrtllmServe, 50), of(ServerKind::TritonTrtllm, 100));
    let (triton, llama) = (of(ServerKind::Triton, 0), of(ServerKind::LlamaCpp, 0));
    vec![
        (
            "vllm-0.32.0",
            Observation {
                running: Some(7.0),
                waiting: Some(8.0),
                kv_usage: Some(0.0034196384953590897),
                generation_tokens: Some(14_220.0),
                prompt_tokens: Some(9129.0),
                requests: Some(291.0),
                ttft: totals(42.181333780288696, 298.0),
                time_per_token: totals(48.63963321200845, 13_922.0),
                ..vllm.clone()
            },
        ),
        (
            "vllm-old-names",
            Observation {
                running: Some(6.0),
                waiting: Some(5.0),
                kv_usage: Some(0.96),
                generation_tokens: Some(5120.0),
                time_per_token: totals(125.0, 5000.0),
                ..vllm.clone()
            },
        ),
        (
            "vllm-two-engines",
            Observation {
                running: Some(12.0),
                waiting: Some(8.0),
                kv_usage: Some(0.75),
                generation_tokens: Some(14_300.0),
                prompt_tokens: Some(9129.0),
                ttft: totals(40.5, 298.0),
                ..vllm.clone()
            },
        ),
        (
            "nim-around-vllm",
            Observation { running: Some(3.0), waiting: Some(2.0), max_num_seqs: Some(1024), ..vllm.clone() },
        ),
        ("nonsense", Observation { running: Some(3.0), kv_usage: Some(1.0), ..vllm }),
        (
            "sglang-0.5.23",
            Observation {
                running: Some(4.0),
                waiting: Some(6.0),
                kv_usage: Some(0.02),
                generation_tokens: Some(5528.0),
                prompt_tokens: Some(5348.0),
                requests: Some(174.0),
                ttft: totals(0.05805954568313609 + 52.690031147997615, 178.0),
                time_per_token: totals(31.376387341992995, 5412.0),
                ..sglang.clone()
            },
        ),
        (
            "sglang-ranks",
            Observation { running: Some(8.0), waiting: Some(3.0), kv_usage: Some(0.51), ..sglang.clone() },
        ),
        ("sglang-all-schedulers", Observation { running: Some(6.0), waiting: Some(1.0), ..sglang }),
        (
            "trtllm-serve",
            Observation {
                running: Some(12.0),
                waiting: Some(2.0),
                kv_usage: Some(0.625),
                requests: Some(95.0),
                ttft: totals(9.7, 97.0),
                max_num_seqs: Some(256),
                ..serve.clone()
            },
        ),
        ("trtllm-serve-cache-alone", Observation { kv_usage: Some(0.75), ..serve }),
        (
            "triton-trtllm",
            Observation {
                running: Some(9.0),
                waiting: Some(4.0),
                kv_usage: Some(0.5),
                max_num_seqs: Some(512),
                ..trtllm.clone()
            },
        ),
        (
            "triton-trtllm-without-fraction",
            Observation { running: Some(1.0), kv_usage: Some(0.25), ..trtllm },
        ),
        ("triton-2.51.0", Observation { waiting: Some(20.0), requests: Some(469.0), ..triton }),
        (
            "tgi",
            Observation {
                running: Some(2.0),
                waiting: Some(6.0),
                generation_tokens: Some(4800.0),
                prompt_tokens: Some(9600.0),
                requests: Some(40.0),
                time_per_token: totals(2.5, 40.0),
                ..of(ServerKind::Tgi, 50)
            },
        ),
        (
            "llama.cpp-4-clients",
            Observation {
                running: Some(4.0),
                waiting: Some(0.0),
                generation_tokens: Some(8728.0),
                prompt_tokens: Some(8103.0),
                time_per_token: totals(7.76896, 8728.0),
                ..llama.clone()
            },
        ),
        (
            "llama.cpp-16-clients",
            Observation {
                running: Some(4.0),
                waiting: Some(8.0),
                generation_tokens: Some(27_928.0),
                prompt_tokens: Some(24_373.0),
                time_per_token: totals(25.2978, 27_928.0),
                ..llama
            },
        ),
        (
            "lmdeploy",
            Observation {
                running: Some(8.0),
                waiting: Some(3.0),
                kv_usage: Some(0.125),
                generation_tokens: Some(700.0),
                time_per_token: totals(14.0, 700.0),
                ..of(ServerKind::Lmdeploy, 50)
            },
        ),
        (
            "nim",
            Observation {
                running: Some(3.0),
                waiting: Some(1.0),
                kv_usage: Some(0.5),
                generation_tokens: Some(1000.0),
                prompt_tokens: Some(600.0),
                requests: Some(30.0),
                ttft: totals(3.75, 34.0),
                max_num_seqs: Some(2048),
                ..of(ServerKind::Nim, 50)
            },
        ),
    ]
}

#[test]
fn every_exposition_says_what_it_should() {
    let cases = cases();
    for (name, expected) in &cases {
        let (start, end) = (expected.taken_start, expected.taken_end);
        let found = read(&text(name), None, start, end);
        assert_eq!(found.as_ref(), Some(expected), "{name}");
        let found = read(&text(name), expected.server, start, end);
        assert_eq!(found.as_ref(), Some(expected), "{name}, its server named");
    }
    let mut named: BTreeSet<String> = cases.iter().map(|(name, _)| format!("{name}.txt")).collect();
    named.insert("nothing-known.txt".into());
    let there: BTreeSet<String> = fs::read_dir(folder())
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(named, there, "expositions and cases");
}

#[test]
fn what_no_known_server_writes_is_not_recognised() {
    let now = Instant::now();
    for text in [text("nothing-known"), b"<html>\n".to_vec(), b"[{\"numActiveRequests\":3}]".to_vec(), vec![]]
    {
        assert_eq!(read(&text, None, now, now), None, "{}", String::from_utf8_lossy(&text));
    }
    assert_eq!(read(&text("vllm-0.32.0"), Some(ServerKind::Sglang), now, now), None, "another was named");
}

#[test]
fn a_named_server_is_read_out_of_what_others_say_too() {
    let now = Instant::now();
    let nim = read(&text("nim-around-vllm"), Some(ServerKind::Nim), now, now).expect("both are there");
    assert_eq!((nim.running, nim.waiting), (Some(3.0), None));
    let triton = read(&text("triton-trtllm"), Some(ServerKind::Triton), now, now).expect("both are there");
    assert_eq!((triton.running, triton.waiting), (None, Some(2.0)));
}

#[test]
fn a_text_cut_off_anywhere_never_says_more_than_the_whole() {
    let now = Instant::now();
    let whole_text = text("vllm-0.32.0");
    let whole = read(&whole_text, None, now, now).expect("vllm's");
    for end in (0..whole_text.len()).step_by(101) {
        let Some(part) = read(&whole_text[..end], None, now, now) else { continue };
        for (what, part, whole) in [
            ("running", part.running, whole.running),
            ("waiting", part.waiting, whole.waiting),
            ("generated", part.generation_tokens, whole.generation_tokens),
        ] {
            assert!(part.is_none() || part == whole, "{what} at {end}: {part:?}");
        }
    }
}
