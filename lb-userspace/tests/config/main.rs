//! The configuration: what a good file means, and how each bad one is refused.

mod agents;
mod refusals;
mod scrape;
mod sources;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use guidevane::config::{
    Affinity, Agents, Announce, Config, ConfigError, Daemon, Encap, ForwardMode, GovernorMode, GpuId, Health,
    MAX_BYTES, Nvml, Policy, Problem, Protocol, Quic, XdpMode,
};
use guidevane::signals::ScrapeOptions;
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

/// What is wrong; the lines that make it so; where it must be reported; what the message must hold.
type Refusal = (&'static str, &'static [(usize, &'static str)], &'static str, &'static [&'static str]);

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
    assert_eq!(config.agents, Agents::default());
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
    let metrics = chat.backends[0].metrics.as_ref().unwrap();
    assert_eq!(metrics.endpoint.url.to_string(), "http://10.0.0.21:8000/metrics");
    assert_eq!((metrics.server, metrics.options.clone()), (None, ScrapeOptions::default()));
    assert_eq!(chat.backends[1].metrics.as_ref().unwrap().endpoint.url.path(), None);
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
    let example = include_str!("../../dist/guidevane.toml");
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
fn gpus_are_named_by_number_or_uuid_or_found() {
    const UUID: &str = "MIG-8d9f4c6e-3a51-4b7c-9e0d-2f6a1b3c5d7e";
    let named = format!("name = \"gpu-0\"\ngpus = [3, \"{UUID}\"]");
    let section = "[nvml]\nlibrary = \"/opt/a.so\"\ndiscover = true\ninterval = \"50ms\"\n[daemon]";
    let config = Config::parse("lb.toml", &edited(&[(1, section), (13, &named)])).unwrap();
    let expected = Nvml { library: "/opt/a.so".into(), discover: true, interval: Duration::from_millis(50) };
    assert_eq!(config.nvml, expected);
    let gpus = config.vips.iter().map(|vip| vip.backends[0].gpus.clone());
    let gpus: Vec<_> = gpus.collect();
    assert_eq!(gpus, [Some(vec![GpuId::Index(3), GpuId::Uuid(UUID.to_owned())]), None]);
    let none = Config::parse("lb.toml", &edited(&[(13, "name = \"gpu-0\"\ngpus = []")])).unwrap();
    assert_eq!((none.nvml, none.vips[0].backends[0].gpus.clone()), (Nvml::default(), Some(vec![])));
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
governor = "static"
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
        governor: GovernorMode::Static,
    };
    assert_eq!(config.daemon, expected);
    assert!(config.vips.iter().all(|vip| vip.governor == GovernorMode::Static), "VIPs that say nothing");
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
