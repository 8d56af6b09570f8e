//! What may come in the way of a sync.

use postgres::Client;
use rsrepl_tests::rig::{CLICKHOUSE, DATABASE, Rig, STANDBY};
use rsrepl_tests::wait;

use super::{LIMIT, SCHEMA, ask, copied, left, resync, rig};

/// A transaction of the source that no slot can be made beside.
fn open_transaction(rig: &Rig) -> Client {
    let mut client = rig.source.client(DATABASE);
    client.batch_execute("BEGIN; INSERT INTO others VALUES (-77, 'open')").unwrap();
    client
}

pub fn await_stage(rig: &Rig, stage: &str) {
    let sql = format!("SELECT table_name FROM rsrepl.syncs WHERE stage = '{stage}' LIMIT 1");
    wait::until(LIMIT, stage, || {
        let made = rig.standby.value(DATABASE, "SELECT to_regclass('rsrepl.syncs')::text");
        made.is_some() && rig.standby.value(DATABASE, &sql).is_some()
    });
}

/// Chunks of syncs that are there.
pub const CHUNKS: &str =
    "SELECT slot FROM rsrepl.copied_chunks WHERE slot LIKE '%\\_sync\\_%' LIMIT 1";

/// A session of the standby that waits for a lock on `orders`.
pub const WAITS: &str = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%orders%' LIMIT 1";

#[test]
fn a_truncate_of_tables_that_two_streams_share_stops_neither() {
    let mut rig = Rig::new(
        "resync-truncate",
        &format!(
            "{SCHEMA}
             CREATE TABLE owners (id int PRIMARY KEY, v text);
             CREATE TABLE pets (id int PRIMARY KEY, owner int REFERENCES owners, v text);"
        ),
    );
    rig.execute("INSERT INTO owners SELECT i, 'x' FROM generate_series(1, 500) i; INSERT INTO pets SELECT i, i, 'y' FROM generate_series(1, 500) i");
    rig.configure(|config| {
        config.copy = "data = true\nworkers = 2\nchunk_size = \"64KiB\"".to_owned()
    });
    // as a first copy takes longer than a start may, where others use the machine
    rig.sidecar.launch();
    rig.settle(LIMIT);
    let refill = |rig: &Rig, from: u32| {
        rig.execute(&format!(
            "TRUNCATE owners, pets; INSERT INTO owners VALUES ({from}, 'new'); INSERT INTO pets VALUES ({from}, {from}, 'new')"
        ));
    };
    // the child is held: the main stream truncates its parent alone
    let mut open = open_transaction(&rig);
    ask(&rig, &["pets"]);
    await_stage(&rig, "copying");
    refill(&rig, 1000);
    let there = "SELECT v FROM owners WHERE id = 1000";
    wait::until(LIMIT, "the parent's new row", || rig.standby.value(DATABASE, there).is_some());
    open.batch_execute("ROLLBACK").unwrap();
    wait::until(LIMIT, "it is copied", || left(&rig).is_empty());
    rig.settle(LIMIT);
    rig.assert_equal();
    // the parent is held, and copied, but not all of its sync: that truncates it alone
    rig.standby.execute(DATABASE, "INSERT INTO owners VALUES (-1, 'never was')");
    rig.execute(
        "INSERT INTO owners SELECT i, repeat('x', 100) FROM generate_series(5000, 25000) i;
                 INSERT INTO orders SELECT i, 0, repeat('y', 100) FROM generate_series(1, 5000) i",
    );
    ask(&rig, &["owners", "orders", "--target", STANDBY]);
    wait::until(LIMIT, "a chunk", || rig.standby.value(DATABASE, CHUNKS).is_some());
    let mut lock = rig.standby.client(DATABASE);
    lock.batch_execute("BEGIN; LOCK TABLE orders IN SHARE MODE").unwrap();
    wait::until(LIMIT, "it waits", || {
        rig.standby.value(DATABASE, WAITS).is_some() || left(&rig).is_empty()
    });
    refill(&rig, 2000);
    lock.batch_execute("ROLLBACK").unwrap();
    wait::until(LIMIT, "it is copied", || left(&rig).is_empty());
    rig.settle(LIMIT);
    rig.assert_equal();
    let retries = rig.sidecar.metric("rsrepl_retries_total", &[("target", STANDBY)]);
    assert_eq!(retries, Some(0.0));
}

#[test]
fn a_sync_that_loses_its_slot_while_it_copies_begins_anew() {
    let mut rig = rig("resync-slot");
    rig.execute("INSERT INTO orders SELECT i, i / 7.0, repeat(md5(i::text), 3) FROM generate_series(8001, 40000) i");
    rig.configure(|config| {
        config.copy = "data = true\nworkers = 1\nchunk_size = \"256KiB\"".to_owned()
    });
    // as a first copy takes longer than a start may, where others use the machine
    rig.sidecar.launch();
    rig.settle(LIMIT);
    ask(&rig, &["orders", "--target", STANDBY]);
    wait::until(LIMIT, "a chunk", || rig.standby.value(DATABASE, CHUNKS).is_some());
    let mut lock = rig.standby.client(DATABASE);
    lock.batch_execute("BEGIN; LOCK TABLE orders IN SHARE MODE").unwrap();
    await_stage(&rig, "copying");
    rig.source.execute(
        DATABASE,
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE '%\\_sync\\_%'",
    );
    wait::until(LIMIT, "it waits", || rig.standby.value(DATABASE, WAITS).is_some());
    // what was under way fails, and it has to go on from the slot
    rig.standby.execute(
        DATABASE,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%orders%'",
    );
    lock.batch_execute("ROLLBACK").unwrap();
    wait::until(LIMIT, "it is copied", || left(&rig).is_empty());
    assert!(rig.sidecar.log().contains("its tables are copied once more"));
    rig.settle(LIMIT);
    rig.assert_equal();
}

#[test]
fn what_is_recorded_and_cannot_be_read_is_told() {
    let mut rig = rig("resync-unread");
    // as a first copy takes longer than a start may, where others use the machine
    rig.sidecar.launch();
    rig.settle(LIMIT);
    resync(&rig, &["others", "--target", STANDBY]);
    rig.sidecar.terminate();
    rig.standby.execute(
        DATABASE,
        "INSERT INTO rsrepl.syncs (slot, source_oid, table_name, stage, sync_slot, hand_over, error)
         VALUES ('rsrepl', 1, 'public.x', 'of a later version', '', '0/0', '')",
    );
    // of a target that was taken out of the configuration, say
    rig.execute("SELECT pg_create_logical_replication_slot('rsrepl_sync_17_5', 'rsrepl')");
    rig.execute("INSERT INTO others VALUES (-1, 'meanwhile')");
    rig.sidecar.launch();
    rig.settle_clickhouse(DATABASE, LIMIT);
    let told = "nothing is written to this target until that can be read";
    wait::until(LIMIT, "it is told", || rig.sidecar.log().contains(told));
    wait::until(LIMIT, "it is shown", || {
        let status = rig.sidecar.command("status");
        String::from_utf8_lossy(&status.stdout).contains("rsrepl.syncs cannot be read")
    });
    let there = "SELECT v FROM others WHERE id = -1";
    assert_eq!(rig.standby.value(DATABASE, there), None, "it may have been held");
    rig.standby.execute(DATABASE, "DELETE FROM rsrepl.syncs");
    rig.settle(LIMIT);
    rig.assert_equal();
    // with what both targets say it is known to be nobody's
    let drop = "pg_drop_replication_slot('rsrepl_sync_17_5')";
    wait::until(LIMIT, "a slot of nobody", || rig.sidecar.log().contains(drop));
    rig.execute("SELECT pg_drop_replication_slot('rsrepl_sync_17_5')");
}

#[test]
fn rows_of_others_are_not_replaced_by_themselves() {
    let mut rig = rig("resync-strange");
    rig.execute("CREATE PUBLICATION shop FOR TABLE others, rig_marker");
    rig.configure(|config| config.source_options.push_str("\npublication = \"shop\"\n"));
    // as a first copy takes longer than a start may, where others use the machine
    rig.sidecar.launch();
    rig.settle(LIMIT);
    rig.standby.execute(DATABASE, "INSERT INTO orders VALUES (-9, 0, 'of somebody')");
    rig.execute("ALTER PUBLICATION shop ADD TABLE orders");
    await_stage(&rig, "to be decided");
    wait::until(LIMIT, "it is copied", || copied(&rig, CLICKHOUSE, "public.orders") == 1);
    let theirs = "SELECT note FROM orders WHERE id = -9";
    assert_eq!(rig.standby.value(DATABASE, theirs).as_deref(), Some("of somebody"));
    assert!(rig.sidecar.log().contains("has rows on this target that rsrepl did not bring"));
    // also of one that the stream has brought rows of since
    resync(&rig, &["orders", "--target", STANDBY]);
    rig.execute("UPDATE orders SET note = 'later' WHERE id = 5");
    rig.settle(LIMIT);
    assert_eq!(rig.standby.value(DATABASE, theirs), None);
    // of what is not published nothing comes
    rig.execute("ALTER PUBLICATION shop ADD TABLE events");
    wait::until(LIMIT, "it is copied", || copied(&rig, STANDBY, "public.events") == 1);
    wait::until(LIMIT, "it is copied", || copied(&rig, CLICKHOUSE, "public.events") == 1);
    rig.settle(LIMIT);
    rig.assert_equal();
    assert_eq!(left(&rig), "");
}
