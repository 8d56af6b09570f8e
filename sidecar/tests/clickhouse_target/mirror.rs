//! Inserts, updates, deletes and truncates, applied once and again.

use std::sync::Arc;

use rsrepl_sidecar::batch::Change;
use rsrepl_sidecar::config::Compression;
use rsrepl_sidecar::target::clickhouse::ClickHouseOptions;
use rsrepl_wire::{Lsn, Relation, ReplicaIdentity};

use crate::feed::*;
use crate::rig::{Apply, Rig, apply, reopen};

fn pairs() -> Arc<Relation> {
    let columns = vec![key(int_column("id")), text_column("v")];
    table(1, "pairs", ReplicaIdentity::Default, columns)
}

fn pair(id: i32, v: &str) -> [Cell; 2] {
    [int(id), text(v)]
}

#[tokio::test]
async fn changes_arrive_and_a_replay_changes_nothing() {
    let rig = Rig::start();
    let mut target = rig.target().await;
    let t = pairs();
    let changes = || {
        let changes = vec![
            insert(&t, 10, &pair(1, "one")),
            insert(&t, 11, &pair(2, "two")),
            insert(&t, 12, &[int(3), Cell::Null]),
            update(&t, 13, &pair(2, "zwei")),
            update_from(&t, 14, &pair(1, "one"), &pair(4, "four")),
            delete(&t, 15, &[int(3), Cell::Null]),
            insert(&t, 16, &pair(1, "again")),
        ];
        transaction(changes, 20)
    };
    apply(&mut target, changes(), 20).await.unwrap();
    let expected = ["1\tagain", "2\tzwei", "4\tfour"];
    assert_eq!(rig.rows("id, v", "pairs"), expected);
    for _ in 0..2 {
        assert_eq!(reopen(&mut target).await, Lsn(20));
        // in other batches than before, as after a crash
        for change in changes() {
            target.apply(batch(vec![change], None)).await.unwrap();
        }
        assert_eq!(rig.rows("id, v", "pairs"), expected);
    }
    rig.server.query("OPTIMIZE TABLE mirror.pairs FINAL");
    assert_eq!(rig.rows("id, v", "pairs"), expected);
}

/// A transaction writes its heap tuple (LSN 90), waits in the unique index for one that deletes the
/// key (LSN 100), and commits after it.
#[tokio::test]
async fn a_later_change_with_a_lower_lsn_wins() {
    let rig = Rig::start();
    let mut target = rig.target().await;
    let t = pairs();
    apply(&mut target, vec![insert(&t, 10, &pair(1, "old"))], 20).await.unwrap();
    let tail = || vec![delete(&t, 100, &pair(1, "old")), insert(&t, 90, &pair(1, "new"))];
    apply(&mut target, tail(), 120).await.unwrap();
    assert_eq!(rig.rows("id, v", "pairs"), ["1\tnew"]);

    // in two transactions, with a crash between them
    let mut target = rig.target().await;
    apply(&mut target, vec![delete(&t, 200, &pair(1, "new"))], 210).await.unwrap();
    assert_eq!(reopen(&mut target).await, Lsn(210));
    apply(&mut target, vec![insert(&t, 190, &pair(1, "newest"))], 220).await.unwrap();
    assert_eq!(rig.rows("id, v", "pairs"), ["1\tnewest"]);
}

#[tokio::test]
async fn truncate_takes_its_place_in_the_order() {
    let rig = Rig::start();
    let mut target = rig.target().await;
    let t = pairs();
    let changes = || {
        let changes = vec![
            insert(&t, 10, &pair(1, "gone")),
            truncate(&t, 11),
            insert(&t, 12, &pair(2, "stays")),
            insert(&t, 13, &pair(3, "goes")),
            delete(&t, 14, &pair(3, "goes")),
        ];
        transaction(changes, 20)
    };
    apply(&mut target, changes(), 20).await.unwrap();
    assert_eq!(rig.rows("id, v", "pairs"), ["2\tstays"]);
    reopen(&mut target).await;
    for change in changes() {
        target.apply(batch(vec![change], None)).await.unwrap();
    }
    assert_eq!(rig.rows("id, v", "pairs"), ["2\tstays"]);
}

#[tokio::test]
async fn a_large_batch_of_many_tables() {
    const ROWS: i32 = 60_000;
    let rig = Rig::start();
    // the other tests compress
    let options = ClickHouseOptions { compression: Compression::None, ..rig.options() };
    let mut target = rig.target_with(options).await;
    let tables: Vec<_> = (0..6)
        .map(|i| {
            let columns = vec![key(int_column("id")), text_column("v")];
            table(100 + i, &format!("t{i}"), ReplicaIdentity::Default, columns)
        })
        .collect();
    let filler = "x".repeat(300);
    let mut changes: Vec<Change> = Vec::new();
    for id in 0..ROWS {
        let t = &tables[id as usize % tables.len()];
        changes.push(insert(t, 1000 + id as u64, &[int(id), text(&filler)]));
    }
    let mut changes = transaction(changes, 1_000_000);
    let half = changes.split_off(changes.len() / 2);
    target.apply(batch(changes, None)).await.unwrap();
    apply(&mut target, half, 1_000_000).await.unwrap();
    for (i, _) in tables.iter().enumerate() {
        let counts = rig.rows("count(), uniqExact(id), min(length(v))", &format!("t{i}"));
        assert_eq!(counts, ["10000\t10000\t300"]);
    }
}
