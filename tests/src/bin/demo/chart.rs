//! The chart: one panel a figure, one bar a run, as an SVG that needs nothing but itself.

use std::fmt::Write as _;

use crate::{
    contest::{Contestant, Run},
    report::{Comparison, mean_first_token, mean_latency, tokens_per_second},
};

/// A panel's title, its figure, and the digits that are shown behind the point.
type Panel = (&'static str, fn(&Run) -> Option<f64>, usize);

const PANELS: [Panel; 3] = [
    ("output tokens/s (more is better)", tokens_per_second, 0),
    ("mean time to first token, s (less is better)", mean_first_token, 2),
    ("mean latency, s (less is better)", mean_latency, 2),
];

/// All in pixels.
const PANEL_WIDTH: f64 = 300.0;
const MARGIN: f64 = 20.0;
const TOP: f64 = 70.0;
const BAR_HEIGHT: f64 = 170.0;
const BAR_WIDTH: f64 = 60.0;
const BAR_STEP: f64 = 90.0;
const HEIGHT: f64 = 310.0;

/// The chart's text.
pub fn svg(comparison: &Comparison) -> String {
    let width = PANEL_WIDTH * PANELS.len() as f64 + MARGIN;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {HEIGHT}\" width=\"{width}\" \
         height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{MARGIN}\" y=\"28\" font-size=\"16\" font-weight=\"bold\">The same traffic through three \
         balancers (simulated GPUs, real packets)</text>\n"
    );
    for (index, panel) in PANELS.iter().enumerate() {
        draw(&mut text, MARGIN + PANEL_WIDTH * index as f64, panel, &comparison.runs);
    }
    text + "</svg>\n"
}

fn draw(text: &mut String, left: f64, (title, figure, digits): &Panel, runs: &[Run]) {
    let base = TOP + BAR_HEIGHT;
    let largest = runs.iter().filter_map(figure).fold(0.0, f64::max);
    let _ = writeln!(text, "<text x=\"{left}\" y=\"{}\">{title}</text>", TOP - 16.0);
    for (index, run) in runs.iter().enumerate() {
        let value = figure(run);
        let height =
            value.filter(|_| largest > 0.0).map_or(0.0, |value| value / largest * (BAR_HEIGHT - 16.0));
        let (x, y) = (left + BAR_STEP * index as f64, base - height);
        let middle = x + BAR_WIDTH / 2.0;
        let label = value.map_or("none".to_owned(), |value| format!("{value:.digits$}"));
        let _ = writeln!(
            text,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{BAR_WIDTH}\" height=\"{height:.1}\" fill=\"{}\"/>\n\
             <text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            colour(run.balancer),
            y - 4.0
        );
        for (line, word) in run.balancer.to_string().split('-').enumerate() {
            let y = base + 18.0 + 14.0 * line as f64;
            let _ =
                writeln!(text, "<text x=\"{middle:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{word}</text>");
        }
    }
    let right = left + PANEL_WIDTH - MARGIN;
    let _ =
        writeln!(text, "<line x1=\"{left}\" y1=\"{base}\" x2=\"{right}\" y2=\"{base}\" stroke=\"#888\"/>");
}

/// Told apart by brightness too.
fn colour(contestant: Contestant) -> &'static str {
    match contestant {
        Contestant::Guidevane => "#0b6e4f",
        Contestant::RoundRobin => "#c1666b",
        Contestant::LeastConnections => "#b0b8c0",
    }
}

#[cfg(test)]
mod tests {
    use super::svg;
    use crate::report::tests::comparison;

    /// Heights of the bars, in the order drawn.
    fn heights(text: &str) -> Vec<f64> {
        let bars = text.lines().filter(|line| line.starts_with("<rect x="));
        let height = |line: &str| line.split("height=\"").nth(1)?.split('"').next()?.parse().ok();
        bars.map(|line| height(line).unwrap_or_else(|| panic!("no height in {line}"))).collect()
    }

    #[test]
    fn bars_are_as_high_as_the_figures_say() {
        let text = svg(&comparison());
        let heights = heights(&text);
        assert_eq!(heights.len(), 9, "{text}");
        let ratio = |one: usize, other: usize| heights[one] / heights[other];
        for (what, is, should) in [
            ("tokens", ratio(0, 1), 1.4),
            ("first token", ratio(3, 4), 1.0 / 3.0),
            ("latency", ratio(6, 7), 2.0 / 3.0),
        ] {
            assert!((is - should).abs() < 0.01, "{what}: {is} is not {should} in {text}");
        }
    }

    #[test]
    fn a_chart_of_nothing_is_still_a_chart() {
        let mut comparison = comparison();
        for run in &mut comparison.runs {
            (run.report.output_tokens_per_second, run.report.ttft_seconds) = (0.0, None);
        }
        let text = svg(&comparison);
        assert!(!text.contains("NaN") && !text.contains("inf") && text.contains(">none<"), "{text}");
        assert_eq!(heights(&text)[..6], [0.0; 6]);
    }
}
