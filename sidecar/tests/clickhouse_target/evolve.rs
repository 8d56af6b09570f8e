//! Tables that change: what is done to the server's, what its owner is asked to do, and replays over it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rsrepl_sidecar::batch::{Change, Operation};
use rsrepl_sidecar::schema::{Message, Policy};
use rsrepl_sidecar::target::clickhouse::ClickHouseTarget;
use rsrepl_tests::wait;
use rsrepl_wire::text::oid;
use rsrepl_wire::{Column, Encoding, Lsn, Relation, ReplicaIdentity};

use crate::feed::*;
use crate::rig::{Apply, Rig, apply, reopen};

async fn target(rig: &Rig, schema_changes: Policy) -> ClickHouseTarget {
    let mut options = rig.options();
    options.schema_changes = schema_changes;
    rig.target_with(options).await
}

fn numbered_table(oid: u32, name: &str, columns: Vec<(u16, Column)>) -> Arc<Relation> {
    let mut made = (*table(oid, name, ReplicaIdentity::Default, Vec::new())).clone();
    made.columns = columns.into_iter().map(|(number, c)| Column { number, ..c }).collect();
    Arc::new(made)
}

fn start(name: &str) -> Arc<Relation> {
    numbered_table(1, name, vec![(1, key(int_column("id"))), (2, text_column("a"))])
}

fn told(table: &Relation, lsn: u64, rewrite: bool, more: &[(&str, &str)]) -> Change {
    let column = |c: &Column| {
        let ty = match c.type_oid {
            oid::INT4 => "integer",
            oid::UUID => "uuid",
            _ => "text",
        };
        let known = more.iter().find(|(name, _)| *name == c.name).map_or("", |(_, more)| more);
        let (number, name, not_null) = (c.number, &c.name, c.not_null);
        format!(
            r#"{{"number":{number},"name":"{name}","type":"{ty}","not_null":{not_null}{known}}}"#
        )
    };
    let columns: Vec<_> = table.columns.iter().map(column).collect();
    let (oid, name) = (table.oid, &table.name);
    message(
        table,
        lsn,
        &format!(
            r#"{{"version":1,"command":"ALTER TABLE","rewrite":{rewrite},"table":{{"oid":{oid},"schema":"public",
            "name":"{name}","primary_key":["id"],"columns":[{}]}}}}"#,
            columns.join(",")
        ),
    )
}

fn dropped(table: &Relation, lsn: u64) -> Change {
    let (oid, name) = (table.oid, &table.name);
    message(
        table,
        lsn,
        &format!(
            r#"{{"version":1,"command":"DROP TABLE","dropped":{{"oid":{oid},"schema":"public","name":"{name}"}}}}"#
        ),
    )
}

fn message(table: &Relation, lsn: u64, json: &str) -> Change {
    let operation = Operation::Schema(Arc::new(Message::parse(json.as_bytes()).unwrap()));
    let relation = Arc::new(Relation { columns: Vec::new(), ..table.clone() });
    Change { lsn: Lsn(lsn), end_lsn: Lsn::INVALID, relation, operation }
}

/// Rows of both shapes around a change, in one transaction, with and without a key.
fn stream(keyed: bool) -> (Vec<Change>, Vec<&'static str>) {
    let own = |columns: Vec<(u16, Column)>| {
        let t = numbered_table(1, "t", columns);
        let mut t = (*t).clone();
        if !keyed {
            t.replica_identity = ReplicaIdentity::Full;
            t.columns.iter_mut().for_each(|column| column.key = false);
        }
        Arc::new(t)
    };
    let old = own(vec![(1, key(int_column("id"))), (2, text_column("a")), (3, int_column("gone"))]);
    let new = own(vec![(1, key(int_column("id"))), (2, text_column("b")), (4, int_column("c"))]);
    let mut moved = (*new).clone();
    moved.name = "u".into();
    let moved = Arc::new(moved);
    let more = [("c", r#","missing":"7","default":"7""#)];
    let changes = vec![
        insert(&old, 10, &[int(1), text("one"), int(5)]),
        insert(&old, 11, &[int(2), text("two"), int(5)]),
        delete(&old, 12, &[int(1), text("one"), int(5)]),
        insert(&old, 13, &[int(3), text("three"), Cell::Null]),
        told(&new, 20, false, &more),
        insert(&new, 21, &[int(4), text("four"), int(4)]),
        // what it says of the row is what the source has: the value of the new column
        delete(&new, 22, &[int(2), text("two"), int(7)]),
        told(&moved, 30, false, &more),
        insert(&moved, 31, &[int(5), text("five"), Cell::Null]),
    ];
    (changes, vec!["3\tthree\t7", "4\tfour\t4", "5\tfive\t\\N"])
}

#[tokio::test]
async fn changes_are_made_between_the_rows_around_them_also_on_a_replay() {
    for keyed in [true, false] {
        let rig = Rig::start();
        let mut target = target(&rig, Policy::Apply).await;
        apply(&mut target, Vec::new(), 5).await.unwrap();
        let (changes, expected) = stream(keyed);
        let changes = transaction(changes, 40);
        // cut off behind each change, the transaction comes again from its beginning
        for end in 1..=changes.len() {
            target.apply(batch(changes[..end].to_vec(), None)).await.unwrap();
            assert_eq!(reopen(&mut target).await, Lsn(5));
        }
        apply(&mut target, changes.clone(), 40).await.unwrap();
        assert_eq!(rig.rows("id, b, c", "u"), expected, "keyed: {keyed}");
        assert_eq!(rig.server.query("EXISTS TABLE mirror.t").trim(), "0");
        // whole again, after everything
        reopen(&mut target).await;
        target.apply(batch(changes, None)).await.unwrap();
        reopen(&mut target).await;
        assert_eq!(rig.rows("id, b, c", "u"), expected, "keyed: {keyed}");
    }
}

#[tokio::test]
async fn rows_that_are_rewritten_come_anew() {
    let rig = Rig::start();
    let mut target = target(&rig, Policy::Apply).await;
    apply(&mut target, Vec::new(), 5).await.unwrap();
    let bare = numbered_table(1, "t", vec![(1, key(int_column("id")))]);
    let full = |column| Column { not_null: true, ..column };
    // no number is made of such a type by the server
    let id = column("c", oid::UUID, Encoding::Fixed(16));
    let columns = [(1, key(int_column("id"))), (2, text_column("a")), (3, full(text_column("b")))];
    let old = numbered_table(1, "t", [&columns[..], &[(4, id)]].concat());
    let columns = ["a", "b"].map(|name| full(int_column(name)));
    let columns = [key(int_column("id"))].into_iter().chain(columns).chain([int_column("c")]);
    let new = numbered_table(1, "t", (1..).zip(columns).collect());
    let changes = vec![
        insert(&bare, 7, &[int(2)]),
        // what the rows get that are there is no number either
        told(&old, 8, false, &["a", "b"].map(|name| (name, r#","missing":"no number""#))),
        insert(&old, 10, &[int(1), text("11"), text("111"), Cell::Null]),
        delete(&old, 12, &[int(2), Cell::Null, Cell::Null, Cell::Null]),
        told(&new, 20, true, &[]),
        insert(&new, 21, &[int(1), int(11), int(111), int(1111)]),
        told(&new, 22, false, &[]),
        insert(&new, 23, &[int(3), int(33), int(333), int(3333)]),
    ];
    let changes = transaction(changes, 40);
    for end in 1..=changes.len() {
        target.apply(batch(changes[..end].to_vec(), None)).await.unwrap();
        reopen(&mut target).await;
    }
    apply(&mut target, changes, 40).await.unwrap();
    assert_eq!(rig.rows("id, a, b, c", "t"), ["1\t11\t111\t1111", "3\t33\t333\t3333"]);
    let columns = "SELECT name, type, default_expression FROM system.columns
        WHERE database = 'mirror' AND table = 't' AND NOT startsWith(name, '_') ORDER BY position";
    assert_eq!(
        rig.server.query(columns).trim(),
        "id\tInt32\t\na\tInt32\t\nb\tInt32\t\nc\tNullable(Int32)"
    );
}

#[tokio::test]
async fn a_rename_during_which_the_server_died_is_made() {
    let mut rig = Rig::start();
    let mut target = target(&rig, Policy::Apply).await;
    let old = start("t");
    apply(&mut target, vec![insert(&old, 10, &[int(1), text("one")])], 20).await.unwrap();
    drop(target);
    let path = rig.server.query("SELECT data_paths[1] FROM system.tables WHERE name = 't'");
    rig.server.kill();
    // all that it leaves on disk when it is killed before it has written the table's columns down
    let mutation =
        "format version: 1\ncreate time: 2026-11-22 05:00:00\ncommands: (RENAME COLUMN a TO b)\n";
    std::fs::write(Path::new(path.trim()).join("mutation_1000.txt"), mutation).unwrap();
    rig.server.launch();
    wait::until(Duration::from_secs(30), "the server has tried", || {
        let failed = "SELECT count() FROM system.mutations WHERE latest_fail_reason != ''";
        rig.server.query(failed).trim() == "1"
    });
    let mut target = self::target(&rig, Policy::Apply).await;
    let new = numbered_table(1, "t", vec![(1, key(int_column("id"))), (2, text_column("b"))]);
    let row = insert(&new, 31, &[int(2), text("two")]);
    apply(&mut target, vec![told(&new, 30, false, &[]), row], 40).await.unwrap();
    assert_eq!(rig.rows("id, b", "t"), ["1\tone", "2\ttwo"]);
}

#[tokio::test]
async fn a_target_waits_for_its_owner_and_goes_on() {
    let rig = Rig::start();
    let old = start("t");
    for policy in [Policy::Additive, Policy::Stop] {
        let mut target = target(&rig, policy).await;
        let lsn = reopen(&mut target).await.0;
        if lsn > 0 {
            rig.server.query("DROP TABLE mirror.t");
            rig.server.query("TRUNCATE TABLE mirror._rsrepl_tables");
        }
        apply(&mut target, vec![insert(&old, lsn + 10, &[int(1), text("one")])], lsn + 20)
            .await
            .unwrap();
        let new = numbered_table(1, "t", vec![(1, key(int_column("id"))), (2, text_column("b"))]);
        // what is committed before is stored before
        let mut changes =
            transaction(vec![insert(&old, lsn + 21, &[int(2), text("two")])], lsn + 25);
        let turn = vec![
            insert(&old, lsn + 26, &[int(3), text("before")]),
            told(&new, lsn + 30, false, &[]),
            insert(&new, lsn + 31, &[int(4), text("after")]),
        ];
        changes.extend(transaction(turn, lsn + 40));
        let error = target.apply(batch(changes.clone(), Some(lsn + 40))).await.unwrap_err();
        let statement = "ALTER TABLE `mirror`.`t` RENAME COLUMN `a` TO `b`";
        let text = error.to_string();
        assert!(text.contains("public.t") && text.contains(statement), "{text}");
        assert_eq!(reopen(&mut target).await, Lsn(lsn + 25));
        rig.server.query(statement);
        apply(&mut target, changes.split_off(1), lsn + 40).await.unwrap();
        let expected = ["1\tone", "2\ttwo", "3\tbefore", "4\tafter"];
        assert_eq!(rig.rows("id, b", "t"), expected, "{policy}");
    }
}

#[tokio::test]
async fn what_clickhouse_cannot_do_is_left_to_its_owner() {
    let rig = Rig::start();
    let mut target = target(&rig, Policy::Apply).await;
    let old = start("t");
    apply(&mut target, vec![insert(&old, 10, &[int(1), text("one")])], 20).await.unwrap();
    // a key of another type: its rows come again, into a table that is made anew
    let new = numbered_table(1, "t", vec![(1, key(text_column("id"))), (2, text_column("a"))]);
    let changes = || {
        transaction(
            vec![told(&new, 30, true, &[]), insert(&new, 31, &[text("1"), text("one")])],
            40,
        )
    };
    let error = target.apply(batch(changes(), Some(40))).await.unwrap_err();
    let rename = "RENAME TABLE `mirror`.`t` TO `mirror`.`t_old`";
    assert!(error.to_string().contains(rename), "{error}");
    reopen(&mut target).await;
    rig.server.query(rename);
    apply(&mut target, changes(), 40).await.unwrap();
    assert_eq!(rig.rows("id, a", "t"), ["1\tone"]);

    // a table in the place of one that was dropped
    apply(&mut target, vec![dropped(&new, 50)], 60).await.unwrap();
    assert_eq!(rig.server.query("EXISTS TABLE mirror.t").trim(), "0");
    let heir = numbered_table(2, "t", old.columns.iter().map(|c| (c.number, c.clone())).collect());
    apply(&mut target, vec![insert(&heir, 70, &[int(7), text("heir")])], 80).await.unwrap();
    assert_eq!(rig.rows("id, a", "t"), ["7\their"]);
    drop(target);

    let mut target = self::target(&rig, Policy::Additive).await;
    apply(&mut target, vec![dropped(&heir, 90)], 100).await.unwrap();
    assert_eq!(rig.rows("id, a", "t"), ["7\their"], "it stays");
    let second = Arc::new(Relation { oid: 3, ..(*heir).clone() });
    let changes = || transaction(vec![insert(&second, 110, &[int(8), text("second")])], 120);
    let error = target.apply(batch(changes(), Some(120))).await.unwrap_err();
    assert!(error.to_string().contains("DROP TABLE `mirror`.`t`"), "{error}");
    reopen(&mut target).await;
    rig.server.query("DROP TABLE mirror.t");
    apply(&mut target, changes(), 120).await.unwrap();
    assert_eq!(rig.rows("id, a", "t"), ["8\tsecond"]);
    reopen(&mut target).await;
    apply(&mut target, vec![insert(&second, 130, &[int(9), text("more")])], 140).await.unwrap();
    assert_eq!(rig.rows("id, a", "t"), ["8\tsecond", "9\tmore"]);
}

#[tokio::test]
async fn another_table_takes_the_name_of_one_that_was_dropped() {
    for policy in [Policy::Apply, Policy::Additive] {
        let rig = Rig::start();
        let mut target = target(&rig, policy).await;
        let gone = start("t");
        let columns = || gone.columns.iter().map(|c| (c.number, c.clone())).collect();
        let (before, after) =
            (numbered_table(2, "u", columns()), numbered_table(2, "t", columns()));
        let rows = vec![
            insert(&gone, 10, &[int(1), text("gone")]),
            insert(&before, 11, &[int(2), text("other")]),
            dropped(&gone, 12),
        ];
        apply(&mut target, transaction(rows, 20), 20).await.unwrap();
        let moved = || {
            let row = insert(&after, 31, &[int(3), text("moved")]);
            transaction(vec![told(&after, 30, false, &[]), row], 40)
        };
        if policy == Policy::Additive {
            let rename = "RENAME TABLE `mirror`.`u` TO `mirror`.`t`";
            let error = target.apply(batch(moved(), Some(40))).await.unwrap_err();
            assert!(error.to_string().contains(rename), "{error}");
            rig.server.query("DROP TABLE mirror.t");
            rig.server.query(rename);
            reopen(&mut target).await;
        }
        apply(&mut target, moved(), 40).await.unwrap();
        assert_eq!(rig.rows("id, a", "t"), ["2\tother", "3\tmoved"], "{policy}");
        reopen(&mut target).await;
        target.apply(batch(moved(), None)).await.unwrap();
        assert_eq!(reopen(&mut target).await, Lsn(40));
        assert_eq!(rig.rows("id, a", "t"), ["2\tother", "3\tmoved"], "{policy}");
    }
}
