//! Invariant 10: a source that is not, or no longer, what the targets' positions speak of. Restored from a backup it has
//! less; what it then writes gets LSNs that the targets have already passed.

use std::time::Duration;

use rsrepl_tests::rig::{CLICKHOUSE, DATABASE, Rig, STANDBY};
use rsrepl_tests::wait;

const LIMIT: Duration = Duration::from_secs(120);

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

const ROWS: &str = "SELECT count(*) || ' ' || coalesce(string_agg(DISTINCT v, ' '), '') FROM t";

/// A rig of which there is a backup with one row and a slot; the targets, and the source, have another row.
fn rig(name: &str) -> Rig {
    let mut rig = Rig::new(name, SCHEMA);
    rig.run();
    rig.execute("INSERT INTO t VALUES (1, 'before')");
    rig.settle(LIMIT);
    rig.source.stop_fast();
    rig.source.back_up();
    rig.source.launch();
    rig.execute("INSERT INTO t VALUES (2, 'lost')");
    rig.settle(LIMIT);
    rig
}

/// What the targets have is what they had before the source was restored.
fn assert_untouched(rig: &Rig) {
    let rows = rig.standby.value(DATABASE, ROWS);
    assert_eq!(rows.as_deref(), Some("2 before lost"), "the standby");
    let query =
        "SELECT count(), arrayStringConcat(arraySort(groupUniqArray(v)), ' ') FROM shop.t FINAL";
    assert_eq!(rig.clickhouse.query(query).trim(), "2\tbefore lost", "ClickHouse");
}

/// The restored source writes other rows, until its WAL has passed `position`, where that of the lost one ended.
fn pass(rig: &Rig, position: u64) {
    assert!(rig.wal_end() < position, "the backup is not older: {} {position}", rig.wal_end());
    rig.execute("INSERT INTO t SELECT i, 'other' FROM generate_series(2, 1000) i");
    wait::until(LIMIT, "the source passes where it was", || {
        rig.execute("SELECT pg_switch_wal(); INSERT INTO rig_marker VALUES (-txid_current())");
        rig.wal_end() > position
    });
}

fn mentions(rig: &Rig, text: &str) -> usize {
    rig.sidecar.log().matches(text).count()
}

/// Waits until the log has `text` more often than it does now.
fn wait_mentioned(rig: &Rig, text: &str) {
    let before = mentions(rig, text);
    wait::until(LIMIT, &format!("the log says {text:?}"), || mentions(rig, text) > before);
}

/// Both targets are stopped, and say of their positions what is wrong with them.
fn wait_refused(rig: &mut Rig, says: &str) {
    for target in [STANDBY, CLICKHOUSE] {
        wait::until(LIMIT, &format!("{target} is stopped"), || {
            let report = rig.reported(target);
            report.contains("\"stopped\"") && report.contains(says)
        });
    }
    assert!(!rig.sidecar.ready(), "ready with stopped targets");
}

#[test]
fn a_backup_that_takes_the_sources_place_is_noticed() {
    let mut rig = rig("restored-running");
    let end = rig.wal_end();
    rig.source.kill();
    rig.source.restore();
    rig.source.launch();
    wait::until(LIMIT, "the sidecar notices", || mentions(&rig, "it is not the source it was") > 0);
    assert!(!rig.sidecar.ready(), "ready with a stopped stream");
    pass(&rig, end);
    wait_mentioned(&rig, "the source was seen to have gone back");
    assert_untouched(&rig);
}

#[test]
fn a_backup_that_is_there_at_the_start_is_noticed() {
    let mut rig = rig("restored-down");
    rig.sidecar.kill();
    let end = rig.wal_end();
    rig.source.kill();
    rig.source.restore();
    rig.source.launch();
    rig.sidecar.launch();
    wait_refused(&mut rig, "the target has seen what the source does not have");
    pass(&rig, end);
    // also over a new connection, which finds the position in the source's past
    rig.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active");
    wait_mentioned(&rig, "receiving");
    for _ in 0..2 {
        wait_mentioned(&rig, "the target has seen what the source does not have");
    }
    assert_untouched(&rig);
}

#[test]
fn a_branch_that_lacks_what_the_targets_have_is_refused() {
    let mut rig = rig("restored-branch");
    rig.sidecar.kill();
    let end = rig.wal_end();
    rig.source.kill();
    rig.source.restore();
    rig.source.launch_on_new_timeline();
    pass(&rig, end);
    rig.sidecar.launch();
    wait_refused(&mut rig, "of timeline 1, and the source left that at");
    assert_untouched(&rig);
}

#[test]
fn a_branch_that_lacks_what_was_received_is_refused() {
    let mut rig = rig("restored-branch-running");
    let end = rig.wal_end();
    rig.source.kill();
    rig.source.restore();
    rig.source.launch_on_new_timeline();
    wait::until(LIMIT, "the sidecar notices", || {
        mentions(&rig, "what was received from it reached") > 0
    });
    pass(&rig, end);
    wait_mentioned(&rig, "what was received from it reached");
    assert_untouched(&rig);
}

/// The folder is the same, so the slot is there, as it is after the failover of a cluster's disk.
#[test]
fn a_promotion_that_lost_nothing_goes_on() {
    let mut rig = rig("restored-whole");
    for (row, running) in [(3, true), (4, false)] {
        if !running {
            rig.sidecar.kill();
        }
        rig.source.kill();
        rig.source.launch_on_new_timeline();
        rig.execute(&format!("INSERT INTO t VALUES ({row}, 'after')"));
        if !running {
            rig.sidecar.launch();
        }
        rig.sidecar.wait_ready(LIMIT);
        rig.settle(LIMIT);
        rig.assert_equal();
    }
    let timeline = rig.standby.value(DATABASE, "SELECT timeline FROM rsrepl.positions");
    assert_eq!(timeline.as_deref(), Some("3"));
}
