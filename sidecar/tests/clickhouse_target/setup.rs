//! Servers, tables and sources that do not fit, and what the user is told.

use std::sync::Arc;

use rsrepl_sidecar::error::{Decision, Kind};
use rsrepl_sidecar::redact::Secret;
use rsrepl_sidecar::schema::Policy;
use rsrepl_sidecar::target::clickhouse::{ClickHouseOptions, ClickHouseTarget, check};
use rsrepl_sidecar::target::{Ancestor, SourceIdentity, Target};
use rsrepl_wire::{Lsn, Relation, ReplicaIdentity};

use crate::feed::*;
use crate::rig::{Apply, DATABASE, GROUPS, Rig, apply, refused, reopen, source};

fn pairs(columns: Vec<rsrepl_wire::Column>) -> Arc<Relation> {
    let columns = [key(int_column("id"))].into_iter().chain(columns).collect();
    table(1, "pairs", ReplicaIdentity::Default, columns)
}

#[tokio::test]
async fn the_position_of_another_source_is_refused() {
    let rig = Rig::start();
    let mut target = rig.target().await;
    let t = pairs(vec![]);
    apply(&mut target, vec![insert(&t, 10, &[int(1)])], 20).await.unwrap();
    let wrong = [
        SourceIdentity { system_id: 8, ..source() },
        SourceIdentity { database: "other".into(), ..source() },
        SourceIdentity { timeline: 0, ..source() },
    ];
    for source in wrong {
        let error = target.open(&source).await.expect_err("another source");
        assert_eq!((error.kind(), error.decision()), (Kind::Identity, Decision::Stop), "{error}");
    }
    // after promotions: of a server that had less, and of one that had it all
    let promoted = |left_at| {
        let ancestors = Some(vec![Ancestor { timeline: 1, left_at: Lsn(left_at) }]);
        SourceIdentity { timeline: 2, ancestors, ..source() }
    };
    let error = target.open(&promoted(19)).await.expect_err("another branch");
    assert_eq!((error.kind(), error.decision()), (Kind::Identity, Decision::Stop), "{error}");
    for part in ["0/14 of timeline 1", "left that at 0/13"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let promoted = promoted(20);
    assert_eq!(target.open(&promoted).await.unwrap().0, 20);
    // another slot has a position of its own
    let other = SourceIdentity { slot: "other".into(), ..source() };
    assert_eq!(target.open(&other).await.unwrap().0, 0);
}

#[tokio::test]
async fn a_changed_table_is_told_with_its_statement() {
    let rig = Rig::start();
    let options = ClickHouseOptions { schema_changes: Policy::Stop, ..rig.options() };
    let mut target = rig.target_with(options).await;
    let before = pairs(vec![text_column("a")]);
    apply(&mut target, vec![insert(&before, 10, &[int(1), text("x")])], 20).await.unwrap();

    // the same table, described again
    let again = Arc::new(Relation::clone(&before));
    apply(&mut target, vec![insert(&again, 21, &[int(2), text("y")])], 30).await.unwrap();

    let after = pairs(vec![text_column("a"), int_column("b")]);
    let change = || batch(vec![insert(&after, 31, &[int(3), text("z"), int(5)])], Some(40));
    let error = refused(&mut target, change()).await;
    assert_eq!((error.kind(), error.decision()), (Kind::Setup, Decision::Retry));
    let statement = "ALTER TABLE `mirror`.`pairs` ADD COLUMN `b` Nullable(Int32)";
    assert!(error.to_string().contains(statement), "{error}");
    rig.server.query(statement);
    assert_eq!(reopen(&mut target).await.0, 30);
    target.apply(change()).await.unwrap();
    assert_eq!(rig.rows("id, a, b", "pairs"), ["1\tx\t\\N", "2\ty\t\\N", "3\tz\t5"]);

    let other_type = pairs(vec![int_column("a")]);
    let change = batch(vec![insert(&other_type, 41, &[int(4), int(5)])], Some(50));
    let error = refused(&mut target, change).await;
    assert!(error.to_string().contains("MODIFY COLUMN `a` Nullable(Int32)"), "{error}");
}

#[tokio::test]
async fn tables_of_the_user_are_checked() {
    let rig = Rig::start();
    let own = "_rsrepl_version UInt128, _rsrepl_deleted UInt8";
    let engine = "ReplacingMergeTree(_rsrepl_version, _rsrepl_deleted)";
    let wrong = [
        (format!("id Int32, {own}"), "MergeTree".to_owned(), "id", "engine"),
        (format!("id Int32, {own}"), "ReplacingMergeTree(_rsrepl_version)".into(), "id", "engine"),
        (format!("id Int32, x Int32, {own}"), engine.to_owned(), "(id, x)", "ordered by"),
        (format!("id Int64, {own}"), engine.to_owned(), "id", "is Int64"),
        (format!("id Int32, {own}"), format!("{engine} PARTITION BY id % 4"), "id", "partitioned"),
        (
            "id Int32, _rsrepl_version UInt64, _rsrepl_deleted UInt8".into(),
            engine.to_owned(),
            "id",
            "is UInt64, not UInt128",
        ),
        ("id Int32, _rsrepl_version UInt128".into(), "ReplacingMergeTree".into(), "id", "_deleted"),
    ];
    rig.server.query(&format!("CREATE DATABASE {DATABASE}"));
    let t = pairs(vec![]);
    for (columns, engine, order, told) in wrong {
        rig.server.query(&format!(
            "CREATE OR REPLACE TABLE {DATABASE}.pairs ({columns}) ENGINE = {engine} ORDER BY {order}"
        ));
        let mut target = rig.target().await;
        let change = batch(vec![insert(&t, 10, &[int(1)])], Some(20));
        let error = refused(&mut target, change).await;
        assert_eq!(error.kind(), Kind::Setup);
        assert!(error.to_string().contains(told), "{told}: {error}");
    }
    // more columns, in another order, and wider than needed: this is fine
    rig.server.query(&format!(
        "CREATE OR REPLACE TABLE {DATABASE}.pairs ({own}, note String DEFAULT 'n', n Nullable(Int32), \
         id Int32) ENGINE = {engine} ORDER BY id"
    ));
    let mut target = rig.target().await;
    let n = rsrepl_wire::Column { not_null: true, ..int_column("n") };
    let t = pairs(vec![n]);
    apply(&mut target, vec![insert(&t, 10, &[int(1), int(2)])], 20).await.unwrap();
    assert_eq!(rig.rows("id, n, note", "pairs"), ["1\t2\tn"]);
}

#[tokio::test]
async fn nothing_is_made_without_leave() {
    let rig = Rig::start();
    let options = ClickHouseOptions { create_tables: false, ..rig.options() };
    let mut target = ClickHouseTarget::new(options.clone(), GROUPS).unwrap();
    let error = target.open(&source()).await.expect_err("no database");
    assert_eq!(error.kind(), Kind::Setup, "{error}");
    rig.target().await; // makes the database and our own tables
    target.open(&source()).await.unwrap();
    let change = batch(vec![insert(&pairs(vec![]), 10, &[int(1)])], Some(20));
    let error = refused(&mut target, change).await;
    assert!(error.to_string().contains("CREATE TABLE IF NOT EXISTS `mirror`.`pairs`"), "{error}");
}

#[tokio::test]
async fn two_tables_cannot_become_one() {
    let rig = Rig::start();
    let mut target = rig.target().await;
    let one = pairs(vec![]);
    let other = Arc::new(Relation { oid: 2, schema: "sales".into(), ..Relation::clone(&one) });
    let changes = vec![insert(&one, 10, &[int(1)]), insert(&other, 11, &[int(2)])];
    let error = refused(&mut target, batch(changes, Some(20))).await;
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.to_string().contains("{schema}_{table}"), "{error}");
}

#[tokio::test]
async fn credentials_and_addresses() {
    let rig = Rig::start();
    let wrong = "wr0ng-s3cret";
    let options = ClickHouseOptions { password: Secret::new(wrong), ..rig.options() };
    let mut target = ClickHouseTarget::new(options.clone(), GROUPS).unwrap();
    let error = target.open(&source()).await.expect_err("a wrong password");
    assert_eq!((error.kind(), error.decision()), (Kind::Setup, Decision::Retry), "{error}");
    assert!(!format!("{error} {error:?} {options:?}").contains(wrong));
    let options = ClickHouseOptions { url: "http://127.0.0.1:1".into(), ..rig.options() };
    let mut target = ClickHouseTarget::new(options, GROUPS).unwrap();
    let error = target.open(&source()).await.expect_err("nobody there");
    assert_eq!((error.kind(), error.decision()), (Kind::Connection, Decision::Retry), "{error}");
}

#[tokio::test]
async fn the_preflight_tells_everything_at_once() {
    let rig = Rig::start();
    let tags = rsrepl_wire::Column {
        kind: rsrepl_wire::TypeKind::Array,
        element_oid: rsrepl_wire::text::oid::TEXT,
        ..column("tags", 1009, rsrepl_wire::Encoding::Send)
    };
    let good = Relation::clone(&pairs(vec![]));
    let tagged = Relation { oid: 2, name: "tagged".into(), ..Relation::clone(&pairs(vec![tags])) };
    let narrow = Relation { oid: 3, name: "narrow".into(), ..good.clone() };
    let twin = Relation { oid: 4, schema: "sales".into(), ..good.clone() };
    let tables = [good.clone(), tagged, narrow, twin];
    let told = |findings: &[rsrepl_sidecar::preflight::Finding], part: &str| {
        let found = findings.iter().any(|f| f.to_string().contains(part));
        assert!(found, "{part}: {findings:?}");
    };
    let found = check(&rig.options(), &tables).await;
    assert_eq!(found.len(), 2, "{found:?}");
    told(&found, "would both become pairs");
    told(&found, "\"public.tagged.tags\" = \"string\"");

    let options = ClickHouseOptions { create_tables: false, ..rig.options() };
    told(&check(&options, &[]).await, "database `mirror` is missing");
    rig.server.query(&format!("CREATE DATABASE {DATABASE}"));
    rig.server.query(&format!("CREATE TABLE {DATABASE}.narrow (id Int8) ENGINE = Memory"));
    let found = check(&options, &tables).await;
    told(&found, "table `mirror`.`pairs` is missing");
    told(&found, "table `mirror`.`narrow` has engine Memory");
    told(&found, "column id of table `mirror`.`narrow` is Int8");

    let options = ClickHouseOptions { password: Secret::new("wr0ng"), ..rig.options() };
    told(&check(&options, &[]).await, "check user and password");
    assert_eq!(rig.server.query("SHOW TABLES FROM mirror").trim(), "narrow");
}

/// A table that was altered by hand while it was being written to.
#[tokio::test]
async fn null_never_becomes_a_default() {
    let rig = Rig::start();
    let mut target = rig.target().await;
    let t = table(1, "t", ReplicaIdentity::Default, vec![key(int_column("id")), text_column("v")]);
    apply(&mut target, vec![insert(&t, 10, &[int(1), text("a")])], 20).await.unwrap();
    rig.server.query("ALTER TABLE mirror.t MODIFY COLUMN v String DEFAULT 'none'");
    let null = batch(vec![insert(&t, 21, &[int(2), Cell::Null])], Some(30));
    let error = refused(&mut target, null).await;
    assert!(error.to_string().contains("NULL"), "{error}");
    assert_eq!(rig.rows("id, v", "t"), ["1\ta"]);
}
