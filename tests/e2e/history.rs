//! A ClickHouse target with `mode = "history"`, beside a mirror on the same server.

use std::time::Duration;

use rsrepl_tests::config::Target;
use rsrepl_tests::rig::{DATABASE, Rig};
use rsrepl_tests::wait;

const LIMIT: Duration = Duration::from_secs(60);

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

/// Three transactions.
const CHANGES: [&str; 3] = [
    "INSERT INTO t SELECT i, 'first' FROM generate_series(1, 500) i",
    "BEGIN; UPDATE t SET v = 'second' WHERE id <= 100; SAVEPOINT a; DELETE FROM t WHERE id <= 50;
     ROLLBACK TO a; UPDATE t SET id = -id WHERE id > 490; COMMIT",
    "DELETE FROM t WHERE id BETWEEN 200 AND 299",
];

fn history(rig: &Rig, what: &str) -> String {
    rig.clickhouse.query(&format!("SELECT {what} FROM history.t FINAL")).trim().to_owned()
}

#[test]
fn every_change_is_there_once_with_its_transaction() {
    let mut rig = Rig::new("history", SCHEMA);
    let mut target = Target::new("history", rig.clickhouse.url("history"));
    target.options = "mode = \"history\"\nbatch_interval = \"100ms\"".to_owned();
    rig.configure(|config| config.clickhouse.push(target));
    rig.run();
    CHANGES.iter().for_each(|sql| rig.execute(sql));
    // after a crash some of it comes again
    rig.sidecar.kill();
    rig.run();
    let client = &mut rig.source.client(DATABASE);
    let last = client.query_one(
        "INSERT INTO t VALUES (1000, 'last') RETURNING pg_current_xact_id()::text, id",
        &[],
    );
    let xid: String = last.unwrap().get(0);
    rig.settle(LIMIT);
    rig.assert_equal();
    wait::until(LIMIT, "the last change is in the history", || {
        rig.clickhouse.query("EXISTS history.t").trim() == "1"
            && history(&rig, "countIf(id = 1000)") == "1"
    });
    let counts = "countIf(_rsrepl_operation = 'insert'), countIf(_rsrepl_operation = 'update'),
                  countIf(_rsrepl_operation = 'delete'), countIf(_rsrepl_old_id = -id), count()";
    assert_eq!(history(&rig, counts), "501\t110\t100\t10\t711");
    assert_eq!(history(&rig, "uniq(_rsrepl_xid), uniq(_rsrepl_commit_time)"), "4\t4");
    let last = format!(
        "countIf(_rsrepl_xid = {xid} AND id = 1000 AND _rsrepl_commit_time > now() - 600 AND _rsrepl_commit_time <= now64(6))"
    );
    assert_eq!(history(&rig, &last), "1");
    // the last change of each key is what the source has
    let state = "SELECT count(), sum(id), countIf(v = 'second') FROM (
        SELECT id, argMax(_rsrepl_operation, _rsrepl_version) AS op, argMax(v, _rsrepl_version) AS v
        FROM (SELECT id, _rsrepl_operation, _rsrepl_version, v FROM history.t FINAL
              UNION ALL SELECT _rsrepl_old_id, 'delete', _rsrepl_version, NULL FROM history.t FINAL
              WHERE _rsrepl_old_id IS NOT NULL)
        GROUP BY id) WHERE op != 'delete'";
    let source = "SELECT count(*) || E'\\t' || sum(id) || E'\\t' || count(*) FILTER (WHERE v = 'second') FROM t";
    assert_eq!(
        Some(rig.clickhouse.query(state).trim()),
        rig.source.value(DATABASE, source).as_deref()
    );
}
