//! `guidevane agent` and `guidevane agent enroll` as their users run them.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use crate::support::{Pki, config};

fn guidevane(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_guidevane")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn enrol_makes_everything_and_says_what_to_copy_where() {
    let room = tempfile::tempdir().unwrap();
    let directory = room.path().join("pki");
    let dir = directory.to_str().unwrap();
    let agent = ["agent", "enroll", "--dir", dir, "--host", "10.0.0.21", "--host", "gpu-host"];
    let agent = [&agent[..], &["--backend", "gpu-0", "--backend", "gpu-1"]].concat();
    let made = guidevane(&agent);
    assert!(made.status.success(), "{}", text(&made.stderr));
    for words in [
        "new authority",
        "keep",
        "new certificate for the agent of gpu-0, gpu-1, until ",
        "copy to 10.0.0.21, gpu-host:",
        "pki/10.0.0.21.pem -> /etc/guidevane/agent/cert.pem",
        "agent = \"https://10.0.0.21:9900\"",
        "--balancer",
    ] {
        assert!(text(&made.stdout).contains(words), "`{words}` is not in: {}", text(&made.stdout));
    }
    assert_eq!(names(&directory), ["10.0.0.21.key", "10.0.0.21.pem", "ca.key", "ca.pem"]);

    let again = guidevane(&agent);
    assert_eq!(again.status.code(), Some(1));
    assert!(
        text(&again.stderr).contains("10.0.0.21.pem is there already; --force"),
        "{}",
        text(&again.stderr)
    );
    assert!(guidevane(&[&agent[..], &["--force"]].concat()).status.success());

    let balancer = guidevane(&["agent", "enroll", "--dir", dir, "--balancer"]);
    assert!(text(&balancer.stdout).contains("/etc/guidevane/agents/cert.pem"), "{}", text(&balancer.stdout));
    assert!(!text(&balancer.stdout).contains("new authority"), "there is one");
}

#[test]
fn enrol_refuses_what_cannot_be() {
    let room = tempfile::tempdir().unwrap();
    let dir = room.path().to_str().unwrap();
    let enroll = |arguments: &[&str]| guidevane(&[&["agent", "enroll", "--dir", dir], arguments].concat());
    for (arguments, code, words) in [
        (&[][..], 2, "--backend"),
        (&["--backend", "gpu-0"], 2, "--host"),
        (&["--backend", "GPU 0", "--host", "a"], 2, "a backend's name has"),
        (&["--balancer", "--host", "a"], 2, "cannot be used with"),
        (&["--backend", "gpu-0", "--host", "a", "--days", "0"], 2, "0 is not in 1..=3650"),
        (&["--backend", "gpu-0", "--host", "a/b"], 1, "neither an address nor a DNS name"),
    ] {
        let refused = enroll(arguments);
        assert_eq!(refused.status.code(), Some(code), "{arguments:?}: {}", text(&refused.stderr));
        assert!(text(&refused.stderr).contains(words), "{arguments:?}: {}", text(&refused.stderr));
    }
    assert!(names(room.path()).is_empty());
}

#[test]
fn an_agent_does_not_start_on_what_is_wrong() {
    let pki = Pki::new();
    let identity = pki.agent("127.0.0.1", &["gpu-0"]);
    let file = config(pki.room.path(), &identity, &[("gpu-0", None)], "127.0.0.1:0".parse().unwrap());
    let good = fs::read_to_string(&file).unwrap();
    let other = pki.balancer();
    let pem = |path: &Path| format!("{path:?}");
    for (what, from, to, code, words) in [
        ("no backend", "[[backend]]\nname = \"gpu-0\"", "", 2, "no backend is configured"),
        ("two of a name", "[[backend]]", "[[backend]]\nname = \"gpu-0\"\n[[backend]]", 2, "two backends"),
        ("a bad name", "\"gpu-0\"", "\"GPU 0\"", 2, "cannot be a name"),
        ("an unknown key", "interval", "intervall", 2, "unknown field `intervall`"),
        ("a scrape too often", "20ms", "1us", 2, "between 10ms and 1m"),
        ("a relative path", "ca = \"", "ca = \"x", 2, "relative path"),
        ("no such file", "ca.pem", "no.pem", 1, "cannot read a certificate from"),
        (
            "a key for a certificate",
            &pem(&identity.cert),
            &pem(&identity.key),
            1,
            "there is no certificate in",
        ),
        ("another's key", &pem(&identity.key), &pem(&other.key), 1, "cannot be used together"),
    ] {
        assert!(good.contains(from), "{what}: {good}");
        fs::write(&file, good.replace(from, to)).unwrap();
        let refused = guidevane(&["agent", "--config", file.to_str().unwrap()]);
        let error = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(code), "{what}: {error}");
        assert!(error.contains(words), "{what}: `{words}` is not in: {error}");
    }
    let none = guidevane(&["agent"]);
    assert_eq!(none.status.code(), Some(2), "{}", text(&none.stderr));
}
