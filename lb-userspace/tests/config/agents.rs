//! `[agents]`, the `agent` of a backend, and the agent's own file.

use std::{net::SocketAddr, path::Path, time::Duration};

use guidevane::config::{AgentConfig, Config, Identity, Nvml};

use crate::{Refusal, edited, refused};

fn identity(directory: &str) -> Identity {
    let file = |name: &str| Path::new(directory).join(name);
    Identity { ca: file("ca.pem"), cert: file("cert.pem"), key: file("key.pem") }
}

#[test]
fn agents_are_asked_as_the_file_says() {
    let agents = "[agents]\nca = \"/p/ca.pem\"\ncert = \"/p/cert.pem\"\nkey = \"/p/key.pem\"\ninterval = \"5ms\"\n[health]";
    let text = edited(&[
        (3, agents),
        (13, "name = \"gpu-0\"\nagent = \"https://10.0.0.21\""),
        (21, "name = \"gpu-1\"\nagent = \"http://gpu-1:50051\""),
    ]);
    let config = Config::parse("lb.toml", &text).unwrap();
    assert_eq!(config.agents.identity, Some(identity("/p")));
    assert_eq!(config.agents.interval, Duration::from_millis(5));
    let urls: Vec<_> = config
        .vips
        .iter()
        .flat_map(|vip| &vip.backends)
        .map(|backend| backend.agent.as_ref().map(ToString::to_string))
        .collect();
    assert_eq!(urls, [Some("https://10.0.0.21".to_owned()), Some("http://gpu-1:50051".to_owned())]);
}

#[test]
fn agents_that_cannot_be_asked_are_refused_with_their_place_and_remedy() {
    let cases: &[Refusal] = &[
        (
            "no files for https",
            &[(13, "name = \"gpu-0\"\nagent = \"https://10.0.0.21\"")],
            "14:9",
            &["needs ca, cert and key in [agents]", "guidevane agent enroll --balancer"],
        ),
        (
            "no URL",
            &[(13, "name = \"gpu-0\"\nagent = \"10.0.0.21:9900\"")],
            "14:9",
            &["neither https:// nor http://", "\"https://10.0.0.21:9900\""],
        ),
        (
            "a path",
            &[(13, "name = \"gpu-0\"\nagent = \"http://10.0.0.21/metrics\"")],
            "14:9",
            &["more than host and port"],
        ),
        (
            "half of the files",
            &[(3, "[agents]\nca = \"/p/ca.pem\"\n[health]")],
            "4:6",
            &["has ca but no cert"],
        ),
        (
            "a relative path",
            &[(3, "[agents]\nkey = \"key.pem\"\nca = \"/a\"\ncert = \"/b\"\n[health]")],
            "4:7",
            &["key is the relative path"],
        ),
        ("too often", &[(3, "[agents]\ninterval = \"1ms\"\n[health]")], "4:12", &["between 5ms and 1m"]),
        ("unknown key", &[(3, "[agents]\ntoken = 1\n[health]")], "4:1", &["unknown field `token`"]),
    ];
    refused(cases);
}

#[test]
fn the_agents_example_is_accepted_and_shows_the_defaults() {
    let example = include_str!("../../dist/guidevane-agent.toml");
    let config = AgentConfig::parse("agent.toml", example).unwrap();
    assert_eq!(config.listen, SocketAddr::from(([0, 0, 0, 0], 9900)));
    assert_eq!(config.identity, identity("/etc/guidevane/agent"));
    assert_eq!(config.backends[0].name, "gpu-0");
    assert!(config.backends[0].metrics.is_some());
    assert_eq!(config.nvml, Nvml { discover: true, ..Nvml::default() });
    let shown = ["timeout", "library", "discover", "interval"];
    let commented = shown.iter().fold(example.to_owned(), |text, name| {
        let setting = format!("\n{name} = ");
        let text = text.replace(&format!("\n# {name} = "), &setting);
        assert!(text.contains(&setting), "{name} is not shown");
        text
    });
    assert_eq!(AgentConfig::parse("agent.toml", &commented).unwrap(), config);
}
