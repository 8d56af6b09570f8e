//! Figures out of runs: the table, and `bench/out/results.json`, one object per figure.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rsrepl_tests::build;
use serde_json::{Value, json};

use crate::chart;
use crate::measure::{Outcome, Reading, Summary, Track};
use crate::workload::Workload;

/// One quantity, ours against one peer's.
pub struct Figure {
    /// `case: quantity, against peer`.
    pub name: String,
    /// Of both sides.
    pub unit: &'static str,
    /// Whether more is better.
    pub more_is_better: bool,
    /// The peer.
    pub peer_name: String,
    /// Ours.
    pub ours: Option<Summary>,
    /// The peer's; none when it could not be measured.
    pub peer: Option<Summary>,
    /// Why not.
    pub absent: Option<String>,
}

impl Figure {
    /// Ours over the peer's.
    pub fn ratio(&self) -> Option<f64> {
        Some(self.ours?.median / self.peer?.median)
    }
}

/// The figures of a case: rate and CPU seconds, against each peer.
pub fn figures(case: &str, workload: &Workload, outcome: &Outcome) -> Vec<Figure> {
    let rows = workload.rows as f64;
    let rate = move |reading: &Reading| rows / reading.wall;
    let figure =
        |peer: &Track, quantity: &str, unit, more_is_better, of: &dyn Fn(&Reading) -> f64| Figure {
            name: format!("{case}: {quantity}, against {}", peer.name),
            unit,
            more_is_better,
            peer_name: peer.name.clone(),
            ours: outcome.ours.summary(of),
            peer: peer.summary(of),
            absent: peer.absent.clone(),
        };
    let of_peer = |peer: &Track| {
        [
            figure(peer, "rate", "rows/s", true, &rate),
            figure(peer, "CPU", "s", false, &Reading::total_cpu),
        ]
    };
    outcome.peers.iter().flat_map(of_peer).collect()
}

/// Prints the table of a case.
pub fn print(figures: &[Figure], outcome: &Outcome) {
    println!("  {:<52} {:>6} {:>12} {:>12} {:>7}  spread", "", "unit", "ours", "peer", "ratio");
    for figure in figures {
        let number =
            |summary: Option<Summary>| summary.map_or("–".to_owned(), |s| digits(s.median));
        let percent = |summary: Option<Summary>| summary.map_or(0.0, |s| s.spread * 100.0);
        println!(
            "  {:<52} {:>6} {:>12} {:>12} {:>7}  {:.0} %, {:.0} %",
            figure.name,
            figure.unit,
            number(figure.ours),
            number(figure.peer),
            figure.ratio().map_or("–".to_owned(), |r| format!("{r:.2}")),
            percent(figure.ours),
            percent(figure.peer)
        );
    }
    for track in [&outcome.ours].into_iter().chain(&outcome.peers) {
        println!("  CPU s of {}: {:.2?}", track.name, track.cpu());
    }
    if let Some(peak) = peak_memory(&outcome.ours) {
        println!("  peak memory of the sidecar: {peak:.0} MiB");
    }
}

/// Three significant digits, or whole numbers.
pub fn digits(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// Writes a case's figures to `bench/out/results.json`, where those of other cases stay, and draws
/// the chart anew.
pub fn save(
    case: &str,
    figures: &[Figure],
    workload: &Workload,
    outcome: &Outcome,
    load: &str,
) -> Result<(), String> {
    let dir = build::workspace().join("bench/out");
    fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let path = dir.join("results.json");
    let mut results = earlier(&path);
    results.retain(|result| result["case"] != case);
    let (machine, date) = (machine(), output("date", &["-u", "+%FT%TZ"]));
    let cpu: BTreeMap<_, _> = [&outcome.ours]
        .into_iter()
        .chain(&outcome.peers)
        .map(|t| (t.name.as_str(), t.cpu()))
        .collect();
    for figure in figures {
        let median = |summary: Option<Summary>| summary.map(|s| s.median);
        let spread = |summary: Option<Summary>| summary.map(|s| s.spread);
        results.push(json!({
            "case": case,
            "name": figure.name,
            "unit": figure.unit,
            "more_is_better": figure.more_is_better,
            "ours": median(figure.ours),
            "peer": median(figure.peer),
            "ratio": figure.ratio(),
            "spread": { "ours": spread(figure.ours), "peer": spread(figure.peer) },
            "peer_name": figure.peer_name,
            "absent": figure.absent,
            "workload": workload.what,
            "rows": workload.rows,
            "runs": outcome.ours.readings.len(),
            "cpu_seconds": cpu,
            "peak_memory_mib": peak_memory(&outcome.ours),
            "load_before": load,
            "date": date,
            "machine": machine,
        }));
    }
    let svg = chart::draw(&results);
    let text = serde_json::to_string_pretty(&Value::Array(results)).map_err(|e| e.to_string())?;
    for (name, content) in [("results.json", text), ("chart.svg", svg)] {
        fs::write(dir.join(name), content).map_err(|e| format!("{name}: {e}"))?;
    }
    println!("  written to {}", path.display());
    Ok(())
}

fn earlier(path: &PathBuf) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    match serde_json::from_str(&text) {
        Ok(Value::Array(results)) => results,
        _ => Vec::new(),
    }
}

/// The greatest of all runs, in MiB.
fn peak_memory(track: &Track) -> Option<f64> {
    let peak = track.readings.iter().filter_map(|r| r.peak_memory).max()?;
    Some((peak >> 20) as f64)
}

/// The load averages, for judging how quiet the machine was.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Processor, memory, kernel and server version.
fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map_or("?", |l| l.trim_start_matches([' ', '\t', ':']));
    let cores = cpuinfo.lines().filter(|l| l.starts_with("processor")).count();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = meminfo.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    let postgres = build::postgres_bindir().join("postgres");
    format!(
        "{model}, {cores} cores, {} GiB; Linux {}; {}",
        kib >> 20,
        output("uname", &["-r"]),
        output(&postgres.to_string_lossy(), &["--version"])
    )
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or("?".to_owned(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}
