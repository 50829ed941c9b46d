//! The units, as systemd itself sees them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Every unit, and the highest exposure that it may have, in tenths: 0 is best, 100 worst, and below 50 is "OK".
///
/// What is left is root's uid, the network, and for GPUs /proc and devices.
const UNITS: [(&str, u32); 3] =
    [("guidevane.service", 25), ("guidevane-agent.service", 25), ("guidevane-decap@.service", 16)];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../lb-userspace/dist/systemd")
}

/// Runs `systemd-analyze`; nothing where it is not installed.
fn analyze(arguments: &[&str], unit: &Path) -> Option<Output> {
    match Command::new("systemd-analyze").args(arguments).arg(unit).env("LC_ALL", "C").output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!(
                "SKIPPED: systemd-analyze cannot be started ({error}); install Debian's package systemd"
            );
            None
        }
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

#[test]
fn every_unit_is_right_by_systemds_own_check() {
    let copies = tempfile::tempdir().expect("a temporary folder");
    for (name, _) in UNITS {
        // The check wants the programs to be there, and a template to have an instance.
        let unit = fs::read_to_string(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(unit.contains("=/usr/bin/guidevane "), "{name} starts what the package installs");
        let copy = copies.path().join(name.replace("@.", "@eth0."));
        fs::write(&copy, unit.replace("/usr/bin/guidevane", "/bin/true")).expect("write a copy");
        let Some(output) = analyze(&["verify", "--man=no"], &copy) else { return };
        let said = text(&output);
        // What it finds wrong with other units of this machine is not ours.
        let ours: Vec<&str> = said.lines().filter(|line| line.contains("guidevane")).collect();
        assert!(ours.is_empty() && output.status.success(), "{name}: {said}");
    }
}

#[test]
fn every_unit_is_confined() {
    for (name, ceiling) in UNITS {
        let threshold = format!("--threshold={ceiling}");
        let arguments = ["security", "--offline=true", "--no-pager", &threshold];
        let Some(output) = analyze(&arguments, &folder().join(name)) else { return };
        let said = text(&output);
        assert!(output.status.success(), "{name} may have {ceiling} tenths at most:\n{said}");
        println!("{}", said.lines().last().unwrap_or_default());
    }
}
