//! From the commit until it is visible on the target.
//!
//! A [`pace`](crate::pace) of single-row transactions; the source waits for its disk (`synchronous_commit = on`, the
//! default). Meanwhile a prober asks the target for the last row of one of the clients, whose rows come in the order of
//! their numbers, and notes when the answer was there. Latency is the difference, on one clock; a row
//! seen before COMMIT returned counts as 0. All commits of that one client after the warm-up are
//! samples. The prober's pauses ([`PAUSE`]) are part of the figure, and the same for both sides.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use postgres::Client;

use crate::Plan;
use crate::engine::{Engine, NATIVE, RSREPL, Route, Running, start};
use crate::measure::{Contender, CpuSeconds, Measure, Outcome, POLL, Reading, interleave};
use crate::pace::{self, CLIENT_ROWS, Pace};
use crate::servers::{DATABASE, Servers, connect, execute, message};
use crate::workload::Workload;

/// What is not counted, in seconds.
const WARM_UP: u64 = 3;

/// What is, in seconds.
const COUNTED: u64 = 10;

/// The prober's pause between two questions.
const PAUSE: Duration = Duration::from_micros(200);

/// How long the target may take to have it all once the writer has ended.
const CATCH_UP: Duration = Duration::from_secs(60);

/// Runs the case at 500 transactions a second.
pub fn at_500(servers: &Servers, workload: &Workload, plan: &Plan) -> Result<Outcome, String> {
    run(servers, workload, plan, Pace { tps: 500, clients: 4 })
}

/// Runs the case at 5,000.
pub fn at_5000(servers: &Servers, workload: &Workload, plan: &Plan) -> Result<Outcome, String> {
    run(servers, workload, plan, Pace { tps: 5000, clients: 32 })
}

fn run(servers: &Servers, workload: &Workload, plan: &Plan, pace: Pace) -> Result<Outcome, String> {
    servers.prepare(workload)?;
    let measure = |engine| -> Measure {
        Box::new(move |run| measure(servers, workload, (engine, pace), run))
    };
    let contenders = vec![
        Contender::ours("rsrepl", measure(RSREPL)),
        Contender::peer("native subscription", measure(NATIVE)),
    ];
    Ok(Outcome::against_peers(interleave(plan.runs, contenders)?))
}

fn measure(
    servers: &Servers,
    workload: &Workload,
    (engine, pace): (Engine, Pace),
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
    let measured = probe(servers, &mut running, &database, (pace, run));
    let stopped = running.stop();
    let reading = measured?;
    stopped?;
    route.end(servers, workload.tables)?;
    Ok(reading)
}

/// Writes and probes; the engine runs.
fn probe(
    servers: &Servers,
    running: &mut Running,
    database: &str,
    (pace, run): (Pace, u32),
) -> Result<Reading, String> {
    // The way is open once a row has come through.
    servers.source.execute(DATABASE, "INSERT INTO bench_mark VALUES (1)");
    let start = Instant::now();
    while !running.mark_shows()? {
        if start.elapsed() > CATCH_UP {
            return Err(format!("the first row has not come through in {CATCH_UP:?}"));
        }
        thread::sleep(POLL);
    }
    let mut prober = connect(&servers.target, database)?;
    let ended = AtomicBool::new(false);
    let before = cpu(running)?;
    let (commits, rate, sightings) = thread::scope(|scope| {
        let sightings = scope.spawn(|| watch(&mut prober, &ended));
        let written = pace::write(servers, running, pace, WARM_UP + COUNTED, (run, "on"));
        let arrived = written.and_then(|written| {
            let commits = written.first_client();
            await_last(running, &commits).map(|()| (commits, written.rate))
        });
        ended.store(true, Ordering::Relaxed);
        let sightings = sightings.join().map_err(|_| "the prober panicked".to_owned());
        let (commits, rate) = arrived?;
        Ok::<_, String>((commits, rate, sightings??))
    })?;
    let cpu = cpu(running)?.into_iter().zip(before).map(|((name, a), (_, b))| (name, a - b));
    let latencies = latencies(&commits, &sightings)?;
    Ok(Reading::latencies(latencies, rate, cpu.collect()))
}

/// CPU seconds so far; of the source the walsender's alone, as its other sessions are the writer's.
fn cpu(running: &mut Running) -> Result<CpuSeconds, String> {
    let mut cpu = running.cpu()?;
    cpu[0] = ("walsender", running.walsender_cpu()?);
    Ok(cpu)
}

/// Waits until the last row of the first client is there.
fn await_last(running: &mut Running, commits: &BTreeMap<i64, f64>) -> Result<(), String> {
    let last = commits.keys().next_back().copied().unwrap_or(0);
    let start = Instant::now();
    while last_row(running.target())? < last {
        if start.elapsed() > CATCH_UP {
            return Err(format!("row {last} has not come through in {CATCH_UP:?}"));
        }
        running.check()?;
        thread::sleep(POLL);
    }
    Ok(())
}

fn last_row(client: &mut Client) -> Result<i64, String> {
    let query = format!("SELECT max(id) FROM narrow WHERE id < {CLIENT_ROWS}");
    let row = client.query_one(&query, &[]).map_err(|e| message(&e))?;
    Ok(row.get::<_, Option<i64>>(0).unwrap_or(0))
}

/// Asks for the first client's last row again and again: which was seen when, where it changed.
fn watch(client: &mut Client, ended: &AtomicBool) -> Result<Vec<(f64, i64)>, String> {
    let query = format!("SELECT max(id) FROM narrow WHERE id < {CLIENT_ROWS}");
    let query = client.prepare(&query).map_err(|e| message(&e))?;
    let mut sightings: Vec<(f64, i64)> = Vec::new();
    while !ended.load(Ordering::Relaxed) {
        let row = client.query_one(&query, &[]).map_err(|e| message(&e))?;
        let last = row.get::<_, Option<i64>>(0).unwrap_or(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|e| e.to_string())?;
        if sightings.last().map_or(0, |(_, seen)| *seen) < last {
            sightings.push((now.as_secs_f64(), last));
        }
        thread::sleep(PAUSE);
    }
    Ok(sightings)
}

/// Seconds until each commit after the warm-up was seen.
fn latencies(commits: &BTreeMap<i64, f64>, sightings: &[(f64, i64)]) -> Result<Vec<f64>, String> {
    let first = commits.values().next().ok_or("the writer has written nothing")?;
    let counted = commits.iter().filter(|(_, at)| **at > first + WARM_UP as f64);
    let mut seen = sightings.iter();
    let mut sighting = seen.next();
    let latency = |(row, at): (&i64, &f64)| {
        while sighting.is_some_and(|(_, last)| last < row) {
            sighting = seen.next();
        }
        let (when, _) = sighting.ok_or_else(|| format!("row {row} was not seen"))?;
        Ok((when - at).max(0.0))
    };
    let latencies = counted.map(latency).collect::<Result<Vec<f64>, String>>()?;
    if latencies.is_empty() { Err("no commit after the warm-up".to_owned()) } else { Ok(latencies) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    #[test]
    fn a_commit_is_visible_with_the_first_sighting_of_its_row_or_a_later_one() {
        let commits = BTreeMap::from([(1, 0.0), (2, 4.0), (3, 5.0), (4, 6.0)]);
        let sightings = [(0.1, 1), (5.5, 3), (5.9, 4)];
        assert_eq!(super::latencies(&commits, &sightings), Ok(vec![1.5, 0.5, 0.0]));
        assert!(super::latencies(&commits, &sightings[..2]).is_err());
    }
}
