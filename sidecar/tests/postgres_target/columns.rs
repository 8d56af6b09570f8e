use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::types::{ArrayDimension, array_to_sql};
use rsrepl_sidecar::target::Target;
use rsrepl_wire::{Column, Encoding, ReplicaIdentity, TypeKind};

use crate::stream::{Stream, V, column, int, int_column, key, relation, text, text_column};
use crate::{Apply, Standby};

/// Rows applied one by one, and so many that they go by sets.
const SIZES: [i32; 2] = [3, 100];

fn of_type(column: Column, kind: TypeKind, name: &str) -> Column {
    // an oid of the source that means something else, or nothing, on the target
    Column {
        kind,
        type_oid: 90_000,
        base_oid: 90_000,
        type_schema: "public".into(),
        type_name: name.into(),
        ..column
    }
}

/// `array_send` of labels, with the source's oid of their type.
fn labels(labels: &[Option<&str>]) -> V {
    let mut sent = BytesMut::new();
    let dimension = ArrayDimension { len: i32::try_from(labels.len()).unwrap(), lower_bound: 1 };
    array_to_sql(
        [dimension],
        90_001,
        labels,
        |label, buf| match label {
            Some(label) => {
                buf.extend_from_slice(label.as_bytes());
                Ok(IsNull::No)
            }
            None => Ok(IsNull::Yes),
        },
        &mut sent,
    )
    .unwrap();
    V::Var(sent.to_vec())
}

#[tokio::test]
async fn types_of_the_users_go_by_name() {
    let standby = Standby::new(
        "user_types",
        "CREATE TYPE mood AS ENUM ('sad', 'ok');
         CREATE TYPE pair AS (a int, b text);
         CREATE DOMAIN code AS text CHECK (VALUE <> '');
         CREATE DOMAIN codes AS text NOT NULL;
         CREATE TABLE t (id int PRIMARY KEY, m mood, ms mood[], p pair, x xml, c code, cs codes)",
    );
    let xml_column = match standby.has_libxml() {
        true => column("x", 142, "xml", Encoding::Varlena),
        false => {
            standby.execute("ALTER TABLE t ALTER x TYPE text");
            text_column("x")
        }
    };
    let plain = |name: &str, encoding| column(name, 0, "", encoding);
    let domain = |name: &str| Column {
        type_oid: 90_002,
        type_schema: "public".into(),
        type_name: name.into(),
        ..text_column(if name == "code" { "c" } else { "cs" })
    };
    let table = relation(
        "t",
        ReplicaIdentity::Default,
        vec![
            key(int_column("id")),
            of_type(plain("m", Encoding::Send), TypeKind::Enum, "mood"),
            of_type(plain("ms", Encoding::Send), TypeKind::Array, "_mood"),
            of_type(plain("p", Encoding::Text), TypeKind::Composite, "pair"),
            xml_column,
            domain("code"),
            domain("codes"),
        ],
    );
    let mut target = standby.target();
    target.open(&standby.source()).await.unwrap();
    let mut stream = Stream::after(1000);
    for rows in SIZES {
        let xml = "<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><ä/>";
        for id in 0..rows {
            let row = [
                int(id),
                text("ok"),
                labels(&[Some("sad"), None]),
                text("(1,\"x y\")"),
                text(xml),
                text("c"),
                text("d"),
            ];
            stream.insert(&table, &row);
        }
        target.apply(stream.commit()).await.unwrap();
        let stored = xml.replace('"', "\"\"");
        let expected = format!("(ok,\"{{sad,NULL}}\",\"(1,\"\"x y\"\")\",\"{stored}\",c,d,{rows})");
        let query = "SELECT m, ms, p, x::text, c, cs, count(*) FROM t GROUP BY 1, 2, 3, 4, 5, 6";
        assert_eq!(standby.rows(query), expected);
        let mut row =
            [int(0), text("sad"), labels(&[]), text("(,)"), V::Unchanged, V::Null, text("e")];
        for id in 0..rows {
            row[0] = int(id);
            stream.update(&table, None, &row);
        }
        target.apply(stream.commit()).await.unwrap();
        let expected = format!("(sad,{{}},\"(,)\",\"{stored}\",,e,{rows})");
        assert_eq!(standby.rows(query), expected);
        stream.truncate(&table);
        target.apply(stream.commit()).await.unwrap();
    }
}

#[tokio::test]
async fn what_the_target_computes_is_left_to_it() {
    let standby = Standby::new(
        "computed",
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                         a text, g text GENERATED ALWAYS AS (a || '!') STORED)",
    );
    let table = relation(
        "t",
        ReplicaIdentity::Default,
        vec![
            key(int_column("id")),
            text_column("a"),
            Column { generated: true, ..text_column("g") },
        ],
    );
    let mut target = standby.target();
    target.open(&standby.source()).await.unwrap();
    let mut stream = Stream::after(1000);
    for rows in SIZES {
        for id in 0..rows {
            stream.insert(&table, &[int(id), text("a"), text("a!")]);
        }
        target.apply(stream.commit()).await.unwrap();
        for id in 0..rows {
            stream.update(&table, None, &[int(id), text("b"), text("b!")]);
            let old = [int(id), V::Null, V::Null];
            stream.update(&table, Some(&old), &[int(id + 500), V::Unchanged, text("b!")]);
        }
        target.apply(stream.commit()).await.unwrap();
        let summary = "SELECT a, g, count(*), min(id) FROM t GROUP BY 1, 2";
        assert_eq!(standby.rows(summary), format!("(b,b!,{rows},500)"));
        for id in 0..rows {
            stream.delete(&table, &[int(id + 500), V::Null, V::Null]);
        }
        target.apply(stream.commit()).await.unwrap();
        assert_eq!(standby.rows(summary), "");
    }
}

#[tokio::test]
async fn rows_find_their_partition() {
    let standby = Standby::new(
        "partitioned",
        "CREATE TABLE t (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF t FOR VALUES FROM (0) TO (1000);
         CREATE TABLE high PARTITION OF t FOR VALUES FROM (1000) TO (2000);
         CREATE TABLE bag (x int) PARTITION BY LIST (x);
         CREATE TABLE one PARTITION OF bag FOR VALUES IN (1);
         CREATE TABLE two PARTITION OF bag FOR VALUES IN (2)",
    );
    let columns = vec![key(int_column("id")), text_column("a")];
    let table = relation("t", ReplicaIdentity::Default, columns);
    let bag = relation("bag", ReplicaIdentity::Full, vec![int_column("x")]);
    let mut target = standby.target();
    target.open(&standby.source()).await.unwrap();
    let mut stream = Stream::after(1000);
    for rows in SIZES {
        stream.truncate(&table);
        stream.truncate(&bag);
        for id in 0..rows {
            stream.insert(&table, &[int(id), text("a")]);
            stream.insert(&bag, &[int(1 + id % 2)]);
        }
        target.apply(stream.commit()).await.unwrap();
        for id in 0..rows {
            let old = [int(id), V::Null];
            stream.update(&table, Some(&old), &[int(id + 1000), V::Unchanged]);
        }
        stream.delete(&bag, &[int(2)]);
        stream.update(&bag, Some(&[int(1)]), &[int(2)]);
        target.apply(stream.commit()).await.unwrap();
        let counts = "SELECT (SELECT count(*) FROM low), (SELECT count(*) FROM high), \
                             (SELECT count(*) FROM one), (SELECT count(*) FROM two)";
        let (ones, twos) = ((rows + 1) / 2, rows / 2);
        assert_eq!(standby.rows(counts), format!("(0,{rows},{},{})", ones - 1, twos));
    }
}

#[tokio::test]
async fn narrower_values_fit_a_column_that_was_widened_first() {
    let standby = Standby::new(
        "widened",
        "CREATE TABLE t (id bigint PRIMARY KEY, n numeric, f float8, v text);
         CREATE TABLE bag (x bigint, v text)",
    );
    let float = column("f", 700, "float4", Encoding::Fixed(4));
    let varchar = Column { typmod: 14, ..column("v", 1043, "varchar", Encoding::Varlena) };
    let columns = vec![key(int_column("id")), int_column("n"), float, varchar.clone()];
    let table = relation("t", ReplicaIdentity::Default, columns);
    let bag = relation("bag", ReplicaIdentity::Full, vec![int_column("x"), varchar]);
    let half = V::Fixed(0.5f32.to_le_bytes().to_vec());
    let mut target = standby.target();
    target.open(&standby.source()).await.unwrap();
    let mut stream = Stream::after(1000);
    for rows in SIZES {
        for id in 0..rows {
            stream.insert(&table, &[int(id), int(-7), half.clone(), text("v")]);
        }
        (0..2).for_each(|_| stream.insert(&bag, &[int(1), text("v")]));
        stream.delete(&bag, &[int(1), text("v")]);
        target.apply(stream.commit()).await.unwrap();
        for id in 0..rows {
            let old = [int(id), V::Null, V::Null, V::Null];
            stream.update(&table, Some(&old), &[int(-id), int(8), half.clone(), V::Unchanged]);
        }
        target.apply(stream.commit()).await.unwrap();
        let query = "SELECT n, f, v, count(*), min(id) FROM t GROUP BY 1, 2, 3";
        assert_eq!(standby.rows(query), format!("(8,0.5,v,{rows},{})", 1 - rows));
        (0..rows).for_each(|id| stream.delete(&table, &[int(-id), V::Null, V::Null, V::Null]));
        target.apply(stream.commit()).await.unwrap();
        assert_eq!(standby.rows("SELECT * FROM t"), "");
    }
    assert_eq!(standby.rows("SELECT x, v FROM bag"), "(1,v);(1,v)");
}
