//! Transactions that are sent while they run: nothing of them shows before they commit, and nothing is
//! lost, doubled or left behind whoever is killed meanwhile.

use std::fs;
use std::time::Duration;

use postgres::Client;
use rsrepl_tests::rig::{DATABASE, Rig};
use rsrepl_tests::variant::Variant;
use rsrepl_tests::wait;

const LIMIT: Duration = Duration::from_secs(120);

const SCHEMA: &str =
    "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY)";

/// Servers of which the source streams almost at once.
fn rig(name: &str) -> Rig {
    let variant = Variant { streaming: true, ..Variant::of_test(name) };
    let mut rig = Rig::with(name, SCHEMA, variant);
    let dir = rig.scratch.join("spool");
    rig.configure(|config| config.sections = format!("[spool]\ndir = {dir:?}\n"));
    rig
}

fn insert(from: i32, to: i32) -> String {
    format!("INSERT INTO t SELECT i, 'row ' || i FROM generate_series({from}, {to}) i;")
}

/// Waits until something of so many open transactions has come. (WAL is sent when it is flushed, which a
/// commit of somebody else sees to.)
fn await_streams(rig: &Rig, count: f64) {
    wait::until(LIMIT, "a part of the transaction has come", || {
        rig.execute("SELECT pg_logical_emit_message(true, 'flush', '')");
        rig.sidecar.metric("rsrepl_open_streams", &[]) == Some(count)
            && rig.sidecar.metric("rsrepl_streamed_bytes", &[]) > Some(10_000.0)
    });
}

fn await_no_files(rig: &Rig) {
    wait::until(LIMIT, "the files are gone", || {
        rig.sidecar.metric("rsrepl_streamed_bytes", &[]) == Some(0.0)
    });
}

#[test]
fn transactions_in_progress_show_when_they_commit() {
    let mut rig = rig("streaming");
    rig.run();
    let mut first = rig.source.client(DATABASE);
    let mut second = rig.source.client(DATABASE);
    let both = |rig: &Rig| {
        await_streams(rig, 2.0);
        let names = fs::read_dir(rig.scratch.join("spool")).expect("the spool's folder").count();
        assert_eq!(names, 0, "a file has a name");
    };
    first
        .batch_execute(&format!(
            "BEGIN; {} SAVEPOINT a; UPDATE t SET v = 'changed' WHERE id % 3 = 0; DELETE FROM t
             WHERE id % 7 = 0;",
            insert(1, 20_000)
        ))
        .expect("a transaction");
    second.batch_execute(&format!("BEGIN; {}", insert(100_001, 120_000))).expect("another");
    both(&rig);
    // what is committed meanwhile is not held up, and what is not does not show
    rig.execute("INSERT INTO u VALUES (1)");
    rig.settle(LIMIT);
    let shown = rig.standby.value(DATABASE, "SELECT count(*) FROM t");
    assert_eq!(shown.as_deref(), Some("0"), "something shows before its commit");
    first
        .batch_execute(&format!(
            "ROLLBACK TO a; {} SAVEPOINT b; TRUNCATE u; {} SAVEPOINT c; DELETE FROM t; ROLLBACK TO c;
             RELEASE b; UPDATE t SET v = v || '!' WHERE id % 5 = 0; COMMIT",
            insert(20_001, 21_000),
            insert(21_001, 40_000)
        ))
        .expect("its end");
    second.batch_execute("ROLLBACK").expect("its end");
    rig.execute(&insert(200_001, 201_000));
    rig.settle(LIMIT);
    rig.assert_equal();
    await_no_files(&rig);
    let counts = "SELECT (spill_txns, stream_txns > 0)::text FROM pg_stat_replication_slots";
    wait::until(LIMIT, "the source has streamed and spilled nothing", || {
        rig.source.value(DATABASE, counts).as_deref() == Some("(0,t)")
    });
}

/// PostgreSQL does not count a subtransaction as streamed that it had to spill before, because a row was not
/// complete, and that it reads back in several runs (of 4,096 changes, here chunks of a TOAST value).
#[test]
fn a_spilled_subtransaction_that_is_rolled_back_does_not_show() {
    let mut rig = rig("streaming-spilled");
    rig.execute("ALTER TABLE t ALTER v SET STORAGE EXTERNAL");
    rig.run();
    rig.execute("INSERT INTO u VALUES (1)");
    let mut client = rig.source.client(DATABASE);
    let large = "INSERT INTO t VALUES (1, repeat(md5('x'), 400000));";
    client.batch_execute(&format!("BEGIN; SAVEPOINT a; {large}")).expect("a part");
    await_streams(&rig, 1.0);
    client
        .batch_execute("ROLLBACK TO a; INSERT INTO t VALUES (2, 'kept'); COMMIT")
        .expect("its end");
    rig.settle(LIMIT);
    rig.assert_equal();
    let counts = "SELECT (spill_txns > 0, stream_txns > 0)::text FROM pg_stat_replication_slots";
    wait::until(LIMIT, "the source has spilled and streamed", || {
        rig.source.value(DATABASE, counts).as_deref() == Some("(t,t)")
    });
}

#[test]
fn kills_in_the_middle_lose_and_double_nothing() {
    let mut rig = rig("streaming-kills");
    rig.run();
    rig.execute("INSERT INTO u VALUES (1)");
    let mut client = rig.source.client(DATABASE);
    for round in 0..4 {
        let first = round * 100_000;
        let part = insert(first + 1, first + 20_000);
        client.batch_execute(&format!("BEGIN; {part} SAVEPOINT a;")).expect("a part");
        await_streams(&rig, 1.0);
        rig.sidecar.kill();
        rig.sidecar.launch();
        rig.sidecar.wait_ready(LIMIT);
        let part = insert(first + 20_001, first + 30_000);
        client.batch_execute(&format!("{part} ROLLBACK TO a; {part}")).expect("a part");
        await_streams(&rig, 1.0);
        client.batch_execute("COMMIT").expect("the end");
        // while the transaction is read from its file
        match round % 3 {
            0 => {
                rig.standby.kill();
                rig.standby.launch();
            }
            1 => {
                rig.clickhouse.kill();
                rig.clickhouse.launch();
            }
            _ => {
                rig.sidecar.terminate();
                rig.sidecar.launch();
            }
        }
        rig.execute("UPDATE t SET v = 'small' WHERE id % 10007 = 0");
    }
    rig.sidecar.wait_ready(LIMIT);
    rig.settle(LIMIT);
    rig.assert_equal();
    await_no_files(&rig);
}

/// What is open when the primary dies has no end in the WAL.
#[test]
fn a_primary_that_dies_in_the_middle_leaves_nothing_behind() {
    let mut rig = rig("streaming-crash");
    rig.run();
    rig.execute("INSERT INTO u VALUES (1)");
    let mut client = rig.source.client(DATABASE);
    let part = insert(1, 20_000);
    client.batch_execute(&format!("BEGIN; {part} SAVEPOINT a; DELETE FROM t;")).expect("a part");
    await_streams(&rig, 1.0);
    rig.source.kill();
    rig.source.launch();
    rig.sidecar.wait_ready(LIMIT);
    // what of it comes again is taken back where the source has written down who is running
    rig.execute("CHECKPOINT");
    rig.settle(LIMIT);
    assert_eq!(rig.sidecar.metric("rsrepl_open_streams", &[]), Some(0.0));
    await_no_files(&rig);
    rig.execute(&format!("{} INSERT INTO u VALUES (2)", insert(100_001, 120_000)));
    rig.settle(LIMIT);
    rig.assert_equal();
    await_no_files(&rig);
}

/// What the plugin remembers of a transaction and its subtransactions goes with the walsender, and what
/// the sidecar has with the connection.
#[test]
fn a_walsender_that_ends_in_the_middle_loses_and_doubles_nothing() {
    let mut rig = rig("streaming-walsender");
    rig.execute("ALTER TABLE t ALTER v SET STORAGE EXTERNAL");
    rig.run();
    rig.execute("INSERT INTO u VALUES (1)");
    let mut client = rig.source.client(DATABASE);
    let large = |id: i32| format!("INSERT INTO t VALUES ({id}, repeat(md5('x'), 400000));");
    let walsender = "SELECT min(active_pid) FROM pg_replication_slots";
    let end_walsender = |rig: &Rig, client: &mut Client| {
        await_streams(rig, 1.0);
        let before = rig.source.value(DATABASE, walsender).expect("a walsender");
        rig.execute(&format!("SELECT pg_terminate_backend({before})"));
        wait::until(LIMIT, "another walsender", || {
            rig.source.value(DATABASE, walsender).is_some_and(|now| now != before)
        });
        // it keeps on disk what was read before, and streams when more has come than its memory holds
        let more = "SELECT pg_logical_emit_message(true, 'more', repeat('x', 50000)) FROM generate_series(1, 4)";
        client.batch_execute(more).expect("more of it");
        await_streams(rig, 1.0);
    };
    let parts = [
        format!("BEGIN; {} SAVEPOINT a; {} {}", insert(1, 9_000), large(10_000), large(10_001)),
        format!("SAVEPOINT b; {} ROLLBACK TO b; {}", insert(20_001, 29_000), large(10_002)),
        format!("ROLLBACK TO a; {} SAVEPOINT c; {}", insert(30_001, 39_000), large(10_003)),
        format!("RELEASE c; SAVEPOINT d; {}", large(10_004)),
    ];
    for part in parts {
        client.batch_execute(&part).expect("a part");
        end_walsender(&rig, &mut client);
    }
    client.batch_execute("ROLLBACK TO d; COMMIT").expect("its end");
    rig.settle(LIMIT);
    rig.assert_equal();
    await_no_files(&rig);
}

#[test]
fn a_runaway_transaction_stays_on_the_source() {
    const MAX_DISK: u32 = 8 << 20;
    let mut rig = rig("streaming-runaway");
    rig.configure(|config| config.sections.push_str(&format!("max_disk = {MAX_DISK}\n")));
    rig.run();
    rig.execute("INSERT INTO u VALUES (1)");
    let mut client = rig.source.client(DATABASE);
    client.batch_execute("BEGIN").expect("a transaction");
    let refused = |rig: &Rig| rig.sidecar.metric("rsrepl_streaming_refused", &[]) == Some(1.0);
    let mut rows = 0;
    wait::until(LIMIT, "there is no more room", || {
        client.batch_execute(&insert(rows + 1, rows + 10_000)).expect("a part");
        rows += 10_000;
        rig.execute("SELECT pg_logical_emit_message(true, 'flush', '')");
        let bytes = rig.sidecar.metric("rsrepl_streamed_bytes", &[]);
        assert!(bytes.is_some_and(|bytes| bytes <= f64::from(MAX_DISK)), "{bytes:?}");
        refused(&rig)
    });
    await_no_files(&rig);
    let log = rig.sidecar.log();
    assert!(log.contains("transactions in progress cannot be kept here"), "{log}");
    assert!(log.contains("spool.max_disk"), "{log}");
    // others go on meanwhile, and it comes after its commit
    rig.execute("INSERT INTO u VALUES (2)");
    rig.settle(LIMIT);
    client.batch_execute("COMMIT").expect("its end");
    rig.settle(LIMIT);
    rig.assert_equal();
    assert!(refused(&rig), "streaming again before its time");
}

#[test]
fn without_a_disk_large_transactions_come_whole() {
    let mut rig = rig("streaming-disk");
    fs::write(rig.scratch.join("spool"), "not a folder").expect("write a file");
    let check = rig.sidecar.command("check");
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.status.success() && said.contains("spool.dir"), "{said}");
    rig.run();
    rig.execute(&format!("{} INSERT INTO u VALUES (1)", insert(1, 20_000)));
    rig.settle(LIMIT);
    rig.assert_equal();
    let log = rig.sidecar.log();
    assert!(log.contains("transactions in progress cannot be kept here"), "{log}");
}
