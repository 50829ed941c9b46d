//! What is printed, and what is written as JSON.

use serde::Serialize;

use super::{
    bed::Program,
    cases::Case,
    measure::{Figure, Measured, Mix},
};

/// The JSON of a whole run, in nanoseconds a packet.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The harness alone, pushing nothing.
    pub harness_ns: i64,
    /// Every case.
    pub cases: Vec<Line>,
}

/// The JSON of a case, in nanoseconds a packet.
#[derive(Debug, Serialize)]
pub struct Line {
    /// The case.
    pub name: String,
    /// Its name in the kernel's own benchmark.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_name: Option<&'static str>,
    /// Ours, harness included.
    pub gross_ns: i64,
    /// Ours.
    pub net_ns: i64,
    /// Ours, the fastest and the slowest round.
    pub net_range_ns: [i64; 2],
    /// The reference.
    pub reference_net_ns: i64,
    /// The reference, the fastest and the slowest round.
    pub reference_net_range_ns: [i64; 2],
    /// The harness of this case.
    pub case_harness_ns: i64,
    /// What happened to our packets, in per cent.
    pub mix: serde_json::Map<String, serde_json::Value>,
    /// What happened to the reference's packets, in per cent.
    pub reference_mix: serde_json::Map<String, serde_json::Value>,
    /// What was not as the name says.
    pub wrong: Vec<String>,
}

impl Line {
    /// Of a case that was measured.
    pub fn new(case: &Case, measured: &Measured) -> Self {
        let harness = measured.harness.median;
        let (ours, reference) = (measured.ours.net(harness), measured.reference.net(harness));
        Self {
            name: case.name.clone(),
            kernel_name: case.kernel_name,
            gross_ns: measured.ours.median,
            net_ns: ours.median,
            net_range_ns: [ours.least, ours.most],
            reference_net_ns: reference.median,
            reference_net_range_ns: [reference.least, reference.most],
            case_harness_ns: harness,
            mix: object(&measured.mix),
            reference_mix: object(&measured.reference_mix),
            wrong: measured.wrong.clone(),
        }
    }
}

fn object(mix: &Mix) -> serde_json::Map<String, serde_json::Value> {
    mix.0.iter().map(|&(name, share)| (name.to_owned(), share.into())).collect()
}

/// The heading of the table, and what was loaded.
pub fn heading(programs: &[Program], nop: Figure, harness: Figure) -> String {
    let mut text = format!("{:<18} {:>12} {:>12}\n", "program", "instructions", "verified");
    for program in programs {
        text += &format!("{:<18} {:>12} {:>12}\n", program.name, program.instructions, program.verified);
    }
    text += &format!(
        "\nempty program {} ns, harness {} ns; all below in ns a packet, net of the harness\n\n",
        nop.median, harness.median
    );
    text + &format!(
        "{:<32} {:>5} {:>15} {:>21} {:>5}  {}",
        "case", "gross", "net", "reference net", "ratio", "what happened | to the reference's packets"
    )
}

/// A line of the table.
pub fn line(case: &Case, measured: &Measured) -> String {
    let harness = measured.harness.median;
    let (ours, reference) = (measured.ours.net(harness), measured.reference.net(harness));
    let range = |figure: Figure| format!("{} ({}..{})", figure.median, figure.least, figure.most);
    let mut text = format!(
        "{:<32} {:>5} {:>15} {:>21} {:>5.2}  {} | {}",
        case.name,
        measured.ours.median,
        range(ours),
        range(reference),
        ours.median as f64 / reference.median as f64,
        shares(&measured.mix),
        shares(&measured.reference_mix),
    );
    if let Some(name) = case.kernel_name {
        text += &format!("  [{name}]");
    }
    for wrong in &measured.wrong {
        text += &format!("\n    WRONG: {wrong}");
    }
    text
}

fn shares(mix: &Mix) -> String {
    let share = |(name, share): &(&str, f64)| format!("{name} {share:.1} %");
    mix.0.iter().map(share).collect::<Vec<_>>().join(", ")
}
