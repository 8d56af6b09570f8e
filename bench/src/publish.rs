//! `make bench-report`: the figures of `bench/out/results.json` into what is committed.
//!
//! The chart becomes `docs/benchmark.svg`; the tables go between the marks of `README.md` (one line a
//! case) and `docs/performance.md` (every figure, with its goal, and CPU seconds by process).

use std::fmt::Write;
use std::fs;

use rsrepl_tests::build;
use serde_json::Value;

use crate::measure::digits;
use crate::{CASES, chart, goals, report};

const BEGIN: &str = "<!-- benchmark: written by `make bench-report` -->";
const END: &str = "<!-- end of benchmark -->";

/// What a case shows first: ours, in one configuration, against the strongest peer.
pub struct Headline<'a> {
    /// The case.
    pub case: &'a str,
    /// Which of ours.
    pub ours: &'a str,
    /// Which peer.
    pub peer: &'a str,
    /// All figures of the two.
    pub figures: Vec<&'a Value>,
}

/// How many times better than the peer a figure is.
pub fn advantage(figure: &Value) -> Option<f64> {
    let ratio = figure["ratio"].as_f64().filter(|r| *r > 0.0)?;
    Some(if figure["more_is_better"] == true { ratio } else { 1.0 / ratio })
}

/// For each case and each of ours the peer that is hardest to beat, in the order of the cases.
pub fn headlines(results: &[Value]) -> Vec<Headline<'_>> {
    let mut headlines: Vec<Headline> = Vec::new();
    for (case, ..) in &CASES {
        let peers = |r: &&Value| r["case"] == *case && r["peer_role"] == "peer";
        // Of each pair the first figure is the one that counts.
        let mut pairs: Vec<(&str, &str, f64)> = Vec::new();
        for result in results.iter().filter(peers) {
            let pair = (text(result, "ours_name"), text(result, "peer_name"));
            let Some(advantage) = advantage(result) else { continue };
            if !pairs.iter().any(|p| (p.0, p.1) == pair) {
                pairs.push((pair.0, pair.1, advantage));
            }
        }
        pairs.sort_by(|a, b| a.0.cmp(b.0).then(a.2.total_cmp(&b.2)));
        pairs.dedup_by_key(|p| p.0);
        headlines.extend(pairs.into_iter().map(|(ours, peer, _)| {
            let is_theirs =
                |r: &&Value| peers(r) && r["ours_name"] == ours && r["peer_name"] == peer;
            Headline { case, ours, peer, figures: results.iter().filter(is_theirs).collect() }
        }));
    }
    headlines
}

/// Writes chart and tables.
pub fn publish() -> Result<(), String> {
    let results = report::earlier();
    if results.is_empty() {
        return Err("there is no bench/out/results.json: run `make bench` first".to_owned());
    }
    let headlines = headlines(&results);
    let root = build::workspace();
    let write = |name: &str, text: &str| {
        println!("  {name}");
        fs::write(root.join(name), text).map_err(|e| format!("{name}: {e}"))
    };
    write("docs/benchmark.svg", &chart::draw(&headlines))?;
    let short = short(&headlines, &results);
    let long = long(&results);
    for (name, tables) in [("README.md", short), ("docs/performance.md", long)] {
        let page = fs::read_to_string(root.join(name)).map_err(|e| format!("{name}: {e}"))?;
        write(name, &between_marks(&page, &tables).ok_or_else(|| format!("{name}: no marks"))?)?;
    }
    Ok(())
}

fn between_marks(page: &str, tables: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{tables}\n{END}{after}"))
}

/// What a line of the short table shows; CPU seconds stand beside it.
const SHOWN: [&str; 3] = ["rate", "latency p50", "latency p99"];

/// Lines for each headline.
fn short(headlines: &[Headline], results: &[Value]) -> String {
    let mut out = String::from(
        "| case | strongest peer | | rsrepl | peer | times as good | CPU s: rsrepl | peer | of the peer's |\n\
         |---|---|---|--:|--:|--:|--:|--:|--:|\n",
    );
    for headline in headlines {
        let cpu = headline.figures.iter().find(|f| f["quantity"] == "CPU");
        let cpu_of = |side| cpu.and_then(|f| f[side].as_f64()).map_or("–".to_owned(), digits);
        let part = cpu.and_then(|f| f["ratio"].as_f64());
        let part = part.map_or("–".to_owned(), |p| format!("{:.0} %", p * 100.0));
        for figure in headline.figures.iter().filter(|f| SHOWN.contains(&text(f, "quantity"))) {
            let _ = writeln!(
                out,
                "| `{}`{} | {} | {} | {} | {} | **{}×** | {} | {} | {part} |",
                headline.case,
                headline.ours.strip_prefix("rsrepl").unwrap_or_default(),
                headline.peer,
                text(figure, "quantity"),
                with_unit(figure, "ours"),
                with_unit(figure, "peer"),
                advantage(figure).map_or("–".to_owned(), |a| format!("{a:.2}")),
                cpu_of("ours"),
                cpu_of("peer"),
            );
        }
    }
    let _ = write!(out, "\n{}\n", provenance(results));
    out
}

/// A line for each figure, and the CPU seconds by process.
fn long(results: &[Value]) -> String {
    let mut out = format!(
        "{}\n\n| case | figure | rsrepl | peer | ratio | goal | spread: rsrepl, peer |\n\
         |---|---|--:|--:|--:|--:|--:|\n",
        provenance(results)
    );
    let ordered =
        || CASES.iter().flat_map(|(case, ..)| results.iter().filter(move |r| r["case"] == *case));
    for figure in ordered() {
        let name = text(figure, "name");
        let goal = goals::of(figure).map_or(String::new(), |goal| {
            let mark = match goal.is_met(figure) {
                Some(true) => " met",
                Some(false) => " **missed**",
                None => "",
            };
            format!("{}{mark}", goal.text(text(figure, "unit")))
        });
        let percent = |side| {
            let spread = figure["spread"][side].as_f64();
            spread.map_or("–".to_owned(), |s| format!("{:.0} %", s * 100.0))
        };
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {} | {} | {goal} | {}, {} |",
            text(figure, "case"),
            name.split_once(": ").map_or(name, |(_, rest)| rest),
            with_unit(figure, "ours"),
            if figure["absent"].is_null() {
                with_unit(figure, "peer")
            } else {
                "not measured".to_owned()
            },
            figure["ratio"].as_f64().map_or("–".to_owned(), |r| format!("{r:.2}")),
            percent("ours"),
            percent("peer"),
        );
    }
    out.push_str("\nCPU seconds by process:\n\n| case | contender | CPU s |\n|---|---|---|\n");
    let mut last = "";
    for figure in ordered() {
        let case = text(figure, "case");
        if case == last {
            continue;
        }
        last = case;
        for (contender, cpu) in figure["cpu_seconds"].as_object().into_iter().flatten() {
            let parts = cpu.as_object().into_iter().flatten();
            let parts: Vec<String> = parts
                .map(|(name, s)| format!("{name} {}", digits(s.as_f64().unwrap_or(0.0))))
                .collect();
            if !parts.is_empty() {
                let _ = writeln!(out, "| `{case}` | {contender} | {} |", parts.join(", "));
            }
        }
    }
    out
}

/// Where and when.
fn provenance(results: &[Value]) -> String {
    let distinct = |key: &str| {
        let mut values: Vec<&str> = results.iter().map(|r| text(r, key)).collect();
        values.sort_unstable();
        values.dedup();
        values
    };
    let dates = distinct("date");
    let day = |date: Option<&&str>| date.and_then(|d| d.get(..10)).unwrap_or("?").to_owned();
    let runs = results.iter().filter_map(|r| r["runs"].as_u64()).min().unwrap_or(0);
    format!(
        "{}. rsrepl at {}, release build; medians of {runs} runs, `make bench`, {}.",
        distinct("machine").join("; "),
        distinct("commit").join(", "),
        day(dates.last()),
    )
}

fn with_unit(figure: &Value, side: &str) -> String {
    let unit = text(figure, "unit");
    figure[side].as_f64().map_or("–".to_owned(), |value| format!("{} {unit}", grouped(value)))
}

/// Thousands with commas between.
fn grouped(value: f64) -> String {
    let plain = digits(value);
    let (whole, fraction) = plain.split_once('.').map_or((&plain[..], ""), |(w, f)| (w, f));
    let mut out = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if fraction.is_empty() { out } else { format!("{out}.{fraction}") }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn the_headline_is_the_strongest_peer() {
        let figure = |peer: &str, role: &str, ratio: f64| {
            json!({ "case": "huge", "ours_name": "rsrepl", "peer_name": peer, "peer_role": role,
                "more_is_better": true, "ratio": ratio })
        };
        let results = [
            figure("weak", "peer", 3.0),
            figure("strong", "peer", 2.0),
            figure("file", "limit", 0.5),
        ];
        let headlines = super::headlines(&results);
        assert_eq!(headlines.iter().map(|h| h.peer).collect::<Vec<_>>(), ["strong"]);
    }

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let page = format!("a\n{}\nold\n{}\nb\n", super::BEGIN, super::END);
        let new = super::between_marks(&page, "new").unwrap();
        assert_eq!(new, format!("a\n{}\n\nnew\n{}\nb\n", super::BEGIN, super::END));
        assert_eq!(super::between_marks("a", "new"), None);
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(super::grouped(1234567.0), "1,234,567");
        assert_eq!(super::grouped(999.0), "999");
        assert_eq!(super::grouped(1.5), "1.50");
    }
}
