//! Ports of any, tunnels, source addresses and QUIC: what is accepted, and how mistakes are refused.

use guidevane::config::{ANY_PORT, Announce, Config};

use crate::{Refusal, edited, refused};

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
