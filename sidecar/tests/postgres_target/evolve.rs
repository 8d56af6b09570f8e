//! Tables that change: what is done to the target's, and what its owner is asked to do.

use std::sync::Arc;

use rsrepl_sidecar::batch::Operation;
use rsrepl_sidecar::schema::{Message, Policy};
use rsrepl_sidecar::target::Target;
use rsrepl_sidecar::target::postgres::PostgresTarget;
use rsrepl_wire::{Column, Lsn, Relation, ReplicaIdentity};

use crate::stream::{Stream, V, int, int_column, key, relation, text, text_column};
use crate::{Apply, Standby};

fn target(standby: &Standby, schema_changes: Policy) -> PostgresTarget {
    let mut options = standby.options();
    options.schema_changes = schema_changes;
    options.workers = 2;
    PostgresTarget::new(options)
}

/// The table with these columns, as `(number, column)`.
fn table(name: &str, columns: Vec<(u16, Column)>) -> Arc<Relation> {
    let columns = columns.into_iter().map(|(number, c)| Column { number, ..c }).collect();
    let mut table = relation("t", ReplicaIdentity::Default, Vec::new());
    let changed = Arc::make_mut(&mut table);
    (changed.name, changed.columns) = (name.to_owned(), columns);
    table
}

/// A message of the event trigger; each column with what it says beyond number, name and type.
fn told(
    stream: &mut Stream,
    table: &Relation,
    command: &str,
    rewrite: bool,
    more: &[(&str, &str)],
) {
    let column = |c: &Column| {
        let ty = if c.type_oid == 23 { "integer" } else { "text" };
        let known = more.iter().find(|(name, _)| *name == c.name).map_or("", |(_, more)| more);
        format!(
            r#"{{"number":{},"name":"{}","type":"{ty}","not_null":{}{known}}}"#,
            c.number, c.name, c.not_null
        )
    };
    let columns: Vec<_> = table.columns.iter().map(column).collect();
    let json = format!(
        r#"{{"version":1,"command":"{command}","rewrite":{rewrite},"table":{{"oid":{},"schema":"{}","name":"{}",
            "primary_key":["id"],"columns":[{}]}}}}"#,
        table.oid,
        table.schema,
        table.name,
        columns.join(",")
    );
    push(stream, table, &json);
}

fn dropped(stream: &mut Stream, table: &Relation) {
    let Relation { oid, schema, name, .. } = table;
    let json = format!(
        r#"{{"version":1,"command":"DROP TABLE","dropped":{{"oid":{oid},"schema":"{schema}","name":"{name}"}}}}"#
    );
    push(stream, table, &json);
}

fn push(stream: &mut Stream, table: &Relation, json: &str) {
    let operation = Operation::Schema(Arc::new(Message::parse(json.as_bytes()).unwrap()));
    let relation = Arc::new(Relation { columns: Vec::new(), ..table.clone() });
    stream.change(relation, operation);
}

const START: &str = "CREATE TABLE t (id int PRIMARY KEY, a text)";

fn start() -> Arc<Relation> {
    table("t", vec![(1, key(int_column("id"))), (2, text_column("a"))])
}

#[tokio::test]
async fn changes_are_made_between_the_rows_around_them() {
    let standby = Standby::new("evolve_apply", START);
    let mut target = target(&standby, Policy::Apply);
    let mut stream = Stream::after(target.open(&standby.source()).await.unwrap().0);
    let t = start();
    (0..20).for_each(|id| stream.insert(&t, &[int(id), text("old")]));
    target.apply(stream.commit()).await.unwrap();

    // in one transaction of the source: rows, a change, rows of the new shape, another change
    stream.insert(&t, &[int(20), text("old")]);
    let renamed =
        table("u", vec![(1, key(int_column("id"))), (2, text_column("b")), (3, int_column("c"))]);
    let more = [("c", r#","default":"40 + 2","missing":"7""#)];
    told(&mut stream, &renamed, "ALTER TABLE", false, &more);
    (21..40).for_each(|id| stream.insert(&renamed, &[int(id), text("new"), int(id)]));
    let narrow = table("u", vec![(1, key(int_column("id"))), (3, int_column("c"))]);
    told(&mut stream, &narrow, "ALTER TABLE", false, &[]);
    stream.insert(&narrow, &[int(40), V::Null]);
    target.apply(stream.commit()).await.unwrap();
    let found = standby.rows("SELECT count(*), sum(c), count(c), max(id) FROM u");
    assert_eq!(found, format!("(41,{},40,40)", 21 * 7 + (21..40).sum::<i32>()));
    assert_eq!(standby.rows("SELECT * FROM u WHERE id = 40"), "(40,)");

    // a rewrite: the rows that are there go, whoever refers to them, and come anew
    standby.execute("CREATE TABLE refers (u int REFERENCES u); INSERT INTO refers VALUES (1)");
    let dates = table("u", vec![(1, key(text_column("id"))), (3, int_column("c"))]);
    let dates = Arc::new(Relation { columns: narrow.columns.clone(), ..(*dates).clone() });
    told(&mut stream, &dates, "ALTER TABLE", true, &[]);
    (0..10).for_each(|id| stream.insert(&dates, &[int(id), int(1)]));
    target.apply(stream.commit()).await.unwrap();
    assert_eq!(standby.rows("SELECT count(*), sum(c) FROM u"), "(10,10)");
    standby.execute("DROP TABLE refers");

    // without a message the rows show it; a session that was not there learns of it
    target.close().await;
    let mut target = self::target(&standby, Policy::Apply);
    target.open(&standby.source()).await.unwrap();
    let shown = table("w", vec![(1, key(int_column("id"))), (3, int_column("d"))]);
    (10..30).for_each(|id| stream.insert(&shown, &[int(id), int(1)]));
    target.apply(stream.commit()).await.unwrap();
    assert_eq!(standby.rows("SELECT count(*), sum(d) FROM w"), "(30,30)");

    // swapped names, a new table, a dropped one
    let swapped = table("w", vec![(1, key(int_column("d"))), (3, int_column("id"))]);
    told(&mut stream, &swapped, "ALTER TABLE", false, &[]);
    let fresh = relation("fresh", ReplicaIdentity::Default, vec![key(int_column("id"))]);
    told(&mut stream, &fresh, "CREATE TABLE", false, &[]);
    stream.insert(&fresh, &[int(1)]);
    target.apply(stream.commit()).await.unwrap();
    assert_eq!(standby.rows("SELECT sum(d), sum(id) FROM w"), "(435,30)");
    assert_eq!(standby.rows("SELECT * FROM fresh"), "(1)");
    dropped(&mut stream, &fresh);
    target.apply(stream.commit()).await.unwrap();
    assert_eq!(standby.rows("SELECT to_regclass('fresh') IS NULL"), "(t)");
    target.close().await;
}

#[tokio::test]
async fn a_target_waits_for_its_owner_and_goes_on() {
    let standby = Standby::new("evolve_wait", START);
    let source = standby.source();
    for (round, policy) in [Policy::Additive, Policy::Stop].into_iter().enumerate() {
        if round > 0 {
            standby.execute("DROP TABLE t; DELETE FROM rsrepl.positions");
            standby.execute(START);
        }
        let mut target = target(&standby, policy);
        let mut stream = Stream::after(target.open(&source).await.unwrap().0);
        let t = start();
        stream.insert(&t, &[int(1), text("old")]);
        target.apply(stream.commit()).await.unwrap();

        let renamed = table("t", vec![(1, key(int_column("id"))), (2, text_column("b"))]);
        let at = stream.lsn();
        stream.insert(&t, &[int(2), text("before")]);
        told(&mut stream, &renamed, "ALTER TABLE", false, &[]);
        stream.insert(&renamed, &[int(3), text("after")]);
        let batch = stream.commit();
        let again = || rsrepl_sidecar::batch::Batch {
            changes: batch.changes.clone(),
            commit: batch.commit,
            ..Default::default()
        };
        let error = target.apply(again()).await.unwrap_err();
        let statement = "ALTER TABLE \"public\".\"t\" RENAME COLUMN \"a\" TO \"b\"";
        let text = error.to_string();
        assert!(text.contains("public.t") && text.contains(statement), "{text}");
        assert_eq!(target.open(&source).await.unwrap(), at, "nothing of it is applied");
        standby.execute(statement);
        target.apply(again()).await.unwrap();
        assert_eq!(standby.rows("SELECT * FROM t ORDER BY id"), "(1,old);(2,before);(3,after)");
        target.close().await;
    }
}

#[tokio::test]
async fn what_comes_before_on_the_source_is_committed() {
    let standby = Standby::new("evolve_before", START);
    let mut target = target(&standby, Policy::Stop);
    let source = standby.source();
    target.open(&source).await.unwrap();
    let (t, wide) = (
        start(),
        table("t", vec![(1, key(int_column("id"))), (2, text_column("a")), (3, int_column("c"))]),
    );
    let mut stream = Stream::after(0);
    stream.insert(&t, &[int(1), text("one")]);
    told(&mut stream, &wide, "ALTER TABLE", false, &[]);
    stream.insert(&wide, &[int(2), text("two"), int(2)]);
    let mut batch = stream.commit();
    for (change, end) in batch.changes.iter_mut().zip([10, 24, 32]) {
        change.end_lsn = Lsn(end);
    }
    let error = target.apply(batch).await.unwrap_err();
    assert!(error.to_string().contains("ADD COLUMN \"c\" integer"), "{error}");
    assert_eq!(target.open(&source).await.unwrap(), Lsn(10));
    assert_eq!(standby.rows("SELECT * FROM t"), "(1,one)");
}
