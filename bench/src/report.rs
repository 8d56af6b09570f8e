//! Figures out of runs: the table, and `bench/out/results.json`, one object per figure.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rsrepl_tests::build;
use serde_json::{Value, json};

use crate::chart;
use crate::measure::{Outcome, Quantity, Role, Summary, Track, digits};
use crate::publish::headlines;
use crate::workload::Workload;

/// One quantity, ours against one peer's.
pub struct Figure {
    /// What is measured.
    pub quantity: Quantity,
    /// Which of ours.
    pub ours_name: String,
    /// The peer; empty for a quantity that only ours has.
    pub peer_name: String,
    /// What the peer is.
    pub role: Role,
    /// Ours.
    pub ours: Option<Summary>,
    /// The peer's; none when it could not be measured.
    pub peer: Option<Summary>,
    /// Why one of them could not be measured.
    pub absent: Option<String>,
}

impl Figure {
    fn of(quantity: Quantity, ours: &Track, peer: &Track) -> Figure {
        Figure {
            quantity,
            ours_name: ours.name.clone(),
            peer_name: peer.name.clone(),
            role: peer.role,
            ours: ours.summary(quantity),
            peer: peer.summary(quantity),
            absent: ours.absent.clone().or_else(|| peer.absent.clone()),
        }
    }

    /// Quantity and contenders.
    pub fn name(&self) -> String {
        let against = if self.peer_name.is_empty() { "" } else { " against " };
        format!("{}, {}{against}{}", self.quantity.name, self.ours_name, self.peer_name)
    }

    /// Ours over the peer's.
    pub fn ratio(&self) -> Option<f64> {
        let peer = self.peer?.median;
        (peer > 0.0).then_some(self.ours?.median / peer)
    }
}

/// The figures of a case: for each pair what both have, then what only ours has.
pub fn figures(outcome: &Outcome) -> Vec<Figure> {
    let mut figures = Vec::new();
    for &(ours, peer) in &outcome.pairs {
        let (ours, peer) = (&outcome.tracks[ours], &outcome.tracks[peer]);
        let mut quantities = if ours.absent.is_some() || peer.absent.is_some() {
            // One line says that it is absent.
            let measured = if ours.absent.is_some() { peer } else { ours };
            measured.quantities().into_iter().take(1).collect()
        } else {
            ours.quantities()
        };
        quantities.retain(|&q| peer.absent.is_some() || peer.summary(q).is_some());
        figures.extend(quantities.into_iter().map(|q| Figure::of(q, ours, peer)));
    }
    for track in outcome.tracks.iter().filter(|t| t.role == Role::Ours) {
        let alone = |q: &Quantity| {
            let has = |other: &Track| other.role != Role::Ours && other.summary(*q).is_some();
            !outcome.tracks.iter().any(has)
        };
        for quantity in track.quantities().into_iter().filter(alone) {
            figures.push(Figure {
                quantity,
                ours_name: track.name.clone(),
                peer_name: String::new(),
                role: Role::Ours,
                ours: track.summary(quantity),
                peer: None,
                absent: None,
            });
        }
    }
    figures
}

/// Prints the table of a case.
pub fn print(figures: &[Figure], outcome: &Outcome) {
    println!("  {:<64} {:>6} {:>9} {:>9} {:>6}  spread", "", "unit", "ours", "peer", "ratio");
    for figure in figures {
        let number =
            |summary: Option<Summary>| summary.map_or("–".to_owned(), |s| digits(s.median));
        let percent = |summary: Option<Summary>| {
            summary.map_or("–".to_owned(), |s| format!("{:.0} %", s.spread * 100.0))
        };
        println!(
            "  {:<64} {:>6} {:>9} {:>9} {:>6}  {}, {}",
            figure.name(),
            figure.quantity.unit,
            number(figure.ours),
            number(figure.peer),
            figure.ratio().map_or("–".to_owned(), |r| format!("{r:.2}")),
            percent(figure.ours),
            percent(figure.peer)
        );
    }
    for track in &outcome.tracks {
        println!("  CPU s of {}: {:.2?}", track.name, track.cpu());
    }
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
    let dir = folder();
    fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut results = earlier();
    results.retain(|result| result["case"] != case);
    let commit = output(
        "git",
        &["-C", &build::workspace().to_string_lossy(), "rev-parse", "--short", "HEAD"],
    );
    let (machine, date) = (machine(), output("date", &["-u", "+%FT%TZ"]));
    let cpu: BTreeMap<_, _> = outcome.tracks.iter().map(|t| (t.name.as_str(), t.cpu())).collect();
    let runs = outcome.tracks.iter().map(|t| t.readings.len()).max();
    for figure in figures {
        let median = |summary: Option<Summary>| summary.map(|s| s.median);
        let spread = |summary: Option<Summary>| summary.map(|s| s.spread);
        results.push(json!({
            "case": case,
            "name": format!("{case}: {}", figure.name()),
            "quantity": figure.quantity.name,
            "unit": figure.quantity.unit,
            "more_is_better": figure.quantity.more_is_better,
            "ours_name": figure.ours_name,
            "peer_name": figure.peer_name,
            "peer_role": format!("{:?}", figure.role).to_lowercase(),
            "ours": median(figure.ours),
            "peer": median(figure.peer),
            "ratio": figure.ratio(),
            "spread": { "ours": spread(figure.ours), "peer": spread(figure.peer) },
            "absent": figure.absent,
            "workload": workload.what,
            "runs": runs,
            "commit": commit,
            "cpu_seconds": cpu,
            "load_before": load,
            "date": date,
            "machine": machine,
        }));
    }
    let svg = chart::draw(&headlines(&results));
    let text = serde_json::to_string_pretty(&Value::Array(results)).map_err(|e| e.to_string())?;
    for (name, content) in [("results.json", text), ("chart.svg", svg)] {
        fs::write(dir.join(name), content).map_err(|e| format!("{name}: {e}"))?;
    }
    println!("  written to {}", dir.join("results.json").display());
    Ok(())
}

fn folder() -> PathBuf {
    build::workspace().join("bench/out")
}

/// What `bench/out/results.json` has.
pub fn earlier() -> Vec<Value> {
    let text = fs::read_to_string(folder().join("results.json")).unwrap_or_default();
    match serde_json::from_str(&text) {
        Ok(Value::Array(results)) => results,
        _ => Vec::new(),
    }
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
