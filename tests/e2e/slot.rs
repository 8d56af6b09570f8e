//! The slot follows what matters and does not retain what does not.

use std::time::Duration;

use rsrepl_tests::rig::{DATABASE, MARKER, Rig};
use rsrepl_tests::wait;

/// Within this the slot must have followed.
const LIMIT: Duration = Duration::from_secs(40);

const SCHEMA: &str = "CREATE TABLE seen (id int PRIMARY KEY); CREATE TABLE unseen (id int, v text)";

/// Some 20 MB of WAL.
const NOISE: &str = "SELECT i, repeat(md5(i::text), 4) FROM generate_series(1, 100000) i";

#[test]
fn an_idle_slot_advances_while_another_database_writes() {
    let mut rig = Rig::new("slot-idle", SCHEMA);
    rig.source.execute("postgres", "CREATE DATABASE elsewhere");
    rig.run();
    rig.settle(LIMIT);
    let before = rig.confirmed();
    rig.source.execute("elsewhere", &format!("CREATE TABLE noise AS {NOISE}"));
    let end = rig.wal_end();
    assert!(end - before > 10 << 20, "too little noise: {before} to {end}");
    wait::until(LIMIT, "the slot passes another database's WAL", || rig.confirmed() >= end);
}

#[test]
fn writes_to_a_table_that_is_not_published_retain_no_wal() {
    let mut rig = Rig::new("slot-filter", SCHEMA);
    rig.execute(&format!("CREATE PUBLICATION selected FOR TABLE seen, {MARKER}"));
    rig.configure(|config| config.source_options = "publication = \"selected\"".to_owned());
    rig.run();
    rig.execute("INSERT INTO seen VALUES (1)");
    rig.settle(LIMIT);
    rig.execute(&format!("INSERT INTO unseen {NOISE}"));
    let end = rig.wal_end();
    wait::until(LIMIT, "the slot passes the WAL of a filtered table", || rig.confirmed() >= end);
    assert_eq!(rig.standby.value(DATABASE, "SELECT count(*) FROM unseen").as_deref(), Some("0"));
    assert_eq!(rig.standby.value(DATABASE, "SELECT count(*) FROM seen").as_deref(), Some("1"));
    let twins = rig.clickhouse.query(&format!("SHOW TABLES FROM {DATABASE} LIKE 'unseen'"));
    assert_eq!(twins, "", "a filtered table has a twin");
}
