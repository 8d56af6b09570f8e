//! The second differential test: publications choose what is replicated, and tables change meanwhile.
//!
//! Everything that the other one says of `SEED` and `VARIANT` holds here. When it fails, a file has what was
//! sent to the tables that change.

use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;
use rsrepl_tests::compare::{self, Part};
use rsrepl_tests::rig::{CLICKHOUSE, DATABASE, Rig, STANDBY};
use rsrepl_tests::variant::Variant;
use rsrepl_tests::workload::evolving::{self, History, NAMES, SCHEMA};
use rsrepl_tests::workload::{Workload, schema};

use crate::differential::{Fault, disturb, setting};

/// Committed transactions over the tables that change, at least; as many more over the others.
const TRANSACTIONS: u64 = 150;

/// What is changed; when servers are killed meanwhile is left to chance.
const SEED: u64 = 12;

/// Clients of the source, of each kind of table.
const CLIENTS: usize = 2;

const SIDECAR_KILLS: usize = 8;

const SETTLE_LIMIT: Duration = Duration::from_secs(240);

/// What is published of tables of which not everything is: columns, and which rows.
const PARTS: [(&str, &[&str], &str); 7] = [
    ("numbers", &["id", "b", "i4", "f8"], ""),
    // one that is often TOASTed and unchanged, the other is left out
    ("longs", &["id", "two", "n"], ""),
    ("numerics", &["id", "n", "money"], "id % 5 < 4"),
    // rows move in and out with their key, and with any other column
    ("pairs", &[], "a % 3 > 0 AND b <> 'key 7 é'"),
    ("full_keyed", &[], "n > 0 OR id % 4 = 0"),
    ("keyless", &[], "a % 4 <> 1 AND f IS NOT NULL"),
    ("parted", &["id", "v"], "id % 3 < 2"),
];

/// The standby's `parted` has other partitions, and its columns another order.
const OTHER_PARTITIONS: &str = "DROP TABLE parted;
    CREATE TABLE parted (at timestamptz, v text, id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (MINVALUE) TO (90);
    CREATE TABLE parted_high (id int NOT NULL, v text, at timestamptz);
    ALTER TABLE parted ATTACH PARTITION parted_high FOR VALUES FROM (90) TO (MAXVALUE);";

fn publications() -> String {
    let mut sql = String::new();
    for (table, columns, filter) in PARTS {
        let list = columns.join(", ");
        let columns = if columns.is_empty() { String::new() } else { format!("({list})") };
        let rows = if filter.is_empty() { String::new() } else { format!("WHERE ({filter})") };
        sql += &format!(
            "CREATE PUBLICATION {table} FOR TABLE {table} {columns} {rows} WITH (publish_via_partition_root);\n"
        );
    }
    let names: Vec<_> = PARTS.iter().map(|(table, ..)| format!("'{table}'")).collect();
    sql += &format!(
        "CREATE PUBLICATION evolving FOR TABLES IN SCHEMA {SCHEMA};
        DO $$ BEGIN EXECUTE (
            SELECT 'CREATE PUBLICATION rest FOR TABLE ' || string_agg(relname, ', ') FROM pg_class
            WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND NOT relispartition
                AND relname NOT IN ({})
        ); END $$",
        names.join(", ")
    );
    sql
}

#[test]
fn whatever_changes_meanwhile_all_systems_are_equal() {
    let seed = setting("SEED", SEED);
    let count = setting("CHANGES", TRANSACTIONS);
    println!("evolving: SEED={seed} CHANGES={count}");
    let variant = Variant::of_test("evolving").without_loss();
    let tables = format!("{}; {}", schema::statements(), evolving::statements());
    let mut rig = Rig::with("evolving", &tables, variant);
    rig.standby.execute(DATABASE, OTHER_PARTITIONS);
    rig.execute(&publications());
    rig.configure(|config| {
        let names: Vec<_> = PARTS.iter().map(|(table, ..)| *table).collect();
        let list = format!("\npublication = \"{}, evolving, rest\"", names.join(", "));
        config.source_options += &list;
        config.postgres[0].options += "\nschema_changes = \"apply\"";
        config.clickhouse[0].options =
            "schema_changes = \"apply\"\nunrepresentable = \"string\"".to_owned();
    });
    rig.source.execute("postgres", "ALTER SYSTEM SET deadlock_timeout = '10ms'");
    rig.source.execute("postgres", "SELECT pg_reload_conf()");
    rig.run();
    rig.execute(schema::FIRST_ROWS);
    rig.execute(&evolving::first_rows());

    let start = Instant::now();
    let history = Told { seed, history: History::default() };
    let clients = || (0..CLIENTS).map(|_| rig.source.client(DATABASE)).collect();
    let workloads = vec![
        evolving::start(seed, count, clients(), &history.history),
        Workload::start(seed, count, clients()),
    ];
    let mut faults = vec![Fault::Sidecar; SIDECAR_KILLS];
    faults.extend([Fault::Standby, Fault::ClickHouse, Fault::Label, Fault::Label]);
    disturb(&mut rig, seed, faults, count, workloads);
    println!("evolving: workload and faults took {:?}", start.elapsed());
    let start = Instant::now();
    rig.sidecar.wait_ready(SETTLE_LIMIT);
    rig.settle(SETTLE_LIMIT);
    println!("evolving: caught up after {:?}", start.elapsed());
    let different = differences(&rig);
    assert!(different.is_empty(), "tables differ:\n{}", different.join("\n"));
}

/// What the clients sent; a failed test writes it down.
struct Told {
    seed: u64,
    history: History,
}

impl Drop for Told {
    fn drop(&mut self) {
        if thread::panicking() {
            let file = std::env::temp_dir().join(format!("rsrepl-evolving-{}.sql", self.seed));
            let written = std::fs::write(&file, self.history.text());
            eprintln!("SEED={}, what was sent is in {}: {written:?}", self.seed, file.display());
        }
    }
}

fn differences(rig: &Rig) -> Vec<String> {
    let mut source = rig.source.client(DATABASE);
    let mut standby = rig.standby.client(DATABASE);
    let mut different = Vec::new();
    let mut parts: Vec<_> = PARTS
        .iter()
        .map(|(table, columns, filter)| {
            let filter = if filter.is_empty() { "true" } else { *filter };
            Part::published(&mut source, table, columns, filter)
        })
        .collect();
    for table in compare::tables(&mut source) {
        if !table.starts_with("parted_") && !PARTS.iter().any(|(name, ..)| *name == table) {
            parts.push(Part::whole(&mut source, &table));
        }
    }
    for part in parts {
        let twin = rig.twin(&part.table);
        let mut found = vec![(STANDBY, part.postgres(&mut source, &mut standby))];
        if rig.clickhouse.query(&format!("EXISTS TABLE {twin}")).trim() == "1" {
            found.push((CLICKHOUSE, part.clickhouse(&mut source, &rig.clickhouse, &twin)));
        } else if found[0].1.rows > 0 {
            // one that never had a row is not made
            different.push(format!("{CLICKHOUSE}: there is no table {twin}"));
        }
        let found = found.into_iter().filter(|(_, comparison)| !comparison.equal());
        different.extend(found.map(|(target, comparison)| format!("{target}: {comparison}")));
    }
    for name in NAMES {
        let here = shape(&mut source, name);
        let there = shape(&mut standby, name);
        if here != there {
            different.push(format!("{STANDBY}: {name} has {there:?} instead of {here:?}"));
        }
        let there = clickhouse_columns(rig, name);
        let here: Vec<_> = here.into_iter().map(|(column, _)| column).collect();
        if there.as_ref().is_some_and(|there| *there != here) {
            different.push(format!("{CLICKHOUSE}: {name} has {there:?} instead of {here:?}"));
        }
    }
    different
}

/// Names and types of a table's columns; none when there is no table.
fn shape(client: &mut Client, name: &str) -> Vec<(String, String)> {
    let table = format!("{SCHEMA}.{name}");
    let there = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&table]).expect("look");
    if !there.get::<_, bool>(0) {
        return Vec::new();
    }
    let columns = compare::columns(client, &table);
    let mut shape: Vec<_> = columns.into_iter().map(|c| (c.name, c.type_name)).collect();
    shape.sort();
    shape
}

/// Names of a table's columns in ClickHouse, but for our own; `None` when there is no table.
fn clickhouse_columns(rig: &Rig, name: &str) -> Option<Vec<String>> {
    let query = format!(
        "SELECT name FROM system.columns WHERE database = '{DATABASE}' AND table = '{name}'
         AND NOT startsWith(name, '_rsrepl') ORDER BY name FORMAT TabSeparatedRaw"
    );
    let names: Vec<_> = rig.clickhouse.query(&query).lines().map(str::to_owned).collect();
    (!names.is_empty()).then_some(names)
}
