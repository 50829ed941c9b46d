//! The benchmarks, as far as they can be right or wrong on a busy machine. Of the packet path: its programs load, and
//! in every case packets take the way that its name says; what they take in nanoseconds is nobody's promise here. Of
//! the flow table, in small: no live flow is pushed out, no stream breaks, and every gauge stays exact. Of the daemon: all
//! that is waited for comes, and its threads are found at work.

use std::{
    env, fs,
    path::Path,
    process::{Command, Output},
};

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).trim().to_owned()
}

/// The kernel object with the benchmarks' programs, built anew.
fn object() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["run", "--quiet", "--locked", "--package", "xtask", "--", "bench", "object"];
    let built = run(Command::new(cargo).current_dir(root).args(arguments));
    assert!(built.status.success(), "the object cannot be built: {}", text(&built.stderr));
    text(&built.stdout)
}

#[test]
#[ignore = "needs root: loads the kernel programs; and the eBPF tool chain, which `cargo xtask setup` installs"]
fn every_case_of_the_packet_benchmark_is_what_its_name_says() {
    /// One of every kind; all of them take minutes.
    const FEW: [&str; 10] = [
        "--only",
        "tcp4-tunnel-established-1",
        "--only",
        "tcp6-gue-established-1",
        "--only",
        "tcp4-nat-request-1",
        "--only",
        "tcp4-nat-return-1",
        "--only",
        "not-our",
    ];
    let full = env::var_os("GUIDEVANE_FULL").is_some();
    // Opening half a million flows takes a second each time and is the same in small.
    let measured = run(Command::new(env!("CARGO_BIN_EXE_bench-packet"))
        .env("GUIDEVANE_OBJECT", object())
        .args(["--rounds", "1", "--repeat", "4096", "--skip", "512k"])
        .args(if full { &[][..] } else { &FEW[..] }));
    let (out, error) = (text(&measured.stdout), text(&measured.stderr));
    assert!(measured.status.success(), "{error}\n{out}");
    let expected: &[&str] = match full {
        true => &["tcp4-l2-established-64k", "udp6-nat-new-1m", "tcp4-nat-return-1k", "fragment-v6"],
        false => &["tcp4-tunnel-established-1", "tcp4-nat-request-1", "tcp4-nat-return-1"],
    };
    for case in expected {
        assert!(out.contains(case), "{case} is not among\n{out}");
    }
}

fn table(options: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench-table"));
    let ran = run(command.env("GUIDEVANE_OBJECT", object()).args(options));
    let (out, error) = (text(&ran.stdout), text(&ran.stderr));
    assert!(ran.status.success(), "{error}\n{out}");
    out
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn new_connections_are_steered_by_a_fault_a_slow_clock_and_a_drain_at_once() {
    /// Two thousand times what is promised: a busy machine may take its time, a missed signal takes for ever.
    const CEILING_MS: f64 = 20_000.0;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let json = folder.path().join("reaction.json");
    let measured = run(Command::new(env!("CARGO_BIN_EXE_bench-reaction"))
        .args(["--rounds", "3", "--any-time", "--json"])
        .arg(&json));
    let (out, error) = (text(&measured.stdout), text(&measured.stderr));
    assert!(measured.status.success(), "{error}\n{out}");
    let report: serde_json::Value = serde_json::from_slice(&fs::read(json).expect("a report")).expect("JSON");
    for what in ["xid", "throttle", "drain"] {
        let times = &report[what];
        assert_eq!(times["rounds"], 3, "{what}: {report}");
        assert!(times["max"].as_f64().is_some_and(|max| max > 0.0 && max < CEILING_MS), "{what}: {report}");
    }
}

#[test]
#[ignore = "needs root: network namespaces and XDP"]
fn what_a_tick_the_daemon_and_a_scraped_server_cost_is_told_by_thread() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let json = folder.path().join("tick.json");
    let measured = run(Command::new(env!("CARGO_BIN_EXE_bench-tick"))
        .args(["--backends", "8", "--time", "2s", "--any-cost", "--json"])
        .arg(&json));
    let (out, error) = (text(&measured.stdout), text(&measured.stderr));
    assert!(measured.status.success(), "{error}\n{out}");
    let report: serde_json::Value = serde_json::from_slice(&fs::read(json).expect("a report")).expect("JSON");
    let daemon = &report["daemon"][0];
    assert_eq!((&daemon["backends"], &daemon["whole_expositions"]), (&8.into(), &true.into()), "{report}");
    for figure in ["ticks", "single_ticks", "tick_microseconds", "tick_p99_microseconds", "daemon"] {
        assert!(daemon[figure].as_f64().is_some_and(|figure| figure > 0.0), "{figure}: {report}");
    }
    for thread in ["governor", "tokio-rt-worker"] {
        let threads = daemon["threads"].as_array().expect("threads");
        let part = threads.iter().find(|one| one[0] == thread).and_then(|one| one[1].as_f64());
        assert!(part.is_some_and(|part| part > 0.0), "{thread}: {report}");
    }
}

#[test]
#[ignore = "needs root: loads the kernel programs; and the eBPF tool chain, which `cargo xtask setup` installs"]
fn a_table_of_sixteen_million_slots_can_be_loaded() {
    assert!(table(&["--only", "largest"]).contains("16777216 slots"));
}

#[test]
#[ignore = "needs root: loads the kernel programs; and the eBPF tool chain, which `cargo xtask setup` installs"]
fn churn_at_the_rated_fill_pushes_out_no_live_flow_and_leaves_every_gauge_exact() {
    table(&["--only", "churn", "--slots", "65536", "--flows", "200000"]);
}

#[test]
#[ignore = "needs root: loads the kernel programs; and the eBPF tool chain, which `cargo xtask setup` installs"]
fn floods_break_no_established_stream_and_leave_every_gauge_exact() {
    // So few connections say nothing of shares, so any are good enough.
    let options =
        "--only floods --slots 65536 --packets 400000 --streams 1000 --connections 400 --any-shares";
    table(&options.split(' ').collect::<Vec<_>>());
}
