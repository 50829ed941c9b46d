//! `explain` and `flows`: where a client's connection would go, and what the flow table holds.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::bail;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Args, Subcommand};
use humantime::format_duration;

use super::table::{Column, cell, cell_or_nothing, numbers, table, words};
use super::trace;
use super::view::View;
use crate::api::{Client, Flow, FlowPage, FlowState, FlowsRequest, Foresight, ForesightRequest};

/// What stands for a client that the table does not know.
const UNKNOWN: &str = "unknown";

/// Flows of one picture, unless more are asked for.
const LIMIT: u32 = 100;

/// A client and a VIP.
#[derive(Debug, Args)]
pub(super) struct Tuple {
    /// The client's address and port (203.0.113.7:41234)
    client: SocketAddr,
    /// The VIP: its name, or ADDRESS:PORT/PROTOCOL (198.51.100.1:443/tcp)
    vip: String,
}

impl Tuple {
    fn request(&self) -> ForesightRequest {
        ForesightRequest { client: self.client, vip: self.vip.clone() }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
It is the kernel's own pick over the maps that the kernel reads: what it says holds for this moment. Not foreseen
are packets with a QUIC server ID, which go to that server, and one-armed nat without a port left.")]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    tuple: Tuple,
    #[command(flatten)]
    view: View,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct FlowsArgs {
    #[command(subcommand)]
    command: Option<FlowsCommand>,
    /// Only flows of this VIP
    #[arg(long, value_name = "NAME")]
    vip: Option<String>,
    /// Only flows of this backend
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Only flows in this state
    #[arg(long, value_name = "STATE", value_parser = states())]
    state: Option<FlowState>,
    /// Only flows whose client was last heard of at least TIME ago (90s, 5m)
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    older: Option<Duration>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = LIMIT, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Go on where an earlier listing ended
    #[arg(long, value_name = "TOKEN")]
    page: Option<String>,
    #[command(flatten)]
    view: View,
}

#[derive(Debug, Subcommand)]
enum FlowsCommand {
    /// Say where one flow is
    Where {
        #[command(flatten)]
        tuple: Tuple,
        #[command(flatten)]
        view: View,
    },
}

fn states() -> impl clap::builder::TypedValueParser<Value = FlowState> {
    PossibleValuesParser::new(FlowState::ALL.iter().map(|state| state.name())).map(|name| {
        let found = FlowState::ALL.iter().find(|state| state.name() == name);
        *found.expect("the parser lets known names through alone")
    })
}

pub(super) fn explain(mut client: Client, args: &ExplainArgs) -> anyhow::Result<()> {
    args.view.show(|| Ok(client.foresee(&args.tuple.request())?), render)
}

pub(super) fn flows(mut client: Client, args: &FlowsArgs) -> anyhow::Result<()> {
    match &args.command {
        None => args.view.show(|| list(&mut client, args), |page, _, colour| listing(page, colour)),
        Some(FlowsCommand::Where { tuple, view }) => view.show(
            || one(&mut client, tuple),
            |flow, _, colour| table(&columns(), std::iter::once(flow), colour),
        ),
    }
}

/// Goes over pages until there are as many flows as wanted, or no more.
fn list(client: &mut Client, args: &FlowsArgs) -> anyhow::Result<FlowPage> {
    let mut page = FlowPage { flows: Vec::new(), next: args.page.clone() };
    loop {
        let more = client.flows(&FlowsRequest {
            vip: args.vip.clone(),
            backend: args.backend.clone(),
            state: args.state,
            silent_ms: args.older.map_or(0, |older| older.as_millis() as u64),
            limit: args.limit - page.flows.len() as u32,
            page: page.next.take(),
        })?;
        page.flows.extend(more.flows);
        page.next = more.next;
        if page.next.is_none() || page.flows.len() >= args.limit as usize {
            return Ok(page);
        }
    }
}

fn one(client: &mut Client, tuple: &Tuple) -> anyhow::Result<Flow> {
    match client.foresee(&tuple.request())?.flow {
        Some(flow) => Ok(flow),
        None => bail!(
            "the flow table has no flow of {} to {}; `guidevane explain {0} {1}` says where a new one would go",
            tuple.client,
            tuple.vip
        ),
    }
}

fn listing(page: &FlowPage, colour: bool) -> String {
    let mut text = table(&columns(), page.flows.iter(), colour);
    if let Some(next) = &page.next {
        let _ = writeln!(text, "\nThere may be more: go on with --page {next}");
    }
    text
}

fn columns<'a>() -> [Column<&'a Flow>; 6] {
    [
        words("CLIENT", |flow| flow.client.map_or_else(|| cell(UNKNOWN), cell)),
        words("VIP", |flow| cell(&flow.vip)),
        words("BACKEND", |flow| cell(&flow.backend)),
        words("STATE", |flow| cell(flow.state)),
        numbers("SILENT", |flow| cell(span(flow.silent_seconds))),
        numbers("OPEN", |flow| cell_or_nothing(flow.open_seconds.map(span))),
    ]
}

/// A time in whole seconds.
fn span(seconds: f64) -> String {
    format_duration(Duration::from_secs(seconds.max(0.0) as u64)).to_string()
}

/// The verdict, the flow that is known, the pick, and the candidates below it.
fn render(foresight: &Foresight, wide: bool, colour: bool) -> String {
    let Foresight { client, vip, backend, goes_on, flow, pick } = foresight;
    let mut text = match backend {
        Some(backend) => format!("{client} -> {vip} -> {backend}\n"),
        None => {
            format!("{client} -> {vip}, dropped: no backend can take a flow; `guidevane backends` says why\n")
        }
    };
    if let Some(flow) = flow {
        let open = flow.open_seconds.map(|open| format!(", open for {}", span(open))).unwrap_or_default();
        let then = if *goes_on { "it goes on" } else { "a new one takes its place" };
        let _ = writeln!(
            text,
            "flow: {} on {}, silent for {}{open}; {then}",
            flow.state,
            flow.backend,
            span(flow.silent_seconds)
        );
    }
    let picked = pick.backend.as_deref().unwrap_or("nobody");
    let _ =
        write!(text, "{}: {picked}, {}", if *goes_on { "a new flow's pick" } else { "pick" }, pick.policy);
    if let Some(why) = pick.why {
        let _ = write!(text, ": {why}");
    }
    if pick.governor_silent {
        text += "; corrections do not count: the governor is silent";
    }
    if wide {
        let _ = write!(text, "\nhash: {}", pick.hash);
    }
    // What came from elsewhere must not move the cursor.
    let lines = text.split('\n').map(|line| line.replace(char::is_control, "?"));
    let head = lines.collect::<Vec<_>>().join("\n");
    match pick.candidates.is_empty() {
        true => head + "\n",
        false => format!("{head}\n\n{}", table(&trace::columns(), pick.candidates.iter(), colour)),
    }
}
