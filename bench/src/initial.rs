//! The rows that are there when replication begins, into PostgreSQL: the sidecar's first copy against the table
//! synchronisation of a native subscription, and against `psql` twice with a pipe between.
//!
//! One large table, and 50 tables with as many rows together; everybody has [`SESSIONS`] at a time, and the tables are
//! there with their primary keys. The clock starts when the slot is there (for psql, with the first session) and
//! stops when every row shows on the target.

use std::collections::VecDeque;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;
use rsrepl_tests::config::{Config, Target};
use rsrepl_tests::postgres::Postgres;
use rsrepl_tests::process::guarded;
use rsrepl_tests::scratch::free_port;
use rsrepl_tests::sidecar::Sidecar;
use rsrepl_tests::{SECRET, build};

use crate::Plan;
use crate::measure::{
    Contender, CpuSeconds, Outcome, POLL, Reading, children_cpu, cpu_of, interleave, sessions_cpu,
};
use crate::servers::{
    DATABASE, SESSIONS, Servers, connect, drop_slot, execute, fingerprint, message, text,
};
use crate::workload::{self, Workload};

/// How long one run may take.
const RUN_LIMIT: Duration = Duration::from_secs(900);

const SUBSCRIPTION: &str = "bench_copy";

/// What is copied.
struct Load<'a> {
    publication: &'static str,
    tables: Vec<String>,
    fingerprint: String,
    workload: &'a Workload,
    servers: &'a Servers,
}

/// Runs the case.
pub fn run(servers: &Servers, workload: &Workload, plan: &Plan) -> Result<Outcome, String> {
    servers.prepare(workload)?;
    let one = &Load::of(servers, workload, workload::ONE, vec!["wide".to_owned()])?;
    let many = &Load::of(servers, workload, workload::MANY, workload::many_tables())?;
    let contenders = vec![
        Contender::ours("rsrepl", Box::new(|run| one.rsrepl(run))),
        Contender::peer("native table sync", Box::new(|run| one.native(run))),
        Contender::limit("psql COPY", Box::new(|run| one.psql(run))),
        Contender::ours("rsrepl, 50 tables", Box::new(|run| many.rsrepl(run))),
        Contender::peer("native table sync, 50 tables", Box::new(|run| many.native(run))),
        Contender::limit("psql COPY, 50 tables", Box::new(|run| many.psql(run))),
    ];
    let tracks = interleave(plan.runs, contenders)?;
    Ok(Outcome { tracks, pairs: vec![(0, 1), (0, 2), (3, 4), (3, 5)] })
}

/// A database of a run, and the bench's connections.
struct Run {
    database: String,
    slot: String,
    source: Client,
    target: Client,
}

impl<'a> Load<'a> {
    fn of(
        servers: &'a Servers,
        workload: &'a Workload,
        publication: &'static str,
        tables: Vec<String>,
    ) -> Result<Load<'a>, String> {
        let mut source = connect(&servers.source, DATABASE)?;
        let fingerprint = fingerprint(&mut source, &names(&tables))?;
        Ok(Load { publication, tables, fingerprint, workload, servers })
    }

    fn begin(&self, run: u32) -> Result<Run, String> {
        let database = format!("bench_{run}_0");
        let target = self.servers.target_database(&database)?;
        let source = connect(&self.servers.source, DATABASE)?;
        Ok(Run { database, slot: format!("slot_{run}"), source, target })
    }

    /// Compares the rows, and drops the database.
    fn end(&self, mut run: Run) -> Result<(), String> {
        let found = fingerprint(&mut run.target, &names(&self.tables))?;
        if found != self.fingerprint {
            return Err(format!("the rows differ: {found}, not {}", self.fingerprint));
        }
        drop(run.target);
        self.servers.drop_target(&run.database)
    }

    fn cpu(&self, run: &mut Run) -> Result<CpuSeconds, String> {
        let (source, target) = (self.servers.source.process(), self.servers.target.process());
        let databases = ([DATABASE.to_owned()], [run.database.clone()]);
        Ok(vec![
            ("source", sessions_cpu(&mut run.source, source.pid(), &databases.0)?),
            ("target", sessions_cpu(&mut run.target, target.pid(), &databases.1)?),
        ])
    }

    fn reading(&self, wall: f64, before: CpuSeconds, after: CpuSeconds) -> Reading {
        let cpu = after.into_iter().zip(before).map(|((name, a), (_, b))| (name, a - b)).collect();
        Reading::replayed(self.workload.rate, self.workload.amount, wall, cpu)
    }

    fn rsrepl(&self, run: u32) -> Result<Reading, String> {
        let mut run = self.begin(run)?;
        let mut before = self.cpu(&mut run)?;
        before.push(("sidecar", 0.0));
        let mut sidecar = Sidecar::new(
            &self.servers.scratch,
            &Config {
                source: self.servers.source.conninfo(DATABASE),
                source_options: format!("publication = \"{}\"", self.publication),
                slot: run.slot.clone(),
                postgres: vec![Target::new("standby", self.servers.target.conninfo(&run.database))],
                clickhouse: Vec::new(),
                telemetry_port: free_port(),
                copy: format!("workers = {SESSIONS}"),
                sections: String::new(),
            },
        );
        sidecar.launch();
        let ended = |sidecar: &mut Sidecar| match sidecar.is_running() {
            true => Ok(()),
            false => Err(format!("the sidecar ended:\n{}", sidecar.log())),
        };
        let slot = format!(
            "SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = '{}'",
            run.slot
        );
        await_text(&mut run.source, &slot, |count| count == "1", || ended(&mut sidecar))?;
        let start = Instant::now();
        // there is no such table at first
        let there = "SELECT (to_regclass('rsrepl.copies') IS NOT NULL)::text";
        await_text(&mut run.target, there, |found| found == "true", || ended(&mut sidecar))?;
        let done = "SELECT count(finished)::text FROM rsrepl.copies";
        await_text(&mut run.target, done, |count| count == "1", || ended(&mut sidecar))?;
        let wall = start.elapsed().as_secs_f64();
        let mut after = self.cpu(&mut run)?;
        after.push(("sidecar", cpu_of(sidecar.process().pid()).ok_or("the sidecar is gone")?));
        let peak = sidecar.peak_memory();
        let status = sidecar.terminate();
        if !status.success() {
            return Err(format!("the sidecar ended with {status}:\n{}", sidecar.log()));
        }
        drop_slot(&mut run.source, &run.slot)?;
        self.end(run)?;
        Ok(self.reading(wall, before, after).with_memory(Some(peak)))
    }

    fn native(&self, run: u32) -> Result<Reading, String> {
        let mut run = self.begin(run)?;
        let before = self.cpu(&mut run)?;
        // from 16 on, the tables come in binary too
        let create = format!(
            "CREATE SUBSCRIPTION {SUBSCRIPTION} CONNECTION '{}' PUBLICATION {} WITH
             (slot_name = '{}', copy_data = true, binary = true)",
            self.servers.source.conninfo(DATABASE),
            self.publication,
            run.slot
        );
        execute(&mut run.target, &create)?;
        let start = Instant::now();
        // f: its rows were copied and committed, whatever is still to come for it
        let left = "SELECT count(*)::text FROM pg_subscription_rel WHERE srsubstate NOT IN ('f', 's', 'r')";
        let copied = await_text(&mut run.target, left, |count| count == "0", || Ok(()));
        let wall = start.elapsed().as_secs_f64();
        // also after a failure, or it would go on; and what its workers took is known when they have ended
        execute(&mut run.target, &format!("DROP SUBSCRIPTION {SUBSCRIPTION}"))?;
        copied?;
        let after = self.cpu(&mut run)?;
        self.end(run)?;
        Ok(self.reading(wall, before, after))
    }

    fn psql(&self, run: u32) -> Result<Reading, String> {
        let mut run = self.begin(run)?;
        let mut before = self.cpu(&mut run)?;
        before.push(("psql", children_cpu()));
        let pieces = Mutex::new(self.pieces(&mut run.source)?);
        let (from, to) = (&self.servers.source, &self.servers.target);
        let database = run.database.as_str();
        let start = Instant::now();
        let session = || loop {
            let piece = pieces.lock().map_err(|_| "a panic")?.pop_front();
            let Some((table, condition)) = piece else { return Ok(()) };
            let read =
                format!("COPY (SELECT * FROM {table} WHERE {condition}) TO STDOUT (FORMAT binary)");
            let write = format!("COPY {table} FROM STDIN (FORMAT binary)");
            pipe(psql(from, DATABASE, &read), psql(to, database, &write))?;
        };
        let copied: Result<(), String> = thread::scope(|scope| {
            let sessions: Vec<_> = (0..SESSIONS).map(|_| scope.spawn(session)).collect();
            sessions.into_iter().try_for_each(|s| s.join().map_err(|_| "a panic".to_owned())?)
        });
        copied?;
        let wall = start.elapsed().as_secs_f64();
        let mut after = self.cpu(&mut run)?;
        after.push(("psql", children_cpu()));
        self.end(run)?;
        Ok(self.reading(wall, before, after))
    }

    /// Tables, and conditions on their rows: of one table as many as there are sessions.
    fn pieces(&self, source: &mut Client) -> Result<VecDeque<(String, String)>, String> {
        let [table] = self.tables.as_slice() else {
            return Ok(self
                .tables
                .iter()
                .map(|table| (table.clone(), "true".to_owned()))
                .collect());
        };
        let size = format!(
            "SELECT (pg_relation_size('{table}') / current_setting('block_size')::int)::text"
        );
        let pages: u64 = text(source, &size)?.parse().map_err(|_| "a size".to_owned())?;
        let bound = |place: u64| format!("'({},0)'::tid", pages * place / SESSIONS);
        let piece = |place: u64| match place + 1 {
            SESSIONS => format!("ctid >= {}", bound(place)),
            next => format!("ctid >= {} AND ctid < {}", bound(place), bound(next)),
        };
        Ok((0..SESSIONS).map(|place| (table.clone(), piece(place))).collect())
    }
}

fn names(tables: &[String]) -> Vec<&str> {
    tables.iter().map(String::as_str).collect()
}

/// Asks until the answer is right.
fn await_text(
    client: &mut Client,
    query: &str,
    right: impl Fn(&str) -> bool,
    mut check: impl FnMut() -> Result<(), String>,
) -> Result<(), String> {
    let start = Instant::now();
    let statement = client.prepare(query).map_err(|e| message(&e))?;
    loop {
        let row = client.query_one(&statement, &[]).map_err(|e| message(&e))?;
        if right(row.get(0)) {
            return Ok(());
        }
        check()?;
        if start.elapsed() > RUN_LIMIT {
            return Err(format!("not done after {RUN_LIMIT:?}: {query}"));
        }
        thread::sleep(POLL);
    }
}

/// psql with one statement.
fn psql(server: &Postgres, database: &str, statement: &str) -> Command {
    let mut command = guarded(&build::postgres_bindir().join("psql"), "KILL", None);
    command.env("PGPASSWORD", SECRET).env("PGHOST", "127.0.0.1").env("PGUSER", "postgres");
    command.env("PGPORT", server.port().to_string()).env("PGDATABASE", database);
    command.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--command", statement]);
    command
}

/// What the one writes, the other reads.
fn pipe(mut from: Command, mut to: Command) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("psql: {error}");
    let mut from = from.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let between = from.stdout.take().map_or(Stdio::null(), Stdio::from);
    let to = to.stdin(between).stdout(Stdio::null()).status().map_err(failed)?;
    let from = from.wait().map_err(failed)?;
    if from.success() && to.success() {
        Ok(())
    } else {
        Err(format!("psql ended with {from}, {to}"))
    }
}
