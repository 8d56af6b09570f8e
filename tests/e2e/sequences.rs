//! A standby takes over: its sequences go on behind the source's.

use std::time::Duration;

use rsrepl_tests::rig::{DATABASE, Rig};

const LIMIT: Duration = Duration::from_secs(60);

const SCHEMA: &str = "
    CREATE TABLE serial (id bigserial PRIMARY KEY, v text);
    CREATE TABLE identity (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);
    CREATE SEQUENCE \"Down\" INCREMENT -5 CACHE 20;
    CREATE TABLE down (id int PRIMARY KEY DEFAULT nextval('\"Down\"'), v text);";

const TABLES: [&str; 3] = ["serial", "identity", "down"];

fn insert(table: &str, rows: u32) -> String {
    format!("INSERT INTO {table} (v) SELECT 'v' FROM generate_series(1, {rows})")
}

#[test]
fn inserts_on_the_standby_do_not_collide_after_a_clean_shutdown() {
    let mut rig = Rig::new("sequences", SCHEMA);
    rig.source.execute(DATABASE, "CREATE SEQUENCE here");
    rig.standby.execute(DATABASE, "CREATE SEQUENCE there");
    rig.run();
    for table in TABLES {
        rig.execute(&insert(table, 100));
    }
    rig.settle(LIMIT);
    let mut standby = rig.standby.client(DATABASE);
    for table in TABLES {
        let error = standby.batch_execute(&insert(table, 1)).expect_err("it takes a number again");
        assert_eq!(error.code(), Some(&postgres::error::SqlState::UNIQUE_VIOLATION), "{table}");
    }

    // by hand, while everything runs
    let synced = rig.sidecar.command("sync-sequences");
    let said = String::from_utf8_lossy(&synced.stdout).into_owned();
    assert!(synced.status.success(), "{said}{}", String::from_utf8_lossy(&synced.stderr));
    for part in ["standby: 3 sequences set", "the source: public.here", "the target: public.there"]
    {
        assert!(said.contains(part), "{part} is missing in {said}");
    }

    // and at the end, behind what has come since
    for table in TABLES {
        rig.execute(&insert(table, 50));
    }
    rig.settle(LIMIT);
    assert!(rig.sidecar.terminate().success());
    let log = rig.sidecar.log();
    assert!(log.contains("3 sequences set"), "{log}");
    for table in TABLES {
        let count = format!("SELECT count(*) FROM {table}");
        assert_eq!(rig.standby.value(DATABASE, &count).as_deref(), Some("150"), "{table}");
        rig.standby.execute(DATABASE, &insert(table, 30));
    }
}
