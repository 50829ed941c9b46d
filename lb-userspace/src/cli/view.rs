//! How every reading command shows what it read: its form, and again and again if that is wanted.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{colour_wanted, print, table};

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
pub(super) enum Output {
    /// The columns that matter most
    Table,
    /// All columns
    Wide,
    /// Everything, for programs
    Json,
}

/// The same of commands that have no more columns than they show.
#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
pub(super) enum Form {
    /// For people
    Table,
    /// Everything, for programs
    Json,
}

#[derive(Debug, Args)]
pub(super) struct View {
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Show it again after each TIME, a second if none is given; with `-o json`, one object a line
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "1s", value_parser = pause)]
    watch: Option<Duration>,
}

/// Shortest time between two pictures: the daemon has other work.
const SHORTEST: Duration = Duration::from_millis(100);

fn pause(text: &str) -> Result<Duration, String> {
    let pause = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if pause < SHORTEST {
        return Err(format!("it must be at least {}", humantime::format_duration(SHORTEST)));
    }
    Ok(pause)
}

impl View {
    /// Shows what `read` gives, in the words of `render` (whose arguments are whether wide, and whether in colour) or
    /// as JSON.
    pub fn show<T: Serialize>(
        &self,
        mut read: impl FnMut() -> anyhow::Result<T>,
        render: impl Fn(&T, bool, bool) -> String,
    ) -> anyhow::Result<()> {
        let terminal = io::stdout().is_terminal();
        let mut picture = || {
            let shown = read()?;
            anyhow::Ok(match self.output {
                Output::Json if self.watch.is_some() => serde_json::to_string(&shown)? + "\n",
                Output::Json => serde_json::to_string_pretty(&shown)? + "\n",
                form => render(&shown, form == Output::Wide, terminal && colour_wanted()),
            })
        };
        let Some(pause) = self.watch else { return print(&picture()?) };
        loop {
            let picture = picture()?;
            match self.output {
                Output::Json => print(&picture)?,
                _ if terminal => print(&table::repaint(&picture))?,
                _ => print(&format!("{picture}\n"))?,
            }
            std::thread::sleep(pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::pause;

    #[test]
    fn a_pause_is_a_time_that_leaves_the_daemon_in_peace() {
        for (text, expected) in [
            ("1s", Ok(Duration::from_secs(1))),
            ("100ms", Ok(Duration::from_millis(100))),
            ("2m", Ok(Duration::from_secs(120))),
            ("99ms", Err("it must be at least 100ms".to_owned())),
        ] {
            assert_eq!(pause(text), expected, "{text}");
        }
        assert!(pause("soon").is_err());
    }
}
