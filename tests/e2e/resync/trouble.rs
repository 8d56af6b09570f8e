//! What may come in the way of a sync.

use postgres::Client;
use rsrepl_tests::rig::{CLICKHOUSE, DATABASE, Rig, STANDBY};
use rsrepl_tests::wait;

use super::{LIMIT, SCHEMA, ask, copied, left, resync, rig};
use crate::copy_meanwhile::Hold;

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

/// What keeps a sync from getting on.
const FAILURE: &str = "SELECT string_agg(error, ' ') FROM rsrepl.syncs WHERE error <> ''";

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
    rig.settle(LIMIT);
    let mut hold = Hold::of(&rig, "orders");
    ask(&rig, &["owners", "orders", "--target", STANDBY]);
    hold.wait();
    let count = "SELECT count(*)::text FROM owners";
    let all = rig.source.value(DATABASE, count);
    wait::until(LIMIT, "the parent is there", || rig.standby.value(DATABASE, count) == all);
    refill(&rig, 2000);
    let there = "SELECT v FROM others WHERE id = -2000";
    rig.execute("INSERT INTO others VALUES (-2000, 'behind it')");
    wait::until(LIMIT, "the main stream's part", || rig.standby.value(DATABASE, there).is_some());
    assert_eq!(rig.standby.value(DATABASE, count), all, "the parent is the sync's");
    drop(hold);
    wait::until(LIMIT, "it is copied", || {
        assert_eq!(rig.standby.value(DATABASE, FAILURE), None, "the sync fails");
        left(&rig).is_empty()
    });
    rig.settle(LIMIT);
    rig.assert_equal();
    let retries = rig.sidecar.metric("rsrepl_retries_total", &[("target", STANDBY)]);
    assert_eq!(retries, Some(0.0));
}

/// A chunk of a sync that a target has.
fn has_chunk(rig: &Rig, target: &str) -> bool {
    if target == STANDBY {
        return rig.standby.value(DATABASE, CHUNKS).is_some();
    }
    let sql = format!(
        "SELECT count() FROM {DATABASE}._rsrepl_copies FINAL WHERE slot LIKE '%\\_sync\\_%' AND state = 'done'"
    );
    rig.clickhouse.try_query(&sql).is_ok_and(|count| count.trim() != "0")
}

/// The sync's copy is behind the change then, and no stream brings it.
#[test]
fn a_table_that_is_altered_between_chunks_of_its_copy_is_copied_as_it_is_then() {
    let mut rig = rig("resync-altered");
    rig.execute("INSERT INTO orders SELECT i, i / 7.0, repeat(md5(i::text), 3) FROM generate_series(8001, 40000) i");
    rig.configure(|config| {
        config.copy = "data = true\nworkers = 1\nchunk_size = \"64KiB\"".to_owned();
        config.postgres[0].options.push_str("\nschema_changes = \"apply\"\n");
        config.clickhouse[0].options.push_str("\nschema_changes = \"apply\"\n");
    });
    // as a first copy takes longer than a start may, where others use the machine
    rig.sidecar.launch();
    rig.settle(LIMIT);
    // with its first row a table is recorded, so that names can be told from columns
    rig.execute("UPDATE orders SET note = 'first' WHERE id = 1");
    rig.settle(LIMIT);
    let changes = [
        (
            STANDBY,
            "ALTER TABLE orders RENAME note TO remark; ALTER TABLE orders ADD extra int DEFAULT 5",
        ),
        (
            CLICKHOUSE,
            "ALTER TABLE orders RENAME remark TO word; ALTER TABLE orders ADD more text DEFAULT 'x'",
        ),
    ];
    for (target, change) in changes {
        ask(&rig, &["orders", "--target", target]);
        wait::until(LIMIT, "a chunk", || has_chunk(&rig, target));
        rig.execute(change);
        wait::until(LIMIT, "it is copied", || left(&rig).is_empty());
        let over = |line: &str| line.contains("starts over") && line.contains(target);
        assert!(
            rig.sidecar.log().lines().any(over),
            "{target}: it was not in the middle of the copy"
        );
    }
    rig.execute("UPDATE orders SET extra = id, more = 'later' WHERE id % 500 = 0");
    rig.settle(LIMIT);
    rig.assert_equal();
}

/// Nobody brings the DROP: the main stream does not have the table, and the sync's begins behind it.
#[test]
fn a_table_that_is_dropped_before_it_is_copied_makes_room_for_a_later_one() {
    let mut rig = rig("resync-dropped");
    rig.configure(|config| {
        config.postgres[0].options.push_str("\nschema_changes = \"apply\"\n");
        config.clickhouse[0].options.push_str("\nschema_changes = \"apply\"\n");
    });
    // as a first copy takes longer than a start may, where others use the machine
    rig.sidecar.launch();
    rig.settle(LIMIT);
    rig.execute("UPDATE orders SET note = 'first' WHERE id = 1");
    rig.settle(LIMIT);
    let mut open = open_transaction(&rig);
    ask(&rig, &["orders"]);
    await_stage(&rig, "copying");
    rig.execute("DROP TABLE orders");
    open.batch_execute("ROLLBACK").unwrap();
    wait::until(LIMIT, "there is nothing to copy", || left(&rig).is_empty());
    rig.execute("CREATE TABLE orders (id int PRIMARY KEY, other text); INSERT INTO orders VALUES (1, 'new')");
    rig.settle(LIMIT);
    rig.assert_equal();
}

/// How many tables a target has recorded as given up, with nothing of the sync left.
fn given_up(rig: &Rig, target: &str) -> String {
    let stages = "stage = 'given up' AND sync_slot = ''";
    let count = match target {
        STANDBY => rig
            .standby
            .value(DATABASE, &format!("SELECT count(*)::text FROM rsrepl.syncs WHERE {stages}")),
        _ => rig
            .clickhouse
            .try_query(&format!(
                "SELECT count() FROM {DATABASE}._rsrepl_syncs FINAL WHERE {stages}"
            ))
            .ok(),
    };
    count.unwrap_or_default().trim().to_owned()
}

#[test]
fn what_is_given_up_is_left_out_until_somebody_asks_again() {
    let mut rig = rig("resync-given-up");
    rig.sidecar.launch();
    rig.settle(LIMIT);
    // half copied on the standby; not begun in ClickHouse
    let mut hold = Hold::of(&rig, "orders");
    ask(&rig, &["orders", "events", "--target", STANDBY]);
    hold.wait();
    let mut open = open_transaction(&rig);
    ask(&rig, &["orders", "--target", CLICKHOUSE]);
    wait::until(LIMIT, "it waits for the transaction", || {
        let slots = "SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE '%sync%1'";
        rig.source.value(DATABASE, slots).is_some()
    });
    resync(&rig, &["orders", "--cancel", "--no-wait"]);
    await_stage(&rig, "given up");
    drop(hold);
    open.batch_execute("ROLLBACK").unwrap();
    for target in [STANDBY, CLICKHOUSE] {
        wait::until(LIMIT, "nothing of it is left", || given_up(&rig, target) == "1");
    }
    // it is told from the beginning, and who asks twice gets the same answer
    assert!(resync(&rig, &["orders", "--cancel"]).contains("is given up"));
    // what was with it is copied all the same, and the source keeps nothing for it
    wait::until(LIMIT, "events is copied", || copied(&rig, STANDBY, "public.events") == 1);
    let slots =
        "SELECT string_agg(slot_name, ' ') FROM pg_replication_slots WHERE slot_name LIKE '%sync%'";
    assert_eq!(rig.source.value(DATABASE, slots), None);
    let behind = "SELECT v FROM others WHERE id = -2";
    rig.execute(
        "INSERT INTO orders VALUES (-2, 0, 'not seen'); INSERT INTO others VALUES (-2, 'seen')",
    );
    wait::until(LIMIT, "the others go on", || rig.standby.value(DATABASE, behind).is_some());
    rig.sidecar.terminate();
    rig.run();
    rig.execute(
        "INSERT INTO orders VALUES (-3, 0, 'not seen'); INSERT INTO others VALUES (-3, 'seen')",
    );
    let behind = "SELECT v FROM others WHERE id = -3";
    wait::until(LIMIT, "the others go on", || rig.standby.value(DATABASE, behind).is_some());
    let there = "SELECT id FROM orders WHERE id < 0 LIMIT 1";
    assert_eq!(rig.standby.value(DATABASE, there), None, "half a table with the stream");
    assert!(rig.sidecar.log().contains("was given up half copied"));
    let verified = rig.sidecar.command_with("verify", &["orders"]);
    assert_eq!(verified.status.code(), Some(2), "it is not compared");
    resync(&rig, &["orders"]);
    rig.settle(LIMIT);
    rig.assert_equal();
    assert_eq!(left(&rig), "");
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
