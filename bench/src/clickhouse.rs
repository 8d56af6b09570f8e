//! Into ClickHouse: the sidecar against inserting the same rows from files over HTTP, and against
//! ClickHouse's own engine (see `materialized`).
//!
//! The clock of our side starts when the slot becomes active and stops when the slot is confirmed up to
//! the backlog's end and all rows are counted on ClickHouse; it includes the `batch_interval` that the
//! last batch may wait. (To count them again and again would cost the server more than to insert them.) The files are RowBinary,
//! exported from what the first run has written; the peer's clock is that of the requests, one table
//! after the other. CPU of ClickHouse is that of the whole server, merges included.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rsrepl_tests::SECRET;
use rsrepl_tests::clickhouse::{ClickHouse, USER};
use rsrepl_tests::config::{Config, NO_COPY, Target};
use rsrepl_tests::scratch::free_port;
use rsrepl_tests::sidecar::Sidecar;

use crate::Plan;
use crate::materialized;
use crate::measure::{
    Contender, CpuSeconds, Measure, Outcome, POLL, Reading, cpu_of, interleave, sessions_cpu,
};
use crate::servers::{
    Backlog, DATABASE, PUBLICATION, Servers, await_active, connect, copy_slot, drop_slot, text,
};
use crate::workload::{TABLES, Workload};

/// How long one run may take.
const RUN_LIMIT: Duration = Duration::from_secs(600);

/// Where the exported tables stay.
const MODEL: &str = "bench_model";

/// Runs the case.
pub fn run(servers: &Servers, workload: &Workload, plan: &Plan) -> Result<Outcome, String> {
    let backlog = &servers.prepare(workload)?;
    let clickhouse = &RefCell::new(ClickHouse::start(&servers.scratch));
    let ours: Measure =
        Box::new(move |run| replay(servers, workload, backlog, &clickhouse.borrow(), run));
    let file: Measure =
        Box::new(move |run| insert_files(servers, workload, &clickhouse.borrow(), run));
    let engine: Measure =
        Box::new(move |run| materialized::replay(servers, workload, clickhouse, run));
    let contenders = vec![
        Contender::ours("rsrepl", ours),
        Contender::limit("file over HTTP", file),
        Contender::peer("MaterializedPostgreSQL", engine),
    ];
    Ok(Outcome::against_peers(interleave(plan.runs, contenders)?))
}

/// Replays the backlog into a database of its own; the first run's becomes the model.
fn replay(
    servers: &Servers,
    workload: &Workload,
    backlog: &Backlog,
    clickhouse: &ClickHouse,
    run: u32,
) -> Result<Reading, String> {
    let mut source = connect(&servers.source, DATABASE)?;
    let counts = TABLES.map(|table| format!("(SELECT count(*) FROM {table})"));
    let expected = text(&mut source, &format!("SELECT concat_ws(' ', {})", counts.join(", ")))?;
    let slot = format!("slot_{run}");
    copy_slot(&mut source, &slot, "rsrepl")?;
    let first = !files(servers).iter().all(|f| f.exists());
    let database = if first { MODEL.to_owned() } else { format!("bench_{run}") };
    let mut sidecar = Sidecar::new(
        &servers.scratch,
        &Config {
            source: servers.source.conninfo(DATABASE),
            source_options: format!("publication = \"{PUBLICATION}\""),
            slot: slot.clone(),
            postgres: Vec::new(),
            clickhouse: vec![Target::new("clickhouse", clickhouse.url(&database))],
            telemetry_port: free_port(),
            copy: NO_COPY.to_owned(),
            sections: String::new(),
        },
    );
    sidecar.launch();
    await_active(&mut source, &slot).map_err(|e| format!("{e}\n{}", sidecar.log()))?;
    let start = Instant::now();
    let before = cpu(servers, clickhouse, &sidecar, &mut source)?;
    let counts = TABLES.map(|table| format!("(SELECT count() FROM {database}.{table})"));
    let count = format!("SELECT concat({})", counts.join(", ' ', "));
    let confirmed = format!(
        "SELECT (confirmed_flush_lsn >= '{}')::text FROM pg_replication_slots
         WHERE slot_name = '{slot}'",
        backlog.end
    );
    while text(&mut source, &confirmed)? != "true"
        || clickhouse.try_query(&count)?.trim() != expected
    {
        if start.elapsed() > RUN_LIMIT {
            return Err(format!("not done after {RUN_LIMIT:?}"));
        }
        if !sidecar.is_running() {
            return Err(format!("the sidecar ended:\n{}", sidecar.log()));
        }
        thread::sleep(POLL);
    }
    let wall = start.elapsed().as_secs_f64();
    let after = cpu(servers, clickhouse, &sidecar, &mut source)?;
    let peak_memory = Some(sidecar.peak_memory());
    sidecar.terminate();
    drop_slot(&mut source, &slot)?;
    if first {
        export(servers, clickhouse)?;
    } else {
        clickhouse.try_query(&format!("DROP DATABASE {database} SYNC"))?;
    }
    let cpu = after.into_iter().zip(before).map(|((name, a), (_, b))| (name, a - b)).collect();
    Ok(Reading::replayed(workload.rate, workload.amount, wall, cpu).with_memory(peak_memory))
}

fn cpu(
    servers: &Servers,
    clickhouse: &ClickHouse,
    sidecar: &Sidecar,
    source: &mut postgres::Client,
) -> Result<CpuSeconds, String> {
    let databases = [DATABASE.to_owned()];
    Ok(vec![
        ("source", sessions_cpu(source, servers.source.process().pid(), &databases)?),
        ("sidecar", cpu_of(sidecar.process().pid()).ok_or("the sidecar is gone")?),
        ("target", cpu_of(clickhouse.process().pid()).ok_or("ClickHouse is gone")?),
    ])
}

/// Where the exported tables are, in the order of [`TABLES`].
fn files(servers: &Servers) -> [PathBuf; TABLES.len()] {
    TABLES.map(|table| servers.scratch.join(&format!("{table}.rowbinary")))
}

/// Writes the model's tables to files.
fn export(servers: &Servers, clickhouse: &ClickHouse) -> Result<(), String> {
    for (table, path) in TABLES.iter().zip(files(servers)) {
        let query = format!("SELECT * FROM {MODEL}.{table} FORMAT RowBinary");
        let mut response = request(clickhouse, "").send(query).map_err(|e| e.to_string())?;
        let mut file = File::create(path).map_err(|e| e.to_string())?;
        let mut body = response.body_mut().as_reader();
        io::copy(&mut body, &mut file).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Inserts the files into empty tables like the model's.
fn insert_files(
    servers: &Servers,
    workload: &Workload,
    clickhouse: &ClickHouse,
    run: u32,
) -> Result<Reading, String> {
    let database = format!("bench_{run}");
    clickhouse.try_query(&format!("CREATE DATABASE {database}"))?;
    for table in TABLES {
        clickhouse.try_query(&format!("CREATE TABLE {database}.{table} AS {MODEL}.{table}"))?;
    }
    let pid = clickhouse.process().pid();
    let before = cpu_of(pid).ok_or("ClickHouse is gone")?;
    let start = Instant::now();
    for (table, path) in TABLES.iter().zip(files(servers)) {
        let file = File::open(path).map_err(|e| e.to_string())?;
        let query = format!("INSERT INTO {database}.{table} FORMAT RowBinary");
        request(clickhouse, &query).send(file).map_err(|e| e.to_string())?;
    }
    let wall = start.elapsed().as_secs_f64();
    let cpu = cpu_of(pid).ok_or("ClickHouse is gone")? - before;
    for table in TABLES {
        let query = format!(
            "SELECT (SELECT count() FROM {database}.{table}) = (SELECT count() FROM {MODEL}.{table})"
        );
        if clickhouse.try_query(&query)?.trim() != "1" {
            return Err(format!("{table}: not all rows arrived"));
        }
    }
    clickhouse.try_query(&format!("DROP DATABASE {database} SYNC"))?;
    Ok(Reading::replayed(workload.rate, workload.amount, wall, vec![("target", cpu)]))
}

/// A POST whose body is the query, or what goes after `query`.
pub fn request(
    clickhouse: &ClickHouse,
    query: &str,
) -> ureq::RequestBuilder<ureq::typestate::WithBody> {
    ureq::post(format!("http://127.0.0.1:{}/", clickhouse.http_port()))
        .query("async_insert", "0")
        .query("query", query)
        .header("X-ClickHouse-User", USER)
        .header("X-ClickHouse-Key", SECRET)
}
