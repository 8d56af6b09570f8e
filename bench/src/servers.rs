//! Source and target servers, and what a case makes on them: databases, publication, slots.

use std::cell::RefCell;
use std::env;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;
use rsrepl_tests::postgres::Postgres;
use rsrepl_tests::process::guarded;
use rsrepl_tests::scratch::Scratch;
use rsrepl_tests::{SECRET, build};

use crate::measure::POLL;
use crate::workload::{SCHEMA, Step, Workload};

/// The source's database, made anew for each case.
pub const DATABASE: &str = "bench";

/// The publication of both sides.
pub const PUBLICATION: &str = "bench";

/// The database that each run's target database is a copy of.
const TEMPLATE: &str = "bench_template";

/// The slot before the backlog, which each run's slot is a copy of.
const TEMPLATE_SLOT: &str = "bench_template";

/// The `application_name` of the bench's own connections, whose CPU is not counted.
pub const APPLICATION: &str = "rsrepl-bench";

/// How long a slot may take to become active or inactive.
pub const SLOT_LIMIT: Duration = Duration::from_secs(60);

/// How many tables, or parts of one, whoever copies them copies at the same time.
pub const SESSIONS: u64 = 4;

/// Settings of both servers beyond the harness's: durable as in production, and neither a checkpoint
/// nor a vacuum falls into one run and not into another.
pub const SETTINGS: &str = "
fsync = on
full_page_writes = on
shared_buffers = 1GB
max_wal_size = 32GB
checkpoint_timeout = 1h
autovacuum = off
max_logical_replication_workers = 8
max_sync_workers_per_subscription = 4
";

/// The PostgreSQL servers of one invocation.
pub struct Servers {
    /// Where the backlog is.
    pub source: Postgres,
    /// Where it goes.
    pub target: Postgres,
    /// Everything's folder.
    pub scratch: Scratch,
    /// The backlog that is there, and of what.
    prepared: RefCell<Option<(String, Backlog)>>,
}

impl Servers {
    /// Starts both.
    pub fn start() -> Servers {
        let scratch = Scratch::new("bench");
        if env::var("KEEP").is_ok_and(|v| v == "1") {
            println!("scratch folder: {}", scratch.path().display());
        }
        let source = Postgres::start(&scratch, "source", SETTINGS);
        let target = Postgres::start(&scratch, "target", SETTINGS);
        Servers { source, target, scratch, prepared: RefCell::default() }
    }

    /// Makes the source's database with its seed, publication, template slot and backlog, and the
    /// targets' template. What an earlier case left behind goes away, unless it is the same backlog.
    pub fn prepare(&self, workload: &Workload) -> Result<Backlog, String> {
        if let Some((what, backlog)) = &*self.prepared.borrow()
            && *what == workload.what
        {
            return Ok(backlog.clone());
        }
        self.prepared.take();
        let backlog = self.make(workload)?;
        self.prepared.replace(Some((workload.what.clone(), backlog.clone())));
        Ok(backlog)
    }

    fn make(&self, workload: &Workload) -> Result<Backlog, String> {
        for (server, database) in [(&self.source, DATABASE), (&self.target, TEMPLATE)] {
            let mut admin = server.client("postgres");
            drop_slots(&mut admin)?;
            execute(&mut admin, &format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)"))?;
            execute(&mut admin, &format!("CREATE DATABASE {database}"))?;
            let mut client = server.client(database);
            execute(&mut client, SCHEMA)?;
            for step in &workload.seed {
                perform(server, database, step)?;
            }
            execute(&mut client, "VACUUM ANALYZE")?;
        }
        let mut source = self.source.client(DATABASE);
        execute(&mut source, "CREATE EXTENSION rsrepl")?;
        execute(&mut source, &format!("CREATE PUBLICATION {PUBLICATION} FOR ALL TABLES"))?;
        let slot =
            format!("SELECT pg_create_logical_replication_slot('{TEMPLATE_SLOT}', 'pgoutput')");
        execute(&mut source, &slot)?;
        for step in &workload.changes {
            perform(&self.source, DATABASE, step)?;
        }
        execute(&mut source, "INSERT INTO bench_mark VALUES (1)")?;
        let end = text(&mut source, "SELECT pg_current_wal_lsn()::text")?;
        // Makes all of it durable, and writes a record past `end`, so that a walsender passes it.
        execute(&mut source, "CHECKPOINT")?;
        Ok(Backlog { end, fingerprint: fingerprint(&mut source, workload.tables)? })
    }

    /// Makes a target database for one run; the target begins with nothing left to write.
    pub fn target_database(&self, database: &str) -> Result<Client, String> {
        let mut admin = self.target.client("postgres");
        execute(&mut admin, &format!("CREATE DATABASE {database} TEMPLATE {TEMPLATE}"))?;
        execute(&mut admin, "CHECKPOINT")?;
        connect(&self.target, database)
    }

    /// Drops the database of a run.
    pub fn drop_target(&self, database: &str) -> Result<(), String> {
        let mut admin = self.target.client("postgres");
        execute(&mut admin, &format!("DROP DATABASE {database} WITH (FORCE)"))?;
        // Each takes a place that the server has max_replication_slots of.
        execute(
            &mut admin,
            "SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin
             WHERE roname LIKE 'rsrepl%'",
        )
    }
}

/// A connection whose CPU is not counted.
pub fn connect(server: &Postgres, database: &str) -> Result<Client, String> {
    let mut client = server.client(database);
    execute(&mut client, &format!("SET application_name = '{APPLICATION}'"))?;
    Ok(client)
}

/// Does a step. Only the making of a backlog is spared the waits for the disk.
pub fn perform(server: &Postgres, database: &str, step: &Step) -> Result<(), String> {
    match step {
        Step::Sql(statements) => {
            let mut client = server.client(database);
            execute(&mut client, "SET synchronous_commit = off")?;
            execute(&mut client, statements)
        }
        Step::Pgbench(arguments) => {
            let mut command = pgbench(server, database);
            command.args(arguments).env("PGOPTIONS", "-c synchronous_commit=off");
            let output = command.output().map_err(|e| format!("pgbench: {e}"))?;
            let told = String::from_utf8_lossy(&output.stderr);
            output.status.success().then_some(()).ok_or_else(|| format!("pgbench: {told}"))
        }
    }
}

/// `pgbench`, pointed at a database.
pub fn pgbench(server: &Postgres, database: &str) -> Command {
    let mut command = guarded(&build::postgres_bindir().join("pgbench"), "KILL", None);
    command.env("PGPASSWORD", SECRET).env("PGHOST", "127.0.0.1").env("PGUSER", "postgres");
    command.env("PGPORT", server.port().to_string()).env("PGDATABASE", database);
    command
}

/// What [`Servers::prepare`] has made.
#[derive(Clone)]
pub struct Backlog {
    /// The LSN after its last record.
    pub end: String,
    /// Of the source's rows, see [`fingerprint`].
    pub fingerprint: String,
}

/// Copies the template slot for one run, with another plugin.
pub fn copy_slot(client: &mut Client, slot: &str, plugin: &str) -> Result<(), String> {
    let call = format!(
        "SELECT pg_copy_logical_replication_slot('{TEMPLATE_SLOT}', '{slot}', false, '{plugin}')"
    );
    execute(client, &call)
}

/// Waits until a walsender streams from the slot, and returns its process id: the clock's start.
pub fn await_active(client: &mut Client, slot: &str) -> Result<u32, String> {
    let start = Instant::now();
    while start.elapsed() < SLOT_LIMIT {
        if let Some(pid) = active_pid(client, slot)? {
            return Ok(pid);
        }
        thread::sleep(POLL);
    }
    Err(format!("nobody reads from slot {slot} after {SLOT_LIMIT:?}"))
}

/// The process id of the walsender that streams from the slot.
pub fn active_pid(client: &mut Client, slot: &str) -> Result<Option<u32>, String> {
    let query = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1";
    let row = client.query_one(query, &[&slot]).map_err(|e| message(&e))?;
    Ok(row.get::<_, Option<i32>>(0).map(i32::unsigned_abs))
}

/// Drops a run's slot as soon as its walsender has let go of it.
pub fn drop_slot(client: &mut Client, slot: &str) -> Result<(), String> {
    let drop = format!("SELECT pg_drop_replication_slot('{slot}')");
    let start = Instant::now();
    loop {
        match execute(client, &drop) {
            Err(_) if start.elapsed() < SLOT_LIMIT => thread::sleep(POLL),
            result => return result,
        }
    }
}

/// Drops whatever slots are left; one that is in use is let go of first.
fn drop_slots(client: &mut Client) -> Result<(), String> {
    execute(
        client,
        "SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots WHERE active",
    )?;
    execute(client, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
}

/// Number of rows and sum of their hashes, of each table: equal rows have equal fingerprints.
pub fn fingerprint(client: &mut Client, tables: &[&str]) -> Result<String, String> {
    let of = |table: &&str| {
        format!(
            "(SELECT count(*) || ':' || coalesce(sum(hashtextextended(t::text, 0)), 0) FROM {table} t)"
        )
    };
    let parts: Vec<String> = tables.iter().map(of).collect();
    text(client, &format!("SELECT {}", parts.join(" || ' ' || ")))
}

/// The one text of a query.
pub fn text(client: &mut Client, query: &str) -> Result<String, String> {
    let row = client.query_one(query, &[]).map_err(|e| format!("{query}: {}", message(&e)))?;
    Ok(row.get(0))
}

/// Runs a statement.
pub fn execute(client: &mut Client, statement: &str) -> Result<(), String> {
    client.batch_execute(statement).map_err(|e| format!("{statement}: {}", message(&e)))
}

/// The server's message rather than "db error".
pub fn message(error: &postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string)
}
