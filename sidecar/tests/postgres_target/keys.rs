//! Keys of several columns and of every kind, rows of every size: by sets as one by one.

use std::sync::Arc;

use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::types::{ArrayDimension, array_to_sql, int4_to_sql};
use rsrepl_sidecar::target::Target;
use rsrepl_wire::{Column, Encoding, Relation, ReplicaIdentity, TypeKind};

use crate::stream::{Stream, V, column, int, int_column, key, relation, text, text_column};
use crate::{Apply, Standby};

/// Rows applied one by one, and so many that they go by sets.
const SIZES: [i32; 2] = [3, 100];

/// Inserts rows, changes all, moves the keys of some and deletes others. `make` gives the key's values
/// for a number, and the table's last column is a text.
async fn every_change(
    database: &str,
    schema: &str,
    keys: Vec<Column>,
    make: impl Fn(i32) -> Vec<V>,
) {
    let standby = Standby::new(database, schema);
    let columns = keys.into_iter().map(key).chain([int_column("n"), text_column("a")]).collect();
    let table: Arc<Relation> = relation("t", ReplicaIdentity::Default, columns);
    let row = |id, n: V, a: V| make(id).into_iter().chain([n, a]).collect::<Vec<_>>();
    let old = |id| row(id, V::Null, V::Null);
    let mut target = standby.target();
    target.open(&standby.source()).await.unwrap();
    let mut stream = Stream::after(1000);
    for rows in SIZES {
        (0..rows).for_each(|id| stream.insert(&table, &row(id, V::Null, text("new"))));
        target.apply(stream.commit()).await.unwrap();
        for id in 0..rows {
            stream.update(&table, None, &row(id, int(id), V::Unchanged));
        }
        target.apply(stream.commit()).await.unwrap();
        for id in 0..rows / 2 {
            stream.update(&table, Some(&old(id)), &row(id + 1000, V::Null, text("moved")));
        }
        target.apply(stream.commit()).await.unwrap();
        (rows / 2..rows).for_each(|id| stream.delete(&table, &old(id)));
        target.apply(stream.commit()).await.unwrap();
        let half = rows / 2;
        assert_eq!(
            standby.rows("SELECT n, a, count(*) FROM t GROUP BY 1, 2"),
            format!("(,moved,{half})"),
        );
        // the keys are those that were meant
        (0..half).for_each(|id| stream.delete(&table, &old(id + 1000)));
        target.apply(stream.commit()).await.unwrap();
        assert_eq!(standby.rows("SELECT count(*) FROM t"), "(0)");
    }
}

#[tokio::test]
async fn a_key_of_two_columns() {
    every_change(
        "two_columns",
        "CREATE TABLE t (x text, y int, n int, a text, PRIMARY KEY (y, x))",
        vec![text_column("x"), int_column("y")],
        |id| vec![text(&"ä".repeat(id.unsigned_abs() as usize % 7)), int(id)],
    )
    .await;
}

#[tokio::test]
async fn a_key_of_text() {
    every_change(
        "text_key",
        "CREATE TABLE t (x text PRIMARY KEY, n int, a text)",
        vec![text_column("x")],
        |id| vec![text(&format!("{{\"{id}', NULL"))],
    )
    .await;
}

#[tokio::test]
async fn a_key_that_is_wider_on_the_target() {
    every_change(
        "wider_key",
        "CREATE TABLE t (x bigint, y numeric, n int, a text, PRIMARY KEY (x, y))",
        vec![int_column("x"), int_column("y")],
        |id| vec![int(-id), int(id)],
    )
    .await;
    every_change(
        "wider_single_key",
        "CREATE TABLE t (x bigint PRIMARY KEY, n int, a text)",
        vec![int_column("x")],
        |id| vec![int(-id)],
    )
    .await;
}

#[tokio::test]
async fn a_key_of_one_integer() {
    // in ranges, and with gaps
    for (database, step) in [("dense_key", 1), ("sparse_key", 3)] {
        every_change(
            database,
            "CREATE TABLE t (x int PRIMARY KEY, n int, a text)",
            vec![int_column("x")],
            |id| vec![int(-id * step)],
        )
        .await;
    }
}

#[tokio::test]
async fn a_range_takes_no_row_for_another() {
    let standby = Standby::new("ranges", "CREATE TABLE t (id int PRIMARY KEY)");
    let table = relation("t", ReplicaIdentity::Default, vec![key(int_column("id"))]);
    let mut target = standby.target();
    target.open(&standby.source()).await.unwrap();
    let mut stream = Stream::after(1000);
    (0..100).for_each(|id| stream.insert(&table, &[int(id)]));
    target.apply(stream.commit()).await.unwrap();
    // one of the range is gone on the target, and one outside of it was never there on the source
    standby.execute("DELETE FROM t WHERE id = 50; INSERT INTO t VALUES (-1)");
    (0..100).for_each(|id| stream.delete(&table, &[int(id)]));
    let error = target.apply(stream.commit()).await.unwrap_err();
    assert!(error.to_string().contains("delete from public.t (id)=(50)"), "{error}");
    assert_eq!(standby.rows("SELECT count(*) FROM t"), "(100)");
}

#[tokio::test]
async fn a_key_that_is_an_array() {
    let ints = Column {
        kind: TypeKind::Array,
        element_oid: 23,
        ..column("x", 1007, "_int4", Encoding::Send)
    };
    every_change(
        "array_key",
        "CREATE TABLE t (x int[] PRIMARY KEY, n int, a text)",
        vec![ints],
        |id| {
            let mut sent = BytesMut::new();
            let dimension = ArrayDimension { len: 1, lower_bound: 1 };
            let put = |value: i32, out: &mut BytesMut| {
                int4_to_sql(value, out);
                Ok(IsNull::No)
            };
            array_to_sql([dimension], 23, [id], put, &mut sent).unwrap();
            vec![V::Var(sent.to_vec())]
        },
    )
    .await;
}

#[tokio::test]
async fn rows_too_large_for_a_set_go_alone() {
    let standby = Standby::new("large", "CREATE TABLE t (id int PRIMARY KEY, a text)");
    let table =
        relation("t", ReplicaIdentity::Default, vec![key(int_column("id")), text_column("a")]);
    let mut target = standby.target();
    target.open(&standby.source()).await.unwrap();
    let mut stream = Stream::after(1000);
    (0..20).for_each(|id| stream.insert(&table, &[int(id), text("small")]));
    target.apply(stream.commit()).await.unwrap();
    // several statements for one set: some rows fill more than one, and one is larger than any may be
    for id in 0..20 {
        let size = [10, 600_000, 3_000_000][usize::from(id > 10) + usize::from(id == 15)];
        stream.update(&table, None, &[int(id), text(&"x".repeat(size))]);
    }
    (20..40).for_each(|id| {
        stream.insert(&table, &[int(id), text(&"y".repeat(id.unsigned_abs() as usize * 100_000))])
    });
    target.apply(stream.commit()).await.unwrap();
    assert_eq!(
        standby.rows(
            "SELECT left(a, 1), length(a), count(*) FROM t WHERE id < 20 GROUP BY 1, 2 ORDER BY 2"
        ),
        "(x,10,11);(x,600000,8);(x,3000000,1)"
    );
    assert_eq!(
        standby.rows("SELECT count(*) FROM t WHERE id >= 20 AND length(a) = id * 100000"),
        "(20)"
    );
}

#[tokio::test]
async fn a_row_that_changes_all_the_time_is_written_once() {
    let standby = Standby::new("hot", "CREATE TABLE t (id int PRIMARY KEY, n int)");
    let table =
        relation("t", ReplicaIdentity::Default, vec![key(int_column("id")), int_column("n")]);
    let mut target = standby.target();
    target.open(&standby.source()).await.unwrap();
    let mut stream = Stream::after(1000);
    stream.insert(&table, &[int(1), int(0)]);
    target.apply(stream.commit()).await.unwrap();
    standby.execute(
        "CREATE TABLE old (LIKE t);
        CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO public.old SELECT OLD.*; RETURN NULL; END';
        CREATE TRIGGER remember AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION remember();
        ALTER TABLE t ENABLE ALWAYS TRIGGER remember",
    );
    (1..=50).for_each(|n| stream.update(&table, None, &[int(1), int(n)]));
    target.apply(stream.commit()).await.unwrap();
    assert_eq!(standby.rows("SELECT n FROM t"), "(50)");
    assert_eq!(standby.rows("SELECT n FROM old"), "(0)");
}
