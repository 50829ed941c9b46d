//! The picture of a run under way: repainted on a terminal, a line now and then elsewhere.

use std::{
    fmt,
    io::{self, IsTerminal as _},
    time::Duration,
};

use guidevane::api::Backend;
use guidevane_tests::load::LiveSnapshot;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::contest::Contestant;

/// Time between two lines where nothing can be repainted.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// A moment of a run.
pub struct Picture<'a> {
    /// Time since the first request.
    pub elapsed: Duration,
    /// What clients had seen at the last picture.
    pub before: LiveSnapshot,
    /// What they have seen by now.
    pub now: LiveSnapshot,
    /// The daemon's view of the servers.
    pub backends: Vec<Backend>,
    /// Whether a server is loaded from outside, by its place.
    pub loaded: &'a dyn Fn(usize) -> bool,
}

/// Where pictures of one run go.
pub struct View {
    contestant: Contestant,
    bar: Option<ProgressBar>,
    lines: u32,
    last: String,
}

impl View {
    /// A view without a picture yet.
    pub fn new(contestant: Contestant) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{msg}").expect("the template is well formed");
            bar.with_style(style).with_message(format!("{contestant}: starting"))
        });
        Self { contestant, bar, lines: 0, last: String::new() }
    }

    /// Shows a picture.
    pub fn show(&mut self, picture: &Picture<'_>) {
        let headline = format!("{:<18}{picture}", self.contestant);
        let Some(bar) = &self.bar else {
            if picture.elapsed >= LINE_EVERY * self.lines {
                self.lines += 1;
                println!("{headline}");
            }
            self.last = picture.backends();
            return;
        };
        self.last = format!("{headline}\n{}", picture.backends());
        bar.set_message(self.last.clone());
    }

    /// Leaves the last picture on the screen.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        println!("{}", self.last);
    }
}

impl fmt::Display for Picture<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { elapsed, now, .. } = self;
        let rate = now.tokens_per_second_since(&self.before);
        write!(
            out,
            "{:>6.1} s  {rate:>7.0} tokens/s  {:>4} in flight  {:>6} finished  {} failed",
            elapsed.as_secs_f64(),
            now.in_flight,
            now.finished,
            now.failed
        )
    }
}

impl Picture<'_> {
    /// A line for each server, with a heading.
    fn backends(&self) -> String {
        let mut text = format!(
            "  {:<11}{:>6}{:>10}{:>11}{:>7}{:>7}{:>9}",
            "server", "live", "awaiting", "streaming", "limit", "cost", "share"
        );
        for (place, backend) in self.backends.iter().enumerate() {
            let Backend { name, opening, awaiting, streaming, idle, cost, limit, share, .. } = backend;
            let live = opening + awaiting + streaming + idle;
            let limit = limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string());
            let share = share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0));
            let loaded = if (self.loaded)(place) { "  loaded from outside" } else { "" };
            text += &format!(
                "\n  {name:<11}{live:>6}{awaiting:>10}{streaming:>11}{limit:>7}{cost:>7.2}{share:>9}{loaded}"
            );
        }
        text
    }
}
