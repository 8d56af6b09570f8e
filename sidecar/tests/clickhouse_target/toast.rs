//! Unchanged TOAST values (invariant 8).

use std::sync::Arc;

use rsrepl_sidecar::batch::Batch;
use rsrepl_sidecar::error::{Decision, Kind};
use rsrepl_sidecar::target::clickhouse::{ClickHouseTarget, GroupLimits};
use rsrepl_sidecar::target::{Event, Target};
use rsrepl_wire::{Lsn, Relation, ReplicaIdentity};

use crate::feed::*;
use crate::rig::{Apply, GROUPS, Rig, apply, refused, reopen, source};

fn longs(identity: ReplicaIdentity) -> Arc<Relation> {
    let columns = vec![
        key(text_column("code")),
        int_column("n"),
        text_column("one"),
        key(int_column("id")),
        text_column("two"),
    ];
    table(1, "longs", identity, columns)
}

fn row(id: i32, n: i32, one: Cell, two: Cell) -> Vec<Cell> {
    vec![text("it's `k`\\\0"), int(n), one, int(id), two]
}

#[tokio::test]
async fn values_come_from_the_table_and_from_the_batch() {
    let rig = Rig::start();
    let mut target = rig.target().await;
    let t = longs(ReplicaIdentity::Default);
    let first = vec![
        insert(&t, 10, &row(1, 1, text("one"), text("two"))),
        insert(&t, 11, &row(2, 1, Cell::Null, text("zwei"))),
    ];
    apply(&mut target, first, 20).await.unwrap();
    let second = || {
        let changes = vec![
            // from the table
            update(&t, 21, &row(1, 2, Cell::Unchanged, Cell::Unchanged)),
            update(&t, 22, &row(2, 2, Cell::Unchanged, Cell::Unchanged)),
            // from the row before, of this batch
            update(&t, 23, &row(1, 3, text("uno"), Cell::Unchanged)),
            update(&t, 24, &row(1, 4, Cell::Unchanged, Cell::Unchanged)),
            insert(&t, 25, &row(3, 1, text("a"), Cell::Null)),
            update(&t, 26, &row(3, 2, Cell::Unchanged, Cell::Unchanged)),
            // under another key, twice
            update_from(
                &t,
                27,
                &row(2, 2, Cell::Null, Cell::Null),
                &row(20, 3, Cell::Unchanged, Cell::Unchanged),
            ),
            update_from(
                &t,
                28,
                &row(20, 3, Cell::Null, Cell::Null),
                &row(21, 4, Cell::Unchanged, Cell::Unchanged),
            ),
        ];
        transaction(changes, 30)
    };
    apply(&mut target, second(), 30).await.unwrap();
    let expected = ["1\t4\tuno\ttwo", "3\t2\ta\t\\N", "21\t4\t\\N\tzwei"];
    assert_eq!(rig.rows("id, n, one, two", "longs"), expected);
    reopen(&mut target).await;
    for change in second() {
        target.apply(batch(vec![change], None)).await.unwrap();
    }
    assert_eq!(rig.rows("id, n, one, two", "longs"), expected);
}

#[tokio::test]
async fn with_full_identity_nothing_is_read_back() {
    let rig = Rig::start();
    let mut target = rig.target().await;
    let t = longs(ReplicaIdentity::Full);
    let old = row(1, 1, text("one"), text("two"));
    // the old row is not in the table: nothing but the stream can have it
    let new = row(1, 2, Cell::Unchanged, Cell::Unchanged);
    apply(&mut target, vec![update_from(&t, 10, &old, &new)], 20).await.unwrap();
    assert_eq!(rig.rows("id, n, one, two", "longs"), ["1\t2\tone\ttwo"]);
}

/// The changes after the update were applied before the crash, and took the row away.
#[tokio::test]
async fn a_replay_finds_rows_that_have_gone_since() {
    let rig = Rig::start();
    let t = longs(ReplicaIdentity::Default);
    let full = |id, n| row(id, n, text("one"), text("two"));
    let unchanged = |id, n| row(id, n, Cell::Unchanged, Cell::Unchanged);
    let endings = [
        vec![delete(&t, 23, &full(1, 2))],
        vec![truncate(&t, 23)],
        vec![update_from(&t, 23, &full(1, 2), &unchanged(2, 3)), delete(&t, 24, &full(2, 3))],
        vec![update_from(&t, 23, &full(1, 2), &unchanged(2, 3)), truncate(&t, 24)],
        vec![update_from(&t, 23, &full(1, 2), &unchanged(2, 3))],
    ];
    for (i, ending) in endings.into_iter().enumerate() {
        let mut target = rig.target().await;
        apply(&mut target, vec![truncate(&t, 5)], 6).await.unwrap();
        apply(&mut target, vec![insert(&t, 10, &full(1, 1))], 20).await.unwrap();
        let mut stream = vec![update(&t, 21, &unchanged(1, 2))];
        stream.extend(ending);
        let stream = transaction(stream, 30);
        for change in &stream {
            target.apply(batch(vec![change.clone()], None)).await.unwrap();
        }
        let expected = rig.rows("id, n, one, two", "longs");
        assert_eq!(expected, if i == 4 { vec!["2\t3\tone\ttwo"] } else { vec![] }, "ending {i}");
        reopen(&mut target).await;
        for change in stream {
            target.apply(batch(vec![change], None)).await.unwrap();
        }
        assert_eq!(rig.rows("id, n, one, two", "longs"), expected, "ending {i}");
        rig.server.query("DROP DATABASE mirror SYNC");
    }
}

/// A long transaction's LSNs lie below those of what committed while it ran. A replay must still tell the
/// row before each of its changes from the one that a later change of it left behind.
#[tokio::test]
async fn a_replay_tells_rows_of_a_long_transaction_apart() {
    let rig = Rig::start();
    let t = longs(ReplicaIdentity::Default);
    let full = |id, value: &str| row(id, 1, text(value), text(value));
    let moved = |lsn, from, to| {
        update_from(
            &t,
            lsn,
            &row(from, 1, Cell::Null, Cell::Null),
            &row(to, 1, Cell::Unchanged, Cell::Unchanged),
        )
    };
    let long = || {
        let changes = vec![
            moved(50, 1, 2),
            insert(&t, 51, &full(1, "second")),
            moved(52, 1, 3),
            insert(&t, 53, &full(1, "third")),
            delete(&t, 54, &full(3, "")),
            moved(55, 1, 3),
            insert(&t, 56, &full(1, "last")),
        ];
        transaction(changes, 200)
    };
    let other = table(2, "other", ReplicaIdentity::Default, vec![key(int_column("id"))]);
    let meanwhile = [
        Some(batch(vec![insert(&other, 100, &[int(1)])], Some(110))),
        // only what is not replicated
        Some(Batch::progress(Lsn(110))),
        None,
    ];
    for meanwhile in meanwhile {
        let mut target = rig.target().await;
        apply(&mut target, vec![insert(&t, 10, &full(1, "first"))], 20).await.unwrap();
        if let Some(batch) = meanwhile {
            target.apply(batch).await.unwrap();
        }
        for _ in 0..3 {
            // all of it is stored, and then there is a crash before the position is
            for change in long() {
                target.apply(batch(vec![change], None)).await.unwrap();
            }
            let expected = ["1\tlast", "2\tfirst", "3\tthird"];
            assert_eq!(rig.rows("id, one", "longs"), expected);
            reopen(&mut target).await;
        }
        rig.server.query("DROP DATABASE mirror SYNC");
    }
}

#[tokio::test]
async fn a_lost_row_is_an_error_and_never_a_default() {
    let rig = Rig::start();
    let mut target = rig.target().await;
    let t = longs(ReplicaIdentity::Default);
    apply(&mut target, vec![insert(&t, 10, &row(1, 1, text("a"), text("b")))], 20).await.unwrap();
    rig.server.query("TRUNCATE TABLE mirror.longs");
    let change = update(&t, 21, &row(1, 2, Cell::Unchanged, Cell::Unchanged));
    let error = refused(&mut target, batch(vec![change], Some(30))).await;
    assert_eq!((error.kind(), error.decision()), (Kind::Setup, Decision::Retry));
    let message = error.to_string();
    for part in ["public.longs", "column one", "0/15", "REPLICA IDENTITY FULL"] {
        assert!(message.contains(part), "{message}");
    }
    // its owner loads the row, and the stream goes on
    rig.server.query("INSERT INTO mirror.longs SELECT 'it\\'s `k`\\\\\\0', 1, 'a', 1, 'b', 0, 0");
    assert_eq!(reopen(&mut target).await.0, 20);
    let change = update(&t, 21, &row(1, 2, Cell::Unchanged, Cell::Unchanged));
    apply(&mut target, vec![change], 30).await.unwrap();
    assert_eq!(rig.rows("id, n, one, two", "longs"), ["1\t2\ta\tb"]);
}

/// What is remembered of a row does not do when a later update of it leaves out more.
#[tokio::test]
async fn a_column_is_left_out_for_the_first_time() {
    let rig = Rig::start();
    let t = longs(ReplicaIdentity::Default);
    // transactions, and parts of one
    for commits in [[Some(22), Some(30)], [None, None]] {
        let mut target = rig.target().await;
        let first = vec![insert(&t, 10, &row(1, 1, text("one"), text("two")))];
        apply(&mut target, first, 20).await.unwrap();
        let before = vec![update(&t, 21, &row(1, 2, Cell::Unchanged, text("dos")))];
        let after = vec![
            update(&t, 23, &row(1, 3, Cell::Unchanged, text("drei"))),
            update(&t, 24, &row(1, 4, Cell::Unchanged, Cell::Unchanged)),
        ];
        for (changes, commit) in [before, after].into_iter().zip(commits) {
            let changes = transaction(changes, commit.unwrap_or(30));
            target.apply(batch(changes, commit)).await.unwrap();
        }
        assert_eq!(rig.rows("id, n, one, two", "longs"), ["1\t4\tone\tdrei"]);
        rig.server.query("DROP DATABASE mirror SYNC");
    }
}

/// More rows are on their way than are known one by one: then any of them may be.
#[tokio::test]
async fn a_row_is_found_behind_more_than_are_known() {
    const ROWS: u64 = 50_001;
    let rig = Rig::start();
    let mut target = rig.target().await;
    let t = longs(ReplicaIdentity::Default);
    let full = |id: u64| row(id as i32, 0, text("one"), text("two"));
    let unchanged = |id: u64| row(id as i32, 1, Cell::Unchanged, Cell::Unchanged);
    let made_and_updated = |lsn, id| {
        let changes = vec![insert(&t, lsn, &full(id)), update(&t, lsn + 1, &unchanged(id))];
        batch(changes, Some(lsn + 2))
    };
    target.submit(made_and_updated(10, 0));
    target.submit(batch((1..=ROWS).map(|i| insert(&t, 20 + i, &full(i))).collect(), Some(80_000)));
    target.submit(made_and_updated(90_000, ROWS + 1));
    target.hurry();
    while target.next().await.unwrap() != Event::Durable(Lsn(90_002)) {}
    let right = rig.rows("countIf(one = 'one' AND two = 'two'), sum(n)", "longs");
    assert_eq!(right, [format!("{}\t2", ROWS + 2)]);
}

#[tokio::test]
async fn many_large_values_are_read_in_portions() {
    const ROWS: i32 = 600;
    let rig = Rig::start();
    let mut target = rig.target().await;
    let t = longs(ReplicaIdentity::Default);
    let long = "y".repeat(50_000);
    let first = (0..ROWS)
        .map(|i| insert(&t, 10 + i as u64, &row(i, 0, text(&format!("{i}{long}")), text("two"))));
    apply(&mut target, first.collect(), 1000).await.unwrap();
    let second = (0..ROWS)
        .map(|i| update(&t, 2000 + i as u64, &row(i, 1, Cell::Unchanged, Cell::Unchanged)));
    apply(&mut target, second.collect(), 3000).await.unwrap();
    let right =
        rig.rows("countIf(n = 1 AND one = concat(toString(id), repeat('y', 50000)))", "longs");
    assert_eq!(right, [ROWS.to_string()]);
}

/// A row that is updated again and again, among others, is not a part for each batch; nor does it wait for
/// the group before.
#[tokio::test]
async fn a_hot_row_makes_no_parts() {
    const BATCHES: u64 = 60;
    let rig = Rig::start();
    let t = longs(ReplicaIdentity::Default);
    let limits = GroupLimits { rows: 100, ..GROUPS };
    let mut target = ClickHouseTarget::new(rig.options(), limits).unwrap();
    target.open(&source()).await.unwrap();
    let cold = |i: u64| 100 + i as i32;
    let unchanged = |id, n| row(id, n, Cell::Unchanged, Cell::Unchanged);
    let rows = (0..BATCHES).map(|i| insert(&t, 10, &row(cold(i), 0, text("c"), text("old"))));
    let first = [insert(&t, 10, &row(1, 0, text("one"), text("two")))];
    apply(&mut target, first.into_iter().chain(rows).collect(), 20).await.unwrap();
    let stream = (1..=BATCHES).map(|i| {
        let lsn = 100 * i;
        let mut changes = vec![
            update(&t, lsn, &unchanged(1, i as i32)),
            // a row that is only in the table, then in memory too
            update(&t, lsn + 1, &unchanged(cold(i - 1), 1)),
            insert(&t, lsn + 2, &row(-(i as i32), 0, text("a"), text("b"))),
            update(&t, lsn + 3, &unchanged(-(i as i32), 1)),
        ];
        match i % 10 {
            3 => changes.push(update(&t, lsn + 4, &row(1, 0, text("uno"), Cell::Unchanged))),
            5 => changes.push(delete(&t, lsn + 4, &row(cold(i - 1), 1, Cell::Null, Cell::Null))),
            // away and back
            7 => {
                let (here, there) = (unchanged(1, 0), unchanged(2, 0));
                changes.push(update_from(&t, lsn + 4, &here, &there));
                changes.push(update_from(&t, lsn + 5, &there, &here));
            }
            _ => {}
        }
        batch(changes, Some(lsn + 50))
    });
    let (mut stream, mut durable) = (stream.peekable(), 0);
    while durable < 100 * BATCHES + 50 {
        while target.has_room(false)
            && let Some(batch) = stream.next()
        {
            target.submit(batch);
        }
        if stream.peek().is_none() {
            target.hurry();
        }
        if let Event::Durable(lsn) = target.next().await.unwrap() {
            durable = lsn.0;
        }
    }
    let mut expected = vec![format!("1\t{BATCHES}\tuno\ttwo")];
    expected.extend((1..=BATCHES).rev().map(|i| format!("-{i}\t1\ta\tb")));
    let kept = (1..=BATCHES).filter(|i| i % 10 != 5);
    expected.extend(kept.map(|i| format!("{}\t1\tc\told", cold(i - 1))));
    expected.sort_by_key(|line| line.split('\t').next().unwrap().parse::<i32>().unwrap());
    assert_eq!(rig.rows("id, n, one, two", "longs"), expected);
    // 250 rows in groups of 100, the first rows, and one to begin with
    let parts = rig.parts("longs");
    assert!(parts <= 6, "{parts} parts");
}
