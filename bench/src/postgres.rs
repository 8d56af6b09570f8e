//! Into PostgreSQL: the sidecar against a native subscription (binary).
//!
//! The clock starts when the slot becomes active and stops when the row after the backlog shows on
//! the target. CPU is that of all sessions on the source's database (the walsender and, on our side,
//! the sidecar's control connection), of the sidecar, and of all sessions on the target's database.

use std::thread;
use std::time::{Duration, Instant};

use crate::Plan;
use crate::copy::Files;
use crate::engine::{Engine, NATIVE, RSREPL, Route, Running, SPOOLED, start};
use crate::measure::{
    Contender, CpuSeconds, Measure, Outcome, POLL, Reading, SPILLED, WALSENDER, interleave, mib,
};
use crate::servers::{Backlog, DATABASE, Servers, connect, drop_slot, fingerprint, message};
use crate::workload::Workload;

/// How long one run may take.
const RUN_LIMIT: Duration = Duration::from_secs(600);

/// One writer more than the default.
const PARALLEL: Engine = Engine::Rsrepl {
    source: "",
    target: "consistency = \"parallel\"\nworkers = 3",
    spooled: false,
};

/// Runs a case.
pub fn run(servers: &Servers, workload: &Workload, plan: &Plan) -> Result<Outcome, String> {
    let backlog = &servers.prepare(workload)?;
    let replay = |engine| -> Measure { replaying(servers, workload, backlog, engine) };
    let contenders = vec![
        Contender::ours("rsrepl", replay(RSREPL)),
        Contender::peer("native subscription", replay(NATIVE)),
    ];
    Ok(Outcome::against_peers(interleave(plan.runs, contenders)?))
}

/// Runs the case of bulk inserts: also with several writers, and against what PostgreSQL does when
/// the same rows are in files.
pub fn bulk(servers: &Servers, workload: &Workload, plan: &Plan) -> Result<Outcome, String> {
    let backlog = &servers.prepare(workload)?;
    let files = &Files::export(servers, workload)?;
    let replay = |engine| -> Measure { replaying(servers, workload, backlog, engine) };
    let copy = Box::new(move |run| {
        let (wall, cpu) = files.copy(servers, backlog, run)?;
        Ok(Reading::replayed(workload.rate, workload.amount, wall, cpu))
    });
    let contenders = vec![
        Contender::ours("rsrepl", replay(RSREPL)),
        Contender::peer("native subscription", replay(NATIVE)),
        Contender::ours("rsrepl parallel", replay(PARALLEL)),
        Contender::limit("COPY from files, two sessions", copy),
    ];
    Ok(Outcome::against_peers(interleave(plan.runs, contenders)?))
}

/// Runs the case of the spool on disk: what it costs.
pub fn spool(servers: &Servers, workload: &Workload, plan: &Plan) -> Result<Outcome, String> {
    let backlog = &servers.prepare(workload)?;
    let contenders = vec![
        Contender::ours("applied", replaying(servers, workload, backlog, RSREPL)),
        Contender::ours("spooled", replaying(servers, workload, backlog, SPOOLED)),
    ];
    Ok(Outcome::against_first(interleave(plan.runs, contenders)?))
}

/// Runs the case of one huge transaction: memory and spill files count too.
pub fn huge(servers: &Servers, workload: &Workload, plan: &Plan) -> Result<Outcome, String> {
    let backlog = &servers.prepare(workload)?;
    let measure = |engine| -> Measure {
        Box::new(move |run| {
            let replayed = replay(servers, workload, backlog, (engine, 1), run)?;
            let spilled = mib(replayed.spilled);
            Ok(replayed.reading(workload).with(SPILLED, spilled))
        })
    };
    let contenders = vec![
        Contender::ours("rsrepl", measure(RSREPL)),
        Contender::peer("native subscription", measure(NATIVE)),
    ];
    Ok(Outcome::against_peers(interleave(plan.runs, contenders)?))
}

/// Runs the case of several targets at once: what they cost the source.
pub fn fan_out(servers: &Servers, workload: &Workload, plan: &Plan) -> Result<Outcome, String> {
    let backlog = &servers.prepare(workload)?;
    let contenders =
        [("1 target", 1), ("2 targets", 2), ("3 targets", 3)].map(|(name, targets)| {
            let measure: Measure = Box::new(move |run| {
                let replayed = replay(servers, workload, backlog, (RSREPL, targets), run)?;
                let mut reading = replayed.reading(workload);
                reading.values.insert(0, (WALSENDER, replayed.walsender));
                Ok(reading)
            });
            Contender::ours(name, measure)
        });
    Ok(Outcome::against_first(interleave(plan.runs, contenders.into())?))
}

fn replaying<'a>(
    servers: &'a Servers,
    workload: &'a Workload,
    backlog: &'a Backlog,
    engine: Engine,
) -> Measure<'a> {
    Box::new(move |run| Ok(replay(servers, workload, backlog, (engine, 1), run)?.reading(workload)))
}

/// What one run has shown.
struct Replayed {
    wall: f64,
    cpu: CpuSeconds,
    /// CPU seconds of the walsender.
    walsender: f64,
    /// Bytes that the source's reorder buffer has written to disk.
    spilled: u64,
    /// Of the sidecar, in bytes.
    peak_memory: Option<u64>,
}

impl Replayed {
    fn reading(&self, workload: &Workload) -> Reading {
        Reading::replayed(workload.rate, workload.amount, self.wall, self.cpu.clone())
            .with_memory(self.peak_memory)
    }
}

/// Replays the backlog into target databases of its own.
fn replay(
    servers: &Servers,
    workload: &Workload,
    backlog: &Backlog,
    (engine, targets): (Engine, usize),
    run: u32,
) -> Result<Replayed, String> {
    let databases: Vec<String> = (0..targets).map(|place| format!("bench_{run}_{place}")).collect();
    let mut route = Route {
        slot: format!("slot_{run}"),
        source: connect(&servers.source, DATABASE)?,
        targets: databases.iter().map(|d| servers.target_database(d)).collect::<Result<_, _>>()?,
        databases,
    };
    let mut running = start(servers, engine, &mut route, true)?;
    let measured = measure(&mut running);
    // Also after a failure, or a subscription would go on.
    let stopped = running.stop();
    let mut replayed = measured?;
    replayed.peak_memory = stopped?;
    replayed.spilled = spilled(&mut route)?;
    for target in &mut route.targets {
        let found = fingerprint(target, workload.tables)?;
        if found != backlog.fingerprint {
            return Err(format!("the rows differ: {found}, not {}", backlog.fingerprint));
        }
    }
    drop_slot(&mut route.source, &route.slot)?;
    route.databases.iter().try_for_each(|database| servers.drop_target(database))?;
    Ok(replayed)
}

/// Wall and CPU seconds from the moment the slot is active until the row after the backlog shows.
fn measure(running: &mut Running) -> Result<Replayed, String> {
    let start = Instant::now();
    let before = (running.cpu()?, running.walsender_cpu()?);
    while !running.mark_shows()? {
        if start.elapsed() > RUN_LIMIT {
            return Err(format!("not done after {RUN_LIMIT:?}"));
        }
        thread::sleep(POLL);
    }
    let wall = start.elapsed().as_secs_f64();
    let after = (running.cpu()?, running.walsender_cpu()?);
    let cpu = after.0.into_iter().zip(before.0).map(|((name, a), (_, b))| (name, a - b)).collect();
    Ok(Replayed { wall, cpu, walsender: after.1 - before.1, spilled: 0, peak_memory: None })
}

/// Bytes that the walsender of the run's slot has written to spill files.
fn spilled(route: &mut Route) -> Result<u64, String> {
    // The walsender has told the statistics at the commit, before it sent the row after the backlog.
    let query = "SELECT spill_bytes FROM pg_stat_replication_slots WHERE slot_name = $1";
    let row = route.source.query_one(query, &[&route.slot]).map_err(|e| message(&e))?;
    Ok(row.get::<_, i64>(0).unsigned_abs())
}
