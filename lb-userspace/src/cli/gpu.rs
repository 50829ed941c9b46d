//! `guidevane gpu`: what the driver of this host's GPUs tells, without a daemon.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use serde::Serialize;

use super::table::{Cell, Colour, Column, cell, cell_or_nothing, numbers, table, words};
use super::view::Form;
use crate::config::Nvml;
use crate::gpu::{
    Cost, Driver,
    nvml::Library,
    survey::{Survey, Surveyed, survey},
};

#[derive(Debug, Args)]
pub(super) struct GpuArgs {
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
    /// The driver's library: a path, or a name that the dynamic linker finds
    #[arg(long, value_name = "LIBRARY", default_value = Nvml::LIBRARY)]
    library: PathBuf,
}

/// All that is shown.
#[derive(Debug, Serialize)]
struct Shown {
    driver_version: Option<String>,
    nvml_version: Option<String>,
    #[serde(flatten)]
    survey: Survey,
    calls: u64,
    spent_seconds: f64,
}

pub(super) fn run(args: &GpuArgs, colour: bool) -> anyhow::Result<()> {
    let cost = Arc::new(Cost::default());
    let library = Library::open(&args.library, Arc::clone(&cost))?;
    let (driver_version, nvml_version) = library.versions();
    let mut session = library.session();
    let survey = survey(&mut session as &mut dyn Driver)?;
    let (calls, spent, _) = cost.so_far();
    let shown = Shown { driver_version, nvml_version, survey, calls, spent_seconds: spent.as_secs_f64() };
    super::print(&match args.output {
        Form::Table => render(&shown, colour),
        Form::Json => serde_json::to_string_pretty(&shown)? + "\n",
    })
}

fn render(shown: &Shown, colour: bool) -> String {
    let columns: [Column<&Surveyed>; 12] = [
        numbers("GPU", |gpu| cell(gpu.unit.index)),
        words("UUID", |gpu| cell(&gpu.unit.uuid)),
        words("NAME", |gpu| cell(&gpu.unit.name)),
        numbers("BUSY_PCT", |gpu| {
            let busy = gpu.readings.utilization.as_ref().map(|busy| busy.value);
            let counted = gpu.readings.gpm.as_ref().and_then(|gpm| gpm.value.graphics);
            cell_or_nothing(busy.or(counted).map(in_percent))
        }),
        numbers("SM_MHZ", |gpu| {
            cell_or_nothing(gpu.readings.clocks.as_ref().map(|clocks| clocks.value.sm_mhz))
        }),
        numbers("MAX_MHZ", |gpu| {
            cell_or_nothing(gpu.readings.clocks.as_ref().map(|clocks| clocks.value.sm_max_mhz))
        }),
        numbers("MEMORY_PCT", |gpu| {
            cell_or_nothing(gpu.readings.memory.as_ref().map(|memory| in_percent(memory.value.part())))
        }),
        numbers("POWER_W", |gpu| {
            cell_or_nothing(gpu.readings.power.as_ref().map(|power| format!("{:.0}", power.value.draw_watts)))
        }),
        numbers("TEMP_C", |gpu| {
            cell_or_nothing(gpu.readings.temperature_celsius.as_ref().map(|degrees| degrees.value))
        }),
        numbers("ECC", |gpu| cell_or_nothing(gpu.readings.ecc_uncorrected.as_ref().map(|count| count.value))),
        numbers("PROCESSES", |gpu| {
            cell_or_nothing(gpu.readings.processes.as_ref().map(|processes| processes.value.len()))
        }),
        words("HELD_DOWN_BY", held_down_by),
    ];
    let version = shown.driver_version.as_deref().unwrap_or("of unknown version");
    let milliseconds = shown.spent_seconds * 1000.0;
    let mut text = format!("driver {version}; {} calls in {milliseconds:.1} ms\n\n", shown.calls);
    text += &table(&columns, shown.survey.gpus.iter(), colour);
    for (index, problem) in &shown.survey.silent {
        text += &format!("GPU {index}: {problem}\n");
    }
    text
}

fn held_down_by(gpu: &Surveyed) -> Cell {
    let Some(clocks) = gpu.readings.clocks.as_ref().map(|clocks| clocks.value) else {
        return cell_or_nothing(None::<&str>);
    };
    match clocks.reasons_in_words().join(", ") {
        none if none.is_empty() => cell_or_nothing(None::<&str>),
        reasons if clocks.is_throttled() => Cell::coloured(reasons, Colour::Red),
        reasons => cell(reasons),
    }
}

fn in_percent(part: f64) -> String {
    format!("{:.0}", part * 100.0)
}
