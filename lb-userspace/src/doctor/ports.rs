//! Findings on an interface that takes the VIPs' traffic.

use super::{
    Finding,
    facts::{Facts, Link, Peer, Port, Version},
    host::version,
};
use crate::config::XdpMode;

/// What clients' packets measure, nearly everywhere.
const USUAL_MTU: u32 = 1500;
/// The least that IPv6 lets a link carry (RFC 8200, section 5).
const LEAST_MTU: u32 = 1280;
/// What fits one page of 4 KiB beside the room that XDP wants at both ends.
const ONE_BUFFER_MTU: u32 = 3500;
/// Frames of several buffers.
const MULTI_BUFFER: Version = Version(5, 18);
/// Uplink representors send what XDP sends (65810a2d2ab3, "net/mlx5e: Add XDP SQs to uplink representors steering
/// tables").
const UPLINK_TX: Version = Version(5, 19);
/// Reverse path filter that drops what comes in where answers would not go out.
const STRICT: u32 = 1;

/// Drivers with XDP of their own. Others may have it too: attaching says.
const NATIVE: [&str; 18] = [
    "atlantic",
    "bnxt_en",
    "dpaa2-eth",
    "ena",
    "gve",
    "hv_netvsc",
    "i40e",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "mana",
    "mlx4_en",
    "mlx5_core",
    "nfp",
    "qede",
    "veth",
    "virtio_net",
];

/// Offloads that merge packets before XDP sees them; drivers refuse XDP with them, or drop it.
const MERGING: [(&str, &str); 2] = [("large-receive-offload", "lro"), ("rx-gro-hw", "rx-gro-hw")];

pub(super) fn examine(facts: &Facts, port: &Port) -> Vec<Finding> {
    let subject = format!("interface {}", port.name);
    let link = match &port.link {
        Ok(link) => link,
        Err(reason) => {
            return vec![Finding::fail(subject, reason, "correct `name` of [[interface]], or make it")];
        }
    };
    let mut findings = vec![state(&subject, port, link), driver(&subject, facts, port, link)];
    findings.extend(mtu(&subject, facts, port, link));
    findings.extend(offloads(&subject, port, link));
    findings.extend(veth(&subject, link));
    findings.extend(queues(&subject, facts, port, link));
    findings.extend(reverse_path(&subject, facts, port, link));
    findings
}

fn state(subject: &str, port: &Port, link: &Link) -> Finding {
    let name = &port.name;
    match link.running {
        true => Finding::ok(subject, "up"),
        false => Finding::fail(subject, "down, or without carrier", format!("ip link set {name} up")),
    }
}

fn driver(subject: &str, facts: &Facts, port: &Port, link: &Link) -> Finding {
    let Some(driver) = link.driver.as_deref() else {
        return Finding::warn(
            subject,
            "its driver is not known",
            "install ethtool; whether it takes XDP shows when the daemon starts",
        );
    };
    let behind = link.port_name.as_deref().filter(|name| is_representor(name));
    match (port.mode, behind) {
        (XdpMode::Generic, _) => Finding::warn(
            subject,
            format!("driver {driver}, mode generic: several times slower"),
            "set mode = \"native\" where the driver has it",
        ),
        (XdpMode::Native, Some(name)) => Finding::fail(
            subject,
            format!("{name} stands for a port of the host ({driver}): it takes no native XDP"),
            "use the uplink (p0, p1) or a scalable function, or set mode = \"generic\"",
        ),
        _ if is_uplink(facts, link) && version(&facts.release).is_some_and(|it| it < UPLINK_TX) => {
            Finding::warn(
                subject,
                format!("uplink of a DPU ({driver}): before Linux 5.19 it may not send what XDP sends"),
                "use Linux 5.19 or later, or NVIDIA's drivers with that fix",
            )
        }
        _ if NATIVE.contains(&driver) => Finding::ok(subject, format!("driver {driver} takes XDP")),
        _ => Finding::warn(
            subject,
            format!("driver {driver} is not known to take XDP"),
            "start the daemon to see; mode = \"generic\" works everywhere, but slower",
        ),
    }
}

/// Ports of the host that the DPU's switch shows (`pf0hpf`, `pf0vf1`, `pf0sf88`), with a controller's prefix or not.
fn is_representor(port_name: &str) -> bool {
    let name = port_name
        .strip_prefix('c')
        .map_or(port_name, |rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
    name.starts_with("pf")
}

fn is_uplink(facts: &Facts, link: &Link) -> bool {
    let uplink =
        |name: &str| name.strip_prefix('p').is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
    facts.dpu.is_some() && link.port_name.as_deref().is_some_and(uplink)
}

fn mtu(subject: &str, facts: &Facts, port: &Port, link: &Link) -> Option<Finding> {
    let (mtu, overhead, name) = (link.mtu, facts.overhead, &port.name);
    let left = mtu.saturating_sub(overhead);
    if mtu > ONE_BUFFER_MTU && version(&facts.release).is_some_and(|it| it < MULTI_BUFFER) {
        return Some(Finding::fail(
            subject,
            format!("MTU {mtu}: before Linux 5.18 a packet must fit one page"),
            format!("ip link set {name} mtu {ONE_BUFFER_MTU}"),
        ));
    }
    if overhead == 0 {
        return (mtu < LEAST_MTU).then(|| {
            Finding::warn(
                subject,
                format!("MTU {mtu} is less than IPv6 wants"),
                format!("ip link set {name} mtu {USUAL_MTU}"),
            )
        });
    }
    let wanted = USUAL_MTU + overhead;
    let remedy = format!("ip link set {name} mtu {wanted}, and the same up to the servers");
    Some(if left < LEAST_MTU {
        Finding::fail(
            subject,
            format!("MTU {mtu} leaves {left} bytes in a tunnel, less than IPv6 wants"),
            remedy,
        )
    } else if left < USUAL_MTU {
        let segment = left - TCP_HEADERS;
        Finding::warn(
            subject,
            format!("MTU {mtu} leaves {left} bytes in a tunnel: clients' full packets do not fit"),
            format!("{remedy}; or on the servers: ip route change default via .. advmss {segment}"),
        )
    } else {
        Finding::ok(subject, format!("MTU {mtu} has room for tunnels"))
    })
}

/// IPv6 and TCP without options.
const TCP_HEADERS: u32 = 60;

fn offloads(subject: &str, port: &Port, link: &Link) -> Option<Finding> {
    let name = &port.name;
    let Some(on) = &link.offloads else {
        return Some(Finding::warn(subject, "its offloads are not known", "install ethtool, and look again"));
    };
    let merging: Vec<_> = MERGING.iter().filter(|(long, _)| on.iter().any(|on| on == long)).collect();
    if merging.is_empty() {
        return Some(Finding::ok(subject, "no offload that merges packets"));
    }
    let names: Vec<&str> = merging.iter().map(|(long, _)| *long).collect();
    // It turns this off by itself when a program is attached, where the machine below lets it.
    let grave = if link.driver.as_deref() == Some("virtio_net") { Finding::warn } else { Finding::fail };
    let off: Vec<String> = merging.iter().map(|(_, short)| format!("{short} off")).collect();
    Some(grave(
        subject.to_owned(),
        format!("{} merges packets before XDP sees them", names.join(" and ")),
        format!("ethtool -K {name} {}", off.join(" ")),
    ))
}

/// A veth hands packets over as the other end's stack made them: checksums that it leaves to hardware are never filled in
/// once XDP sends the packet on.
fn veth(subject: &str, link: &Link) -> Option<Finding> {
    if link.driver.as_deref() != Some("veth") {
        return None;
    }
    Some(match &link.peer {
        Some(Peer { name, leaves_checksums: Some(true) }) => Finding::fail(
            subject,
            format!("the other end, {name}, leaves checksums to hardware that is not there"),
            format!("ethtool -K {name} tx off"),
        ),
        Some(Peer { name, leaves_checksums: Some(false) }) => {
            Finding::ok(subject, format!("the other end, {name}, fills in checksums"))
        }
        Some(Peer { leaves_checksums: None, .. }) => {
            Finding::warn(subject, "whether the other end fills in checksums is not known", "install ethtool")
        }
        None => Finding::warn(
            subject,
            "the other end is in another network namespace: whether it fills in checksums is not known",
            "there: ethtool -K PEER tx off",
        ),
    })
}

fn queues(subject: &str, facts: &Facts, port: &Port, link: &Link) -> Option<Finding> {
    let (queues, cpus, name) = (link.queues?, facts.cpus, &port.name);
    // Software devices take packets wherever the sender runs.
    if matches!(link.driver.as_deref(), None | Some("veth" | "tun" | "bridge" | "dummy")) {
        return None;
    }
    Some(match (queues as usize) < cpus {
        true => Finding::warn(
            subject,
            format!("queues: {queues}, for {cpus} CPUs: the rest take no packets"),
            format!("ethtool -L {name} combined {cpus}"),
        ),
        false => Finding::ok(subject, format!("queues: {queues}, for {cpus} CPUs")),
    })
}

fn reverse_path(subject: &str, facts: &Facts, port: &Port, link: &Link) -> Option<Finding> {
    let name = &port.name;
    (facts.routes && link.rp_filter? == STRICT).then(|| {
        Finding::warn(
            subject,
            "a strict reverse path filter drops what the program passes on, where routes are not symmetric",
            format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::{Facts, Finding, Link, Peer, Port, examine};
    use crate::{config::XdpMode, doctor::Verdict};

    fn facts() -> Facts {
        Facts { release: "6.12.0".to_owned(), cpus: 4, routes: true, ..Facts::default() }
    }

    fn port() -> Port {
        let link = Link {
            running: true,
            mtu: 1500,
            driver: Some("mlx5_core".to_owned()),
            queues: Some(4),
            offloads: Some(vec!["rx-checksumming".to_owned()]),
            rp_filter: Some(2),
            port_name: Some("p0".to_owned()),
            peer: None,
        };
        Port { name: "eth0".to_owned(), mode: XdpMode::Native, link: Ok(link) }
    }

    fn bad(facts: &Facts, port: &Port) -> Vec<Finding> {
        examine(facts, port).into_iter().filter(|finding| finding.verdict != Verdict::Ok).collect()
    }

    #[test]
    fn a_good_interface_has_nothing_wrong() {
        assert_eq!(bad(&facts(), &port()), []);
        let wide = Link { mtu: 1548, ..port().link.expect("a link") };
        assert_eq!(bad(&Facts { overhead: 48, ..facts() }, &Port { link: Ok(wide), ..port() }), []);
    }

    #[test]
    fn each_wrong_thing_is_found_alone_with_a_remedy() {
        use Verdict::{Fail, Warn};
        type Break = fn(&mut Facts, &mut Port, &mut Link);
        let cases: [(Verdict, &str, Break); 14] = [
            (Fail, "ip link set eth0 up", |_, _, link| link.running = false),
            (Warn, "native", |_, port, _| port.mode = XdpMode::Generic),
            (Warn, "start the daemon", |_, _, link| link.driver = Some("cdc_ether".to_owned())),
            (Fail, "uplink", |_, _, link| link.port_name = Some("pf0hpf".to_owned())),
            (Fail, "uplink", |_, _, link| link.port_name = Some("c1pf0vf3".to_owned())),
            (Warn, "5.19", |facts, _, _| {
                facts.release = "5.15.0-1081-bluefield".to_owned();
                facts.dpu = Some("BlueField-2".to_owned());
            }),
            (Warn, "advmss 1392", |facts, _, _| facts.overhead = 48),
            (Fail, "mtu 1548", |facts, _, link| (facts.overhead, link.mtu) = (48, 1300)),
            (Fail, "mtu 3500", |facts, _, link| {
                facts.release = "5.15.0".to_owned();
                link.mtu = 9000;
            }),
            (Fail, "lro off", |_, _, link| link.offloads = Some(vec!["large-receive-offload".to_owned()])),
            (Fail, "rx-gro-hw off", |_, _, link| link.offloads = Some(vec!["rx-gro-hw".to_owned()])),
            (Warn, "install ethtool", |_, _, link| link.offloads = None),
            (Warn, "combined 4", |_, _, link| link.queues = Some(1)),
            (Warn, "rp_filter=2", |_, _, link| link.rp_filter = Some(1)),
        ];
        for (verdict, words, spoil) in cases {
            let (mut facts, mut port) = (facts(), port());
            let mut link = port.link.clone().expect("a link");
            spoil(&mut facts, &mut port, &mut link);
            check(&facts, &Port { link: Ok(link), ..port }, verdict, words);
        }
        let missing = Port { link: Err("interface eth0 does not exist".to_owned()), ..port() };
        check(&facts(), &missing, Fail, "[[interface]]");
    }

    #[test]
    fn the_other_end_of_a_veth_must_fill_in_checksums() {
        use Verdict::{Fail, Warn};
        let peer = |leaves_checksums| Some(Peer { name: "far".to_owned(), leaves_checksums });
        for (peer, expected) in [
            (peer(Some(false)), None),
            (peer(Some(true)), Some((Fail, "ethtool -K far tx off"))),
            (peer(None), Some((Warn, "install ethtool"))),
            (None, Some((Warn, "tx off"))),
        ] {
            let link = Link {
                driver: Some("veth".to_owned()),
                peer,
                queues: Some(1),
                ..port().link.expect("a link")
            };
            let port = Port { link: Ok(link), ..port() };
            match expected {
                None => assert_eq!(bad(&facts(), &port), []),
                Some((verdict, words)) => check(&facts(), &port, verdict, words),
            }
        }
    }

    fn check(facts: &Facts, port: &Port, verdict: Verdict, words: &str) {
        let found = bad(facts, port);
        let [finding] = &found[..] else { panic!("{words}: {found:?}") };
        assert_eq!((finding.subject.as_str(), finding.verdict), ("interface eth0", verdict), "{finding:?}");
        assert!(finding.remedy.as_deref().unwrap_or_default().contains(words), "{words}: {finding:?}");
    }
}
