//! The backlogs that are replayed, as SQL or as pgbench's own script.
//!
//! Workload M is `narrow` and `wide` rows, two to one, inserted in 1,000-row transactions that
//! alternate. Everything else is a part of it or works on its rows. Sizes are given for
//! [`FULL_ROWS`] rows of M and scale with `ROWS`.

use crate::measure::{Quantity, RATE, TRANSACTIONS};

/// Rows of M at full size.
const FULL_ROWS: u64 = 3_000_000;

/// Rows of a bulk transaction.
const TRANSACTION_ROWS: u64 = 1000;

/// pgbench's scale: a million accounts, ten branches. With fewer branches than a few per client the
/// backlog would be made of waits for one branch's row, and with one alone of updates of one row.
const PGBENCH_SCALE: u64 = 10;

/// Its clients.
const PGBENCH_CLIENTS: u64 = 4;

/// The tables, on the source and on PostgreSQL targets. `bench_mark` gets one row after the backlog.
pub const SCHEMA: &str = "
    CREATE TABLE narrow (id bigint PRIMARY KEY, a int, b int, t timestamptz, filler text);
    CREATE TABLE wide (id bigint PRIMARY KEY, k int, name text, email text, amount numeric(12,2),
        score float8, active bool, uid uuid, created timestamptz, d date, meta jsonb, tags text[]);
    CREATE TABLE bench_mark (id int PRIMARY KEY)";

/// Those with the rows of M.
pub const TABLES: [&str; 2] = ["narrow", "wide"];

const NARROW: &str = "INSERT INTO narrow SELECT g, (g % 1000)::int, (g * 7 % 100000)::int,
    timestamptz '2024-01-01 00:00Z' + g * interval '1 second', 'filler-' || md5(g::text)
    FROM generate_series";

const WIDE: &str = "INSERT INTO wide SELECT g, (g % 5000)::int, 'name ' || g,
    'user' || g || '@example.com', (g % 1000000) / 100.0, g * 0.5, g % 3 = 0, md5(g::text)::uuid,
    timestamptz '2024-01-01 00:00Z' + g * interval '1 second', date '2020-01-01' + (g % 2000)::int,
    jsonb_build_object('k', g, 'tag', 'v' || g % 10), ARRAY['a' || g % 7, 'b' || g % 11]
    FROM generate_series";

/// How a database is filled.
pub enum Step {
    /// Statements.
    Sql(String),
    /// A run of `pgbench` with these arguments.
    Pgbench(Vec<String>),
}

/// What is there before, and what is replayed.
pub struct Workload {
    /// In words, with its size.
    pub what: String,
    /// The tables whose rows are compared after a run.
    pub tables: &'static [&'static str],
    /// Fills source and PostgreSQL targets alike, before the slot.
    pub seed: Vec<Step>,
    /// The backlog; commits by itself.
    pub changes: Vec<Step>,
    /// What its rate counts: row changes or transactions.
    pub rate: Quantity,
    /// How many of them are in the backlog.
    pub amount: u64,
}

impl Workload {
    /// Changes of `narrow` and `wide`.
    fn of_rows(what: String, seed: Option<String>, changes: String, rows: u64) -> Workload {
        Workload {
            what,
            tables: &TABLES,
            seed: seed.map(Step::Sql).into_iter().collect(),
            changes: vec![Step::Sql(changes)],
            rate: RATE,
            amount: rows,
        }
    }
}

/// Workload M.
pub fn bulk(rows: u64) -> Workload {
    let rounds = (rows / 3 / TRANSACTION_ROWS).max(1);
    let rows = rounds * 3 * TRANSACTION_ROWS;
    let body = format!(
        "{NARROW}(i * 2000 + 1, i * 2000 + 1000) g; COMMIT;
         {WIDE}(i * 1000 + 1, i * 1000 + 1000) g; COMMIT;
         {NARROW}(i * 2000 + 1001, i * 2000 + 2000) g; COMMIT;"
    );
    let what = format!("workload M, {rows} rows inserted in 1,000-row transactions");
    Workload::of_rows(what, None, repeat(rounds, &body), rows)
}

/// 300,000 single-row transactions.
pub fn tiny(rows: u64) -> Workload {
    let rows = scaled(300_000, rows);
    let what = format!("{rows} single-row inserts, each a transaction");
    let body = format!("{NARROW}(i + 1, i + 1) g; COMMIT;");
    Workload::of_rows(what, None, repeat(rows, &body), rows)
}

/// One transaction of 5,000,000 rows.
pub fn huge(rows: u64) -> Workload {
    let rows = scaled(5_000_000, rows);
    let what = format!("one transaction that inserts {rows} narrow rows");
    Workload::of_rows(what, None, format!("{NARROW}(1, {rows}) g"), rows)
}

/// Publications of [`copy`]: of one table, and of [`many_tables`].
pub const ONE: &str = "one";
pub const MANY: &str = "many";

/// How many they are.
const MANY_TABLES: u64 = 50;

/// As `narrow`.
pub fn many_tables() -> Vec<String> {
    (1..=MANY_TABLES).map(|number| format!("many_{number:02}")).collect()
}

/// As many wide rows in one table, and narrow rows in 50 tables, as workload M has altogether.
pub fn copy(rows: u64) -> Workload {
    let each = (rows / MANY_TABLES).max(1);
    let rows = each * MANY_TABLES;
    let tables = many_tables();
    let create = |table: &String| format!("CREATE TABLE {table} (LIKE narrow INCLUDING ALL);");
    let fill = |table: &String| {
        Step::Sql(format!(
            "{}(1, {each}) g",
            NARROW.replace("INTO narrow", &format!("INTO {table}"))
        ))
    };
    let mut changes = vec![Step::Sql(format!("{WIDE}(1, {rows}) g"))];
    changes.extend(tables.iter().map(fill));
    changes.push(Step::Sql(format!(
        "CREATE PUBLICATION {ONE} FOR TABLE wide; CREATE PUBLICATION {MANY} FOR TABLE {}",
        tables.join(", ")
    )));
    // or the first to read them would write them once more
    changes.push(Step::Sql("VACUUM ANALYZE".to_owned()));
    Workload {
        what: format!("{rows} wide rows in one table, {rows} narrow rows in {MANY_TABLES} tables"),
        tables: &TABLES,
        seed: vec![Step::Sql(tables.iter().map(create).collect())],
        changes,
        rate: RATE,
        amount: rows,
    }
}

/// No backlog: what is measured is written during the run.
pub fn live(_: u64) -> Workload {
    let what = "single-row inserts, each a transaction, at a steady pace".to_owned();
    Workload { changes: Vec::new(), ..Workload::of_rows(what, None, String::new(), 0) }
}

/// 100,000 transactions of pgbench's own script.
pub fn tpcb(rows: u64) -> Workload {
    let each = scaled(100_000, rows) / PGBENCH_CLIENTS;
    let transactions = each * PGBENCH_CLIENTS;
    let arguments = |list: &[String]| Step::Pgbench(list.to_vec());
    let initialise = arguments(&["-i".into(), "-q".into(), format!("--scale={PGBENCH_SCALE}")]);
    let run = arguments(&[
        "--no-vacuum".into(),
        "--protocol=prepared".into(),
        "--random-seed=1".into(),
        format!("--client={PGBENCH_CLIENTS}"),
        format!("--transactions={each}"),
    ]);
    Workload {
        what: format!(
            "{transactions} transactions of pgbench's own script, {PGBENCH_CLIENTS} clients, scale {PGBENCH_SCALE}"
        ),
        tables: &["pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history"],
        seed: vec![initialise],
        changes: vec![run],
        rate: TRANSACTIONS,
        amount: transactions,
    }
}

/// 300,000 updates of `wide` in bulk transactions.
pub fn update(rows: u64) -> Workload {
    let rows = scaled(300_000, rows);
    let body =
        "UPDATE wide SET k = k + 1, amount = amount + 1, name = name || '!', active = NOT active
        WHERE id > i * 1000 AND id <= (i + 1) * 1000; COMMIT;";
    let what = format!("{rows} updates of wide rows in 1,000-row transactions");
    let seed = format!("{WIDE}(1, {rows}) g");
    Workload::of_rows(what, Some(seed), repeat(rows / TRANSACTION_ROWS, body), rows)
}

/// 200,000 single-row updates of `narrow`.
pub fn update_single(rows: u64) -> Workload {
    let rows = scaled(200_000, rows);
    let what = format!("{rows} single-row updates, each a transaction");
    let seed = format!("{NARROW}(1, {rows}) g");
    let changes = repeat(rows, "UPDATE narrow SET a = a + 1 WHERE id = i + 1; COMMIT;");
    Workload::of_rows(what, Some(seed), changes, rows)
}

/// 500,000 deletes of `narrow` in bulk transactions.
pub fn delete(rows: u64) -> Workload {
    let rows = scaled(500_000, rows);
    let body = "DELETE FROM narrow WHERE id > i * 1000 AND id <= (i + 1) * 1000; COMMIT;";
    let what = format!("{rows} deletes in 1,000-row transactions");
    let seed = format!("{NARROW}(1, {rows}) g");
    Workload::of_rows(what, Some(seed), repeat(rows / TRANSACTION_ROWS, body), rows)
}

/// A size at full scale, at this one: whole bulk transactions, at least one.
fn scaled(full: u64, rows: u64) -> u64 {
    let transactions = full * rows / FULL_ROWS / TRANSACTION_ROWS;
    transactions.max(1) * TRANSACTION_ROWS
}

/// A block that runs `body` with `i` from 0.
fn repeat(times: u64, body: &str) -> String {
    format!("DO $$ BEGIN FOR i IN 0..{}::bigint LOOP {body} END LOOP; END $$", times - 1)
}
