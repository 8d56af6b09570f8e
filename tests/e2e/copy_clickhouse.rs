//! The initial copy into ClickHouse, and into PostgreSQL by the same reads.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use postgres::{Client, NoTls};
use rsrepl_tests::config::Target;
use rsrepl_tests::rig::{DATABASE, Rig};
use rsrepl_tests::variant::seed;
use rsrepl_tests::wait;

/// For chunks to be written, or everything to arrive.
const LIMIT: Duration = Duration::from_secs(300);

/// What the sidecar's resident memory must stay below.
const MEMORY_LIMIT: u64 = 256 << 20;

/// Rows of the large table.
const ROWS: u32 = 60_000;

/// The database of a ClickHouse target that keeps a history.
const HISTORY: &str = "history";

/// `orders`: large. `events`: no key. `filed`: columns that each target wants in another form.
const SCHEMA: &str = "
CREATE TABLE orders (id int PRIMARY KEY, n numeric(12,2), note text, at timestamptz, doc jsonb);
CREATE TABLE events (n int, v text);
ALTER TABLE events REPLICA IDENTITY FULL;
CREATE TABLE filed (id int PRIMARY KEY, c char(5), twice int GENERATED ALWAYS AS (id * 2) STORED,
                    tags text[] NOT NULL, r regtype, f float8);
";

const FILL: &str = "
INSERT INTO orders SELECT i, i / 7.0, repeat(md5(i::text), 3), now() - i * interval '1 s', jsonb_build_object('i', i)
    FROM generate_series(1, 60000) i;
INSERT INTO events SELECT i % 100, 'event ' || i % 10 FROM generate_series(1, 10000) i;
INSERT INTO filed (id, c, tags, r, f)
    SELECT i, i, ARRAY['a', NULL, i::text], 'int4', sqrt(i) FROM generate_series(1, 3000) i;
";

/// Changes rows all over the tables until it is told to stop, whether or not the source is there.
fn writes(conninfo: &str, stop: &AtomicBool, done: &AtomicU64) {
    let mut random = fastrand::Rng::with_seed(seed());
    let mut client = None;
    while !stop.load(Ordering::Relaxed) {
        let i = done.load(Ordering::Relaxed);
        let id = random.u32(1..=ROWS);
        let statements = format!(
            "BEGIN;
             UPDATE orders SET n = n + 1, note = 'changed {i}' WHERE id = {id};
             DELETE FROM orders WHERE id = {};
             INSERT INTO orders (id, n) VALUES ({}, {i});
             UPDATE orders SET id = -id WHERE id = {} AND id > 0;
             INSERT INTO events VALUES ({i}, 'meanwhile');
             DELETE FROM events WHERE {i} % 20 = 0 AND ctid = (SELECT min(ctid) FROM events WHERE n = {});
             UPDATE filed SET f = {i} WHERE id = {};
             COMMIT",
            id / 2,
            1_000_000 + i,
            id / 3,
            i % 100,
            1 + id % 3000,
        );
        client = client.or_else(|| Client::connect(conninfo, NoTls).ok());
        let written = client.as_mut().map(|client| client.batch_execute(&statements));
        match written {
            Some(Ok(())) => {}
            // what the source was killed in may be there: with another number it is another transaction
            Some(Err(_)) => client = None,
            None => {
                thread::yield_now();
                continue;
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}

fn chunks(rig: &Rig, database: &str) -> u64 {
    let query = format!("SELECT count() FROM {database}._rsrepl_copies FINAL WHERE state = 'done'");
    rig.clickhouse.try_query(&query).ok().and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

#[test]
fn one_copy_feeds_all_while_rows_change_and_servers_die() {
    let mut rig = Rig::new("copy-ch", SCHEMA);
    rig.execute(FILL);
    rig.configure(|config| {
        config.copy = "data = true\nworkers = 3\nchunk_size = \"64KiB\"".to_owned();
        let history = config.clickhouse[0].connection.replace(DATABASE, HISTORY);
        config.clickhouse.push(Target {
            options: "mode = \"history\"".to_owned(),
            ..Target::new(HISTORY, history)
        });
    });
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let conninfo = rig.source.conninfo(DATABASE);
    thread::scope(|scope| {
        scope.spawn(|| writes(&conninfo, &stop, &done));
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| disturb(&mut rig, &done)));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    rig.settle(LIMIT);
    rig.settle_clickhouse(HISTORY, LIMIT);
    rig.assert_equal();
    assert_history(&rig);
    let memory = rig.sidecar.peak_memory();
    assert!(memory < MEMORY_LIMIT, "{memory} bytes");
    rig.assert_discreet();
}

/// Kills everybody in the middle of the copy.
fn disturb(rig: &mut Rig, done: &AtomicU64) {
    let mut random = fastrand::Rng::with_seed(seed());
    let mut victims = ["clickhouse", "sidecar", "standby", "source", "sidecar"];
    random.shuffle(&mut victims);
    rig.sidecar.launch();
    let (mut least, mut killed) = (0, 0);
    for victim in victims {
        least += random.u64(5..30);
        wait::until(LIMIT, "some more chunks", || chunks(rig, DATABASE) > least || is_copied(rig));
        if is_copied(rig) {
            break;
        }
        least = chunks(rig, DATABASE);
        println!("copy-ch: {least} chunks, kill -9 of the {victim}");
        match victim {
            "sidecar" => {
                rig.sidecar.kill();
                rig.sidecar.launch();
            }
            "clickhouse" => {
                rig.clickhouse.kill();
                rig.clickhouse.launch();
            }
            "standby" => {
                rig.standby.kill();
                rig.standby.launch();
            }
            _ => {
                rig.source.kill();
                rig.source.launch();
            }
        }
        killed += 1;
    }
    assert!(killed >= 3, "the copy was finished after {killed} kills");
    wait::until(LIMIT, "the copy is finished", || is_copied(rig));
    let before = done.load(Ordering::Relaxed);
    wait::until(LIMIT, "some more writes", || done.load(Ordering::Relaxed) > before + 50);
}

fn is_copied(rig: &Rig) -> bool {
    let query = format!("SELECT count() FROM {DATABASE}._rsrepl_positions FINAL");
    rig.clickhouse.try_query(&query).is_ok_and(|count| count.trim() == "1")
}

/// What its changes come to is what the source has.
fn assert_history(rig: &Rig) {
    let found = rig.clickhouse.query(&format!(
        "SELECT concat(toString(count()), ' ', toString(sum(id)), ' ', toString(toInt64(sum(n) * 100))) FROM (
           SELECT id, argMax(n, v) AS n, argMax(live, (v, live)) AS live FROM (
             SELECT id, n, _rsrepl_version AS v, _rsrepl_operation != 'delete' AS live
             FROM {HISTORY}.orders FINAL
             UNION ALL
             SELECT _rsrepl_old_id, NULL, _rsrepl_version, 0 FROM {HISTORY}.orders FINAL
             WHERE _rsrepl_old_id IS NOT NULL
           ) GROUP BY id
         ) WHERE live"
    ));
    let expected = rig.source.value(
        DATABASE,
        "SELECT concat_ws(' ', count(*), sum(id), (sum(n) * 100)::bigint) FROM orders",
    );
    assert_eq!(Some(found.trim()), expected.as_deref());
    let twice = rig.clickhouse.query(&format!(
        "SELECT id FROM (
           SELECT id, arrayMap(x -> x.2, arraySort(groupArray((_rsrepl_version, _rsrepl_operation)))) AS o
           FROM {HISTORY}.orders FINAL GROUP BY id
         ) WHERE arrayExists((a, b) -> a = 'copy' AND b = 'copy', arrayPopBack(o), arrayPopFront(o))"
    ));
    assert_eq!(twice, "", "rows that were copied again though nothing had taken them away");
    let found = rig.clickhouse.query(&format!(
        "SELECT countIf(_rsrepl_operation IN ('copy', 'insert')) - countIf(_rsrepl_operation = 'delete')
         FROM {HISTORY}.events FINAL"
    ));
    let expected = rig.source.value(DATABASE, "SELECT count(*) FROM events");
    assert_eq!(Some(found.trim()), expected.as_deref());
}
