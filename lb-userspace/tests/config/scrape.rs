//! `[scrape]`, `[vip.scrape]`, and the `metrics` and `dcgm` of a backend.

use std::path::Path;
use std::time::Duration;

use guidevane::config::{Backend, Config};
use guidevane::signals::{ScrapeOptions, ServerKind};

use crate::{Refusal, edited, refused};

/// The two backends of `GOOD`, line by line.
fn backends(edits: &[(usize, &str)]) -> [Backend; 2] {
    let text = edited(edits);
    let config = Config::parse("lb.toml", &text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
    [&config.vips[0], &config.vips[1]].map(|vip| vip.backends[0].clone())
}

#[test]
fn a_backend_says_first_then_its_vip_then_the_file() {
    let [first, second] = backends(&[
        (
            1,
            "[scrape]\ninterval = \"1s\"\ntimeout = \"2s\"\nserver = \"vllm\"\nca = \"/file.pem\"\n\
             token_file = \"/file.token\"\nlight_interval = \"50ms\"\n[daemon]",
        ),
        (12, "[vip.scrape]\ninterval = \"500ms\"\nserver = \"sglang\"\nca = \"/vip.pem\"\n[[vip.backend]]"),
        (
            14,
            "address = \"10.0.0.21\"\nmetrics = { url = \"https://a/m\", server = \"auto\", token_file = \"/own.token\", \
             light_interval = \"20ms\" }",
        ),
        (22, "address = \"10.0.0.22\"\nmetrics = \"http://b:9000\""),
    ]);
    let (first, second) = (first.metrics.expect("metrics"), second.metrics.expect("metrics"));
    let ms = Duration::from_millis;
    assert_eq!(
        first.options,
        ScrapeOptions { interval: ms(500), timeout: ms(2000), light_interval: Some(ms(20)) }
    );
    assert_eq!(first.server, None);
    assert_eq!(first.endpoint.ca.as_deref(), Some(Path::new("/vip.pem")));
    assert_eq!(first.endpoint.token_file.as_deref(), Some(Path::new("/own.token")));
    assert_eq!(
        second.options,
        ScrapeOptions { interval: ms(1000), timeout: ms(2000), light_interval: Some(ms(50)) }
    );
    assert_eq!((second.server, second.endpoint.ca), (Some(ServerKind::Vllm), None), "http needs no ca");
    assert_eq!(second.endpoint.token_file.as_deref(), Some(Path::new("/file.token")));
}

#[test]
fn a_table_with_a_url_alone_is_the_url() {
    for metrics in [
        "metrics = \"http://a:8000/metrics\"",
        "metrics = { url = \"http://a:8000/metrics\" }",
        "metrics.url = \"http://a:8000/metrics\"",
        "[vip.backend.metrics]\nurl = \"http://a:8000/metrics\"",
    ] {
        let [backend, _] = backends(&[(14, &format!("address = \"10.0.0.21\"\n{metrics}"))]);
        let target = backend.metrics.unwrap_or_else(|| panic!("{metrics}"));
        assert_eq!(target.endpoint.url.to_string(), "http://a:8000/metrics", "{metrics}");
        assert_eq!(target.options, ScrapeOptions::default(), "{metrics}");
        assert_eq!((target.server, target.endpoint.ca, target.endpoint.token_file), (None, None, None));
    }
}

#[test]
fn a_dcgm_exporter_takes_trust_from_the_file_and_has_an_interval_of_its_own() {
    let [first, second] = backends(&[
        (
            1,
            "[scrape]\ninterval = \"1s\"\ntimeout = \"2s\"\nca = \"/file.pem\"\nlight_interval = \"50ms\"\n[daemon]",
        ),
        (
            14,
            "address = \"10.0.0.21\"\ndcgm = { url = \"https://a:9400\", gpus = [\"0\", \"GPU-1\"], interval = \"9s\" }",
        ),
        (22, "address = \"10.0.0.22\"\ndcgm = \"http://b:9400\""),
    ]);
    let (first, second) = (first.dcgm.expect("dcgm"), second.dcgm.expect("dcgm"));
    let options = |seconds| ScrapeOptions {
        interval: Duration::from_secs(seconds),
        timeout: Duration::from_secs(2),
        light_interval: None,
    };
    assert_eq!((first.gpus, first.options), (vec!["0".to_owned(), "GPU-1".to_owned()], options(9)));
    assert_eq!(first.endpoint.ca.as_deref(), Some(Path::new("/file.pem")));
    assert_eq!((second.gpus, second.options), (vec![], options(5)));
}

#[test]
fn every_mistake_about_metrics_is_refused_with_its_place_and_remedy() {
    let cases: &[Refusal] = &[
        (
            "https without certificates",
            &[(14, "address = \"10.0.0.21\"\nmetrics = \"https://a/m\"")],
            "15:11",
            &["add ca", "PEM"],
        ),
        (
            "https without certificates, in a table",
            &[(14, "address = \"10.0.0.21\"\nmetrics = { interval = \"1s\", url = \"https://a/m\" }")],
            "15:36",
            &["add ca", "PEM"],
        ),
        (
            "certificates for nothing",
            &[(14, "address = \"10.0.0.21\"\nmetrics = { url = \"http://a/m\", ca = \"/a.pem\" }")],
            "15:38",
            &["no effect", "https://"],
        ),
        (
            "without scheme",
            &[(14, "address = \"10.0.0.21\"\nmetrics = \"/metrics\"")],
            "15:11",
            &["metrics is \"/metrics\"", "no URL", "http://10.0.0.21"],
        ),
        (
            "of another scheme",
            &[(14, "address = \"10.0.0.21\"\nmetrics = \"ftp://a/m\"")],
            "15:11",
            &["begin with http:// or https://"],
        ),
        (
            "without host",
            &[(14, "address = \"10.0.0.21\"\nmetrics = \"http:///metrics\"")],
            "15:11",
            &["no URL"],
        ),
        (
            "with only a port",
            &[(14, "address = \"10.0.0.21\"\nmetrics = \"http://:80/\"")],
            "15:11",
            &["names no host"],
        ),
        (
            "with a password",
            &[(14, "address = \"10.0.0.21\"\nmetrics = \"http://a:b@c/\"")],
            "15:11",
            &["password"],
        ),
        (
            "a table without url",
            &[(14, "address = \"10.0.0.21\"\nmetrics = { interval = \"1s\" }")],
            "15:11",
            &["missing field `url`"],
        ),
        (
            "an unknown key",
            &[(14, "address = \"10.0.0.21\"\nmetrics = { url = \"http://a\", every = \"1s\" }")],
            "15:31",
            &["unknown field `every`", "`interval`"],
        ),
        (
            "a number for a url",
            &[(14, "address = \"10.0.0.21\"\nmetrics = 8000")],
            "15:11",
            &["invalid type", "a url, or a table with one"],
        ),
        (
            "an unknown server",
            &[(14, "address = \"10.0.0.21\"\nmetrics = { url = \"http://a\", server = \"ollama\" }")],
            "15:40",
            &["\"ollama\"", "\"auto\", \"vllm\", \"sglang\"", "\"llama.cpp\""],
        ),
        (
            "an interval out of range",
            &[(14, "address = \"10.0.0.21\"\nmetrics = { url = \"http://a\", interval = \"1ms\" }")],
            "15:42",
            &["interval is 1ms", "between 10ms and 1m"],
        ),
        (
            "a light interval that is none",
            &[(14, "address = \"10.0.0.21\"\nmetrics = { url = \"http://a\", light_interval = \"250ms\" }")],
            "15:11",
            &["light_interval has no effect", "shorter than interval"],
        ),
        (
            "a relative path",
            &[(14, "address = \"10.0.0.21\"\nmetrics = { url = \"http://a\", token_file = \"token\" }")],
            "15:44",
            &["relative path \"token\""],
        ),
        ("a mistake for all", &[(1, "[scrape]\ntimeout = \"soon\"\n[daemon]")], "2:11", &["no duration"]),
        (
            "an unknown key for all",
            &[(1, "[scrape]\nurl = \"http://a\"\n[daemon]")],
            "2:1",
            &["unknown field `url`"],
        ),
        (
            "a mistake for a VIP",
            &[(12, "[vip.scrape]\nserver = \"ollama\"\n[[vip.backend]]")],
            "13:10",
            &["\"ollama\""],
        ),
        (
            "gpus of a server",
            &[(14, "address = \"10.0.0.21\"\nmetrics = { url = \"http://a\", gpus = [\"0\"] }")],
            "15:38",
            &["dcgm"],
        ),
        (
            "a server of gpus",
            &[(14, "address = \"10.0.0.21\"\ndcgm = { url = \"http://a\", server = \"vllm\" }")],
            "15:37",
            &["server is of servers' metrics"],
        ),
        (
            "an exporter without scheme",
            &[(14, "address = \"10.0.0.21\"\ndcgm = \"gpu:9400\"")],
            "15:8",
            &["dcgm is \"gpu:9400\"", "no URL"],
        ),
    ];
    refused(cases);
}
