//! `make copy-large`: a large table and fifty small ones are copied into both kinds of targets while the source is
//! written to. Not in CI: it takes minutes, and gigabytes.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use rsrepl_tests::rig::{DATABASE, Rig};
use rsrepl_tests::variant::{Variant, seed};
use rsrepl_tests::wait;

const LIMIT: Duration = Duration::from_secs(3600);

/// What the sidecar's resident memory must stay below.
const MEMORY_LIMIT: u64 = 256 << 20;

const SMALL_TABLES: u32 = 50;
const SMALL_ROWS: u32 = 1000;

/// Sessions that write.
const WRITERS: u32 = 4;

const SCHEMA: &str = "
CREATE TABLE accounts (id bigint PRIMARY KEY, branch int NOT NULL, balance bigint, filler text, changed timestamptz);
CREATE TABLE entries (writer int, n bigint, account bigint, delta int, PRIMARY KEY (writer, n));";

/// A number of the environment, or the default.
fn setting<T: FromStr + Display>(name: &str, default: T) -> T {
    let value = std::env::var(name).ok();
    value.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

fn small(number: u32) -> String {
    format!("small_{number:02}")
}

fn schema() -> String {
    let table = |n| format!("CREATE TABLE {} (id int PRIMARY KEY, v text, n bigint);", small(n));
    (0..SMALL_TABLES).map(table).fold(SCHEMA.to_owned(), |all, table| all + &table)
}

fn fill(rig: &Rig, rows: u64) {
    rig.execute(&format!(
        "INSERT INTO accounts SELECT i, i % 100, i * 7, repeat(chr(97 + (i % 26)::int), 80), now()
         FROM generate_series(1, {rows}) i"
    ));
    for n in 0..SMALL_TABLES {
        rig.execute(&format!(
            "INSERT INTO {} SELECT i, 'row ' || i, i FROM generate_series(1, {SMALL_ROWS}) i",
            small(n)
        ));
    }
}

/// One transaction, as those of pgbench: a few rows here and there. Some rows go, come and get other keys.
fn transaction(random: &mut fastrand::Rng, writer: u32, n: u64, rows: u64) -> String {
    let (account, delta) = (random.u64(1..=rows), random.i32(-5000..5000));
    let (table, id) = (small(random.u32(0..SMALL_TABLES)), random.u32(1..=SMALL_ROWS));
    let rare = match random.u8(0..100) {
        0..4 => format!("DELETE FROM accounts WHERE id = {}", random.u64(1..=rows)),
        4..8 => format!(
            "INSERT INTO accounts (id, branch, balance, filler) VALUES ({account}, 1, 0, 'new') ON CONFLICT DO NOTHING"
        ),
        8..10 => format!(
            "UPDATE accounts SET id = {} WHERE id = {account}",
            10 * rows + u64::from(writer) * rows + n
        ),
        10..12 => format!("DELETE FROM {table} WHERE id = {id}"),
        12..14 => format!("INSERT INTO {table} VALUES ({id}, 'again', 0) ON CONFLICT DO NOTHING"),
        _ => "SELECT".to_owned(),
    };
    format!(
        "BEGIN;
         UPDATE accounts SET balance = balance + {delta}, changed = now() WHERE id = {account};
         UPDATE {table} SET n = n + {delta} WHERE id = {id};
         INSERT INTO entries VALUES ({writer}, {n}, {account}, {delta});
         {rare};
         COMMIT"
    )
}

/// Transactions at an even pace, until it is told to stop; two that deadlock are tried again.
fn write(
    conninfo: &str,
    writer: u32,
    (rows, tps): (u64, f64),
    stop: &AtomicBool,
    done: &AtomicU64,
) {
    let mut client = Client::connect(conninfo, NoTls).expect("connect to the source");
    let mut random = fastrand::Rng::with_seed(seed() + u64::from(writer));
    let (start, pace) = (Instant::now(), f64::from(WRITERS) / tps);
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let statements = transaction(&mut random, writer, n, rows);
        match client.batch_execute(&statements) {
            Ok(()) => n += 1,
            Err(_) => client.batch_execute("ROLLBACK").expect("the source answers"),
        }
        done.fetch_add(1, Ordering::Relaxed);
        let due = start + Duration::from_secs_f64(pace * n as f64);
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// Count and a sum over all rows of a table, of what MD5 makes of each; computed by each system.
fn digests(rig: &Rig, table: &str) -> [String; 3] {
    let columns = match table {
        "accounts" => &["id", "branch", "balance", "filler"][..],
        "entries" => &["writer", "n", "account", "delta"],
        _ => &["id", "v", "n"],
    };
    let of = |each: &dyn Fn(&str) -> String| {
        columns.iter().map(|column| each(column)).collect::<Vec<_>>().join(", ")
    };
    let text = of(&|column| format!("coalesce({column}::text, '-')"));
    let changed = "coalesce((extract(epoch FROM changed) * 1000000)::bigint::text, '-')";
    let time = if table == "accounts" { format!(", {changed}") } else { String::new() };
    let postgres = format!(
        "SELECT concat_ws(' ', count(*), sum(('x' || left(md5(concat_ws('|', {text}{time})), 8))::bit(32)::bigint))
         FROM {table}"
    );
    let text = of(&|column| format!("ifNull(toString({column}), '-')"));
    let changed = "ifNull(toString(toUnixTimestamp64Micro(changed)), '-')";
    let time = if table == "accounts" { format!(", {changed}") } else { String::new() };
    let clickhouse = format!(
        "SELECT concat(toString(count()), ' ',
            toString(sum(reinterpretAsUInt32(reverse(substring(MD5(concatWithSeparator('|', {text}{time})), 1, 4))))))
         FROM {} FINAL",
        rig.twin(table)
    );
    let [source, standby] =
        [&rig.source, &rig.standby].map(|server| server.value(DATABASE, &postgres).expect("a row"));
    [source, standby, rig.clickhouse.query(&clickhouse).trim().to_owned()]
}

#[test]
#[ignore = "takes minutes: make copy-large"]
fn a_large_table_and_fifty_small_ones_under_load() {
    let rows: u64 = setting("ROWS", 10_000_000);
    let tps: f64 = setting("TPS", 2000.0);
    let mut rig = Rig::with("copy-large", &schema(), Variant::PLAIN);
    rig.configure(|config| config.copy = "data = true".to_owned());
    let began = Instant::now();
    fill(&rig, rows);
    println!("{rows} rows are there after {:.0?}", began.elapsed());

    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let conninfo = rig.source.conninfo(DATABASE);
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (conninfo, stop, done) = (&conninfo, &stop, &done);
            scope.spawn(move || write(conninfo, writer, (rows, tps), stop, done));
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let began = Instant::now();
            rig.sidecar.launch();
            rig.sidecar.wait_ready(LIMIT);
            let copied = began.elapsed();
            let rate = done.load(Ordering::Relaxed) as f64 / copied.as_secs_f64();
            println!("copied, and streaming, after {copied:.0?}, at {rate:.0} transactions/s");
            assert!(rate > 0.0);
            let written = done.load(Ordering::Relaxed);
            wait::until(LIMIT, "writes go on", || done.load(Ordering::Relaxed) > written + 10_000);
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    let began = Instant::now();
    rig.settle(LIMIT);
    println!(
        "caught up after {:.0?}; {} transactions",
        began.elapsed(),
        done.load(Ordering::Relaxed)
    );

    let peak = rig.sidecar.peak_memory();
    println!("peak memory of the sidecar: {} MiB", peak >> 20);
    let began = Instant::now();
    let verified = rig.sidecar.command("verify");
    println!("verified in {:.0?}", began.elapsed());
    let said = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(verified.status.success(), "{said}{}", String::from_utf8_lossy(&verified.stderr));
    let tables = (0..SMALL_TABLES).map(small);
    for table in ["accounts", "entries"].map(str::to_owned).into_iter().chain(tables) {
        let [source, standby, clickhouse] = digests(&rig, &table);
        assert_eq!((&source, &source), (&standby, &clickhouse), "{table}");
    }
    assert!(peak < MEMORY_LIMIT, "{peak} bytes");
}
