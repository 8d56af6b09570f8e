//! `make bench`: rsrepl against its peers, side by side on real servers.
//!
//! | module | subject |
//! |---|---|
//! | [`workload`] | the backlogs that are replayed |
//! | [`servers`] | source and target, databases and slots of a case |
//! | [`measure`] | clock, CPU seconds, interleaved runs, medians |
//! | [`decode`] | the walsender alone |
//! | [`postgres`] | into PostgreSQL |
//! | [`clickhouse`] | into ClickHouse |
//! | [`report`] | figures, the table and `bench/out/results.json` |
//! | [`chart`] | `bench/out/chart.svg` |
//!
//! Every case makes a backlog once, behind a slot that was created before it. Every run then replays
//! that backlog through a copy of the slot, the contenders taking turns (A B A B …). The clock starts
//! when the run's slot becomes active, so start-up of either side is not counted, and stops when the
//! last row is where it belongs. After each run the rows are compared with the source's: a wrong
//! answer is no time. A peer that cannot be started is reported as such.
//!
//! Environment: `CASE` (one name; all by default), `ROWS` (of workload M; the others scale along),
//! `RUNS` (counted runs of each contender), `KEEP=1` (leaves the scratch folder).

mod chart;
mod clickhouse;
mod decode;
mod measure;
mod postgres;
mod report;
mod servers;
mod workload;

use std::env;
use std::process::ExitCode;

use measure::Outcome;
use servers::Servers;
use workload::Workload;

/// Rows of workload M at full size.
const DEFAULT_ROWS: u64 = 3_000_000;

/// Counted runs of each contender.
const DEFAULT_RUNS: u64 = 3;

/// What one invocation was asked for.
pub struct Plan {
    /// Rows of workload M.
    pub rows: u64,
    /// Counted runs of each contender.
    pub runs: u64,
}

type Case = (&'static str, fn(&Servers, &Workload, &Plan) -> Result<Outcome, String>, Make);
type Make = fn(u64) -> Workload;

const CASES: [Case; 8] = [
    ("decode", decode::run, workload::bulk),
    ("decode-tiny", decode::run, workload::tiny),
    ("pg-bulk", postgres::run, workload::bulk),
    ("pg-tiny", postgres::run, workload::tiny),
    ("pg-update", postgres::run, workload::update),
    ("pg-update-single", postgres::run, workload::update_single),
    ("pg-delete", postgres::run, workload::delete),
    ("ch-bulk", clickhouse::run, workload::bulk),
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let plan = Plan { rows: number("ROWS", DEFAULT_ROWS)?, runs: number("RUNS", DEFAULT_RUNS)? };
    let wanted = env::var("CASE").ok().filter(|c| !c.is_empty());
    let cases: Vec<&Case> =
        CASES.iter().filter(|(name, ..)| wanted.as_ref().is_none_or(|w| w == name)).collect();
    if cases.is_empty() {
        let names: Vec<&str> = CASES.iter().map(|(name, ..)| *name).collect();
        return Err(format!("unknown CASE; it is one of {}", names.join(", ")));
    }
    let servers = Servers::start();
    let mut failed = Vec::new();
    for (name, case, make) in cases {
        let workload = make(plan.rows);
        println!("\n{name}: {}", workload.what);
        let load = report::load();
        match case(&servers, &workload, &plan) {
            Ok(outcome) => {
                let figures = report::figures(name, &workload, &outcome);
                report::print(&figures, &outcome);
                report::save(name, &figures, &workload, &outcome, &load)?;
            }
            Err(error) => {
                println!("  FAILED: {error}");
                failed.push(*name);
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", "))) }
}

/// A positive number from the environment.
fn number(variable: &str, default: u64) -> Result<u64, String> {
    match env::var(variable) {
        Err(_) => Ok(default),
        Ok(text) if text.is_empty() => Ok(default),
        Ok(text) => match text.replace('_', "").parse() {
            Ok(number @ 1..) => Ok(number),
            _ => Err(format!("{variable} is a positive number, not {text:?}")),
        },
    }
}
