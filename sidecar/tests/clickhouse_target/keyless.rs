//! A table without a key under REPLICA IDENTITY FULL.

use rsrepl_wire::{Lsn, ReplicaIdentity};

use crate::feed::*;
use crate::rig::{Apply, Rig, apply, refused, reopen};

#[tokio::test]
async fn duplicate_rows_are_counted_right_also_on_a_replay() {
    let rig = Rig::start();
    let mut target = rig.target().await;
    let columns = vec![int_column("a"), text_column("b")];
    let t = table(1, "log", ReplicaIdentity::Full, columns);
    let x = || [int(1), text("x")];
    let changes = || {
        let changes = vec![
            // four rows of one COPY have one LSN
            insert(&t, 10, &x()),
            insert(&t, 10, &x()),
            insert(&t, 10, &x()),
            insert(&t, 10, &[Cell::Null, Cell::Null]),
            delete(&t, 11, &x()),
            update_from(&t, 12, &x(), &[int(2), Cell::Unchanged]),
            insert(&t, 13, &[Cell::Null, Cell::Null]),
            delete(&t, 14, &[Cell::Null, Cell::Null]),
        ];
        transaction(changes, 20)
    };
    let expected = ["1\tx", "2\tx", "\\N\t\\N"];
    apply(&mut target, changes(), 20).await.unwrap();
    assert_eq!(rig.rows("a, b", "log"), expected);
    for _ in 0..2 {
        assert_eq!(reopen(&mut target).await, Lsn(20));
        for change in changes() {
            target.apply(batch(vec![change], None)).await.unwrap();
        }
        rig.server.query("OPTIMIZE TABLE mirror._rsrepl_log_log FINAL");
        assert_eq!(rig.rows("a, b", "log"), expected);
    }
    apply(&mut target, vec![truncate(&t, 21), insert(&t, 22, &x())], 30).await.unwrap();
    assert_eq!(rig.rows("a, b", "log"), ["1\tx"]);
}

#[tokio::test]
async fn without_full_only_inserts_go() {
    let rig = Rig::start();
    let mut target = rig.target().await;
    let columns = vec![int_column("a"), text_column("b")];
    let t = table(1, "facts", ReplicaIdentity::Default, columns);
    let x = || [int(1), text("x")];
    apply(&mut target, vec![insert(&t, 10, &x()), insert(&t, 11, &x())], 20).await.unwrap();
    assert_eq!(rig.rows("a, b", "facts"), ["1\tx", "1\tx"]);
    for change in [delete(&t, 21, &x()), update(&t, 21, &[int(2), Cell::Unchanged])] {
        let error = refused(&mut target, batch(vec![change], Some(30))).await;
        assert!(error.to_string().contains("REPLICA IDENTITY FULL"), "{error}");
        assert_eq!(reopen(&mut target).await, Lsn(20));
    }
}
