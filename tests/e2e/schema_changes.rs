//! Each kind of schema change in the middle of a running workload, under each policy: the targets end equal,
//! or say a statement and go on when it was run.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rsrepl_tests::compare;
use rsrepl_tests::rig::{CLICKHOUSE, DATABASE, MARKER, Rig, STANDBY};

const LIMIT: Duration = Duration::from_secs(60);

/// One change: the table that it is about, what else its columns are, and the statement.
struct Case {
    table: &'static str,
    columns: &'static str,
    change: &'static str,
    /// What the table is called then, when it is another name.
    then: &'static str,
    /// Rows that are there take another value, which no description of a row shows.
    told_only: bool,
    /// Additive targets ask for it.
    asks: bool,
}

const fn case(table: &'static str, columns: &'static str, change: &'static str) -> Case {
    Case { table, columns, change, then: "", told_only: false, asks: false }
}

const CASES: &[Case] = &[
    case("added", "n int", "ALTER TABLE added ADD COLUMN more numeric(8,2), ADD COLUMN label text"),
    Case {
        told_only: true,
        ..case(
            "defaults",
            "n int",
            "ALTER TABLE defaults ADD COLUMN seven int NOT NULL DEFAULT 7,
                 ADD COLUMN at timestamptz DEFAULT now(), ADD COLUMN tags text[] DEFAULT '{a,\"b,c\"}',
                 ADD COLUMN raw bytea DEFAULT '\\x00ff', ADD COLUMN yes bool DEFAULT true",
        )
    },
    Case {
        told_only: true,
        ..case("volatile", "n int", "ALTER TABLE volatile ADD COLUMN r float8 DEFAULT random()")
    },
    case("dropped", "gone int NOT NULL DEFAULT 3", "ALTER TABLE dropped DROP COLUMN gone"),
    Case { asks: true, ..case("renamed", "n int", "ALTER TABLE renamed RENAME COLUMN n TO \"New\"") },
    Case {
        asks: true,
        ..case("longer", "s varchar(10), p numeric(6,2)", "ALTER TABLE longer ALTER p TYPE numeric(9,2)")
    },
    Case {
        asks: true,
        told_only: true,
        ..case("retyped", "n int", "ALTER TABLE retyped ALTER n TYPE text USING 'n=' || n")
    },
    Case { asks: true, then: "called", ..case("table_of_old", "n int", "ALTER TABLE table_of_old RENAME TO called") },
    Case {
        asks: true,
        then: "elsewhere.moved",
        ..case("moved", "n int", "CREATE SCHEMA elsewhere; ALTER TABLE moved SET SCHEMA elsewhere")
    },
    case("gone", "n int", "DROP TABLE gone"),
    Case { then: "fresh", ..case("", "", "CREATE TABLE fresh (id bigint PRIMARY KEY, v text, n int DEFAULT 5)") },
];

impl Case {
    fn names(&self) -> impl Iterator<Item = &'static str> {
        [self.table, self.then].into_iter().filter(|name| !name.is_empty())
    }
}

/// Writes to the tables under all their names, whatever is there of them.
struct Workload {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Workload {
    fn start(rig: &Rig) -> Workload {
        let ends = Arc::new(AtomicBool::new(false));
        let (stop, mut client) = (Arc::clone(&ends), rig.source.client(DATABASE));
        let thread = thread::spawn(move || {
            let mut done = 0;
            for id in 100_000.. {
                for name in CASES.iter().flat_map(Case::names) {
                    let written = client.batch_execute(&format!(
                        "INSERT INTO {name} (id, v) VALUES ({id}, 'w');
                         UPDATE {name} SET v = v || '.' WHERE id IN ({id} - 5, {id} - 100000);
                         DELETE FROM {name} WHERE id = {id} - 7"
                    ));
                    done += u64::from(written.is_ok());
                }
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
            done
        });
        Workload { ends, thread }
    }

    fn end(self) {
        self.ends.store(true, Ordering::Relaxed);
        assert!(self.thread.join().expect("the workload") > 20, "hardly anything was written");
    }
}

/// What is behind `on the target: ` in a target's error, statement by statement.
fn asked(rig: &Rig, target: &str) -> Vec<String> {
    let query = format!("SELECT last_error FROM rsrepl.targets t WHERE t::text LIKE '%{target}%'");
    let error = rig.source.value(DATABASE, &query).unwrap_or_default();
    let Some((_, statements)) = error.split_once("on the target: ") else { return Vec::new() };
    statements.split("; ").map(str::to_owned).collect()
}

/// Waits until all is there, and runs what the targets ask for meanwhile; gives that. `ran`: what was run before, which an
/// older report may still ask for.
fn settle(rig: &Rig, marker: u64, ran: &mut BTreeSet<String>) -> BTreeSet<String> {
    rig.execute(&format!("INSERT INTO {MARKER} VALUES ({marker})"));
    let on_clickhouse = format!("SELECT count() FROM {DATABASE}.{MARKER} WHERE id = {marker}");
    let on_standby = format!("SELECT id FROM {MARKER} WHERE id = {marker}");
    let mut asked_for = BTreeSet::new();
    let begun = Instant::now();
    loop {
        let there = rig.clickhouse.try_query(&on_clickhouse).is_ok_and(|n| n.trim() == "1")
            && rig.standby.value(DATABASE, &on_standby).is_some();
        if there {
            return asked_for;
        }
        assert!(
            begun.elapsed() < LIMIT,
            "not there:\n{}\n{}\nrun: {ran:#?}",
            rig.reported(STANDBY),
            rig.reported(CLICKHOUSE)
        );
        for target in [STANDBY, CLICKHOUSE] {
            for statement in asked(rig, target) {
                let named = format!("{target}: {statement}");
                if !ran.insert(named.clone()) {
                    continue;
                }
                asked_for.insert(named);
                match target {
                    STANDBY => rig.standby.execute(DATABASE, &statement),
                    _ => drop(rig.clickhouse.query(&statement)),
                }
            }
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// The columns that the source has, on all sides.
fn assert_equal(rig: &Rig, table: &str) {
    let mut source = rig.source.client(DATABASE);
    let columns = compare::columns(&mut source, table);
    let list: Vec<_> = columns.iter().map(|c| format!("{:?}", c.name)).collect();
    let query = format!(
        "SELECT string_agg(r, E'\\n') FROM (SELECT ROW({})::text AS r FROM {table} ORDER BY 1) s",
        list.join(", ")
    );
    let there = rig.standby.value(DATABASE, &query);
    assert_eq!(rig.source.value(DATABASE, &query), there, "{table} differs on the standby");
    let image = compare::clickhouse(&mut source, &rig.clickhouse, table, &rig.twin(table));
    assert!(image.equal() && image.rows > 0, "{image}");
}

/// All cases under a policy, with or without the event trigger.
fn run(rig: &mut Rig, policy: &str, told: bool, marker: u64) {
    rig.configure(|config| {
        for target in config.postgres.iter_mut().chain(&mut config.clickhouse) {
            target.options = format!(
                "schema_changes = {policy:?}\nretry.max_backoff = \"200ms\"\nbatch_interval = \"100ms\""
            );
        }
    });
    let enable = if told { "ENABLE ALWAYS" } else { "DISABLE" };
    for trigger in ["ddl_command_end", "sql_drop", "table_rewrite"] {
        rig.execute(&format!("ALTER EVENT TRIGGER rsrepl_{trigger} {enable}"));
    }
    // a new slot begins here
    rig.run();
    let cases: Vec<_> = CASES.iter().filter(|case| told || !case.told_only).collect();
    for case in &cases {
        let Case { table, columns, .. } = case;
        if !table.is_empty() {
            let create = format!("CREATE TABLE {table} (id bigint PRIMARY KEY, v text, {columns})");
            rig.standby.execute(DATABASE, &create);
            rig.execute(&create);
            rig.execute(&format!(
                "INSERT INTO {table} (id, v) SELECT i, i FROM generate_series(1, 200) i"
            ));
        }
    }
    let mut ran = BTreeSet::new();
    let asked = settle(rig, marker, &mut ran);
    assert!(asked.is_empty(), "{policy}: asked for {asked:?} before anything changed");
    let workload = Workload::start(rig);
    for case in &cases {
        thread::sleep(Duration::from_millis(50));
        rig.execute(case.change);
        for name in case.names() {
            // may be gone
            let more = format!(
                "INSERT INTO {name} (id, v) SELECT i, 'behind' FROM generate_series(300, 310) i"
            );
            let _ = rig.source.client(DATABASE).batch_execute(&more);
        }
    }
    // a sidecar that is killed meanwhile goes on where it was
    for _ in 0..2 {
        rig.sidecar.kill();
        rig.sidecar.launch();
        thread::sleep(Duration::from_millis(300));
    }
    workload.end();
    let asked = settle(rig, marker + 1, &mut ran);
    let further = settle(rig, marker + 2, &mut ran);
    assert!(further.is_empty(), "{policy}: asked for {further:?} when all was there");
    for case in &cases {
        let asks = match policy {
            "apply" => false,
            "additive" => case.asks,
            _ => case.asks || case.change.contains("ADD COLUMN"),
        };
        let name = case.names().last().unwrap_or_default();
        let is_asked = asked.iter().any(|statement| {
            case.names().any(|name| {
                statement.contains(&format!("\"{}\"", name.rsplit('.').next().unwrap_or(name)))
            })
        });
        if !case.change.starts_with("CREATE TABLE") {
            assert_eq!(is_asked, asks, "{policy}, told: {told}, {}: {asked:#?}", case.table);
        }
        if case.change.starts_with("DROP TABLE") {
            let there = rig.standby.value(DATABASE, "SELECT to_regclass('gone')::text");
            assert_eq!(there.is_some(), policy != "apply" || !told, "{policy}: a dropped table");
        } else {
            assert_equal(rig, name);
        }
    }
    rig.sidecar.terminate();
    clear(rig);
}

/// Everything of a round goes, also on the targets.
fn clear(rig: &Rig) {
    for case in CASES {
        for name in case.names() {
            let drop = format!("DROP TABLE IF EXISTS {name}");
            rig.execute(&drop);
            rig.standby.execute(DATABASE, &drop);
            rig.clickhouse.query(&format!("DROP TABLE IF EXISTS {}", rig.twin(name)));
        }
    }
    rig.execute("DROP SCHEMA IF EXISTS elsewhere CASCADE");
    rig.standby
        .execute(DATABASE, "DROP SCHEMA IF EXISTS elsewhere CASCADE; TRUNCATE rsrepl.tables");
    rig.clickhouse.query(&format!("TRUNCATE TABLE {DATABASE}._rsrepl_tables"));
}

#[test]
fn each_change_under_each_policy_with_the_trigger() {
    let mut rig = Rig::new("schema-changes", "");
    for (round, policy) in (1..).zip(["apply", "additive", "stop"]) {
        run(&mut rig, policy, true, round * 1000);
    }
}

#[test]
fn each_change_under_each_policy_as_rows_show_it() {
    let mut rig = Rig::new("schema-shown", "");
    for (round, policy) in (1..).zip(["apply", "additive", "stop"]) {
        run(&mut rig, policy, false, round * 1000);
    }
}
