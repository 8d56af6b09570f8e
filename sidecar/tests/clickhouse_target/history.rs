//! `mode = "history"`: each change is a row.

use rsrepl_sidecar::config::Mode;
use rsrepl_sidecar::target::clickhouse::{ClickHouseOptions, ClickHouseTarget};
use rsrepl_wire::{Column, Encoding, Lsn, ReplicaIdentity, TypeKind};

use crate::feed::*;
use crate::rig::{Apply, Rig, apply, reopen};

async fn target(rig: &Rig) -> ClickHouseTarget {
    rig.target_with(ClickHouseOptions { mode: Mode::History, ..rig.options() }).await
}

const OWN: &str = "_rsrepl_operation, _rsrepl_lsn, _rsrepl_xid, _rsrepl_absent";

#[tokio::test]
async fn each_change_is_a_row_also_on_a_replay() {
    let rig = Rig::start();
    let mut target = target(&rig).await;
    let columns = vec![key(int_column("id")), text_column("v"), text_column("big")];
    let t = table(1, "t", ReplicaIdentity::Default, columns);
    let row = |id: i32, v: &str, big: &str| [int(id), text(v), text(big)];
    let changes = || {
        let first = vec![
            insert(&t, 10, &row(1, "a", "x")),
            insert(&t, 10, &row(2, "b", "y")), // of the same record
            update(&t, 12, &[int(1), text("c"), Cell::Unchanged]),
            update_from(&t, 13, &row(2, "b", "y"), &[int(3), Cell::Null, Cell::Unchanged]),
            delete(&t, 14, &row(3, "", "")),
        ];
        let second = vec![truncate(&t, 21), insert(&t, 22, &row(1, "again", "z"))];
        [transaction(first, 20), transaction(second, 30)].concat()
    };
    let expected = [
        "insert\t10\t720\t[]\t1\ta\tx\t\\N",
        "insert\t10\t720\t[]\t2\tb\ty\t\\N",
        "update\t12\t720\t['big']\t1\tc\t\\N\t\\N",
        "update\t13\t720\t['big']\t3\t\\N\t\\N\t2",
        "delete\t14\t720\t['v','big']\t3\t\\N\t\\N\t\\N",
        "truncate\t21\t730\t[]\t\\N\t\\N\t\\N\t\\N",
        "insert\t22\t730\t[]\t1\tagain\tz\t\\N",
    ];
    let rows = || {
        let query = format!(
            "SELECT {OWN}, id, v, big, _rsrepl_old_id FROM mirror.t FINAL ORDER BY _rsrepl_version"
        );
        rig.server.query(&query).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    target.apply(batch(changes(), Some(30))).await.unwrap();
    assert_eq!(rows(), expected);
    assert_eq!(rig.rows("DISTINCT _rsrepl_commit_time", "t"), ["2000-01-01 00:00:01.000000"]);
    // again, in other batches
    for _ in 0..2 {
        assert_eq!(reopen(&mut target).await, Lsn(30));
        for change in changes() {
            target.apply(batch(vec![change], None)).await.unwrap();
        }
        assert_eq!(rows(), expected);
    }
    rig.server.query("OPTIMIZE TABLE mirror.t FINAL");
    assert_eq!(rows(), expected);
}

#[tokio::test]
async fn whole_rows_tell_apart_where_there_is_no_key() {
    let rig = Rig::start();
    let mut target = target(&rig).await;
    let tags = Column {
        kind: TypeKind::Array,
        element_oid: rsrepl_wire::text::oid::TEXT,
        ..column("tags", 1009, Encoding::Send)
    };
    let t = table(1, "t", ReplicaIdentity::Full, vec![int_column("a"), text_column("b")]);
    let n = table(2, "n", ReplicaIdentity::Nothing, vec![int_column("a"), tags]);
    let changes = vec![
        insert(&t, 10, &[int(1), text("x")]),
        update_from(&t, 11, &[int(1), text("x")], &[int(2), Cell::Unchanged]),
        update_from(&t, 12, &[int(2), text("x")], &[int(2), text("x")]), // changes nothing
        delete(&t, 13, &[int(2), text("x")]),
        update(&n, 14, &[int(7), Cell::Unchanged]),
    ];
    apply(&mut target, changes, 20).await.unwrap();
    assert_eq!(
        rig.rows(
            "_rsrepl_lsn, _rsrepl_operation, _rsrepl_absent, a, b, _rsrepl_old_a, _rsrepl_old_b",
            "t"
        ),
        [
            "10\tinsert\t[]\t1\tx\t\\N\t\\N",
            "11\tupdate\t[]\t2\tx\t1\tx",
            "12\tupdate\t[]\t2\tx\t\\N\t\\N",
            "13\tdelete\t[]\t2\tx\t\\N\t\\N",
        ]
    );
    assert_eq!(
        rig.rows("_rsrepl_operation, _rsrepl_absent, a, tags", "n"),
        ["update\t['tags']\t7\t[]"]
    );
}

#[tokio::test]
async fn a_table_of_the_users_may_be_ordered_and_partitioned() {
    let rig = Rig::start();
    let mut target = target(&rig).await;
    let columns = || vec![key(int_column("id")), text_column("v")];
    let t = table(1, "t", ReplicaIdentity::Default, columns());
    apply(&mut target, vec![insert(&t, 10, &[int(1), text("a")])], 20).await.unwrap();
    let made = rig.server.query("SHOW CREATE TABLE mirror.t FORMAT TabSeparatedRaw");
    let own = made
        .replace("mirror.t", "mirror.u")
        .replace(
            "ORDER BY _rsrepl_version",
            "PARTITION BY toYYYYMM(_rsrepl_commit_time) ORDER BY (id, _rsrepl_version)",
        )
        .replace("fsync_after_insert = 1", "allow_nullable_key = 1, fsync_after_insert = 1");
    rig.server.query(&own);
    let u = table(2, "u", ReplicaIdentity::Default, columns());
    apply(&mut target, vec![insert(&u, 21, &[int(1), text("a")])], 30).await.unwrap();
    assert_eq!(rig.rows("id, v", "u"), ["1\ta"]);
    // a mirror is not a history
    let mut mirror = rig.target().await;
    let w = table(3, "u", ReplicaIdentity::Default, columns());
    let refused = mirror.apply(batch(vec![insert(&w, 31, &[int(1), text("a")])], Some(40))).await;
    let error = refused.expect_err("a mirror is not a history").to_string();
    assert!(error.contains("_rsrepl_deleted"), "{error}");
}
