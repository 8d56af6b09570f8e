//! What is left of a sync when its table is the main stream's again, and that is far behind.

use rsrepl_tests::rig::{DATABASE, STANDBY};
use rsrepl_tests::wait;

use super::trouble::{CHUNKS, WAITS, await_stage};
use super::{LIMIT, ask, left, rig};

const SLOTS: &str =
    "SELECT string_agg(slot_name, ' ') FROM pg_replication_slots WHERE slot_name <> 'rsrepl'";

#[test]
fn a_slot_does_not_wait_for_a_main_stream_that_is_behind() {
    let mut rig = rig("resync-handed");
    rig.execute("INSERT INTO orders SELECT i, i / 7.0, repeat(md5(i::text), 3) FROM generate_series(8001, 40000) i");
    rig.configure(|config| {
        config.copy = "data = true\nworkers = 1\nchunk_size = \"256KiB\"".to_owned();
        config.sections = "[spool]\nconfirm = \"spooled\"\n".to_owned();
    });
    // as a first copy takes longer than a start may, where others use the machine
    rig.sidecar.launch();
    rig.settle(LIMIT);
    ask(&rig, &["orders", "--target", STANDBY]);
    wait::until(LIMIT, "a chunk", || rig.standby.value(DATABASE, CHUNKS).is_some());
    let mut copy = rig.standby.client(DATABASE);
    copy.batch_execute("BEGIN; LOCK TABLE orders IN SHARE MODE").unwrap();
    wait::until(LIMIT, "it waits", || rig.standby.value(DATABASE, WAITS).is_some());
    // the main stream has work that it cannot do
    let mut main = rig.standby.client(DATABASE);
    main.batch_execute("BEGIN; LOCK TABLE others IN SHARE MODE").unwrap();
    rig.execute("INSERT INTO others VALUES (-1, 'behind')");
    copy.batch_execute("ROLLBACK").unwrap();
    await_stage(&rig, "handed over");
    wait::until(LIMIT, "its slot goes", || rig.source.value(DATABASE, SLOTS).is_none());
    // what comes now is the main stream's, also for who begins with it from the records
    rig.execute(
        "INSERT INTO orders VALUES (-1, 0, 'later'); UPDATE orders SET n = 0 WHERE id % 7 = 0",
    );
    rig.sidecar.kill();
    rig.sidecar.launch();
    await_stage(&rig, "handed over");
    main.batch_execute("ROLLBACK").unwrap();
    wait::until(LIMIT, "nothing is left of it", || left(&rig).is_empty());
    rig.settle(LIMIT);
    rig.assert_equal();
}
