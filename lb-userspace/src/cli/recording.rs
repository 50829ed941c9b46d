//! `guidevane sim --record` and `--replay`: from a daemon to a file, and what another policy makes of the file.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;

use super::{
    print,
    sim::{chosen, period},
    trace::stop_at_signals,
};
use crate::{
    api::{Client, RecordRequest},
    recording::{self, End, Line},
    sim::replay::{self, Replay, Way},
};

#[derive(Debug, Args)]
pub(super) struct RecordingArgs {
    /// Record what a running daemon's governor sees and writes, until Ctrl-C
    #[arg(long, value_name = "FILE", conflicts_with_all = ["trace", "replay"])]
    pub(super) record: Option<PathBuf>,
    /// Ask what the policies would have made of a recording
    #[arg(long, value_name = "FILE", conflicts_with = "trace")]
    pub(super) replay: Option<PathBuf>,
    /// With --record: end after this time
    #[arg(long = "for", value_name = "TIME", conflicts_with_all = ["trace", "replay"], value_parser = period)]
    duration: Option<Duration>,
    /// With --record: time from one sample to the next; the governor's tick at least
    #[arg(long, value_name = "TIME", conflicts_with_all = ["trace", "replay"], default_value = "100ms", value_parser = interval)]
    every: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let time = period(text)?;
    if time < Duration::from_millis(1) { Err("must be 1ms at least".to_owned()) } else { Ok(time) }
}

pub(super) fn record(client: Client, path: &Path, args: &RecordingArgs) -> anyhow::Result<()> {
    let every_ms = args.every.as_millis() as u64;
    // The first sample begins the time, and is not in it.
    let count = args.duration.map(|time| time.as_millis() as u64 / every_ms + 1);
    let mut recorder = client.record(&RecordRequest { every_ms, count })?;
    stop_at_signals(recorder.stopper()?)?;
    let failed = || format!("write {}", path.display());
    let mut file = BufWriter::new(File::create(path).with_context(failed)?);
    loop {
        let line = recorder.receive()?;
        let text = serde_json::to_string(&line)? + "\n";
        // Line by line: what there is can be read while more comes.
        file.write_all(text.as_bytes()).and_then(|()| file.flush()).with_context(failed)?;
        if let Line::Recorded(End { samples, lost }) = line {
            let plural = if samples == 1 { "" } else { "s" };
            return print(&format!("{}: {samples} sample{plural}, {lost} lost\n", path.display()));
        }
    }
}

pub(super) fn replay(path: &Path, policies: &[String]) -> anyhow::Result<Replay> {
    let ways = chosen(policies, &Way::ALL)?;
    Ok(replay::replay(&recording::read(path)?, &ways))
}
