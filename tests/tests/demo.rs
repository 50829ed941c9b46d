//! The demo in miniature: all its pieces work together, and it takes down what it made.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_demo");

/// Names under `folder` of what the demo of this process made.
fn left_in(folder: &str, demo: u32) -> Vec<String> {
    let mark = format!("gv{demo}-");
    let entries = fs::read_dir(Path::new(folder)).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&mark)).collect()
}

fn assert_nothing_left(demo: u32) {
    for folder in ["/run/netns", "/run"] {
        assert_eq!(left_in(folder, demo), [""; 0], "in {folder}");
    }
}

fn start(options: &[&str]) -> Child {
    Command::new(PROGRAM)
        .args(["--servers", "2", "--warm-up", "1"])
        .args(options)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the demo starts")
}

#[test]
#[ignore = "needs root: makes network namespaces and loads XDP programs"]
fn a_small_demo_runs_all_three_balancers_without_a_failed_request() {
    let folder = tempfile::tempdir().expect("a folder");
    let (json, svg) = (folder.path().join("demo.json"), folder.path().join("demo.svg"));
    let [json_option, svg_option] = [&json, &svg].map(|path| path.to_str().expect("a plain path"));
    let demo = start(&["--seconds", "1", "--json", json_option, "--svg", svg_option]);
    let id = demo.id();
    let output = demo.wait_with_output().expect("the demo ends");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{text}\n{errors}", output.status);
    let json: Value = serde_json::from_slice(&fs::read(json).expect("the figures")).expect("they are JSON");
    let runs = json["runs"].as_array().expect("runs");
    let names: Vec<_> = runs.iter().map(|run| run["balancer"].as_str()).collect();
    assert_eq!(names, [Some("guidevane"), Some("round-robin"), Some("least-connections")], "{json}");
    for run in runs {
        assert_eq!(run["failed"], 0, "{run}");
        assert!(run["output_tokens_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{run}");
    }
    assert!(text.contains("Guidevane against round robin:"), "{text}");
    assert!(fs::read_to_string(svg).expect("the chart").starts_with("<svg "));
    assert_nothing_left(id);
}

#[test]
#[ignore = "needs root: makes network namespaces and loads XDP programs"]
fn an_interrupted_demo_takes_down_what_it_made() {
    let mut demo = start(&["--seconds", "600", "--svg", "/dev/null"]);
    let mut output = BufReader::new(demo.stdout.take().expect("its output"));
    let mut line = String::new();
    while !line.contains("tokens/s") {
        line.clear();
        let read = output.read_line(&mut line).expect("its output");
        assert!(read > 0, "the demo ended before its first run: {:?}", demo.wait_with_output());
    }
    assert!(!left_in("/run/netns", demo.id()).is_empty(), "its network is up");
    kill(Pid::from_raw(demo.id().cast_signed()), Signal::SIGINT).expect("signal the demo");
    assert_eq!(demo.wait().expect("the demo ends").code(), Some(130));
    assert_nothing_left(demo.id());
}
