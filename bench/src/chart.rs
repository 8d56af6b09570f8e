//! The chart: how many times better than its strongest peer rsrepl is, case by case.
//!
//! Every bar is a ratio, so that all share one scale: rate over the peer's rate, the peer's CPU seconds
//! over ours, the peer's latency over ours. The line at 1 is the peer. The picture brings its own
//! background, and so is readable on a light and on a dark page.

use std::fmt::Write;

use crate::publish::{Headline, advantage};

/// Width of the picture, in pixels.
const WIDTH: u32 = 860;

/// Where the bars begin.
const LEFT: f64 = 290.0;

/// Room for bars and the numbers after them.
const LENGTH: f64 = 500.0;

/// Height of one bar, and from one to the next.
const BAR: f64 = 13.0;
const STEP: f64 = 15.0;

/// Between two cases.
const GAP: f64 = 12.0;

/// Room for the title.
const TOP: f64 = 64.0;

/// Where the scale ends; a longer bar is cut and says its number.
const LONGEST: f64 = 8.0;

/// Quantity, its label, its colour.
const BARS: [(&str, &str, &str); 4] = [
    ("rate", "throughput", "#c2501c"),
    ("CPU", "CPU time", "#2f6f8f"),
    ("latency p50", "latency p50", "#7a5195"),
    ("latency p99", "latency p99", "#a67bb5"),
];

/// Draws the headlines.
pub fn draw(headlines: &[Headline]) -> String {
    let mut body = String::new();
    let greatest = headlines.iter().flat_map(|h| &h.figures).filter_map(|f| advantage(f));
    let longest = greatest.fold(2.0_f64, f64::max).min(LONGEST);
    let scale = (LENGTH - 50.0) / longest;
    let mut y = TOP;
    for headline in headlines {
        let bars: Vec<(&str, &str, f64)> = bars(headline).collect();
        if bars.is_empty() {
            continue;
        }
        label(&mut body, headline, y);
        for (place, (_, colour, times)) in bars.iter().enumerate() {
            let top = y + place as f64 * STEP;
            let length = times.min(longest) * scale;
            let _ = writeln!(
                body,
                "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{length:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{times:.2}×</text>",
                LEFT + length + 5.0,
                top + BAR - 2.5,
            );
        }
        // A case takes the room of two bars even when it has one.
        y += STEP * bars.len().max(2) as f64 + GAP;
    }
    let height = y + 8.0;
    let one = LEFT + scale;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" font-size=\"12\" \
         fill=\"#24292f\" role=\"img\">\n\
         <title>rsrepl against its peers: times better, 1 is the same</title>\n\
         <rect x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"6\" fill=\"#fff\" stroke=\"#d0d7de\"/>\n\
         <text x=\"16\" y=\"24\" font-size=\"15\" font-weight=\"600\">Times better than the strongest peer \
         on the same machine</text>\n{}{body}\
         <line x1=\"{one:.1}\" y1=\"{}\" x2=\"{one:.1}\" y2=\"{}\" stroke=\"#24292f\" stroke-dasharray=\"3 3\"/>\n\
         <text x=\"{one:.1}\" y=\"{}\" text-anchor=\"middle\" font-size=\"11\">1 = the peer</text>\n</svg>\n",
        f64::from(WIDTH) - 1.0,
        height - 1.0,
        legend(headlines),
        TOP - 4.0,
        height - 10.0,
        TOP - 8.0,
    )
}

/// Label, colour and length of the bars of a case.
fn bars<'a>(
    headline: &'a Headline,
) -> impl Iterator<Item = (&'static str, &'static str, f64)> + 'a {
    BARS.into_iter().filter_map(|(quantity, label, colour)| {
        // What is fast at a given pace is latency; its CPU is in the table.
        let is_latency = headline.figures.iter().any(|f| f["quantity"] == "latency p50");
        let figure = headline.figures.iter().find(|f| f["quantity"] == quantity)?;
        (!is_latency || quantity.starts_with("latency")).then_some((
            label,
            colour,
            advantage(figure)?,
        ))
    })
}

fn label(out: &mut String, headline: &Headline, y: f64) {
    let ours = headline.ours.strip_prefix("rsrepl").unwrap_or(headline.ours);
    let _ = writeln!(
        out,
        "<text x=\"{0}\" y=\"{1}\" text-anchor=\"end\" font-weight=\"600\">{2}{3}</text>\
         <text x=\"{0}\" y=\"{4}\" text-anchor=\"end\" fill=\"#57606a\" font-size=\"11\">against {5}</text>",
        LEFT - 10.0,
        y + 11.0,
        escape(headline.case),
        escape(ours),
        y + 25.0,
        escape(headline.peer),
    );
}

/// The colours that occur.
fn legend(headlines: &[Headline]) -> String {
    let mut out = String::new();
    let mut x = 16.0;
    for (_, label, colour) in BARS {
        if headlines.iter().flat_map(bars).any(|bar| bar.0 == label) {
            let _ = writeln!(
                out,
                "<rect x=\"{x}\" y=\"36\" width=\"11\" height=\"11\" fill=\"{colour}\"/>\
                 <text x=\"{}\" y=\"46\" font-size=\"11\">{label}</text>",
                x + 16.0
            );
            x += 28.0 + 6.5 * label.len() as f64;
        }
    }
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::publish::headlines;

    fn figure(case: &str, ratio: Value) -> Value {
        json!({ "case": case, "quantity": "rate", "ours_name": "rsrepl", "peer_name": "a < b",
            "peer_role": "peer", "more_is_better": true, "ratio": ratio })
    }

    #[test]
    fn a_peer_without_figure_has_no_bar() {
        let results = [figure("decode", json!(1.5)), figure("huge", Value::Null)];
        let svg = super::draw(&headlines(&results));
        assert!(svg.contains(">decode</text>") && !svg.contains(">huge</text>"), "{svg}");
        assert!(svg.contains("1.50×") && svg.contains("against a &lt; b"), "{svg}");
    }
}
