//! A physical standby takes the source's place, which both stand in the connection string.

use std::time::Duration;

use rsrepl_tests::postgres::Postgres;
use rsrepl_tests::rig::{CLICKHOUSE, DATABASE, Rig, STANDBY};
use rsrepl_tests::{SECRET, build, wait};

const LIMIT: Duration = Duration::from_secs(120);

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

const COUNT: &str = "SELECT count(*) FROM t";

/// A rig that runs, and a standby of its source.
fn rig(name: &str) -> (Rig, Postgres) {
    let mut rig = Rig::new(name, SCHEMA);
    let follower = Postgres::follow(&rig.scratch, "follower", &rig.source, DATABASE);
    if build::postgres_major() >= 17 {
        // what the follower does not have, nobody gets
        rig.source.execute("postgres", "ALTER SYSTEM SET synchronized_standby_slots = 'follower'");
        rig.source.execute("postgres", "SELECT pg_reload_conf()");
    }
    // the standby first: it is passed over as long as it is one
    let ports = (follower.port(), rig.source.port());
    rig.configure(|config| {
        config.source = format!(
            "host=127.0.0.1,127.0.0.1 port={},{} user=postgres password={SECRET} dbname={DATABASE} \
             target_session_attrs=read-write",
            ports.0, ports.1
        );
    });
    rig.run();
    rig.execute("INSERT INTO t SELECT i, 'first' FROM generate_series(1, 100) i");
    rig.settle(LIMIT);
    (rig, follower)
}

/// Rows one by one until the server is gone.
fn write_until_gone(rig: &Rig) -> std::thread::JoinHandle<i32> {
    let mut client = rig.source.client(DATABASE);
    std::thread::spawn(move || {
        for id in 1000.. {
            let written = client.batch_execute(&format!(
                "INSERT INTO t VALUES ({id}, 'w'); UPDATE t SET v = v || '.' WHERE id = {id} - 5;
                 DELETE FROM t WHERE id = {id} - 20"
            ));
            if written.is_err() {
                return id - 1000;
            }
        }
        unreachable!("numbers do not end")
    })
}

/// The old source is gone, the follower in its place.
fn fail_over(rig: &mut Rig, follower: Postgres) {
    rig.source.kill();
    follower.promote();
    rig.source = follower;
}

#[test]
fn a_standby_that_has_the_slot_goes_on() {
    if build::postgres_major() < 17 {
        return;
    }
    let (mut rig, follower) = rig("failover-kept");
    let kept = "SELECT count(*) FROM pg_replication_slots \
                WHERE slot_name = 'rsrepl' AND synced AND NOT temporary AND failover";
    wait::until(LIMIT, "the standby keeps the slot", || {
        // it becomes lasting once the source's has moved behind what the standby has
        rig.execute(
            "SELECT pg_log_standby_snapshot(); INSERT INTO rig_marker VALUES (-txid_current())",
        );
        follower.value("postgres", kept).as_deref() == Some("1")
    });
    let writer = write_until_gone(&rig);
    wait::until(LIMIT, "the targets follow", || {
        let rows = rig.standby.value(DATABASE, "SELECT max(id) FROM t");
        rows.and_then(|id| id.parse().ok()).is_some_and(|id: i32| id > 1100)
    });
    fail_over(&mut rig, follower);
    assert!(writer.join().expect("the writer") > 100);
    rig.execute("INSERT INTO t VALUES (-1, 'after')");
    rig.settle(LIMIT);
    rig.assert_equal();
    assert!(rig.sidecar.ready());
    assert_eq!(rig.sidecar.log().matches("Identity").count(), 0);
    // and it is a slot that the next one can have
    let failover = "SELECT failover FROM pg_replication_slots WHERE slot_name = 'rsrepl'";
    assert_eq!(rig.source.value(DATABASE, failover).as_deref(), Some("true"));
}

#[test]
fn a_standby_without_the_slot_is_refused() {
    let (mut rig, follower) = rig("failover-lost");
    if build::postgres_major() >= 17 {
        follower.execute("postgres", "ALTER SYSTEM SET sync_replication_slots = off");
        follower.execute("postgres", "SELECT pg_reload_conf()");
    }
    let has =
        "SELECT count(*) FROM pg_replication_slots WHERE NOT temporary AND slot_type = 'logical'";
    wait::until(LIMIT, "what was written is on the follower", || {
        follower.value(DATABASE, COUNT).as_deref() == Some("100")
    });
    fail_over(&mut rig, follower);
    if rig.source.value("postgres", has).as_deref() != Some("0") {
        rig.execute("SELECT pg_drop_replication_slot('rsrepl')");
    }
    rig.execute("INSERT INTO t VALUES (-1, 'after')");
    wait::until(LIMIT, "the sidecar says what is wrong", || {
        rig.sidecar.log().contains("slot rsrepl does not exist")
    });
    assert!(!rig.sidecar.ready(), "ready without a stream");
    assert_eq!(rig.standby.value(DATABASE, COUNT).as_deref(), Some("100"));
    // also behind a restart: a new slot has nothing of what came before it
    rig.sidecar.kill();
    rig.sidecar.launch();
    for target in [STANDBY, CLICKHOUSE] {
        wait::until(LIMIT, &format!("{target} is stopped"), || {
            let report = rig.reported(target);
            report.contains("\"stopped\"") && report.contains("the source cannot send all")
        });
    }
    assert!(!rig.sidecar.ready(), "ready with stopped targets");
    assert_eq!(rig.standby.value(DATABASE, COUNT).as_deref(), Some("100"));
}
