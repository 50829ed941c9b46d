//! `explain`, `flows` and the lists of VIPs and backends, as their users see them.

use guidevane::api::{
    BackendSlots, Candidate, CommandError, Flow, FlowPage, FlowState, FlowsRequest, Foresight,
    ForesightRequest, Lack, Pick, TableShares, Vip, Why,
};
use guidevane::config::PolicyKind;

use crate::picture::{TABLE, WIDE, snapshot};
use crate::{FAILURE, Running, SUCCESS, assert_output};

const CLIENT: &str = "203.0.113.7:41234";

fn known() -> Flow {
    Flow {
        client: Some(CLIENT.parse().unwrap()),
        vip: "chat".to_owned(),
        backend: "gpu-1".to_owned(),
        state: FlowState::Streaming,
        silent_seconds: 3.072,
        open_seconds: Some(75.5),
    }
}

fn half_open(backend: &str) -> Flow {
    let state = FlowState::Opening;
    Flow {
        client: None,
        backend: backend.to_owned(),
        state,
        silent_seconds: 0.0,
        open_seconds: None,
        ..known()
    }
}

/// Three flows, two of them on an earlier page.
pub fn page(request: &FlowsRequest) -> Result<FlowPage, CommandError> {
    match request.page.as_deref() {
        _ if request.vip.as_deref().is_some_and(|name| name != "chat") => {
            Err(CommandError::UnknownVip { name: request.vip.clone().unwrap() })
        }
        None => Ok(FlowPage { flows: Vec::new(), next: Some("65536".to_owned()) }),
        Some("65536") => {
            let flows = [known(), half_open("gpu-0")].into_iter().take(request.limit as usize).collect();
            Ok(FlowPage { flows, next: Some("131072".to_owned()) })
        }
        Some("131072") => Ok(FlowPage { flows: vec![half_open("gpu-1")], next: None }),
        Some(page) => Err(CommandError::UnknownPage { page: page.to_owned() }),
    }
}

fn candidate(backend: &str, load: f64) -> Candidate {
    Candidate {
        backend: backend.to_owned(),
        picked: backend == "gpu-0",
        load,
        opening: 0,
        awaiting: 2,
        prompts_kib: 9,
        streaming: 30,
        idle: 4,
        cost: 1.25,
        correction: -2.5,
        limit: None,
        at_limit: false,
        over_bound: false,
        lacks: Vec::new(),
    }
}

/// A client that is not known, one that is, and one for which there is no backend.
pub fn foresight(request: &ForesightRequest) -> Result<Foresight, CommandError> {
    let new = Foresight {
        client: request.client,
        vip: "chat".to_owned(),
        backend: Some("gpu-0".to_owned()),
        goes_on: false,
        flow: None,
        pick: Pick {
            backend: Some("gpu-0".to_owned()),
            policy: PolicyKind::Least,
            why: Some(Why::Least),
            hash: "0123456789abcdef".to_owned(),
            governor_silent: false,
            candidates: vec![
                candidate("gpu-0", 31.5),
                Candidate { lacks: vec![Lack::Healthy], ..candidate("gpu-1", 40.0) },
            ],
        },
    };
    Ok(match (request.vip.as_str(), request.client.port()) {
        ("chat", 41234) => {
            Foresight { backend: Some("gpu-1".to_owned()), goes_on: true, flow: Some(known()), ..new }
        }
        ("chat" | "198.51.100.1:443/tcp", _) => new,
        ("empty", _) => Foresight {
            backend: None,
            vip: "empty".to_owned(),
            pick: Pick {
                backend: None,
                why: None,
                governor_silent: true,
                candidates: Vec::new(),
                ..new.pick
            },
            ..new
        },
        (other, _) => return Err(CommandError::UnknownVip { name: other.to_owned() }),
    })
}

/// One table that has changed, and one that has not.
pub fn table(vip: &str) -> Result<TableShares, CommandError> {
    let slots = |backend: &str, slots| BackendSlots { backend: backend.to_owned(), slots };
    let shares = |slots, moved, backends| TableShares { vip: vip.to_owned(), slots, moved, backends };
    match vip {
        "chat" => Ok(shares(4093, Some(1365), vec![slots("gpu-0", 4093), slots("gpu-1", 0)])),
        "code" => Ok(shares(0, None, vec![slots("cpu-0", 0)])),
        _ => Err(CommandError::UnknownVip { name: vip.to_owned() }),
    }
}

const CHAT: &str = "\
chat: 4093 slots; 1365 (33.3 %) moved with the last change

BACKEND  SLOTS  SHARE_PCT
gpu-0     4093      100.0
gpu-1        0        0.0
";

const CODE: &str = "\
code: 0 slots; how many moved with the last change is not known

BACKEND  SLOTS  SHARE_PCT
cpu-0        0        0.0
";

#[test]
fn a_table_shows_shares_and_what_moved() {
    let daemon = Running::start();
    let shown = |arguments: &[&str]| daemon.guidevane(&[&["table"], arguments].concat());
    assert_output(&shown(&["chat"]), SUCCESS, CHAT, "");
    assert_output(&shown(&["code"]), SUCCESS, CODE, "");
    let json = shown(&["chat", "-o", "json"]);
    assert_eq!(serde_json::from_slice::<TableShares>(&json.stdout).unwrap(), table("chat").unwrap());
    let unknown = "error: no VIP is named `nope`; `guidevane status` lists them\n";
    assert_output(&shown(&["nope"]), FAILURE, "", unknown);
}

const NEW: &str = "\
203.0.113.7:4 -> chat -> gpu-0
pick: gpu-0, least: the smallest load

PICK  BACKEND   LOAD  OPENING  AWAITING  STREAMING  IDLE  COST  CORRECTION  LIMIT  BUT
*     gpu-0    31.50        0         2         30     4  1.25        -2.5      -
      gpu-1    40.00        0         2         30     4  1.25        -2.5      -  down
";

const KNOWN: &str = "\
203.0.113.7:41234 -> chat -> gpu-1
flow: streaming on gpu-1, silent for 3s, open for 1m 15s; it goes on
a new flow's pick: gpu-0, least: the smallest load
hash: 0123456789abcdef

PICK  BACKEND   LOAD  OPENING  AWAITING  STREAMING  IDLE  COST  CORRECTION  LIMIT  BUT
*     gpu-0    31.50        0         2         30     4  1.25        -2.5      -
      gpu-1    40.00        0         2         30     4  1.25        -2.5      -  down
";

const DROPPED: &str = "\
203.0.113.7:4 -> empty, dropped: no backend can take a flow; `guidevane backends` says why
pick: nobody, least; corrections do not count: the governor is silent
";

#[test]
fn explain_says_where_a_connection_would_go_and_why() {
    let daemon = Running::start();
    let explain = |arguments: &[&str]| daemon.guidevane(&[&["explain"], arguments].concat());
    assert_output(&explain(&["203.0.113.7:4", "chat"]), SUCCESS, NEW, "");
    assert_output(&explain(&["203.0.113.7:4", "198.51.100.1:443/tcp"]), SUCCESS, NEW, "");
    assert_output(&explain(&[CLIENT, "chat", "-o", "wide"]), SUCCESS, KNOWN, "");
    assert_output(&explain(&["203.0.113.7:4", "empty"]), SUCCESS, DROPPED, "");
    let unknown = "error: no VIP is named `nope`; `guidevane status` lists them\n";
    assert_output(&explain(&[CLIENT, "nope"]), FAILURE, "", unknown);
    let json = explain(&[CLIENT, "chat", "-o", "json"]);
    let asked = ForesightRequest { client: CLIENT.parse().unwrap(), vip: "chat".to_owned() };
    assert_eq!(serde_json::from_slice::<Foresight>(&json.stdout).unwrap(), foresight(&asked).unwrap());
}

const FLOWS: &str = "\
CLIENT             VIP   BACKEND  STATE      SILENT    OPEN
203.0.113.7:41234  chat  gpu-1    streaming      3s  1m 15s
unknown            chat  gpu-0    opening        0s       -
unknown            chat  gpu-1    opening        0s       -
";

const FIRST_FLOW: &str = "\
CLIENT             VIP   BACKEND  STATE      SILENT    OPEN
203.0.113.7:41234  chat  gpu-1    streaming      3s  1m 15s

There may be more: go on with --page 131072
";

#[test]
fn flows_are_listed_over_all_pages_up_to_the_limit() {
    let daemon = Running::start();
    let flows = |arguments: &[&str]| daemon.guidevane(&[&["flows"], arguments].concat());
    assert_output(&flows(&[]), SUCCESS, FLOWS, "");
    assert_output(&flows(&["--vip", "chat", "--limit", "1"]), SUCCESS, FIRST_FLOW, "");
    let rest: FlowPage = serde_json::from_slice(&flows(&["--page", "131072", "-o", "json"]).stdout).unwrap();
    assert_eq!(rest, FlowPage { flows: vec![half_open("gpu-1")], next: None });
    let wrong = "error: `x` is no page of flows; begin without one, or take the `next` of an earlier page\n";
    assert_output(&flows(&["--page", "x"]), FAILURE, "", wrong);
}

#[test]
fn one_flow_is_found_or_said_to_be_none() {
    let daemon = Running::start();
    let found = daemon.guidevane(&["flows", "where", CLIENT, "chat"]);
    assert_output(&found, SUCCESS, &FIRST_FLOW[..FIRST_FLOW.find("\n\n").unwrap() + 1], "");
    let json = daemon.guidevane(&["flows", "where", CLIENT, "chat", "-o", "json"]);
    assert_eq!(serde_json::from_slice::<Flow>(&json.stdout).unwrap(), known());
    let none = daemon.guidevane(&["flows", "where", "203.0.113.7:4", "chat"]);
    let message = "error: the flow table has no flow of 203.0.113.7:4 to chat; \
                   `guidevane explain 203.0.113.7:4 chat` says where a new one would go\n";
    assert_output(&none, FAILURE, "", message);
}

/// The part of a status that begins with this header.
fn part<'a>(status: &'a str, header: &str) -> &'a str {
    let part = status.split_inclusive("\n\n").find(|part| part.starts_with(header));
    part.unwrap_or_else(|| panic!("no part begins with {header}")).strip_suffix('\n').unwrap()
}

#[test]
fn vips_and_backends_are_the_tables_of_the_status() {
    let daemon = Running::start();
    let (vips, backends) = ("VIP    ADDRESS", "VIP   BACKEND");
    assert_output(&daemon.guidevane(&["vips"]), SUCCESS, part(TABLE, vips), "");
    assert_output(&daemon.guidevane(&["backends"]), SUCCESS, part(TABLE, backends), "");
    assert_output(&daemon.guidevane(&["backends", "-o", "wide"]), SUCCESS, part(WIDE, backends), "");
    let json = daemon.guidevane(&["vips", "-o", "json"]);
    assert_eq!(serde_json::from_slice::<Vec<Vip>>(&json.stdout).unwrap(), snapshot().vips);
    let json = daemon.guidevane(&["backends", "-o", "json"]);
    let listed: Vec<serde_json::Value> = serde_json::from_slice(&json.stdout).unwrap();
    let names: Vec<_> = listed.iter().map(|it| (it["vip"].as_str(), it["name"].as_str())).collect();
    let expected = [("chat", "gpu-0"), ("chat", "gpu-1"), ("code", "cpu-0")];
    assert_eq!(names, expected.map(|(vip, name)| (Some(vip), Some(name))));
}
