//! `loadgen`: sends load to an OpenAI-compatible server and reports what clients saw.

use std::{fs, net::IpAddr, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::{Args as ClapArgs, Parser};
use guidevane_tests::load::{
    self, Direct, Live, LoadOptions, Quantiles, Report, Traffic, lengths::Lengths, tls, trace, traffic::Sizes,
};
use indicatif::{ProgressBar, ProgressStyle};

/// How often the progress line changes.
const REFRESH: Duration = Duration::from_millis(250);

/// Sends load to an OpenAI-compatible server and reports what its clients saw.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Server: http[s]://HOST[:PORT][/PATH]; the path is /v1/completions if there is none.
    #[arg(long)]
    url: String,
    #[command(flatten)]
    traffic: TrafficArgs,
    /// Divides the times of the trace.
    #[arg(long, default_value_t = 1.0, requires = "trace", value_parser = above_zero)]
    compress: f64,
    /// Seconds to measure; with a trace, until its last request has ended.
    #[arg(long, value_parser = seconds)]
    seconds: Option<Duration>,
    /// Seconds before that.
    #[arg(long, default_value = "0", value_parser = seconds)]
    warm_up: Duration,
    /// Keeps connections open between requests.
    #[arg(long)]
    keep_alive: bool,
    /// Prompt lengths: TOKENS, geometric:MEAN or lognormal:MEDIAN:SIGMA.
    #[arg(long, default_value = "512")]
    prompt_tokens: Lengths,
    /// Output lengths, likewise.
    #[arg(long, default_value = "128")]
    output_tokens: Lengths,
    /// Seconds allowed for a whole request.
    #[arg(long, default_value = "300", value_parser = seconds)]
    timeout: Duration,
    /// Seed of lengths and arrivals: the same seed is the same traffic.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Source address of connections.
    #[arg(long)]
    bind: Option<IpAddr>,
    /// Model to ask for.
    #[arg(long)]
    model: Option<String>,
    /// Writes the report as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Trusts any certificate.
    #[arg(long)]
    insecure: bool,
    /// Trusts the certificates in this PEM file.
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    ca: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
struct TrafficArgs {
    /// Closed loop: this many clients, each with one request at a time.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    clients: Option<u32>,
    /// Open loop: requests per second, at random.
    #[arg(long, value_parser = above_zero)]
    rate: Option<f64>,
    /// Open loop: a trace in Azure's CSV or Mooncake's JSON lines.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

fn above_zero(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("not a number above 0".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_invalid| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

impl Args {
    fn options(&self) -> anyhow::Result<LoadOptions> {
        let traffic = match &self.traffic {
            TrafficArgs { trace: Some(path), .. } => Traffic::Trace(trace::read(path, self.compress)?.into()),
            TrafficArgs { rate: Some(rate), .. } => Traffic::Poisson { rate: *rate },
            TrafficArgs { clients, .. } => Traffic::Closed { clients: clients.unwrap_or(1) as usize },
        };
        let mut options = LoadOptions::new(&self.url, traffic);
        if self.seconds.is_some() || matches!(options.traffic, Traffic::Trace(_)) {
            options.duration = self.seconds;
        }
        options.sizes = Sizes { prompt: self.prompt_tokens, output: self.output_tokens, seed: self.seed };
        options.warm_up = self.warm_up;
        options.timeout = self.timeout;
        options.keep_alive = self.keep_alive;
        options.model = self.model.clone();
        options.tls = match &self.ca {
            Some(path) => Some(tls::trusting_file(path)?),
            None if self.insecure => Some(tls::insecure()?),
            None => None,
        };
        Ok(options)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let options = args.options()?;
    let live = Live::default();
    let bar = progress_bar(&options)?;
    let view = tokio::spawn(show(bar.clone(), live.clone()));
    let report = load::run(options, Direct { bind: args.bind }, live).await;
    view.abort();
    bar.finish_and_clear();
    let report = report?;
    print!("{}", table(&report));
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report)?;
        fs::write(path, json).with_context(|| format!("cannot write the report to {}", path.display()))?;
    }
    Ok(())
}

fn progress_bar(options: &LoadOptions) -> anyhow::Result<ProgressBar> {
    Ok(match options.duration {
        Some(duration) => {
            let style = ProgressStyle::with_template("{elapsed_precise} [{bar:30}] {msg}")?;
            let total = (options.warm_up + duration).as_millis() as u64;
            ProgressBar::new(total).with_style(style.progress_chars("=> "))
        }
        None => ProgressBar::new_spinner()
            .with_style(ProgressStyle::with_template("{elapsed_precise} {spinner} {msg}")?),
    })
}

async fn show(bar: ProgressBar, live: Live) {
    let mut before = live.snapshot();
    loop {
        tokio::time::sleep(REFRESH).await;
        let now = live.snapshot();
        let rate = now.tokens_per_second_since(&before);
        bar.set_position(bar.elapsed().as_millis() as u64);
        bar.set_message(format!(
            "{} finished, {} failed, {} in flight, {rate:.0} tokens/s",
            now.finished, now.failed, now.in_flight
        ));
        before = now;
    }
}

fn table(report: &Report) -> String {
    let mut text = format!(
        "requests {}, failed {}, unfinished {}, {:.1} output tokens/s over {:.1} s\n",
        report.requests, report.failed, report.unfinished, report.output_tokens_per_second, report.seconds
    );
    for (kind, count) in &report.failures {
        text += &format!("  {kind}: {count}\n");
    }
    text += &format!("{:<24}{:>10}{:>10}{:>10}{:>10}\n", "seconds", "mean", "p50", "p90", "p99");
    let rows = [
        ("time to first token", report.ttft_seconds),
        ("latency", report.latency_seconds),
        ("between tokens", report.inter_token_seconds),
    ];
    for (name, times) in rows {
        text += &match times {
            None => format!("{name:<24}{:>10}\n", "none"),
            Some(Quantiles { mean, p50, p90, p99 }) => {
                format!("{name:<24}{mean:>10.4}{p50:>10.4}{p90:>10.4}{p99:>10.4}\n")
            }
        };
    }
    text
}
