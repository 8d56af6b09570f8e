//! From the commit until it is visible on the target.
//!
//! `pgbench --rate` writes single-row transactions at a given pace, open loop: a commit that is late
//! does not delay the next. The source waits for its disk (`synchronous_commit = on`, the default).
//! pgbench's log tells to the microsecond when each COMMIT had returned to the client. Meanwhile a
//! prober asks the target for the last row of one of the clients, whose rows come in the order of
//! their numbers, and notes when the answer was there. Latency is the difference, on one clock; a row
//! seen before COMMIT returned counts as 0. All commits of that one client after the warm-up are
//! samples. The prober's pauses ([`PAUSE`]) are part of the figure, and the same for both sides.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use postgres::Client;
use rsrepl_tests::process::Process;

use crate::Plan;
use crate::engine::{Engine, RSREPL, Route, Running, start};
use crate::measure::{
    Contender, CpuSeconds, Measure, Outcome, P50, P99, PACE, POLL, Reading, interleave,
};
use crate::servers::{
    DATABASE, Servers, connect, drop_slot, execute, fingerprint, message, pgbench,
};
use crate::workload::Workload;

/// What is not counted, in seconds.
const WARM_UP: u64 = 3;

/// What is, in seconds.
const COUNTED: u64 = 10;

/// The prober's pause between two questions.
const PAUSE: Duration = Duration::from_micros(200);

/// How long the target may take to have it all once the writer has ended.
const CATCH_UP: Duration = Duration::from_secs(60);

/// Rows of a client begin at its number times this.
const CLIENT_ROWS: i64 = 1_000_000_000;

/// A writer that does not get to this part of the pace measures something else; what it got to is a figure.
const REACHED: f64 = 0.5;

/// What each client does. Its rows are numbered in the order of its commits.
const SCRIPT: &str = "\\set n :n + 1
INSERT INTO narrow VALUES (:client_id::bigint * 1000000000 + :n::bigint, :n::bigint % 1000,
    :n::bigint * 7 % 100000, now(),
    'filler-0123456789abcdef0123456789abcdef');
";

/// A pace, and the clients that reach it.
#[derive(Clone, Copy)]
struct Pace {
    tps: u64,
    clients: u64,
}

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
        Contender::peer("native subscription", measure(Engine::Native)),
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
    let [expected, found] = [&mut route.source, &mut route.targets[0]]
        .map(|client| fingerprint(client, workload.tables));
    let (expected, found) = (expected?, found?);
    if found != expected {
        return Err(format!("the rows differ: {found}, not {expected}"));
    }
    drop_slot(&mut route.source, &route.slot)?;
    drop(route);
    servers.drop_target(&database)?;
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
    let ((commits, written), sightings) = thread::scope(|scope| {
        let sightings = scope.spawn(|| watch(&mut prober, &ended));
        let commits = write(servers, running, (pace, run));
        let arrived = commits.as_ref().map_or(Ok(()), |(c, _)| await_last(running, c));
        ended.store(true, Ordering::Relaxed);
        let sightings = sightings.join().map_err(|_| "the prober panicked".to_owned());
        arrived.and(Ok((commits?, sightings??)))
    })?;
    let cpu = cpu(running)?.into_iter().zip(before).map(|((name, a), (_, b))| (name, a - b));
    let mut latencies = latencies(&commits, &sightings)?;
    latencies.sort_by(f64::total_cmp);
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part).round() as usize] * 1000.0;
    let values = vec![(P50, at(0.5)), (P99, at(0.99)), (PACE, written)];
    Ok(Reading { values, cpu: cpu.collect() }.with_total_cpu())
}

/// CPU seconds so far; of the source the walsender's alone, as its other sessions are the writer's.
fn cpu(running: &mut Running) -> Result<CpuSeconds, String> {
    let mut cpu = running.cpu()?;
    cpu[0] = ("walsender", running.walsender_cpu()?);
    Ok(cpu)
}

/// Runs the writer to its end: when each commit of the first client had returned, and how many commits
/// a second there were.
fn write(
    servers: &Servers,
    running: &mut Running,
    (pace, run): (Pace, u32),
) -> Result<(BTreeMap<i64, f64>, f64), String> {
    let folder = servers.scratch.join(&format!("pgbench_{run}"));
    fs::create_dir(&folder).map_err(|e| e.to_string())?;
    let script = folder.join("script.sql");
    fs::write(&script, SCRIPT).map_err(|e| e.to_string())?;
    let mut command = pgbench(&servers.source, DATABASE);
    command.args(["--no-vacuum", "--protocol=prepared", "--jobs=1", "--define=n=0", "--log"]);
    command.arg(format!("--log-prefix={}", folder.join("log").display()));
    command.arg(format!("--rate={}", pace.tps)).arg(format!("--client={}", pace.clients));
    command.arg(format!("--time={}", WARM_UP + COUNTED)).arg("--random-seed=1");
    command.arg(format!("--file={}", script.display()));
    let mut writer = Process::spawn("pgbench", &folder.join("output"), command);
    let status = loop {
        if let Some(status) = writer.exited() {
            break status;
        }
        running.check()?;
        thread::sleep(POLL);
    };
    if !status.success() {
        return Err(writer.log());
    }
    let (commits, all) = read_log(&folder)?;
    let written = all as f64 / (WARM_UP + COUNTED) as f64;
    if written < REACHED * pace.tps as f64 {
        return Err(format!("the writer got to {written:.0} tps only"));
    }
    fs::remove_dir_all(&folder).map_err(|e| e.to_string())?;
    Ok((commits, written))
}

/// Seconds since 1970 at which the commits of the first client had returned, by the numbers of their
/// rows; and the number of all commits.
fn read_log(folder: &Path) -> Result<(BTreeMap<i64, f64>, u64), String> {
    let (mut commits, mut all) = (BTreeMap::new(), 0);
    for entry in fs::read_dir(folder).map_err(|e| e.to_string())?.flatten() {
        if !entry.file_name().to_string_lossy().starts_with("log.") {
            continue;
        }
        let log = fs::read_to_string(entry.path()).map_err(|e| e.to_string())?;
        for line in log.lines() {
            all += 1;
            // client, transaction, duration, script, seconds, microseconds, lag
            let fields: Vec<&str> = line.split(' ').collect();
            let [client, _, _, _, seconds, micros, ..] = fields[..] else {
                return Err(format!("pgbench has logged {line:?}"));
            };
            if client == "0" {
                let number = |text: &str| text.parse::<f64>().map_err(|e| format!("{line:?}: {e}"));
                let row = commits.len() as i64 + 1;
                commits.insert(row, number(seconds)? + number(micros)? / 1e6);
            }
        }
    }
    Ok((commits, all))
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
