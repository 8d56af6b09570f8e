//! Batches that are stored together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rsrepl_sidecar::batch::{Batch, Change};
use rsrepl_sidecar::error::{Kind, Result};
use rsrepl_sidecar::target::clickhouse::{ClickHouseTarget, GroupLimits};
use rsrepl_sidecar::target::{Event, Target};
use rsrepl_tests::wait;
use rsrepl_wire::{Lsn, Relation, ReplicaIdentity};

use crate::feed::*;
use crate::rig::{GROUPS, Rig, reopen, source};

/// Rows of one batch: several fill a block.
const ROWS: u64 = 30_000;

fn narrow() -> Arc<Relation> {
    let columns = vec![key(int_column("id")), text_column("v")];
    table(1, "narrow", ReplicaIdentity::Default, columns)
}

/// The `i`-th batch of rows.
fn rows(t: &Arc<Relation>, i: u64) -> Batch {
    let row = |n: u64| insert(t, 10 + n, &[int(n as i32), text("some value")]);
    let changes: Vec<Change> = (i * ROWS..(i + 1) * ROWS).map(row).collect();
    batch(changes, Some(end(i)))
}

fn end(i: u64) -> u64 {
    10 + (i + 1) * ROWS
}

/// Hands over batches as there is room, and waits until the last has been encoded; nothing is stored.
async fn encoded(target: &mut ClickHouseTarget, t: &Arc<Relation>, batches: u64) {
    let mut rooms = 0;
    for i in 0..batches {
        while !target.has_room(true) {
            assert_eq!(target.next().await.unwrap(), Event::Room);
            rooms += 1;
        }
        target.submit(rows(t, i));
    }
    while rooms < batches {
        assert_eq!(target.next().await.unwrap(), Event::Room);
        rooms += 1;
    }
}

fn count(rig: &Rig) -> String {
    rig.server.query("SELECT count() FROM mirror.narrow").trim().to_owned()
}

#[tokio::test]
async fn a_group_is_one_part_and_shows_as_a_whole() {
    let rig = Rig::start();
    let mut target = rig.target().await;
    let t = narrow();
    encoded(&mut target, &t, 4).await;
    assert_eq!(count(&rig), "0");
    target.hurry();
    let mut events = Vec::new();
    while events.last() != Some(&Event::Durable(Lsn(end(3)))) {
        events.push(target.next().await.unwrap());
    }
    // what is applied is durable at once: nobody is to hurry the next group for it
    let expected = (0..4).flat_map(|i| [Event::Applied, Event::Durable(Lsn(end(i)))]);
    assert_eq!(events, expected.collect::<Vec<_>>());
    assert_eq!(count(&rig), (4 * ROWS).to_string());
    let parts = "SELECT count(), any(name) FROM system.parts WHERE database = 'mirror' AND table = 'narrow'";
    assert_eq!(rig.server.query(parts).trim(), "1\tall_1_1_0", "one INSERT, one block, not merged");
    assert_eq!(reopen(&mut target).await.0, end(3));
}

#[tokio::test]
async fn a_group_that_is_cut_off_leaves_nothing() {
    let rig = Rig::start();
    let mut target = rig.target().await;
    let t = narrow();
    encoded(&mut target, &t, 4).await;
    let inserts = "SELECT count() FROM system.processes WHERE query LIKE 'INSERT%'";
    // several blocks are on the server
    assert_eq!(rig.server.query(inserts).trim(), "1");
    target.close().await;
    wait::until(Duration::from_secs(20), "the INSERT ends", || {
        rig.server.query(inserts).trim() == "0"
    });
    assert_eq!(count(&rig), "0");
    assert_eq!(reopen(&mut target).await, Lsn::INVALID);
}

#[tokio::test]
async fn a_group_is_stored_when_it_is_due_or_full() {
    let rig = Rig::start();
    let t = narrow();
    let second = Duration::from_secs(1);
    for limits in [
        GroupLimits { interval: second, ..GROUPS },
        GroupLimits { rows: ROWS as usize, ..GROUPS },
        GroupLimits { bytes: 1, ..GROUPS },
    ] {
        let mut target = ClickHouseTarget::new(rig.options(), limits).unwrap();
        target.open(&source()).await.unwrap();
        for i in 0..3 {
            target.submit(Batch { bytes: 1, ..rows(&t, i) });
            while target.next().await.unwrap() != Event::Durable(Lsn(end(i))) {}
            assert_eq!(count(&rig), ((i + 1) * ROWS).to_string());
        }
        target.close().await;
        rig.server.query("DROP DATABASE mirror SYNC");
    }
}

/// A later group neither overtakes the one before nor loses what comes between.
#[tokio::test]
async fn groups_are_stored_in_order() {
    let rig = Rig::start();
    let t = narrow();
    let limits = GroupLimits { rows: 1, ..GROUPS };
    let mut target = ClickHouseTarget::new(rig.options(), limits).unwrap();
    target.open(&source()).await.unwrap();
    // a row that a TRUNCATE overtakes, or that overtakes one, is there or gone
    let batches: Vec<Batch> = (0..40)
        .map(|i| {
            let change = match i % 8 {
                7 => truncate(&t, 10),
                _ => insert(&t, 10, &[int(i % 2), text(&i.to_string())]),
            };
            batch(vec![change], Some(100 + i as u64))
        })
        .collect();
    let mut durable = 0;
    let mut batches = batches.into_iter();
    while durable < 139 {
        while target.has_room(false)
            && let Some(batch) = batches.next()
        {
            target.submit(batch);
        }
        if let Event::Durable(lsn) = target.next().await.unwrap() {
            assert!(lsn.0 > durable);
            durable = lsn.0;
        }
    }
    assert!(rig.rows("id, v", "narrow").is_empty());
    target.submit(batch(vec![insert(&t, 10, &[int(1), text("last")])], Some(200)));
    while target.next().await.unwrap() != Event::Durable(Lsn(200)) {}
    assert_eq!(rig.rows("id, v", "narrow"), ["1\tlast"]);
}

/// Groups are `interval` apart, however many batches there are.
#[tokio::test]
async fn an_interval_is_one_part() {
    let rig = Rig::start();
    let t = narrow();
    let interval = Duration::from_millis(500);
    let limits = GroupLimits { interval, ..GROUPS };
    let mut target = ClickHouseTarget::new(rig.options(), limits).unwrap();
    target.open(&source()).await.unwrap();
    let (start, mut given, mut durable) = (Instant::now(), 0, 0);
    while start.elapsed() < 6 * interval || durable < given {
        if start.elapsed() < 6 * interval && target.has_room(false) {
            given += 1;
            let row = insert(&t, 10 * given, &[int(given as i32), text("v")]);
            target.submit(batch(vec![row], Some(10 * given + 5)));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if let Event::Durable(lsn) = target.next().await.unwrap() {
            durable = lsn.0 / 10;
        }
    }
    let most = start.elapsed().div_duration_f64(interval) + 1.0;
    let parts = rig.parts("narrow");
    assert!(given > 4 * parts, "{given} batches do not say much of {parts} parts");
    assert!(parts as f64 <= most, "{parts} parts, expected at most {most}");
}

/// The server gives up a request that is idle for long: that there is more to come must be said, also
/// while other tables are being written.
#[tokio::test(flavor = "multi_thread")]
async fn an_insert_may_be_idle() {
    let rig = Rig::start_with("<http_receive_timeout>7</http_receive_timeout>");
    let mut target = rig.target().await;
    let t = narrow();
    encoded(&mut target, &t, 2).await;
    let waits = "SELECT count() FROM system.processes WHERE query LIKE 'INSERT%' AND elapsed > 9";
    wait::until(Duration::from_secs(20), "the INSERT is idle", || {
        rig.server.query(waits).trim() == "1"
    });
    target.submit(rows(&t, 2));
    target.hurry();
    while target.next().await.unwrap() != Event::Durable(Lsn(end(2))) {}
    assert_eq!(count(&rig), (3 * ROWS).to_string());
    assert_eq!(rig.parts("narrow"), 1);
}

/// The `i`-th batch, with a row in it that cannot be written.
fn bad(t: &Arc<Relation>, i: u64) -> Batch {
    let mut batch = rows(t, i);
    batch.changes.push(insert(t, end(i) - 1, &[Cell::Null, text("a key is never NULL")]));
    batch
}

#[tokio::test]
async fn a_group_is_not_lost_with_the_one_behind_it() {
    let rig = Rig::start();
    let t = narrow();
    let limits = GroupLimits { rows: ROWS as usize, ..GROUPS };
    let mut target = ClickHouseTarget::new(rig.options(), limits).unwrap();
    target.open(&source()).await.unwrap();
    target.submit(rows(&t, 0));
    while target.next().await.unwrap() != Event::Durable(Lsn(end(0))) {}
    // storing takes its time
    rig.server.query(
        "CREATE MATERIALIZED VIEW mirror.slow ENGINE = Null AS
         SELECT sleep(2) AS slept, count() AS n FROM mirror.narrow",
    );
    target.submit(rows(&t, 1));
    assert_eq!(target.next().await.unwrap(), Event::Room);
    target.submit(bad(&t, 2));
    assert_eq!(target.next().await.unwrap(), Event::Applied);
    assert_eq!(target.next().await.unwrap(), Event::Durable(Lsn(end(1))));
    assert_eq!(target.next().await.unwrap_err().kind(), Kind::Row);
    assert_eq!(reopen(&mut target).await.0, end(1));
    assert_eq!(count(&rig), (2 * ROWS).to_string());
}

/// Hands over batches as there is room until the last is durable, or one fails.
async fn until_durable(target: &mut ClickHouseTarget, batches: Vec<Batch>) -> Result<()> {
    let last = batches.last().unwrap().commit.unwrap().lsn;
    let mut batches = batches.into_iter();
    loop {
        while target.has_room(false)
            && let Some(batch) = batches.next()
        {
            target.submit(batch);
        }
        if target.next().await? == Event::Durable(last) {
            return Ok(());
        }
    }
}

/// What comes before a batch that cannot be written is stored when it comes again.
#[tokio::test]
async fn a_bad_batch_stands_alone_the_next_time() {
    let rig = Rig::start();
    let mut target = rig.target().await;
    let t = narrow();
    let stream = || vec![rows(&t, 0), rows(&t, 1), bad(&t, 2)];
    for expected in [0, end(1)] {
        let error = until_durable(&mut target, stream()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Row);
        assert_eq!(reopen(&mut target).await.0, expected);
    }
    assert_eq!(rig.parts("narrow"), 2);
    // the bad one has been mended, and what comes behind it goes together again
    until_durable(&mut target, vec![rows(&t, 2), rows(&t, 3)]).await.unwrap();
    assert_eq!(rig.parts("narrow"), 4);
    target.submit(rows(&t, 4));
    target.submit(rows(&t, 5));
    target.hurry();
    while target.next().await.unwrap() != Event::Durable(Lsn(end(5))) {}
    assert_eq!(rig.parts("narrow"), 5);
    assert_eq!(count(&rig), (6 * ROWS).to_string());
}
