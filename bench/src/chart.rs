//! The chart: for every figure two bars, ours and the peer's, to the scale of the longer one.

use std::fmt::Write;

use serde_json::Value;

use crate::measure::digits;

/// Width of the picture, in pixels.
const WIDTH: u32 = 860;

/// Where the bars begin.
const LEFT: u32 = 340;

/// The longest bar.
const LENGTH: f64 = 360.0;

/// Height of one figure's two bars and the gap after them.
const PITCH: usize = 40;

/// Height of one bar.
const BAR: usize = 14;

/// Room for the legend.
const TOP: usize = 34;

/// Draws the results of `results.json`; a peer without a figure is left out.
pub fn draw(results: &[Value]) -> String {
    let figures: Vec<(&Value, f64, f64)> = results
        .iter()
        .filter_map(|r| Some((r, r["ours"].as_f64()?, r["peer"].as_f64()?)))
        .collect();
    let height = TOP + figures.len() * PITCH;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <rect x=\"{LEFT}\" y=\"10\" width=\"12\" height=\"12\" fill=\"#c0501f\"/>\
         <text x=\"358\" y=\"20\">rsrepl</text>\
         <rect x=\"420\" y=\"10\" width=\"12\" height=\"12\" fill=\"#9aa5b1\"/>\
         <text x=\"438\" y=\"20\">peer</text>\n"
    );
    for (place, (result, ours, peer)) in figures.into_iter().enumerate() {
        let y = TOP + place * PITCH;
        let name = escape(result["name"].as_str().unwrap_or_default());
        let unit = escape(result["unit"].as_str().unwrap_or_default());
        let better = if result["more_is_better"] == true { "more" } else { "less" };
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#667\">{unit}, {better} is better</text>",
            LEFT - 8,
            y + 12,
            LEFT - 8,
            y + 26
        );
        for (row, value, colour) in [(0, ours, "#c0501f"), (1, peer, "#9aa5b1")] {
            let length = LENGTH * value / ours.max(peer).max(f64::MIN_POSITIVE);
            let top = y + row * (BAR + 1);
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{length:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{}</text>",
                f64::from(LEFT) + length + 6.0,
                top + 12,
                digits(value)
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn a_peer_without_figure_has_no_bar() {
        let with = json!({ "name": "a", "unit": "s", "ours": 1.0, "peer": 2.0 });
        let without = json!({ "name": "b", "unit": "s", "ours": 1.0, "peer": null });
        let svg = super::draw(&[with, without]);
        assert!(svg.contains(">a</text>") && !svg.contains(">b</text>"), "{svg}");
        assert!(svg.contains("width=\"180.0\"") && svg.contains("width=\"360.0\""), "{svg}");
    }
}
