//! Clean ends: of the source with the sidecar attached, and of the sidecar.

use std::time::Duration;

use rsrepl_tests::rig::{DATABASE, Rig};
use rsrepl_tests::wait;

const LIMIT: Duration = Duration::from_secs(40);

/// "In seconds".
const STOP_LIMIT: Duration = Duration::from_secs(10);

const SCHEMA: &str = "CREATE TABLE t (id bigint PRIMARY KEY, v text)";

fn insert(rig: &Rig, from: u32, to: u32) {
    rig.execute(&format!(
        "INSERT INTO t SELECT i, md5(i::text) FROM generate_series({from}, {to}) i"
    ));
}

#[test]
fn a_fast_stop_of_the_source_is_not_held_up_and_the_sidecar_comes_back() {
    let mut rig = Rig::new("stop-source", SCHEMA);
    rig.run();
    insert(&rig, 1, 1_000);
    rig.settle(LIMIT);
    let idle = rig.source.stop_fast();
    assert!(idle < STOP_LIMIT, "an idle source took {idle:?}");
    wait::until(LIMIT, "without a source it is not ready", || !rig.sidecar.ready());
    rig.source.launch();
    rig.sidecar.wait_ready(LIMIT);

    // Now with much still on its way.
    insert(&rig, 1_001, 200_000);
    let busy = rig.source.stop_fast();
    assert!(busy < STOP_LIMIT, "a busy source took {busy:?}");
    rig.source.launch();
    rig.sidecar.wait_ready(LIMIT);
    insert(&rig, 200_001, 200_010);
    rig.settle(LIMIT);
    rig.assert_equal();
}

#[test]
fn sigterm_drains_confirms_and_frees_the_slot() {
    let mut rig = Rig::new("sigterm", SCHEMA);
    rig.run();
    insert(&rig, 1, 50_000);
    let status = rig.sidecar.terminate();
    assert!(status.success(), "after SIGTERM: {status}\n{}", rig.sidecar.log());
    let active = "SELECT active FROM pg_replication_slots WHERE slot_name = 'rsrepl'";
    wait::until(LIMIT, "the slot is free", || {
        rig.source.value(DATABASE, active).as_deref() == Some("false")
    });
    // The position that was confirmed is one that every target has: nothing comes twice or never.
    rig.run();
    insert(&rig, 50_001, 50_010);
    rig.settle(LIMIT);
    rig.assert_equal();
}
