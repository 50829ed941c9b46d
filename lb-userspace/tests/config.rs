//! The configuration: what a good file means, and how each bad one is refused.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use guidevane::config::{
    ANY_PORT, Affinity, Announce, Config, ConfigError, Daemon, Encap, ForwardMode, Health, MAX_BYTES, Policy,
    Problem, Protocol, Quic, XdpMode,
};
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};

/// A good file whose lines the refusals below count on.
const GOOD: &str = r#"[daemon]
tick = "5ms"
[health]
interval = "1s"
[[interface]]
name = "eth0"
[[vip]]
name = "chat"
address = "10.0.0.10"
port = 8000
mode = "l2"
[[vip.backend]]
name = "gpu-0"
address = "10.0.0.21"
[[vip]]
name = "code"
address = "10.0.0.11"
port = 80
mode = "nat"
[[vip.backend]]
name = "gpu-1"
address = "10.0.0.22"
port = 8000
"#;

/// `GOOD` with each line that is keyed by its number, from 1, replaced.
fn edited(edits: &[(usize, &str)]) -> String {
    let mut lines: Vec<&str> = GOOD.lines().collect();
    for &(line, text) in edits {
        lines[line - 1] = text;
    }
    lines.join("\n")
}

fn refusal(text: &str) -> String {
    match Config::parse("lb.toml", text) {
        Ok(config) => panic!("accepted as {config:?}:\n{text}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_example_file_is_accepted_and_shows_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/guidevane.toml");
    let config = Config::load(&path).unwrap();
    assert_eq!(config.daemon, Daemon::default());
    assert_eq!(config.health, Health::default());
    assert_eq!(config.interfaces[0].mode, XdpMode::Native);
    let [chat, embeddings, voice] = &config.vips[..] else {
        panic!("three VIPs expected: {:?}", config.vips)
    };
    assert_eq!(chat.endpoint(), "10.0.0.10:8000".parse().unwrap());
    assert_eq!((chat.protocol, chat.mode), (Protocol::Tcp, ForwardMode::L2));
    assert_eq!((chat.policy, chat.affinity), (Policy::Least, Affinity::Flow));
    assert_eq!(chat.announce, Announce::Arp { interface: "eth0".to_owned() });
    assert_eq!((chat.skip_bytes, chat.duty), (320, None));
    assert_eq!(chat.backends[0].endpoint(), "10.0.0.21:8000".parse().unwrap());
    assert_eq!((chat.backends[0].weight, chat.backends[0].limit), (100, Some(256)));
    assert_eq!(chat.backends[0].metrics.as_ref().unwrap().path(), "/metrics");
    assert_eq!(embeddings.policy, Policy::Bounded { epsilon: 0.25 });
    assert_eq!(embeddings.backends[0].endpoint(), "[2001:db8:1::21]:8080".parse().unwrap());
    assert_eq!(embeddings.backends[0].metrics, None);
    assert_eq!(embeddings.mode, ForwardMode::Nat { source_nat: false });
    assert_eq!(voice.mode, ForwardMode::Tunnel { encap: Encap::Ip });
    assert_eq!(voice.quic, Some(Quic { config_id: 0, server_id_length: 2 }));
    assert_eq!(voice.backends[0].server_id, Some(0x0a1b));
    assert_eq!(config.tunnel.source_v4.map(|prefix| prefix.to_string()).as_deref(), Some("172.16.0.0/16"));
    assert_eq!((config.tunnel.source_v6, config.nat.sources), (None, vec![]));
}

#[test]
fn the_commented_defaults_of_the_example_are_the_real_ones() {
    let example = include_str!("../dist/guidevane.toml");
    let mut shown = String::new();
    for line in example.lines() {
        match line.strip_prefix("# ") {
            Some(setting)
                if setting.contains(" = ")
                    && !setting.contains("efault: ")
                    && !setting.contains("no default") =>
            {
                writeln!(shown, "{setting}").unwrap();
            }
            _ => writeln!(shown, "{line}").unwrap(),
        }
    }
    assert_ne!(shown, example, "no commented setting was found");
    let [shown, plain] = [&shown, example].map(|text| Config::parse("guidevane.toml", text).unwrap());
    assert_eq!(format!("{shown:?}"), format!("{plain:?}"));
}

#[test]
fn every_setting_of_the_daemon_and_health_is_read() {
    let daemon = r#"[daemon]
tick = "20ms"
socket = "/run/a.sock"
pin = "/sys/fs/bpf/a"
flows = 4096
idle_after = "250ms"
idle_timeout = "2h 15m"
udp_timeout = "1m"
[health]
interval = "3s"
timeout = "2s"
rise = 4
fall = 5
"#;
    let rest = &GOOD[GOOD.find("[[interface]]").unwrap()..];
    let config = Config::parse("lb.toml", &format!("{daemon}{rest}")).unwrap();
    let expected = Daemon {
        tick: Duration::from_millis(20),
        socket: "/run/a.sock".into(),
        pin: Some("/sys/fs/bpf/a".into()),
        flows: 4096,
        idle_after: Duration::from_millis(250),
        idle_timeout: Duration::from_secs(8100),
        udp_timeout: Duration::from_secs(60),
    };
    assert_eq!(config.daemon, expected);
    let expected =
        Health { interval: Duration::from_secs(3), timeout: Duration::from_secs(2), rise: 4, fall: 5 };
    assert_eq!(config.health, expected);
}

#[test]
fn items_remember_their_place() {
    let config = Config::parse("lb.toml", GOOD).unwrap();
    assert_eq!(config.interfaces[0].place.to_string(), "lb.toml:6:8");
    assert_eq!(config.vips[1].place.to_string(), "lb.toml:16:8");
    assert_eq!(config.vips[1].backends[0].place.to_string(), "lb.toml:21:8");
}

#[test]
fn what_only_looks_wrong_is_accepted() {
    let cases: &[(&str, &[(usize, &str)])] = &[
        ("a drained VIP: all weights zero", &[(14, "address = \"10.0.0.21\"\nweight = 0")]),
        ("the VIP's own port spelled out in l2", &[(14, "address = \"10.0.0.21\"\nport = 8000")]),
        (
            "one address and port for TCP and UDP",
            &[(17, "address = \"10.0.0.10\"\nprotocol = \"udp\""), (18, "port = 8000")],
        ),
        ("one address on two ports", &[(17, "address = \"10.0.0.10\"")]),
        ("a server behind an l2 VIP and a nat VIP", &[(22, "address = \"10.0.0.21\"")]),
        ("announce on the only interface", &[(11, "mode = \"l2\"\nannounce = \"address\"")]),
        ("an integer for epsilon", &[(11, "mode = \"l2\"\npolicy = \"bounded\"\nepsilon = 1")]),
        (
            "an IPv6 metrics host",
            &[(14, "address = \"10.0.0.21\"\nmetrics = \"http://[fd00::1]:80/metrics?a=b\"")],
        ),
        ("a default time-out longer than a short interval", &[(4, "interval = \"100ms\"")]),
        ("a UTF-8 comment", &[(1, "[daemon] # Größe")]),
        ("generic XDP when asked", &[(6, "name = \"eth0\"\nmode = \"generic\"")]),
        ("every port", &[(10, "port = \"any\"")]),
        ("every port, and one of them apart", &[(10, "port = 0"), (17, "address = \"10.0.0.10\"")]),
        ("one arm not wanted", &[(11, "mode = \"l2\"\nsource_nat = false")]),
        (
            "a server behind a two-armed and a one-armed nat VIP",
            &[
                (1, "[nat]\nsources = [\"10.0.0.200\"]\n[daemon]"),
                (11, "mode = \"nat\"\nsource_nat = true"),
                (22, "address = \"10.0.0.21\""),
            ],
        ),
        (
            "a tunnel to the other family",
            &[
                (1, "[tunnel]\nsource_v6 = \"fd00::/64\"\n[daemon]"),
                (11, "mode = \"tunnel\""),
                (14, "address = \"fd01::21\""),
            ],
        ),
        (
            "prefixes of a single address",
            &[(1, "[tunnel]\nsource_v4 = \"10.9.9.9/32\"\nsource_v6 = \"fd00::9/128\"\n[daemon]")],
        ),
        (
            "two sources in one family and one in the other",
            &[(1, "[nat]\nsources = [\"10.0.0.200\", \"fd00::2\", \"10.0.0.201\"]\n[daemon]")],
        ),
    ];
    for (what, edits) in cases {
        let text = edited(edits);
        if let Err(error) = Config::parse("lb.toml", &text) {
            panic!("{what}: refused with {error}");
        }
    }
}

/// What is wrong; the lines that make it so; where it must be reported; what the message must hold.
type Refusal = (&'static str, &'static [(usize, &'static str)], &'static str, &'static [&'static str]);

#[test]
fn every_mistake_in_form_is_refused_with_line_and_column() {
    let cases: &[Refusal] = &[
        ("unknown key", &[(2, "tik = \"5ms\"")], "2:1", &["unknown field `tik`", "tick"]),
        ("unknown section", &[(3, "[healt]")], "3:2", &["unknown field `healt`", "health"]),
        ("unknown key of a VIP", &[(11, "mode = \"l2\"\nvia = 1")], "12:1", &["unknown field `via`"]),
        ("unknown key of a backend", &[(13, "name = \"gpu-0\"\nwait = 1")], "14:1", &["`wait`", "weight"]),
        ("unknown mode", &[(11, "mode = \"dsr\"")], "11:8", &["`dsr`", "`l2`, `nat`, `tunnel`"]),
        (
            "unknown encapsulation",
            &[(11, "mode = \"tunnel\"\nencap = \"vxlan\"")],
            "12:9",
            &["`vxlan`", "`gue`"],
        ),
        ("unknown key of tunnels", &[(1, "[tunnel]\nsource = 1\n[daemon]")], "2:1", &["`source_v4`"]),
        ("unknown policy", &[(11, "mode = \"l2\"\npolicy = \"best\"")], "12:10", &["`best`", "`least`"]),
        ("missing key", &[(10, "")], "7:1", &["missing field `port`"]),
        ("key given twice", &[(10, "name = \"b\"")], "10:1", &["duplicate key"]),
        ("a number for a text", &[(8, "name = 5")], "8:8", &["expected a string"]),
        (
            "a text for a number",
            &[(14, "address = \"10.0.0.21\"\nport = \"http\"")],
            "15:8",
            &["invalid type"],
        ),
        ("a truth for a port", &[(10, "port = true")], "10:8", &["invalid type", "\"any\""]),
        ("no address", &[(9, "address = \"gpu.example\"")], "9:11", &["invalid IP address"]),
        ("unclosed text", &[(8, "name = \"chat")], "8:13", &["invalid basic string"]),
        ("column in characters", &[(8, "name = 'ü' x")], "8:12", &[]),
    ];
    refused(cases);
}

#[test]
fn every_mistake_in_meaning_is_refused_with_its_place_and_remedy() {
    let cases: &[Refusal] = &[
        ("tick too short", &[(2, "tick = \"10us\"")], "2:8", &["tick is 10us", "between 1ms and 1s"]),
        ("tick too long", &[(2, "tick = \"2s\"")], "2:8", &["between 1ms and 1s"]),
        ("no unit", &[(2, "tick = \"5\"")], "2:8", &["no duration", "\"5ms\""]),
        ("duration beyond 64 bits", &[(2, "tick = \"99999999999999999999s\"")], "2:8", &["no duration"]),
        ("idle time-out", &[(2, "idle_timeout = \"3h\"")], "2:16", &["idle_timeout", "2h 15m"]),
        ("UDP time-out", &[(2, "udp_timeout = \"1ms\"")], "2:15", &["udp_timeout", "1s"]),
        ("idle after", &[(2, "idle_after = \"5m\"")], "2:14", &["idle_after", "1m"]),
        ("flow table too small", &[(2, "flows = 1024")], "2:9", &["between 4096 and 67108864"]),
        ("flow table too large", &[(2, "flows = 134217728")], "2:9", &["between 4096 and 67108864"]),
        ("flow table no power of two", &[(2, "flows = 1000000")], "2:9", &["524288 or 1048576"]),
        (
            "long socket",
            &[(
                2,
                "socket = \"/01234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456\"",
            )],
            "2:10",
            &["more than 107 bytes", "shorter"],
        ),
        ("relative socket", &[(2, "socket = \"a.sock\"")], "2:10", &["socket", "relative", "from /"]),
        ("relative pin", &[(2, "pin = \"bpf\"")], "2:7", &["pin", "relative"]),
        ("health interval", &[(4, "interval = \"1ms\"")], "4:12", &["between 100ms and 1h"]),
        (
            "probe outlasts its interval",
            &[(4, "interval = \"1s\"\ntimeout = \"2s\"")],
            "5:11",
            &["10ms and 1s"],
        ),
        ("rise", &[(4, "rise = 0")], "4:8", &["rise is 0", "between 1 and 100"]),
        ("fall", &[(4, "fall = 101")], "4:8", &["fall is 101"]),
        ("long interface name", &[(6, "name = \"a-name-of-sixteen\"")], "6:8", &["1 to 15 bytes", "ip link"]),
        ("empty interface name", &[(6, "name = \"\"")], "6:8", &["cannot name an interface"]),
        ("interface name with a slash", &[(6, "name = \"a/b\"")], "6:8", &["cannot name an interface"]),
        (
            "interface twice",
            &[(6, "name = \"eth0\"\n[[interface]]\nname = \"eth0\"")],
            "8:8",
            &["`eth0`", "line 6"],
        ),
        ("VIP name", &[(8, "name = \"Chat\"")], "8:8", &["`Chat`", "a-z, 0-9"]),
        ("empty VIP name", &[(8, "name = \"\"")], "8:8", &["1 to 63"]),
        (
            "long VIP name",
            &[(8, "name = \"0123456789012345678901234567890123456789012345678901234567890123\"")],
            "8:8",
            &["1 to 63"],
        ),
        ("VIP name twice", &[(16, "name = \"chat\"")], "16:8", &["named `chat`", "line 8", "rename"]),
        (
            "two VIPs alike",
            &[(17, "address = \"10.0.0.10\""), (18, "port = 8000")],
            "17:11",
            &["`code`", "`chat`", "10.0.0.10 port 8000/tcp"],
        ),
        ("a negative port", &[(10, "port = -1")], "10:8", &["port is -1", "between 1 and 65535"]),
        ("port by name", &[(10, "port = \"http\"")], "10:8", &["\"http\"", "1 to 65535", "\"any\""]),
        ("every port in nat", &[(18, "port = \"any\"")], "18:8", &["`code`", "\"l2\" or \"tunnel\""]),
        ("port 0 in nat", &[(18, "port = 0")], "18:8", &["`code` is for every port"]),
        (
            "a port behind every port",
            &[(10, "port = 0"), (14, "address = \"10.0.0.21\"\nport = 8000")],
            "15:8",
            &["`gpu-0`", "remove it", "probe_port"],
        ),
        (
            "port of a backend 0",
            &[(22, "address = \"10.0.0.22\"\nport = 0"), (23, "")],
            "23:8",
            &["between 1"],
        ),
        ("probe port", &[(11, "mode = \"l2\"\nprobe_port = 0")], "12:14", &["between 1 and 65535"]),
        ("port beyond 16 bits", &[(10, "port = 70000")], "10:8", &["port is 70000"]),
        (
            "unspecified VIP",
            &[(9, "address = \"0.0.0.0\"")],
            "9:11",
            &["VIP `chat`", "unspecified", "unicast"],
        ),
        ("unspecified IPv6 VIP", &[(9, "address = \"::\"")], "9:11", &["unspecified"]),
        ("loopback VIP", &[(9, "address = \"127.0.0.1\"")], "9:11", &["loopback"]),
        ("multicast VIP", &[(9, "address = \"ff02::1\"")], "9:11", &["multicast"]),
        ("broadcast VIP", &[(9, "address = \"255.255.255.255\"")], "9:11", &["broadcast"]),
        ("IPv4-mapped VIP", &[(9, "address = \"::ffff:10.0.0.10\"")], "9:11", &["write it as 10.0.0.10"]),
        ("loopback backend", &[(14, "address = \"127.0.0.1\"")], "14:11", &["backend `gpu-0`", "loopback"]),
        (
            "IPv6 backend in l2",
            &[(14, "address = \"fd00::1\"")],
            "14:11",
            &["IPv6", "VIP `chat` is IPv4", "its IPv4 address"],
        ),
        (
            "IPv6 backend in nat",
            &[(22, "address = \"fd00::1\"")],
            "22:11",
            &["`gpu-1`", "VIP `code` is IPv4"],
        ),
        (
            "IPv4 backend of an IPv6 VIP",
            &[(9, "address = \"fd00::10\"")],
            "14:11",
            &["IPv4 address 10.0.0.21", "is IPv6"],
        ),
        (
            "backend at a VIP",
            &[(14, "address = \"10.0.0.11\"")],
            "14:11",
            &["`gpu-0`", "of VIP `code`", "own address"],
        ),
        (
            "VIP without backend",
            &[(12, ""), (13, ""), (14, "")],
            "8:8",
            &["`chat` has no backend", "[[vip.backend]]"],
        ),
        ("backend name twice", &[(21, "name = \"gpu-0\"")], "21:8", &["`gpu-0`", "line 13", "whole file"]),
        ("backend name", &[(13, "name = \"gpu 0\"")], "13:8", &["`gpu 0`"]),
        (
            "a server twice in one VIP",
            &[(14, "address = \"10.0.0.21\"\n[[vip.backend]]\nname = \"b\"\naddress = \"10.0.0.21\"")],
            "17:11",
            &["`b`", "`gpu-0`", "weight"],
        ),
        (
            "port translation in l2",
            &[(14, "address = \"10.0.0.21\"\nport = 9000")],
            "15:8",
            &["port 9000", "mode l2", "mode = \"nat\"", "listen on port 8000"],
        ),
        (
            "port translation in a tunnel",
            &[
                (1, "[tunnel]\nsource_v4 = \"172.16.0.0/16\"\n[daemon]"),
                (11, "mode = \"tunnel\""),
                (14, "address = \"10.0.0.21\"\nport = 9000"),
            ],
            "17:8",
            &["port 9000", "mode tunnel (ip)", "listen on port 8000"],
        ),
        (
            "a server behind two nat VIPs",
            &[(11, "mode = \"nat\""), (22, "address = \"10.0.0.21\"")],
            "22:11",
            &["`gpu-1`", "`gpu-0` of VIP `chat`", "another port", "source_nat = true"],
        ),
        ("weight", &[(14, "address = \"10.0.0.21\"\nweight = 1001")], "15:10", &["between 0 and 1000"]),
        ("negative weight", &[(14, "address = \"10.0.0.21\"\nweight = -1")], "15:10", &["weight is -1"]),
        ("limit", &[(14, "address = \"10.0.0.21\"\nlimit = 0")], "15:9", &["between 1 and 65535"]),
        (
            "https metrics",
            &[(14, "address = \"10.0.0.21\"\nmetrics = \"https://a/m\"")],
            "15:11",
            &["https is not supported yet"],
        ),
        (
            "metrics without scheme",
            &[(14, "address = \"10.0.0.21\"\nmetrics = \"/metrics\"")],
            "15:11",
            &["no URL", "http://10.0.0.21"],
        ),
        (
            "metrics without host",
            &[(14, "address = \"10.0.0.21\"\nmetrics = \"http:///metrics\"")],
            "15:11",
            &["no URL"],
        ),
        (
            "metrics with only a port",
            &[(14, "address = \"10.0.0.21\"\nmetrics = \"http://:80/\"")],
            "15:11",
            &["no URL"],
        ),
        (
            "metrics with a password",
            &[(14, "address = \"10.0.0.21\"\nmetrics = \"http://a:b@c/\"")],
            "15:11",
            &["password"],
        ),
        (
            "epsilon without bounded",
            &[(11, "mode = \"l2\"\nepsilon = 0.25")],
            "12:11",
            &["policy \"least\"", "\"bounded\""],
        ),
        (
            "epsilon",
            &[(11, "mode = \"l2\"\npolicy = \"bounded\"\nepsilon = 0")],
            "13:11",
            &["between 0.01 and 10"],
        ),
        (
            "epsilon that is no number",
            &[(11, "mode = \"l2\"\npolicy = \"bounded\"\nepsilon = nan")],
            "13:11",
            &["NaN"],
        ),
        ("duty", &[(11, "mode = \"l2\"\nduty = 1.5")], "12:8", &["between 0 and 1"]),
        ("skip_bytes", &[(11, "mode = \"l2\"\nskip_bytes = 65536")], "12:14", &["between 0 and 65535"]),
        (
            "announce on which of two",
            &[
                (6, "name = \"eth0\"\n[[interface]]\nname = \"eth1\""),
                (11, "mode = \"l2\"\nannounce = \"arp\""),
            ],
            "14:12",
            &["announce_on", "eth0, eth1"],
        ),
        (
            "announce_on elsewhere",
            &[(11, "mode = \"l2\"\nannounce = \"arp\"\nannounce_on = \"eth9\"")],
            "13:15",
            &["`eth9`", "eth0"],
        ),
        ("announce_on alone", &[(11, "mode = \"l2\"\nannounce_on = \"eth0\"")], "12:15", &["no effect"]),
        (
            "one address announced in two ways",
            &[
                (11, "mode = \"l2\"\nannounce = \"arp\""),
                (17, "announce = \"address\"\naddress = \"10.0.0.10\""),
            ],
            "19:11",
            &["`chat`", "differently"],
        ),
    ];
    refused(cases);
}

#[test]
fn every_mistake_about_sources_is_refused_with_its_place_and_remedy() {
    let cases: &[Refusal] = &[
        ("encap elsewhere", &[(11, "mode = \"l2\"\nencap = \"gue\"")], "12:9", &["mode = \"tunnel\""]),
        ("source_nat elsewhere", &[(11, "mode = \"l2\"\nsource_nat = true")], "12:14", &["mode = \"nat\""]),
        (
            "source_nat without sources",
            &[(19, "mode = \"nat\"\nsource_nat = true")],
            "20:14",
            &["`code`", "IPv4", "sources of [nat]"],
        ),
        (
            "source_nat without sources of the family",
            &[(1, "[nat]\nsources = [\"fd00::2\"]\n[daemon]"), (19, "mode = \"nat\"\nsource_nat = true")],
            "22:14",
            &["IPv4"],
        ),
        (
            "a source at a VIP",
            &[(1, "[nat]\nsources = [\"10.0.0.11\"]\n[daemon]")],
            "2:12",
            &["10.0.0.11", "VIP `code`", "nothing else"],
        ),
        (
            "a source at a backend",
            &[(1, "[nat]\nsources = [\"10.0.0.22\"]\n[daemon]")],
            "2:12",
            &["backend `gpu-1`"],
        ),
        (
            "a source twice",
            &[(1, "[nat]\nsources = [\"10.0.0.9\",\n\"10.0.0.9\"]\n[daemon]")],
            "3:1",
            &["10.0.0.9", "line 2"],
        ),
        (
            "three sources",
            &[(1, "[nat]\nsources = [\"10.0.0.7\", \"10.0.0.8\", \"fd00::1\", \"10.0.0.9\"]\n[daemon]")],
            "2:47",
            &["3 IPv4 sources", "power of two up to 16"],
        ),
        ("a loopback source", &[(1, "[nat]\nsources = [\"127.0.0.2\"]\n[daemon]")], "2:12", &["loopback"]),
        (
            "a source on an interface",
            &[(1, "[nat]\nsources = [\"10.0.0.9\"]\nannounce = \"address\"\n[daemon]")],
            "3:12",
            &["announce = \"arp\""],
        ),
        (
            "sources announced where",
            &[
                (1, "[nat]\nsources = [\"10.0.0.9\"]\nannounce = \"arp\"\n[daemon]"),
                (6, "name = \"eth0\"\n[[interface]]\nname = \"eth1\""),
            ],
            "3:12",
            &["[nat] sources", "announce_on", "eth0, eth1"],
        ),
        ("no prefix", &[(1, "[tunnel]\nsource_v4 = \"10.0.0.0\"\n[daemon]")], "2:13", &["\"172.16.0.0/16\""]),
        (
            "a prefix of the other family",
            &[(1, "[tunnel]\nsource_v6 = \"10.0.0.0/16\"\n[daemon]")],
            "2:13",
            &["source_v6", "no prefix", "::/64"],
        ),
        (
            "a prefix too short",
            &[(1, "[tunnel]\nsource_v4 = \"10.0.0.0/8\"\n[daemon]")],
            "2:13",
            &["length is 8", "between 16 and 32"],
        ),
        (
            "a prefix too long",
            &[(1, "[tunnel]\nsource_v6 = \"fd00::/129\"\n[daemon]")],
            "2:13",
            &["between 64 and 128"],
        ),
        (
            "bits beyond the prefix",
            &[(1, "[tunnel]\nsource_v4 = \"172.16.3.0/16\"\n[daemon]")],
            "2:13",
            &["write it as \"172.16.0.0/16\""],
        ),
        (
            "a multicast prefix",
            &[(1, "[tunnel]\nsource_v4 = \"224.1.0.0/16\"\n[daemon]")],
            "2:13",
            &["source_v4", "multicast"],
        ),
        (
            "a tunnel from nowhere",
            &[(11, "mode = \"tunnel\"")],
            "14:11",
            &["`gpu-0` of VIP `chat`", "IPv4", "source_v4 to [tunnel]"],
        ),
        (
            "a tunnel from the other family",
            &[
                (1, "[tunnel]\nsource_v4 = \"172.16.0.0/16\"\n[daemon]"),
                (11, "mode = \"tunnel\""),
                (14, "address = \"fd01::21\""),
            ],
            "16:11",
            &["IPv6", "source_v6"],
        ),
        (
            "a backend where tunnels come from",
            &[(1, "[tunnel]\nsource_v4 = \"10.0.0.0/24\"\n[daemon]"), (11, "mode = \"tunnel\"")],
            "16:11",
            &["`gpu-0`", "10.0.0.21", "10.0.0.0/24", "nothing else"],
        ),
    ];
    refused(cases);
}

#[test]
fn every_mistake_about_quic_is_refused_with_its_place_and_remedy() {
    const QUIC: &str = "[vip.quic]\nconfig_id = 0\nserver_id_length = 2\n[[vip.backend]]";
    const LONG: &str = "[vip.quic]\nconfig_id = 6\nserver_id_length = 8\n[[vip.backend]]";
    let cases: &[Refusal] = &[
        ("QUIC over TCP", &[(12, QUIC)], "12:1", &["`chat`", "protocol = \"udp\""]),
        (
            "QUIC through nat",
            &[(19, "mode = \"nat\"\nprotocol = \"udp\""), (20, QUIC)],
            "21:1",
            &["`code`", "\"l2\" or \"tunnel\""],
        ),
        (
            "the reserved form",
            &[
                (11, "mode = \"l2\"\nprotocol = \"udp\""),
                (12, "[vip.quic]\nconfig_id = 7\nserver_id_length = 2\n[[vip.backend]]"),
            ],
            "14:13",
            &["between 0 and 6"],
        ),
        (
            "a long server ID",
            &[
                (11, "mode = \"l2\"\nprotocol = \"udp\""),
                (12, "[vip.quic]\nconfig_id = 0\nserver_id_length = 9\n[[vip.backend]]"),
            ],
            "15:20",
            &["between 1 and 8"],
        ),
        (
            "a server ID without QUIC",
            &[(14, "address = \"10.0.0.21\"\nserver_id = \"0a1b\"")],
            "15:13",
            &["`gpu-0`", "[vip.quic]"],
        ),
        (
            "a server ID of another length",
            &[
                (11, "mode = \"l2\"\nprotocol = \"udp\""),
                (12, QUIC),
                (14, "address = \"10.0.0.21\"\nserver_id = \"0a1b1c\""),
            ],
            "19:13",
            &["\"0a1b1c\"", "2 bytes"],
        ),
        (
            "a server ID that is no number",
            &[
                (11, "mode = \"l2\"\nprotocol = \"udp\""),
                (12, QUIC),
                (14, "address = \"10.0.0.21\"\nserver_id = \"+a1b\""),
            ],
            "19:13",
            &["hexadecimal"],
        ),
        (
            "the reserved server ID",
            &[
                (11, "mode = \"l2\"\nprotocol = \"udp\""),
                (12, LONG),
                (14, "address = \"10.0.0.21\"\nserver_id = \"FFffFFffFFffFFff\""),
            ],
            "19:13",
            &["reserved"],
        ),
        (
            "a server ID twice",
            &[
                (11, "mode = \"l2\"\nprotocol = \"udp\""),
                (12, QUIC),
                (
                    14,
                    "address = \"10.0.0.21\"\nserver_id = \"0A1B\"\n[[vip.backend]]\nname = \"b\"\naddress = \"10.0.0.23\"\nserver_id = \"0a1b\"",
                ),
            ],
            "23:13",
            &["`b` and `gpu-0`", "0a1b", "change one"],
        ),
    ];
    refused(cases);
}

fn refused(cases: &[Refusal]) {
    for (what, edits, place, words) in cases {
        let message = refusal(&edited(edits));
        let start = format!("lb.toml:{place}: ");
        assert!(message.starts_with(&start), "{what}: expected at {place}: {message}");
        for word in *words {
            assert!(message.contains(word), "{what}: `{word}` is not in: {message}");
        }
        assert!(!message.contains('\n'), "{what}: more than a line: {message}");
    }
}

#[test]
fn a_file_that_lacks_a_section_is_refused_at_its_end() {
    let without_interface = GOOD.replace("[[interface]]\nname = \"eth0\"\n", "");
    assert!(refusal(&without_interface).starts_with("lb.toml:22:1: no interface"));
    let without_vip = &GOOD[..GOOD.find("[[vip]]").unwrap()];
    assert!(refusal(without_vip).starts_with("lb.toml:7:1: no VIP"));
    assert!(refusal("").starts_with("lb.toml:1:1: no interface"));
}

#[test]
fn a_truncated_config_is_refused_with_line_and_column() {
    for (cut, place) in
        [("[[vip", "7:6"), ("name = \"cha", "8:12"), ("address =", "9:10"), ("port = 8000\nmode", "11:5")]
    {
        let end = GOOD.find(cut).unwrap() + cut.len();
        let message = refusal(&GOOD[..end]);
        assert!(message.starts_with(&format!("lb.toml:{place}: ")), "cut after {cut:?}: {message}");
    }
    let at_a_line = refusal(&GOOD[..GOOD.find("mode").unwrap()]);
    assert!(at_a_line.starts_with("lb.toml:7:1: missing field `mode`"), "{at_a_line}");
}

#[test]
fn an_unreadable_config_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lb.toml");
    let load = || Config::load(&path).unwrap_err();

    let missing = load();
    assert!(matches!(missing, ConfigError::Read { .. }), "{missing}");
    assert!(missing.to_string().starts_with(path.to_str().unwrap()), "{missing}");

    std::fs::write(&path, format!("{GOOD}#{}", "x".repeat(MAX_BYTES))).unwrap();
    let oversized = load();
    assert!(oversized.to_string().contains("oversized config"), "{oversized}");

    std::fs::write(&path, b"[daemon]\n# \xc3\xbc \xff\n").unwrap();
    let latin = load();
    assert!(latin.to_string().ends_with("lb.toml:2:5: not UTF-8 text; save the file as UTF-8"), "{latin}");
}

#[test]
fn a_config_of_exactly_the_largest_size_is_read() {
    let text = format!("{GOOD}#{}", "x".repeat(MAX_BYTES - GOOD.len() - 1));
    assert_eq!(text.len(), MAX_BYTES);
    Config::parse("lb.toml", &text).unwrap();
    assert!(matches!(Config::parse("lb.toml", &format!("{text}x")), Err(ConfigError::Oversized { .. })));
}

#[test]
fn the_largest_numbers_of_vips_and_backends_are_accepted_and_no_more() {
    let file = |vips: usize, backends_each: usize| {
        let mut text = "[[interface]]\nname = \"eth0\"\n".to_owned();
        for vip in 0..vips {
            let (high, low) = (vip / 250, vip % 250 + 1);
            write!(text, "[[vip]]\nname=\"v{vip}\"\naddress=\"10.1.{high}.{low}\"\nport=80\nmode=\"l2\"\n")
                .unwrap();
            for backend in 0..backends_each {
                let number = vip * backends_each + backend;
                let (high, low) = (number / 250, number % 250 + 1);
                write!(text, "[[vip.backend]]\nname=\"b{number}\"\naddress=\"10.2.{high}.{low}\"\n").unwrap();
            }
        }
        Config::parse("lb.toml", &text)
    };
    assert_eq!(file(512, 8).unwrap().vips.len(), 512);
    let problem = |result| match result {
        Err(ConfigError::Invalid { problem, .. }) => *problem,
        other => panic!("expected a refusal, got {other:?}"),
    };
    assert_eq!(problem(file(513, 1)), Problem::TooManyVips);
    assert_eq!(problem(file(1, 4097)), Problem::TooManyBackends);
}

#[test]
fn sources_are_kept_by_family_in_the_order_of_the_file() {
    let nat = "[nat]\nsources = [\"fd00::2\", \"10.0.0.201\", \"fd00::1\", \"10.0.0.200\"]\nannounce = \"arp\"\n[daemon]";
    let config = Config::parse("lb.toml", &edited(&[(1, nat)])).unwrap();
    let addresses = config.nat.addresses().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(addresses, ["10.0.0.201", "10.0.0.200", "fd00::2", "fd00::1"]);
    assert_eq!(config.nat.sources[1].place.to_string(), "lb.toml:2:48");
    assert_eq!(config.nat.announce, Announce::Arp { interface: "eth0".to_owned() });
}

#[test]
fn probes_go_where_the_vip_says_or_to_the_backend_or_nowhere() {
    for (lines, expected) in [
        ("port = 8000\nmode = \"l2\"", Some("10.0.0.21:8000")),
        ("port = 8000\nmode = \"l2\"\nprobe_port = 99", Some("10.0.0.21:99")),
        ("port = \"any\"\nmode = \"l2\"", None),
        ("port = \"any\"\nmode = \"l2\"\nprobe_port = 99", Some("10.0.0.21:99")),
        ("port = 8000\nmode = \"l2\"\nprotocol = \"udp\"", None),
        ("port = 8000\nmode = \"l2\"\nprotocol = \"udp\"\nprobe_port = 99", Some("10.0.0.21:99")),
    ] {
        let config = Config::parse("lb.toml", &edited(&[(10, ""), (11, lines)])).unwrap();
        let vip = &config.vips[0];
        let expected = expected.map(|address| address.parse().unwrap());
        assert_eq!(vip.probe_address(&vip.backends[0]), expected, "{lines}");
        assert_eq!(vip.port == ANY_PORT, lines.contains("any"), "{lines}");
    }
}

/// A text near `GOOD`: some of its lines removed, repeated, replaced or spliced with anything.
fn mutation() -> impl Strategy<Value = String> {
    let edit = prop_oneof![
        Just(None),
        "[a-z_]{1,8} = (-?[0-9]{1,20}|\"[ -~]{0,8}\"|[0-9.e+-]{1,8})".prop_map(Some),
        "\\PC{0,12}".prop_map(Some),
    ];
    proptest::collection::vec((any::<proptest::sample::Index>(), edit, any::<bool>()), 1..6).prop_map(
        |edits| {
            let mut lines: Vec<String> = GOOD.lines().map(str::to_owned).collect();
            for (at, edit, insert) in edits {
                let at = at.index(lines.len());
                match (edit, insert) {
                    (Some(line), true) => lines.insert(at, line),
                    (Some(value), false) => {
                        let key = lines[at].split('=').next().unwrap_or_default().to_owned();
                        lines[at] = format!("{key}={value}");
                    }
                    (None, true) => lines.insert(at, lines[at].clone()),
                    (None, false) => _ = lines.pop(),
                }
                if lines.is_empty() {
                    break;
                }
            }
            lines.join("\n")
        },
    )
}

/// An error must point into the text, and acceptance must keep the promises of `Config`.
fn judge(text: &str) {
    match Config::parse("lb.toml", text) {
        Ok(config) => {
            assert!(!config.interfaces.is_empty(), "no interface: {text}");
            assert!(config.vips.iter().all(|vip| !vip.backends.is_empty()), "no backend: {text}");
        }
        Err(ConfigError::Syntax { place, .. } | ConfigError::Invalid { place, .. }) => {
            let lines: Vec<&str> = text.split('\n').collect();
            let line = lines.get(place.line - 1).unwrap_or_else(|| panic!("{place} is not in: {text}"));
            assert!(place.column <= line.chars().count() + 1, "{place} is not in: {text}");
        }
        Err(other) => panic!("unexpected refusal {other}: {text}"),
    }
}

proptest! {
    #[test]
    fn any_text_is_judged_without_panic(text in "\\PC{0,200}|[\\[\\]{}=\"'#.,a-z0-9\n]{0,200}") {
        judge(&text);
    }

    #[test]
    fn any_text_near_a_good_one_is_judged_without_panic(text in mutation()) {
        judge(&text);
    }

    #[test]
    fn any_cut_of_a_good_text_is_judged_without_panic(end in 0..GOOD.len()) {
        judge(&GOOD[..end]);
    }
}
