//! What a commit costs that waits until it is safe elsewhere.
//!
//! The source names whoever reads from the slot in `synchronous_standby_names`; a [`pace`](crate::pace) of single-row
//! transactions says how long its commits took, with `synchronous_commit = on`: on our side until the spool of the sidecar has
//! them on disk (`confirm = "spooled"`), with a native subscription until it has applied them durably (its own
//! `synchronous_commit = on`). With `local` they wait for the source's disk alone, while the sidecar follows as before.

use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;

use crate::Plan;
use crate::engine::{Engine, READER, Route, Running, SPOOLED, start};
use crate::measure::{Contender, Measure, Outcome, POLL, Reading, interleave};
use crate::pace::{self, Pace};
use crate::servers::{DATABASE, Servers, connect, execute, text};
use crate::workload::Workload;

/// What is not counted, and what is, in seconds.
const WARM_UP: u64 = 3;
const COUNTED: u64 = 10;

/// Far below what either side gets to, so that latency is not a queue.
const PACE: Pace = Pace { tps: 200, clients: 8 };

/// How long the target may take to have it all once the writer has ended, and the reader to become synchronous.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs the case.
pub fn run(servers: &Servers, workload: &Workload, plan: &Plan) -> Result<Outcome, String> {
    servers.prepare(workload)?;
    let measure = |engine, wait| -> Measure {
        Box::new(move |run| measure(servers, workload, (engine, wait), run))
    };
    let contenders = vec![
        Contender::ours("rsrepl", measure(SPOOLED, "on")),
        Contender::peer("native subscription", measure(Engine::Native { commit: "on" }, "on")),
        Contender::limit("synchronous_commit = local", measure(SPOOLED, "local")),
    ];
    Ok(Outcome::against_peers(interleave(plan.runs, contenders)?))
}

fn measure(
    servers: &Servers,
    workload: &Workload,
    (engine, wait): (Engine, &'static str),
    run: u32,
) -> Result<Reading, String> {
    let database = format!("bench_{run}");
    let mut route = Route {
        slot: format!("slot_{run}"),
        source: connect(&servers.source, DATABASE)?,
        targets: vec![servers.target_database(&database)?],
        databases: vec![database.clone()],
    };
    execute(&mut route.source, "TRUNCATE narrow, wide, bench_mark")?;
    execute(&mut route.source, "CHECKPOINT")?;
    let mut running = start(servers, engine, &mut route, false)?;
    // sessions wait for it from here on, and none may be left to wait for nobody
    let named = name(servers, READER);
    let measured = named.and_then(|()| write(servers, &mut running, (run, wait)));
    let unnamed = name(servers, "");
    let arrived = measured.and_then(|reading| arrive(servers, &mut running).map(|()| reading));
    let stopped = running.stop();
    let reading = arrived?;
    unnamed?;
    stopped?;
    route.end(servers, workload.tables)?;
    Ok(reading)
}

fn write(
    servers: &Servers,
    running: &mut Running,
    (run, wait): (u32, &'static str),
) -> Result<Reading, String> {
    let mut client = connect(&servers.source, "postgres")?;
    until("the reader to become synchronous", || state(&mut client).map(|state| state == "sync"))?;
    let before = running.cpu()?;
    let written = pace::write(servers, running, PACE, WARM_UP + COUNTED, (run, wait))?;
    let cpu = running.cpu()?.into_iter().zip(before).map(|((name, a), (_, b))| (name, a - b));
    let first = written.commits.iter().map(|commit| commit.at).fold(f64::INFINITY, f64::min);
    let counted = written.commits.iter().filter(|commit| commit.at > first + WARM_UP as f64);
    let latencies = counted.map(|commit| commit.took).collect();
    Ok(Reading::latencies(latencies, written.rate, cpu.collect()))
}

/// Waits until all is on the target.
fn arrive(servers: &Servers, running: &mut Running) -> Result<(), String> {
    execute(&mut connect(&servers.source, DATABASE)?, "INSERT INTO bench_mark VALUES (1)")?;
    until("the last row to come through", || running.mark_shows())
}

/// Names who is waited for.
fn name(servers: &Servers, reader: &str) -> Result<(), String> {
    let mut client = connect(&servers.source, "postgres")?;
    execute(&mut client, &format!("ALTER SYSTEM SET synchronous_standby_names = '{reader}'"))?;
    execute(&mut client, "SELECT pg_reload_conf()")
}

fn state(client: &mut Client) -> Result<String, String> {
    let query = format!(
        "SELECT coalesce((SELECT sync_state FROM pg_stat_replication
                          WHERE application_name = '{READER}' AND state = 'streaming'), '')"
    );
    text(client, &query)
}

fn until(what: &str, mut reached: impl FnMut() -> Result<bool, String>) -> Result<(), String> {
    let start = Instant::now();
    while !reached()? {
        if start.elapsed() > LIMIT {
            return Err(format!("waited {LIMIT:?} for {what}"));
        }
        thread::sleep(POLL);
    }
    Ok(())
}
