//! A backlog of tiny transactions, which come several in a frame, and everything that may happen to it.

use std::time::Duration;

use rsrepl_tests::rig::{DATABASE, Rig};
use rsrepl_tests::wait;

const LIMIT: Duration = Duration::from_secs(60);

/// Rows of the first one.
const BACKLOG: u32 = 60_000;

/// "In seconds".
const STOP_LIMIT: Duration = Duration::from_secs(10);

const SCHEMA: &str = "CREATE TABLE t (id bigint PRIMARY KEY, v text)";

/// Each row in a transaction of its own.
fn insert(rig: &Rig, from: u32, to: u32) {
    rig.execute(&format!(
        "DO $$ BEGIN FOR i IN {from}..{to} LOOP
             INSERT INTO t VALUES (i, md5(i::text)); COMMIT;
         END LOOP; END $$"
    ));
}

fn rows(rig: &Rig) -> u64 {
    let count = rig.standby.value(DATABASE, "SELECT count(*) FROM t");
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Some of the backlog is there, or all of it: that is for the machine to say.
fn await_some(rig: &Rig, before: u64) {
    wait::until(LIMIT, "something of the backlog is there", || {
        let now = rows(rig);
        now > before || now == u64::from(BACKLOG)
    });
}

#[test]
fn a_backlog_survives_what_may_happen() {
    let mut rig = Rig::new("backlog", SCHEMA);
    rig.run();
    insert(&rig, 1, 10);
    rig.settle(LIMIT);

    // the sidecar dies in the middle, twice
    rig.sidecar.kill();
    insert(&rig, 11, BACKLOG);
    for _ in 0..2 {
        let before = rows(&rig);
        rig.sidecar.launch();
        await_some(&rig, before);
        rig.sidecar.kill();
    }

    // the walsender does, and the whole server with it
    let before = rows(&rig);
    rig.sidecar.launch();
    await_some(&rig, before);
    rig.source.kill();
    rig.source.launch();

    // and the source is stopped while there is much on its way
    rig.sidecar.wait_ready(LIMIT);
    insert(&rig, BACKLOG + 1, BACKLOG + 50_000);
    let took = rig.source.stop_fast();
    assert!(took < STOP_LIMIT, "a source with a backlog took {took:?}");
    rig.source.launch();
    rig.sidecar.wait_ready(LIMIT);
    rig.settle(LIMIT);
    rig.assert_equal();
}
