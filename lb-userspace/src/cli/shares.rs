//! `table`: which backends a VIP's Maglev table leads to.

use clap::Args;

use super::table::{cell, numbers, table, words};
use super::view::View;
use crate::api::{BackendSlots, Client, TableShares};

#[derive(Debug, Args)]
pub(super) struct TableArgs {
    /// Name of the VIP
    vip: String,
    #[command(flatten)]
    view: View,
}

pub(super) fn run(mut client: Client, args: &TableArgs) -> anyhow::Result<()> {
    args.view.show(|| Ok(client.table(&args.vip)?), |shares, _, colour| render(shares, colour))
}

fn render(shares: &TableShares, colour: bool) -> String {
    let TableShares { vip, slots, moved, backends } = shares;
    let columns = [
        words("BACKEND", |(backend, _): (&BackendSlots, u32)| cell(&backend.backend)),
        numbers("SLOTS", |(backend, _)| cell(backend.slots)),
        numbers("SHARE_PCT", |(backend, all)| cell(percent(backend.slots, all))),
    ];
    let moved = match moved {
        Some(moved) => format!("{moved} ({} %) moved with the last change", percent(*moved, *slots)),
        None => "how many moved with the last change is not known".to_owned(),
    };
    let head = format!("{vip}: {slots} slots; {moved}\n").replace(|c: char| c.is_control() && c != '\n', "?");
    format!("{head}\n{}", table(&columns, backends.iter().map(|backend| (backend, *slots)), colour))
}

/// A part of all in per cent; 0 of nothing.
fn percent(part: u32, all: u32) -> String {
    format!("{:.1}", f64::from(part) * 100.0 / f64::from(all.max(1)))
}
