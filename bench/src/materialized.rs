//! ClickHouse's own way: a database with the engine MaterializedPostgreSQL.
//!
//! Each run has a source database, and a backlog, of its own: the engine makes its publication and its
//! slot itself, and must have made them before what it is to replay. So the database is made while the
//! tables are empty; then ClickHouse is stopped, the backlog is written, and ClickHouse is started
//! again: it goes on from its slot. The clock runs from its first read of the slot, so no start-up
//! counts, until all rows are in its parts. It is slow: its backlog is the same workload with at most
//! [`ROWS_MAX`] rows, and its CPU is scaled up to ours. CPU of ClickHouse is that of the whole server.

use std::cell::RefCell;
use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;
use rsrepl_tests::SECRET;
use rsrepl_tests::clickhouse::ClickHouse;

use crate::clickhouse::request;
use crate::measure::{CpuSeconds, Reading, cpu_of, sessions_cpu};
use crate::servers::{Servers, connect, drop_slot, execute, perform, text};
use crate::workload::{SCHEMA, TABLES, Workload, bulk};

/// Rows of its backlog, at most.
const ROWS_MAX: u64 = 600_000;

/// The pause between two looks.
const POLL: Duration = Duration::from_millis(5);

/// The pause between two counts, which cost the server a few milliseconds each.
const COUNT_EVERY: Duration = Duration::from_millis(200);

/// How long the engine may take to make its slot, and to read from it.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long one run may take.
const RUN_LIMIT: Duration = Duration::from_secs(240);

/// Lets the engine replay a backlog of its own.
pub fn replay(
    servers: &Servers,
    workload: &Workload,
    clickhouse: &RefCell<ClickHouse>,
    run: u32,
) -> Result<Reading, String> {
    let own = bulk(workload.amount.min(ROWS_MAX));
    let database = format!("materialized_{run}");
    let mut admin = servers.source.client("postgres");
    execute(&mut admin, &format!("CREATE DATABASE {database}"))?;
    let mut source = connect(&servers.source, &database)?;
    execute(&mut source, SCHEMA)?;
    create(servers, &clickhouse.borrow(), &database)?;
    let slot = await_slot(&mut source)?;
    clickhouse.borrow_mut().stop();
    let backlog: Result<(), String> =
        own.changes.iter().try_for_each(|step| perform(&servers.source, &database, step));
    let backlog = backlog.and_then(|()| execute(&mut source, "CHECKPOINT"));
    clickhouse.borrow_mut().launch();
    backlog?;
    let clickhouse = clickhouse.borrow();
    let reading = watch(servers, &clickhouse, &mut source, &database, &own);
    let dropped = clickhouse.try_query(&format!("DROP DATABASE {database} SYNC"));
    let _ = drop_slot(&mut source, &slot); // the engine may have done so
    drop(source);
    execute(&mut admin, &format!("DROP DATABASE {database} WITH (FORCE)"))?;
    let (wall, cpu) = reading?;
    dropped?;
    let scale = workload.amount as f64 / own.amount as f64;
    let cpu = cpu.into_iter().map(|(name, seconds)| (name, seconds * scale)).collect();
    Ok(Reading::replayed(workload.rate, own.amount, wall, cpu))
}

/// Makes the database of the engine.
fn create(servers: &Servers, clickhouse: &ClickHouse, database: &str) -> Result<(), String> {
    let query = format!(
        "CREATE DATABASE {database} ENGINE = MaterializedPostgreSQL(\
         '127.0.0.1:{}', '{database}', 'postgres', '{SECRET}') \
         SETTINGS materialized_postgresql_tables_list = '{}'",
        servers.source.port(),
        TABLES.join(",")
    );
    request(clickhouse, "")
        .query("allow_experimental_database_materialized_postgresql", "1")
        .send(query)
        .map_err(|e| format!("CREATE DATABASE … ENGINE = MaterializedPostgreSQL: {e}"))?;
    // The tables are empty, but have to be there before the server is stopped.
    let start = Instant::now();
    let ready = format!(
        "SELECT count() FROM system.tables WHERE database = '{database}' AND name IN ('{}')",
        TABLES.join("', '")
    );
    while clickhouse.try_query(&ready)?.trim() != TABLES.len().to_string() {
        if start.elapsed() > START_LIMIT {
            return Err(format!("no tables after {START_LIMIT:?}"));
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// The slot that the engine has made.
fn await_slot(source: &mut Client) -> Result<String, String> {
    let start = Instant::now();
    while start.elapsed() < START_LIMIT {
        let slot = "SELECT coalesce(min(slot_name::text), '') FROM pg_replication_slots
            WHERE database = current_database() AND confirmed_flush_lsn IS NOT NULL";
        let slot = text(source, slot)?;
        if !slot.is_empty() {
            return Ok(slot);
        }
        thread::sleep(POLL);
    }
    Err(format!("no slot after {START_LIMIT:?}"))
}

/// Wall time and CPU seconds of the replay.
fn watch(
    servers: &Servers,
    clickhouse: &ClickHouse,
    source: &mut Client,
    database: &str,
    own: &Workload,
) -> Result<(f64, CpuSeconds), String> {
    let databases = [database.to_owned()];
    let postmaster = servers.source.process().pid();
    let cpu = |source: &mut Client| -> Result<[f64; 2], String> {
        let target = cpu_of(clickhouse.process().pid()).ok_or("ClickHouse is gone")?;
        Ok([sessions_cpu(source, postmaster, &databases)?, target])
    };
    // It reads with a function call, again and again.
    let reads = "SELECT (count(*) > 0)::text FROM pg_stat_activity
        WHERE datname = current_database() AND query LIKE '%pg_logical_slot_peek_binary_changes%'
        AND pid <> pg_backend_pid()";
    let start = Instant::now();
    while text(source, reads)? != "true" {
        if start.elapsed() > START_LIMIT {
            return Err(format!("it does not read after {START_LIMIT:?}"));
        }
        thread::sleep(POLL);
    }
    let start = Instant::now();
    let before = cpu(source)?;
    // Cheaper than counting, which would read all keys.
    let rows =
        format!("SELECT sum(rows) FROM system.parts WHERE active AND database = '{database}'");
    while clickhouse.try_query(&rows)?.trim() != own.amount.to_string() {
        if start.elapsed() > RUN_LIMIT {
            return Err(format!("not done after {RUN_LIMIT:?}"));
        }
        thread::sleep(COUNT_EVERY);
    }
    let wall = start.elapsed().as_secs_f64();
    let after = cpu(source)?;
    Ok((wall, vec![("source", after[0] - before[0]), ("target", after[1] - before[1])]))
}
