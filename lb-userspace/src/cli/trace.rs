//! `guidevane trace`: new flows as they come, a line each and the candidates below it.

use std::io::{self, IsTerminal as _};
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use ipnet::IpNet;
use lb_common::reason::Reason;
use nix::sys::signal::{SigSet, Signal};

use super::table::{Cell, Colour, Column, cell, cell_or_nothing, numbers, table, words};
use super::{colour_wanted, print};
use crate::api::{Candidate, Client, FlowEvent, Outcome, Response, TraceRequest, Traced};

#[derive(Debug, Args)]
#[command(after_help = "\
It costs the kernel a few hundred nanoseconds for each flow that is shown: on a busy balancer, ask for one in
many with --every. A flow is chosen by its hash, and another trace shows the same ones.

Ends after --count events or at Ctrl-C, and then says how many events were lost: in the kernel, for want of
room, of whatever trace; and on the way here, because they were not taken in time.")]
pub(super) struct TraceArgs {
    /// Only flows to this VIP
    #[arg(long, value_name = "NAME")]
    vip: Option<String>,
    /// Only flows that went to this backend
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Only clients with this address or in this network (192.0.2.0/24)
    #[arg(long, value_name = "PREFIX", value_parser = network)]
    client: Option<IpNet>,
    /// Only flows counted under this reason, as `guidevane status` names them
    #[arg(long, value_name = "REASON", value_parser = reasons(), hide_possible_values = true)]
    reason: Option<Reason>,
    /// One in this many new flows
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    every: u32,
    /// End after this many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// One JSON object a line, for programs
    #[arg(long)]
    json: bool,
}

fn network(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse()).map_err(|error: ipnet::AddrParseError| error.to_string())
}

fn reasons() -> impl clap::builder::TypedValueParser<Value = Reason> {
    PossibleValuesParser::new(Reason::ALL.iter().map(|reason| reason.name())).map(|name| {
        let found = Reason::ALL.iter().find(|reason| reason.name() == name);
        *found.expect("the parser lets known names through alone")
    })
}

impl TraceArgs {
    fn request(&self) -> TraceRequest {
        TraceRequest {
            vip: self.vip.clone(),
            backend: self.backend.clone(),
            client: self.client,
            reason: self.reason,
            every: self.every,
            count: self.count,
        }
    }
}

pub(super) fn run(client: Client, args: &TraceArgs) -> anyhow::Result<()> {
    let colour = io::stdout().is_terminal() && colour_wanted();
    let mut tracer = client.trace(&args.request())?;
    stop_at_signals(tracer.stopper()?)?;
    loop {
        match tracer.receive()? {
            Ok(event) if args.json => print(&line(&Response::Event(Box::new(event)))?)?,
            Ok(event) => print(&render(&event, colour))?,
            Err(traced) if args.json => return print(&line(&Response::Traced(traced))?),
            Err(traced) => return print(&summary(&traced)),
        }
    }
}

/// Lets Ctrl-C end what streams rather than the process, so that what was lost can still be said.
pub(super) fn stop_at_signals(stop: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    signals.thread_block()?;
    std::thread::spawn(move || {
        let _ = signals.wait();
        stop();
        // A second one is meant for the process.
        let _ = signals.thread_unblock();
        loop {
            std::thread::park();
        }
    });
    Ok(())
}

fn line(response: &Response) -> anyhow::Result<String> {
    Ok(serde_json::to_string(response)? + "\n")
}

fn render(event: &FlowEvent, colour: bool) -> String {
    let head = headline(event);
    if event.candidates.is_empty() {
        return head;
    }
    let candidates = table(&columns(), event.candidates.iter(), colour);
    let indented = candidates.lines().map(|line| format!("    {line}").trim_end().to_owned() + "\n");
    head + &indented.collect::<String>()
}

fn headline(event: &FlowEvent) -> String {
    let FlowEvent { vip, client, reason, policy, .. } = event;
    let at = humantime::format_rfc3339_micros(
        UNIX_EPOCH + Duration::try_from_secs_f64(event.unix_seconds).unwrap_or_default(),
    );
    let backend = event.backend.as_deref().unwrap_or("nobody");
    let mut text = match event.outcome {
        Outcome::Opened => format!("{at}  {client} -> {vip} -> {backend}  {reason}, {policy}"),
        Outcome::Refused => format!("{at}  {client} -> {vip}, dropped  {reason}, {policy}"),
        Outcome::PathMtu => {
            let mtu = event.mtu.unwrap_or_default();
            return format!("{at}  {vip} -> {backend}  packets of up to {mtu} bytes get there\n");
        }
    };
    if let Some(why) = event.why {
        text += &format!(": {why}");
    }
    if event.governor_silent {
        text += "; corrections do not count: the governor is silent";
    }
    if event.moved {
        text += "; loads changed during the pick";
    }
    // What came from elsewhere must not move the cursor.
    text.replace(char::is_control, "?") + "\n"
}

pub(super) fn columns<'a>() -> Vec<Column<&'a Candidate>> {
    vec![
        words("PICK", |it| cell(if it.picked { "*" } else { "" })),
        words("BACKEND", |it| cell(&it.backend)),
        numbers("LOAD", |it| cell(format!("{:.2}", it.load))),
        numbers("OPENING", |it| cell(it.opening)),
        numbers("AWAITING", |it| cell(it.awaiting)),
        numbers("STREAMING", |it| cell(it.streaming)),
        numbers("IDLE", |it| cell(it.idle)),
        numbers("COST", |it| cell(format!("{:.2}", it.cost))),
        numbers("CORRECTION", |it| cell(format!("{:+.1}", it.correction))),
        numbers("LIMIT", |it| cell_or_nothing(it.limit)),
        words("BUT", but),
    ]
}

/// What spoke against a candidate.
fn but(candidate: &Candidate) -> Cell {
    let mut reasons: Vec<String> = candidate.lacks.iter().map(ToString::to_string).collect();
    reasons.extend(candidate.at_limit.then(|| "at its limit".to_owned()));
    reasons.extend(candidate.over_bound.then(|| "over its bound".to_owned()));
    let colour = if candidate.lacks.is_empty() { Colour::Plain } else { Colour::Yellow };
    Cell::coloured(reasons.join(", "), colour)
}

fn summary(Traced { events, lost }: &Traced) -> String {
    let plural = if *events == 1 { "" } else { "s" };
    let lost = match (lost.kernel, lost.reader) {
        (0, 0) => "none lost".to_owned(),
        (kernel, reader) => format!("{kernel} lost in the kernel, {reader} on the way here"),
    };
    format!("{events} event{plural}, {lost}\n")
}

#[cfg(test)]
mod tests {
    use super::{network, render, summary};
    use crate::api::{Candidate, FlowEvent, Lack, Lost, Outcome, Traced, Why};
    use crate::config::PolicyKind;

    fn candidate(backend: &str, load: f64) -> Candidate {
        Candidate {
            backend: backend.to_owned(),
            picked: false,
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

    fn event() -> FlowEvent {
        FlowEvent {
            unix_seconds: 1_700_000_000.25,
            outcome: Outcome::Opened,
            reason: "new_flow".to_owned(),
            vip: "chat".to_owned(),
            client: "192.0.2.7:40000".parse().unwrap(),
            backend: Some("gpu-0".to_owned()),
            mtu: None,
            policy: PolicyKind::Least,
            why: Some(Why::Least),
            hash: "0123456789abcdef".to_owned(),
            cpu: 1,
            governor_silent: false,
            moved: false,
            candidates: vec![
                Candidate { picked: true, ..candidate("gpu-0", 31.5) },
                Candidate { limit: Some(32), at_limit: true, ..candidate("gpu-1", 40.0) },
                Candidate { lacks: vec![Lack::Healthy, Lack::Reachable], ..candidate("gpu-2", 1.0) },
            ],
        }
    }

    #[test]
    fn an_event_is_a_line_and_a_table_of_its_candidates() {
        let expected = "\
2023-11-14T22:13:20.250000Z  192.0.2.7:40000 -> chat -> gpu-0  new_flow, least: the smallest load
    PICK  BACKEND   LOAD  OPENING  AWAITING  STREAMING  IDLE  COST  CORRECTION  LIMIT  BUT
    *     gpu-0    31.50        0         2         30     4  1.25        -2.5      -
          gpu-1    40.00        0         2         30     4  1.25        -2.5     32  at its limit
          gpu-2     1.00        0         2         30     4  1.25        -2.5      -  down, no next hop
";
        assert_eq!(render(&event(), false), expected);
    }

    #[test]
    fn what_is_out_of_the_ordinary_is_said() {
        let silent = FlowEvent { governor_silent: true, moved: true, candidates: Vec::new(), ..event() };
        let text = render(&silent, false);
        assert!(text.ends_with(
            "; corrections do not count: the governor is silent; loads changed during the pick\n"
        ));
        let refused = FlowEvent {
            outcome: Outcome::Refused,
            reason: "no_backend".to_owned(),
            backend: None,
            why: None,
            vip: "ch\x1bat".to_owned(),
            candidates: Vec::new(),
            ..event()
        };
        let expected = "2023-11-14T22:13:20.250000Z  192.0.2.7:40000 -> ch?at, dropped  no_backend, least\n";
        assert_eq!(render(&refused, false), expected);
    }

    #[test]
    fn the_end_counts_what_was_lost() {
        let end = |events, kernel, reader| summary(&Traced { events, lost: Lost { kernel, reader } });
        assert_eq!(end(1, 0, 0), "1 event, none lost\n");
        assert_eq!(end(7, 0, 5), "7 events, 0 lost in the kernel, 5 on the way here\n");
    }

    #[test]
    fn a_client_is_an_address_or_a_network() {
        for (text, expected) in [
            ("192.0.2.7", Some("192.0.2.7/32")),
            ("2001:db8::/32", Some("2001:db8::/32")),
            ("192.0.2.0/33", None),
            ("chat", None),
        ] {
            assert_eq!(network(text).ok().map(|net| net.to_string()).as_deref(), expected, "{text}");
        }
    }
}
