//! Tables that come and change while the sidecar runs: with `schema_changes = "stop"`, and when the targets
//! are changed first. The other policies: `schema_changes`.

use std::time::Duration;

use rsrepl_tests::rig::{CLICKHOUSE, DATABASE, Rig, STANDBY};
use rsrepl_tests::wait;

const LIMIT: Duration = Duration::from_secs(60);

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

const ADD: &str = "ALTER TABLE t ADD COLUMN c int";

fn new(name: &str) -> Rig {
    let mut rig = Rig::new(name, SCHEMA);
    rig.configure(|config| {
        for target in config.postgres.iter_mut().chain(&mut config.clickhouse) {
            target.options.push_str("\nschema_changes = \"stop\"");
        }
    });
    rig
}

fn add_to_clickhouse(rig: &Rig) {
    rig.clickhouse.query(&format!("ALTER TABLE {DATABASE}.t ADD COLUMN c Nullable(Int32)"));
}

#[test]
fn a_table_that_comes_while_it_runs_is_replicated() {
    let mut rig = new("ddl-table");
    rig.run();
    rig.execute("INSERT INTO t VALUES (1, 'one')");
    rig.settle(LIMIT);
    let create = "CREATE TABLE fresh (id bigint PRIMARY KEY, n numeric(9,3), v text)";
    rig.standby.execute(DATABASE, create);
    // In one transaction with its first rows and with rows of a table that is known.
    rig.execute(&format!(
        "BEGIN; INSERT INTO t VALUES (2, 'two'); {create};
         INSERT INTO fresh SELECT i, i / 7.0, 'v' FROM generate_series(1, 100) i; COMMIT;
         UPDATE fresh SET v = 'w' WHERE id < 10; DELETE FROM fresh WHERE id > 90"
    ));
    rig.settle(LIMIT);
    rig.assert_equal();
}

#[test]
fn a_column_that_the_targets_have_first_arrives() {
    let mut rig = new("ddl-column");
    rig.run();
    rig.execute("INSERT INTO t SELECT i, 'old' FROM generate_series(1, 100) i");
    rig.settle(LIMIT);
    rig.standby.execute(DATABASE, ADD);
    add_to_clickhouse(&rig);
    rig.execute("UPDATE t SET v = 'still old' WHERE id < 50");
    rig.execute(&format!(
        "BEGIN; INSERT INTO t VALUES (101, 'before'); {ADD};
         INSERT INTO t VALUES (102, 'after', 7); UPDATE t SET c = id WHERE id < 20; COMMIT"
    ));
    rig.execute("ALTER TABLE t DROP COLUMN v; INSERT INTO t VALUES (103, 8)");
    rig.settle(LIMIT);
    let sum = "SELECT count(*) || '/' || sum(c) FROM t";
    assert_eq!(rig.source.value(DATABASE, sum), rig.standby.value(DATABASE, sum));
    let sum =
        format!("SELECT concat(toString(count()), '/', toString(sum(c))) FROM {DATABASE}.t FINAL");
    assert_eq!(rig.clickhouse.query(&sum).trim(), "103/205");
}

#[test]
fn targets_wait_for_a_column_they_lack_and_say_what_to_run() {
    let mut rig = new("ddl-lack");
    rig.run();
    rig.execute("INSERT INTO t VALUES (1, 'old')");
    rig.settle(LIMIT);
    rig.execute(&format!("{ADD}; INSERT INTO t VALUES (2, 'new', 3)"));
    for target in [STANDBY, CLICKHOUSE] {
        wait::until(LIMIT, "the target says what it lacks", || {
            rig.reported(target).contains("ADD COLUMN")
        });
    }
    assert_eq!(rig.standby.value(DATABASE, "SELECT count(*) FROM t").as_deref(), Some("1"));
    rig.standby.execute(DATABASE, ADD);
    add_to_clickhouse(&rig);
    rig.settle(LIMIT);
    rig.assert_equal();
}
