//! Findings on the kernel and the machine.

use super::{
    Finding,
    facts::{Facts, Pin, Version},
};

/// `BPF_F_INNER_MAP` and all else that the `legacy` build needs.
const LEAST_KERNEL: Version = Version(5, 10);
/// Multi-buffer XDP, and the modern build.
const MODERN_KERNEL: Version = Version(5, 18);
/// What buffers, rings and tables are sized for.
const USUAL_PAGE: u64 = 4096;

/// Numbers of capabilities, from `linux/capability.h`.
const CAP_SYS_ADMIN: u32 = 21;
const NEEDED: [(&str, u32); 3] = [("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];
const CAP_NET_RAW: (&str, u32) = ("CAP_NET_RAW", 13);

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![kernel(&facts.release), types(facts), jit(facts.jit), capabilities(facts)];
    findings.extend(facts.pin.as_ref().map(bpffs));
    findings.extend(facts.trial.as_ref().map(trial));
    findings.push(pages(facts));
    findings.extend(dpu(facts));
    findings.extend(nvml(facts));
    findings
}

/// The version in a kernel's release: `6.8.0-1012-bluefield-64k`.
pub(super) fn version(release: &str) -> Option<Version> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Some(Version(major, minor)),
        _ => None,
    }
}

fn kernel(release: &str) -> Finding {
    let subject = "kernel";
    match version(release) {
        None => Finding::warn(subject, format!("{release}: no version known"), "use Linux 5.18 or later"),
        Some(version) if version < LEAST_KERNEL => {
            Finding::fail(subject, format!("{release} is too old"), "install Linux 5.10 or later")
        }
        Some(version) if version < MODERN_KERNEL => Finding::warn(
            subject,
            format!("{release} takes the legacy build: gauges may drift, and no jumbo frames"),
            "install Linux 5.18 or later where that matters",
        ),
        Some(_) => Finding::ok(subject, release),
    }
}

/// Nothing here relocates by the kernel's own types, so that they are missing is worth a word and no more.
fn types(facts: &Facts) -> Finding {
    let seen = if facts.kernel_types { "present" } else { "no /sys/kernel/btf/vmlinux; not needed" };
    Finding::ok("BTF", seen)
}

fn jit(jit: Option<u32>) -> Finding {
    let subject = "JIT";
    match jit {
        Some(0) => Finding::warn(
            subject,
            "off: the program is interpreted, several times slower",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Some(_) => Finding::ok(subject, "on"),
        None => Finding::warn(
            subject,
            "net.core.bpf_jit_enable cannot be read",
            "run doctor as root in the host's /proc, and see that the kernel has CONFIG_BPF_JIT",
        ),
    }
}

fn capabilities(facts: &Facts) -> Finding {
    let has = |number: u32| facts.capabilities >> number & 1 == 1;
    let wanted = NEEDED.into_iter().chain(facts.announces.then_some(CAP_NET_RAW));
    let missing: Vec<&str> = wanted
        // Before them there was only the one for everything, which still stands for two of them.
        .filter(|&(name, number)| {
            !(has(number) || matches!(name, "CAP_BPF" | "CAP_PERFMON") && has(CAP_SYS_ADMIN))
        })
        .map(|(name, _)| name)
        .collect();
    match missing.is_empty() {
        true => Finding::ok("capabilities", "all that are needed"),
        false => Finding::fail(
            "capabilities",
            format!("missing: {}", missing.join(", ")),
            "run as root, or by the unit guidevane.service",
        ),
    }
}

fn bpffs(pin: &Pin) -> Finding {
    let (subject, path) = ("bpffs", &pin.path);
    match (pin.on_bpffs, pin.writable) {
        (true, true) => Finding::ok(subject, format!("{path} can be pinned to")),
        (true, false) => {
            Finding::fail(subject, format!("{path} cannot be written to"), "run as the owner of its folder")
        }
        (false, _) => Finding::fail(
            subject,
            format!("{path} is on no BPF file system"),
            "mount -t bpf bpf /sys/fs/bpf, or set another `pin` in [daemon]",
        ),
    }
}

fn trial(outcome: &Result<String, String>) -> Finding {
    let subject = "program";
    match outcome {
        Ok(build) => {
            Finding::ok(subject, format!("the kernel takes the {build} build, and a packet passes it"))
        }
        Err(reason) => Finding::fail(
            subject,
            format!("the kernel refuses it: {reason}"),
            "mend what failed above; if nothing did, report this with the kernel's version",
        ),
    }
}

fn pages(facts: &Facts) -> Finding {
    let kib = facts.page_size / 1024;
    match facts.page_size <= USUAL_PAGE {
        true => Finding::ok("page size", format!("{kib} KiB")),
        false => Finding::warn(
            "page size",
            format!("{kib} KiB: with XDP every receive buffer takes a page"),
            "keep rings at 1024 or 2048: ethtool -G IF rx 1024",
        ),
    }
}

fn dpu(facts: &Facts) -> Option<Finding> {
    let model = facts.dpu.as_ref()?;
    Some(Finding::ok(
        "DPU",
        format!("{model}: the host's GPUs cannot be seen from here, agents there report them"),
    ))
}

fn nvml(facts: &Facts) -> Option<Finding> {
    let subject = "NVML";
    Some(match (facts.nvml.as_ref()?, facts.wants_gpus) {
        (Ok(version), _) => Finding::ok(subject, format!("driver {version}")),
        (Err(reason), false) => Finding::ok(subject, format!("{reason}; not needed")),
        (Err(reason), true) if facts.dpu.is_some() => Finding::warn(
            subject,
            reason,
            "on a DPU, leave out `gpus` and `discover`, and run guidevane agent on the hosts",
        ),
        (Err(reason), true) => Finding::warn(
            subject,
            reason,
            "install NVIDIA's driver, or name its library in [nvml]; costs come from other signals meanwhile",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::{Facts, Finding, Pin, Version, capabilities, examine, version};
    use crate::doctor::Verdict;

    /// A host on which all is well.
    fn good() -> Facts {
        Facts {
            release: "6.12.0-1-amd64".to_owned(),
            kernel_types: true,
            jit: Some(1),
            capabilities: u64::MAX,
            page_size: 4096,
            cpus: 4,
            trial: Some(Ok("modern".to_owned())),
            pin: Some(Pin { path: "/sys/fs/bpf/a".to_owned(), on_bpffs: true, writable: true }),
            nvml: Some(Err("no NVIDIA driver".to_owned())),
            ..Facts::default()
        }
    }

    fn bad(facts: &Facts) -> Vec<Finding> {
        examine(facts).into_iter().filter(|finding| finding.verdict != Verdict::Ok).collect()
    }

    #[test]
    fn a_good_host_has_nothing_wrong() {
        assert_eq!(bad(&good()), []);
    }

    #[test]
    fn each_wrong_thing_is_found_alone_with_a_remedy() {
        use Verdict::{Fail, Warn};
        type Break = fn(&mut Facts);
        let pin = |on_bpffs, writable| Some(Pin { path: "/p".to_owned(), on_bpffs, writable });
        let cases: [(&str, Verdict, &str, Break); 10] = [
            ("kernel", Fail, "5.10 or later", |facts| facts.release = "5.4.0-1".to_owned()),
            ("kernel", Warn, "5.18 or later", |facts| facts.release = "5.15.0-1081-bluefield".to_owned()),
            ("kernel", Warn, "5.18 or later", |facts| facts.release = "strange".to_owned()),
            ("JIT", Warn, "bpf_jit_enable=1", |facts| facts.jit = Some(0)),
            ("JIT", Warn, "CONFIG_BPF_JIT", |facts| facts.jit = None),
            ("capabilities", Fail, "root", |facts| facts.capabilities = 0),
            ("program", Fail, "report this", |facts| facts.trial = Some(Err("too large".to_owned()))),
            ("page size", Warn, "ethtool -G", |facts| facts.page_size = 65_536),
            ("NVML", Warn, "driver", |facts| facts.wants_gpus = true),
            ("NVML", Warn, "agent", |facts| {
                facts.wants_gpus = true;
                facts.dpu = Some("BlueField-3".to_owned());
            }),
        ];
        for (subject, verdict, words, spoil) in cases {
            let mut facts = good();
            spoil(&mut facts);
            check(&facts, subject, verdict, words);
        }
        for (on_bpffs, writable, words) in [(false, true, "mount -t bpf"), (true, false, "owner")] {
            check(&Facts { pin: pin(on_bpffs, writable), ..good() }, "bpffs", Fail, words);
        }
    }

    fn check(facts: &Facts, subject: &str, verdict: Verdict, words: &str) {
        let found = bad(facts);
        let [finding] = &found[..] else { panic!("{subject}, {words}: {found:?}") };
        assert_eq!((finding.subject.as_str(), finding.verdict), (subject, verdict), "{finding:?}");
        let remedy = finding.remedy.as_deref().unwrap_or_default();
        assert!(remedy.contains(words), "{subject}: {remedy}");
    }

    #[test]
    fn capabilities_are_told_apart() {
        const ADMIN: u64 = 1 << 12;
        const RAW: u64 = 1 << 13;
        const ALL_ELSE: u64 = 1 << 21;
        const BPF: u64 = 1 << 39;
        const PERFMON: u64 = 1 << 38;
        for (held, announces, missing) in [
            (ADMIN | BPF | PERFMON, false, None),
            (ADMIN | BPF | PERFMON, true, Some("missing: CAP_NET_RAW")),
            (ADMIN | BPF | PERFMON | RAW, true, None),
            (ADMIN | ALL_ELSE, false, None),
            (ADMIN | BPF, false, Some("missing: CAP_PERFMON")),
            (BPF, false, Some("missing: CAP_NET_ADMIN, CAP_PERFMON")),
        ] {
            let facts = Facts { capabilities: held, announces, ..good() };
            let finding = capabilities(&facts);
            let expected = missing.unwrap_or("all that are needed");
            assert_eq!(finding.seen, expected, "{held:#x}");
        }
    }

    #[test]
    fn versions_are_read_from_releases() {
        for (release, expected) in [
            ("6.8.0-1012-bluefield-64k", Some(Version(6, 8))),
            ("5.10.0", Some(Version(5, 10))),
            ("6.18", Some(Version(6, 18))),
            ("six", None),
            ("", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
    }
}
