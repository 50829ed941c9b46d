//! A study as a picture.

use std::fmt::Write as _;

use super::{Times, report::Report};

const WIDTH: f64 = 960.0;
const LABEL: f64 = 150.0;
const ROW: f64 = 18.0;
const HEAD: f64 = 30.0;
const SPECTRUM: f64 = 220.0;
const MEAN: &str = "#2b6cb0";
const TAIL: &str = "#bcd3ea";

/// Colours of spectra, in turn.
const COLOURS: [&str; 6] = ["#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b83280", "#718096"];

/// The longest bar is this many times the median of all at most: round robin would flatten the rest.
const LONGEST: f64 = 4.0;

/// Two panels of bars, mean before p99, and the spectra where there are any.
pub(super) fn draw(report: &Report, title: &str) -> String {
    let rows = report.policies.len() as f64;
    let panel = HEAD * 2.0 + rows * ROW;
    let spectra = if report.policies.iter().any(|policy| !policy.spectrum.is_empty()) {
        SPECTRUM + HEAD * 2.0
    } else {
        0.0
    };
    let height = HEAD * 2.0 + panel + spectra;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\"><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\
         <text x=\"10\" y=\"20\" font-size=\"15\">{}</text>",
        escape(title)
    );
    let half = WIDTH / 2.0;
    bars(&mut out, report, 0.0, half, "time to first token, s: mean (dark), p99 (light)", |p| p.ttft_seconds);
    bars(&mut out, report, half, half, "latency, s: mean (dark), p99 (light)", |p| p.latency_seconds);
    if spectra > 0.0 {
        lines(&mut out, report, HEAD + panel);
    }
    out.push_str("</svg>\n");
    out
}

fn bars(
    out: &mut String,
    report: &Report,
    left: f64,
    width: f64,
    title: &str,
    times: impl Fn(&super::PolicyReport) -> Times,
) {
    let mut tails: Vec<f64> = report.policies.iter().map(|policy| times(policy).p99).collect();
    tails.sort_unstable_by(f64::total_cmp);
    let middle = tails.get(tails.len() / 2).copied().unwrap_or(1.0);
    let most = tails.last().copied().unwrap_or(1.0).min(middle * LONGEST).max(1e-9);
    let scale = (width - LABEL - 110.0) / most;
    // Writing to a string cannot fail.
    let _ = write!(out, "<text x=\"{}\" y=\"{}\">{title}</text>", left + 10.0, HEAD * 1.8);
    for (row, policy) in report.policies.iter().enumerate() {
        let (y, times) = (HEAD * 2.2 + row as f64 * ROW, times(policy));
        let bar = |value: f64| value.min(most) * scale;
        let x = left + LABEL;
        let _ = write!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{x}\" y=\"{y}\" width=\"{:.1}\" height=\"12\" fill=\"{TAIL}\"/>\
             <rect x=\"{x}\" y=\"{y}\" width=\"{:.1}\" height=\"12\" fill=\"{MEAN}\"/>\
             <text x=\"{:.1}\" y=\"{}\" fill=\"#444\">{:.3} / {:.3}</text>",
            x - 6.0,
            y + 10.0,
            policy.name,
            bar(times.p99),
            bar(times.mean),
            x + bar(times.p99) + 5.0,
            y + 10.0,
            times.mean,
            times.p99,
        );
    }
}

/// Power over frequency, both as logarithms, and a mark at the period of reports.
fn lines(out: &mut String, report: &Report, top: f64) {
    let all = || report.policies.iter().flat_map(|policy| &policy.spectrum);
    let powers = || all().map(|line| line.power).filter(|power| *power > 0.0);
    let (low, high) = powers().fold((f64::MAX, f64::MIN), |(low, high), p| (low.min(p), high.max(p)));
    let (from, to) =
        all().fold((f64::MAX, f64::MIN), |(low, high), line| (low.min(line.hertz), high.max(line.hertz)));
    let span = |low: f64, high: f64| (high / low).ln().max(1e-9);
    let x = |hertz: f64| LABEL + (hertz / from).ln() / span(from, to) * (WIDTH - LABEL - 160.0);
    let y = |power: f64| top + HEAD + (high / power).ln() / span(low, high) * SPECTRUM;
    let _ = write!(
        out,
        "<text x=\"10\" y=\"{}\">spectrum of load a server against the mean of all, {from:.1} to {to:.0} Hz; \
         dashed: the period of reports</text>",
        top + HEAD * 0.6
    );
    for (number, policy) in report.policies.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let points: Vec<String> = (policy.spectrum.iter().filter(|line| line.power > 0.0))
            .map(|line| format!("{:.1},{:.1}", x(line.hertz), y(line.power)))
            .collect();
        let _ = write!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"/>\
             <text x=\"{}\" y=\"{}\" fill=\"{colour}\">{}</text>",
            points.join(" "),
            WIDTH - 150.0,
            top + HEAD + 12.0 + number as f64 * 14.0,
            policy.name
        );
    }
    let mark = x(1.0 / report.report_seconds);
    let _ = write!(
        out,
        "<line x1=\"{mark:.1}\" x2=\"{mark:.1}\" y1=\"{}\" y2=\"{}\" stroke=\"#999\" stroke-dasharray=\"4\"/>",
        top + HEAD,
        top + HEAD + SPECTRUM
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
