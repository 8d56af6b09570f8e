//! `make bench`: rsrepl against its peers, side by side on real servers.
//!
//! | module | subject |
//! |---|---|
//! | [`workload`] | the backlogs that are replayed |
//! | [`servers`] | source and target, databases and slots of a case |
//! | [`measure`] | clock, CPU seconds, interleaved runs, medians |
//! | [`decode`] | the walsender alone |
//! | [`engine`] | who applies into PostgreSQL: the sidecar, a native subscription |
//! | [`postgres`] | into PostgreSQL |
//! | [`copy`] | the same rows from files into PostgreSQL |
//! | [`initial`] | the rows that are there when replication begins, into PostgreSQL |
//! | [`pace`] | single-row transactions at a pace |
//! | [`latency`] | from the commit until it is visible on the target |
//! | [`sync`] | until a commit returns that waits for the other side |
//! | [`clickhouse`] | into ClickHouse |
//! | [`materialized`] | into ClickHouse, with its own engine |
//! | [`report`] | figures, the table and `bench/out/results.json` |
//! | [`goals`] | what the figures are to be |
//! | [`publish`] | figures into README and docs: `make bench-report` |
//! | [`chart`] | the picture |
//!
//! Every case makes a backlog once, behind a slot that was created before it. Every run then replays
//! that backlog through a copy of the slot, the contenders taking turns (A B, B A, A B …). The clock starts
//! when the run's slot becomes active, so start-up of either side is not counted, and stops when the
//! last row is where it belongs. After each run the rows are compared with the source's: a wrong
//! answer is no time. A peer that cannot be started is reported as such.
//!
//! Environment: `CASE` (names with blanks between; all by default), `ROWS` (of workload M; the others scale along),
//! `RUNS` (counted runs of each contender), `KEEP=1` (leaves the scratch folder).

mod chart;
mod clickhouse;
mod copy;
mod decode;
mod engine;
mod goals;
mod initial;
mod latency;
mod materialized;
mod measure;
mod pace;
mod postgres;
mod publish;
mod report;
mod servers;
mod sync;
mod workload;

use std::env;
use std::process::ExitCode;
use std::time::Instant;

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

// Cases of one workload stand together: they share its backlog.
const CASES: [Case; 16] = [
    ("decode", decode::run, workload::bulk),
    ("pg-bulk", postgres::bulk, workload::bulk),
    ("spool", postgres::spool, workload::bulk),
    ("fan-out", postgres::fan_out, workload::bulk),
    ("ch-bulk", clickhouse::run, workload::bulk),
    ("decode-tiny", decode::run, workload::tiny),
    ("pg-tiny", postgres::run, workload::tiny),
    ("pg-tpcb", postgres::run, workload::tpcb),
    ("pg-update", postgres::run, workload::update),
    ("pg-update-single", postgres::run, workload::update_single),
    ("pg-delete", postgres::run, workload::delete),
    ("huge", postgres::huge, workload::huge),
    ("copy", initial::run, workload::copy),
    ("latency-500", latency::at_500, workload::live),
    ("latency-5000", latency::at_5000, workload::live),
    ("sync", sync::run, workload::live),
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
    match env::args().nth(1).as_deref() {
        None => {}
        Some("report") => return publish::publish(),
        Some(other) => return Err(format!("unknown argument {other:?}; there is `report`")),
    }
    let plan = Plan { rows: number("ROWS", DEFAULT_ROWS)?, runs: number("RUNS", DEFAULT_RUNS)? };
    let wanted = env::var("CASE").unwrap_or_default();
    let wanted: Vec<&str> = wanted.split_whitespace().collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.contains(&name);
    let cases: Vec<&Case> = CASES.iter().filter(|(name, ..)| is_wanted(name)).collect();
    if cases.is_empty() {
        let names: Vec<&str> = CASES.iter().map(|(name, ..)| *name).collect();
        return Err(format!("unknown CASE; it is one of {}", names.join(", ")));
    }
    let servers = Servers::start();
    let mut failed = Vec::new();
    let (start, count) = (Instant::now(), cases.len());
    for (place, (name, case, make)) in cases.into_iter().enumerate() {
        let workload = make(plan.rows);
        let minutes = start.elapsed().as_secs() / 60;
        println!("\n[{} of {count}, minute {minutes}] {name}: {}", place + 1, workload.what);
        let load = report::load();
        match case(&servers, &workload, &plan) {
            Ok(outcome) => {
                let figures = report::figures(&outcome);
                report::print(&figures, &outcome);
                report::save(name, &figures, &workload, &outcome, &load)?;
            }
            Err(error) => {
                println!("  FAILED: {error}");
                failed.push(*name);
            }
        }
    }
    println!("\n{count} cases in {:.1} minutes", start.elapsed().as_secs_f64() / 60.0);
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
