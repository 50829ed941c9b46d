//! `guidevane decap`: its grammar, what it says while it runs, and its counts. Counts go to standard output,
//! everything else to standard error.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal as _, Write as _};
use std::net::IpAddr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use lb_common::decap::{Action, Count};
use serde::Serialize;

use super::status::reasons;
use super::table::{cell, numbers, repaint, table, words};
use super::view::Form;
use super::{colour_wanted, print};
use crate::config::XdpMode;
use crate::decap::{self, Counts, Event, Mode, Options, Prefix};

const AFTER_HELP: &str = "\
It takes the outer header off IPIP, IP6IP6, IPv4 in IPv6, IPv6 in IPv4 and GUE (variant 1, UDP port 6080) and
hands the inner packet to the host's stack, until SIGTERM or SIGINT. All else passes untouched.

The backend needs:
  - the VIP on its loopback, so that the inner packet is its own: `ip address add VIP/32 dev lo`
  - no strict reverse path filter where the route to clients leads elsewhere: their packets come in on IF.
    `sysctl -w net.ipv4.conf.IF.rp_filter=2` makes it loose
  - a lower MTU or `advmss` on its route to clients, unless the network carries the outer header on top of the MTU";

/// Time from one picture of `--watch` to the next.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct DecapArgs {
    /// Interface on which tunnelled packets come in
    #[arg(long, value_name = "IF")]
    interface: String,
    /// Where in the kernel the program runs
    #[arg(long, value_enum, default_value_t = ModeArg::Auto)]
    mode: ModeArg,
    /// Outer destination to accept (repeatable) instead of the interface's own addresses
    ///
    /// Needed where tunnels end at an address of another interface, for one of a VLAN on this interface. Without
    /// it the interface's addresses are followed as they come and go.
    #[arg(long = "local", value_name = "ADDR")]
    locals: Vec<IpAddr>,
    /// Accept only outer sources in this prefix (repeatable)
    ///
    /// Give the balancers' outer source prefixes. Without it, everyone who can send to an outer destination can
    /// inject packets of any inner source past the filters in front of this host.
    #[arg(long, value_name = "PREFIX")]
    from: Vec<Prefix>,
    /// Form of the counts
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
    /// Show the counts every second, not only at the end; with `-o json`, one object a line
    #[arg(long)]
    watch: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum ModeArg {
    /// In the driver where it can, else in the network stack
    Auto,
    /// In the driver
    Native,
    /// In the network stack: any interface, but slower
    Generic,
}

/// The counts for programs.
#[derive(Debug, Serialize)]
struct Report<'a> {
    interface: &'a str,
    mode: XdpMode,
    vips: Vec<VipReport>,
    /// Inner packets to VIPs beyond those that are counted each for itself.
    other_vips: VipCount,
    passes: BTreeMap<String, u64>,
    drops: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
struct VipReport {
    address: IpAddr,
    #[serde(flatten)]
    count: VipCount,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct VipCount {
    packets: u64,
    bytes: u64,
}

impl From<Count> for VipCount {
    fn from(Count { packets, bytes }: Count) -> Self {
        Self { packets, bytes }
    }
}

impl<'a> Report<'a> {
    fn new(interface: &'a str, mode: XdpMode, counts: &Counts) -> Self {
        let with = |action: Action| {
            let reasons = counts.reasons.iter().filter(|(reason, _)| reason.action() == action);
            reasons.map(|(reason, &packets)| (reason.name().to_owned(), packets)).collect()
        };
        let vip = |(&address, &count): (&IpAddr, &Count)| VipReport { address, count: count.into() };
        Self {
            interface,
            mode,
            vips: counts.vips.iter().map(vip).collect(),
            other_vips: counts.others.into(),
            passes: with(Action::Pass),
            drops: with(Action::Drop),
        }
    }

    fn table(&self, colour: bool) -> String {
        let mut rows: Vec<(String, VipCount)> =
            self.vips.iter().map(|vip| (vip.address.to_string(), vip.count)).collect();
        if self.other_vips.packets > 0 {
            rows.push(("others".to_owned(), self.other_vips));
        }
        let columns = [
            words("VIP", |(vip, _): &(String, VipCount)| cell(vip)),
            numbers("PACKETS", |(_, count)| cell(count.packets)),
            numbers("BYTES", |(_, count)| cell(count.bytes)),
        ];
        let mut parts = vec![table(&columns, rows.iter(), colour)];
        parts.extend(reasons("DROP_REASON", &self.drops, colour));
        parts.extend(reasons("PASS_REASON", &self.passes, colour));
        parts.join("\n")
    }
}

pub(super) fn run(args: &DecapArgs) -> anyhow::Result<()> {
    let options = Options {
        interface: args.interface.clone(),
        mode: match args.mode {
            ModeArg::Auto => Mode::Auto,
            ModeArg::Native => Mode::Native,
            ModeArg::Generic => Mode::Generic,
        },
        locals: args.locals.clone(),
        from: args.from.clone(),
        every: args.watch.then_some(WATCH_INTERVAL),
    };
    decap::run(&options, |event| tell(args, &event))
}

fn tell(args: &DecapArgs, event: &Event<'_>) -> anyhow::Result<()> {
    let interface = &args.interface;
    match event {
        Event::FellBack(refusal) => say(&format!("{refusal}; falling back to generic mode, which is slower")),
        Event::Ready(mode, locals) => {
            let from = if args.from.is_empty() { "any source".to_owned() } else { list(&args.from) };
            say(&format!("ready: on {interface} in {mode} mode, for {}, from {from}", named(locals)));
        }
        Event::Moved(locals) => say(&format!("{interface} has other addresses: now for {}", named(locals))),
        Event::Report(mode, counts) => return show(args, &Report::new(interface, *mode, counts)),
    }
    Ok(())
}

fn show(args: &DecapArgs, report: &Report<'_>) -> anyhow::Result<()> {
    let terminal = io::stdout().is_terminal();
    let picture = match args.output {
        Form::Table => report.table(terminal && colour_wanted()),
        Form::Json if args.watch => serde_json::to_string(report)? + "\n",
        Form::Json => serde_json::to_string_pretty(report)? + "\n",
    };
    match args.output {
        Form::Table if args.watch && terminal => print(&repaint(&picture)),
        Form::Table if args.watch => print(&format!("{picture}\n")),
        _ => print(&picture),
    }
}

/// One line for whoever reads along; that nobody does stops nothing.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn named(locals: &BTreeSet<IpAddr>) -> String {
    match locals.is_empty() {
        true => "no address, so nothing ends here until the interface has one".to_owned(),
        false => list(locals),
    }
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use lb_common::decap::{Count, Reason};

    use super::Report;
    use crate::config::XdpMode;
    use crate::decap::Counts;

    fn counts() -> Counts {
        let reasons = [(Reason::Decapsulated, 12), (Reason::OtherSource, 3), (Reason::Truncated, 1)];
        let vip = |text: &str| text.parse().expect("an address");
        Counts {
            reasons: reasons.into(),
            vips: [
                (vip("10.0.0.10"), Count { packets: 7, bytes: 700 }),
                (vip("2001:db8::10"), Count { packets: 4, bytes: 4000 }),
            ]
            .into(),
            others: Count { packets: 1, bytes: 40 },
        }
    }

    #[test]
    fn the_table_shows_vips_and_the_reasons_that_came_up() {
        let expected = "\
VIP           PACKETS  BYTES
10.0.0.10           7    700
2001:db8::10        4   4000
others              1     40

DROP_REASON  PACKETS
truncated          1

PASS_REASON   PACKETS
other_source        3
";
        assert_eq!(Report::new("eth0", XdpMode::Native, &counts()).table(false), expected);
    }

    #[test]
    fn programs_get_everything() {
        let report = serde_json::to_value(Report::new("eth0", XdpMode::Generic, &counts())).expect("JSON");
        let expected = serde_json::json!({
            "interface": "eth0",
            "mode": "generic",
            "vips": [
                { "address": "10.0.0.10", "packets": 7, "bytes": 700 },
                { "address": "2001:db8::10", "packets": 4, "bytes": 4000 },
            ],
            "other_vips": { "packets": 1, "bytes": 40 },
            "passes": { "other_source": 3 },
            "drops": { "truncated": 1 },
        });
        assert_eq!(report, expected);
    }
}
