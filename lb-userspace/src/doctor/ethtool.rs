//! What the program ethtool tells of an interface: the kernel tells it nobody else in words.

use std::process::Command;

/// What an interface's driver is called: `driver: mlx5_core`.
pub(super) fn driver(interface: &str) -> Option<String> {
    field(&run(&["-i", interface])?, "driver")
}

/// The offloads that are on.
pub(super) fn offloads(interface: &str) -> Option<Vec<String>> {
    let text = run(&["-k", interface])?;
    Some(parse_offloads(&text))
}

/// Receive queues in use.
pub(super) fn queues(interface: &str) -> Option<u32> {
    parse_queues(&run(&["-l", interface])?)
}

fn run(arguments: &[&str]) -> Option<String> {
    let output = Command::new("ethtool").args(arguments).env("LC_ALL", "C").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn field(text: &str, name: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))?.trim();
    (!value.is_empty()).then(|| value.to_owned())
}

fn parse_offloads(text: &str) -> Vec<String> {
    let on = text.lines().filter_map(|line| {
        let (name, value) = line.trim().split_once(": ")?;
        value.starts_with("on").then(|| name.to_owned())
    });
    on.collect()
}

/// Queues that only receive, and those that do both.
fn parse_queues(text: &str) -> Option<u32> {
    let (_, current) = text.split_once("Current hardware settings")?;
    let count = |name| field(current, name)?.parse::<u32>().ok();
    match (count("RX"), count("Combined")) {
        (None, None) => None,
        (receive, both) => Some(receive.unwrap_or(0) + both.unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::{field, parse_offloads, parse_queues};

    #[test]
    fn what_ethtool_prints_is_understood() {
        const OFFLOADS: &str = "Features for eth0:\nrx-checksumming: on\ntx-checksumming: on\n\
            \ttx-checksum-ipv4: off [fixed]\n\ttx-checksum-ip-generic: on\nlarge-receive-offload: off [fixed]\n\
            rx-gro-hw: on [requested off]\n";
        let on = ["rx-checksumming", "tx-checksumming", "tx-checksum-ip-generic", "rx-gro-hw"];
        assert_eq!(parse_offloads(OFFLOADS), on);

        let queues = |now: &str| {
            format!(
                "Channel parameters for p0:\nPre-set maximums:\nRX:\t\tn/a\nCombined:\t16\nCurrent hardware settings:\n{now}"
            )
        };
        for (now, expected) in [
            ("RX:\t\tn/a\nTX:\t\tn/a\nOther:\t\tn/a\nCombined:\t8\n", Some(8)),
            ("RX:\t\t2\nTX:\t\t2\nOther:\t\tn/a\nCombined:\tn/a\n", Some(2)),
            ("RX:\t\t0\nTX:\t\t0\nCombined:\t4\n", Some(4)),
            ("", None),
        ] {
            assert_eq!(parse_queues(&queues(now)), expected, "{now:?}");
        }

        assert_eq!(field("driver: veth\nversion: 1.0\n", "driver").as_deref(), Some("veth"));
        assert_eq!(field("driver: \n", "driver"), None);
    }
}
