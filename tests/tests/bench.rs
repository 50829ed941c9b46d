//! The benchmark of the packet path, as far as it can be right or wrong on a busy machine: its programs load, and
//! in every case packets take the way that its name says. What they take in nanoseconds is nobody's promise here.

use std::{
    env,
    path::Path,
    process::{Command, Output},
};

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).trim().to_owned()
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
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = run(Command::new(cargo).current_dir(root).args([
        "run",
        "--quiet",
        "--locked",
        "--package",
        "xtask",
        "--",
        "bench",
        "object",
    ]));
    assert!(built.status.success(), "the object cannot be built: {}", text(&built.stderr));
    // Opening half a million flows takes a second each time and is the same in small.
    let measured = run(Command::new(env!("CARGO_BIN_EXE_bench-packet"))
        .env("GUIDEVANE_OBJECT", text(&built.stdout))
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
