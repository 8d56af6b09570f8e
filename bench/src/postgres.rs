//! Into PostgreSQL: the sidecar against a native subscription (binary).
//!
//! The clock starts when the slot becomes active and stops when the row after the backlog shows on
//! the target. CPU is that of all sessions on the source's database (the walsender and, on our side,
//! the sidecar's control connection), of the sidecar, and of all sessions on the target's database.

use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;
use rsrepl_tests::config::{Config, Target};
use rsrepl_tests::scratch::free_port;
use rsrepl_tests::sidecar::Sidecar;

use crate::Plan;
use crate::measure::{
    CpuSeconds, Measure, Outcome, POLL, Reading, cpu_of, interleave, sessions_cpu,
};
use crate::servers::{
    Backlog, DATABASE, PUBLICATION, Servers, await_active, copy_slot, drop_slot, execute,
    fingerprint, message,
};
use crate::workload::Workload;

/// How long one run may take.
const RUN_LIMIT: Duration = Duration::from_secs(600);

/// The subscription of the peer.
const SUBSCRIPTION: &str = "bench";

/// Who applies.
#[derive(Clone, Copy)]
enum Engine {
    Rsrepl,
    Native,
}

/// A started engine.
enum Running {
    Rsrepl(Box<Sidecar>),
    Native,
}

/// Runs the case.
pub fn run(servers: &Servers, workload: &Workload, plan: &Plan) -> Result<Outcome, String> {
    let backlog = servers.prepare(workload)?;
    let engines = [("rsrepl", Engine::Rsrepl), ("native subscription", Engine::Native)];
    let contenders = engines.map(|(name, engine)| {
        let backlog = &backlog;
        let measure: Measure = Box::new(move |run| replay(servers, backlog, engine, run));
        (name.to_owned(), measure)
    });
    interleave(plan.runs, contenders.into())
}

/// Replays the backlog into a target database of its own.
fn replay(
    servers: &Servers,
    backlog: &Backlog,
    engine: Engine,
    run: u32,
) -> Result<Reading, String> {
    let (database, mut target) = servers.target_database(run)?;
    let mut source = servers.source.client(DATABASE);
    let slot = format!("slot_{run}");
    let mut running = start(servers, engine, &slot, &database, (&mut source, &mut target))?;
    let measured = measure(servers, &slot, &mut running, (&mut source, &mut target));
    let found = fingerprint(&mut target)?;
    // Also after a failure, or a subscription would go on.
    let stopped = stop(running, &mut target);
    let (wall, cpu) = measured?;
    if found != backlog.fingerprint {
        return Err(format!("the rows differ: {found}, not {}", backlog.fingerprint));
    }
    drop(target);
    drop_slot(&mut source, &slot)?;
    servers.drop_target(&database)?;
    Ok(Reading { wall, cpu, peak_memory: stopped? })
}

/// Wall and CPU seconds from the moment the slot is active until the row after the backlog shows.
fn measure(
    servers: &Servers,
    slot: &str,
    running: &mut Running,
    (source, target): (&mut Client, &mut Client),
) -> Result<(f64, CpuSeconds), String> {
    await_active(source, slot).map_err(|e| format!("{e}\n{}", log(running)))?;
    let start = Instant::now();
    let before = cpu(servers, running, (&mut *source, &mut *target))?;
    await_mark(target, start, running)?;
    let wall = start.elapsed().as_secs_f64();
    let after = cpu(servers, running, (source, target))?;
    let cpu = after.into_iter().zip(before).map(|((name, a), (_, b))| (name, a - b));
    Ok((wall, cpu.collect()))
}

fn log(running: &Running) -> String {
    match running {
        Running::Rsrepl(sidecar) => sidecar.log(),
        Running::Native => String::new(),
    }
}

/// Starts one side on a fresh copy of the slot.
fn start(
    servers: &Servers,
    engine: Engine,
    slot: &str,
    database: &str,
    (source, target): (&mut Client, &mut Client),
) -> Result<Running, String> {
    match engine {
        Engine::Rsrepl => {
            copy_slot(source, slot, "rsrepl")?;
            let connection = servers.target.conninfo(database);
            let mut sidecar = Sidecar::new(
                &servers.scratch,
                &Config {
                    source: servers.source.conninfo(DATABASE),
                    source_options: format!("publication = \"{PUBLICATION}\""),
                    slot: slot.to_owned(),
                    postgres: vec![Target::new("standby", connection)],
                    clickhouse: Vec::new(),
                    telemetry_port: free_port(),
                    sections: String::new(),
                },
            );
            sidecar.launch();
            Ok(Running::Rsrepl(Box::new(sidecar)))
        }
        Engine::Native => {
            copy_slot(source, slot, "pgoutput")?;
            let create = format!(
                "CREATE SUBSCRIPTION {SUBSCRIPTION} CONNECTION '{}' PUBLICATION {PUBLICATION}
                 WITH (create_slot = false, slot_name = '{slot}', copy_data = false, binary = true)",
                servers.source.conninfo(DATABASE)
            );
            execute(target, &create)?;
            Ok(Running::Native)
        }
    }
}

/// Waits until the row after the backlog shows.
fn await_mark(target: &mut Client, start: Instant, running: &mut Running) -> Result<(), String> {
    let query = target.prepare("SELECT FROM bench_mark WHERE id = 1").map_err(|e| message(&e))?;
    while target.query(&query, &[]).map_err(|e| message(&e))?.is_empty() {
        if start.elapsed() > RUN_LIMIT {
            return Err(format!("not done after {RUN_LIMIT:?}"));
        }
        if let Running::Rsrepl(sidecar) = running
            && !sidecar.is_running()
        {
            return Err(format!("the sidecar ended:\n{}", sidecar.log()));
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// CPU seconds so far, by process.
fn cpu(
    servers: &Servers,
    running: &Running,
    (source, target): (&mut Client, &mut Client),
) -> Result<CpuSeconds, String> {
    let mut cpu = vec![("source", sessions_cpu(source, servers.source.process().pid())?)];
    if let Running::Rsrepl(sidecar) = running {
        cpu.push(("sidecar", cpu_of(sidecar.process().pid()).ok_or("the sidecar is gone")?));
    }
    cpu.push(("target", sessions_cpu(target, servers.target.process().pid())?));
    Ok(cpu)
}

/// Ends one side; the sidecar's greatest memory, if it was that.
fn stop(running: Running, target: &mut Client) -> Result<Option<u64>, String> {
    match running {
        Running::Rsrepl(mut sidecar) => {
            let peak = sidecar.peak_memory();
            let status = sidecar.terminate();
            if !status.success() {
                return Err(format!("the sidecar ended with {status}:\n{}", sidecar.log()));
            }
            Ok(Some(peak))
        }
        Running::Native => {
            execute(target, &format!("ALTER SUBSCRIPTION {SUBSCRIPTION} DISABLE"))?;
            execute(target, &format!("ALTER SUBSCRIPTION {SUBSCRIPTION} SET (slot_name = NONE)"))?;
            execute(target, &format!("DROP SUBSCRIPTION {SUBSCRIPTION}"))?;
            Ok(None)
        }
    }
}
