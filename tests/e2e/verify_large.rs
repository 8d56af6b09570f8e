//! `rsrepl verify` of a large table under load: `make verify-large` (ROWS=10000000).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rsrepl_tests::postgres::Postgres;
use rsrepl_tests::rig::{CLICKHOUSE, DATABASE, Rig, STANDBY};
use rsrepl_tests::variant::Variant;

use crate::verify::{named, verify};

const LIMIT: Duration = Duration::from_secs(60);
const TPS: u32 = 2_000;
const TABLE: &str =
    "CREATE TABLE narrow (id bigint PRIMARY KEY, a int, b int, t timestamptz, filler text)";
/// Keys that are multiples of it are left alone by the workload, and differences are planted there.
const QUIET: u64 = 1_000;

/// Every row of a loaded table is compared while 2,000 transactions a second change it; what is planted is
/// found on either target, and nothing else.
#[test]
#[ignore = "takes minutes"]
fn ten_million_rows() {
    let rows = std::env::var("ROWS").map_or(10_000_000, |rows| rows.parse().expect("ROWS"));
    let rig = loaded(rows);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> =
            (0..2).map(|_| scope.spawn(|| paced(&rig.source, &stop, rows, TPS / 2))).collect();
        let began = Instant::now();
        // whatever fails, the workload ends
        let tested = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&rig, rows)));
        stop.store(true, Ordering::Relaxed);
        let done: u32 = workers.into_iter().map(|worker| worker.join().expect("a worker")).sum();
        println!("{:.0} transactions a second", f64::from(done) / began.elapsed().as_secs_f64());
        if let Err(panic) = tested {
            std::panic::resume_unwind(panic);
        }
    });
}

/// All three systems have the same rows, and the stream goes on from there.
fn loaded(rows: u64) -> Rig {
    let mut rig = Rig::with("verify10m", TABLE, Variant::PLAIN);
    let load = format!(
        "INSERT INTO narrow SELECT i, i, i % 7, timestamptz '2024-01-01 00:00:00+00' + i * interval '1 s',
           repeat('x', 30) FROM generate_series(1, {rows}) AS i"
    );
    for server in [&rig.source, &rig.standby] {
        for statement in [load.as_str(), "VACUUM ANALYZE narrow"] {
            server.execute(DATABASE, statement);
        }
    }
    rig.run();
    rig.execute("UPDATE narrow SET a = a WHERE id = 1");
    rig.settle(LIMIT);
    rig.clickhouse.query(&format!(
        "INSERT INTO {DATABASE}.narrow SELECT number + 1, number + 1, (number + 1) % 7,
           toDateTime64('2024-01-01 00:00:00', 6, 'UTC') + toIntervalSecond(number + 1), repeat('x', 30), 0, 0
         FROM numbers({rows})"
    ));
    rig
}

fn test(rig: &Rig, rows: u64) {
    let timed = |arguments: &[&str]| {
        let began = Instant::now();
        let found = verify(rig, arguments);
        println!("{rows} rows, {arguments:?}: {:.1} s", began.elapsed().as_secs_f64());
        found
    };
    assert_eq!(timed(&["narrow"]).0, Some(0));
    let ids = plant(rig, rows);
    let (code, said) = timed(&["narrow"]);
    let expected: BTreeSet<String> = ["different", "missing", "surplus"]
        .iter()
        .flat_map(|kind| ids.iter().map(move |id| (kind, id)))
        .zip(0..)
        // the three keys have one kind each
        .filter(|(_, n)| n % 4 == 0)
        .map(|((kind, id), _)| format!("narrow: {kind} id={id}"))
        .collect();
    assert_eq!(code, Some(1));
    for target in [STANDBY, CLICKHOUSE] {
        assert_eq!(named(&said, target), expected, "{target}");
    }
    assert_eq!(timed(&["narrow", "--repair", "--delete"]).0, Some(0));
}

/// A changed value, a missing row and one too many, on both targets.
fn plant(rig: &Rig, rows: u64) -> [u64; 3] {
    let [changed, missing, surplus] = [rows / 2, rows, rows + QUIET];
    rig.standby.execute(
        DATABASE,
        &format!(
            "UPDATE narrow SET a = 0 WHERE id = {changed}; DELETE FROM narrow WHERE id = {missing};
             INSERT INTO narrow VALUES ({surplus})"
        ),
    );
    let other = |values: &str, id: u64| {
        rig.clickhouse.query(&format!(
            "INSERT INTO {DATABASE}.narrow (id, a, b, t, filler, _rsrepl_version, _rsrepl_deleted)
             SELECT {values} FROM {DATABASE}.narrow FINAL WHERE id = {id}"
        ));
    };
    other("id, a, b + 1, t, filler, _rsrepl_version + 1, 0", changed);
    other("id, a, b, t, filler, _rsrepl_version + 1, 1", missing);
    other(&format!("{surplus}, a, b, t, filler, _rsrepl_version, 0"), changed);
    [changed, missing, surplus]
}

/// Single-row transactions all over the table but for the quiet keys, so many a second.
fn paced(source: &Postgres, stop: &AtomicBool, rows: u64, tps: u32) -> u32 {
    let mut client = source.client(DATABASE);
    let sql = format!("UPDATE narrow SET a = a + 1, t = now() WHERE id = $1 AND id % {QUIET} <> 0");
    let update = client.prepare(&sql).expect("prepare");
    let began = Instant::now();
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        client.execute(&update, &[&fastrand::i64(1..rows as i64)]).expect("update");
        done += 1;
        let due = Duration::from_secs(1) * done / tps;
        thread::sleep(due.saturating_sub(began.elapsed()));
    }
    done
}
