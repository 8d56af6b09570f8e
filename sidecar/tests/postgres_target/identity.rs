//! Columns that are `GENERATED ALWAYS AS IDENTITY` on the target, which an UPDATE may not set there.

use rsrepl_sidecar::target::Target;
use rsrepl_wire::ReplicaIdentity;

use crate::stream::{Stream, V, int, int_column, key, relation, text, text_column};
use crate::{Apply, Standby};

/// Rows applied one by one, and so many that they go by sets.
const SIZES: [i32; 2] = [3, 100];

/// Too large for a page: it is toasted, and does not come again with an update that leaves it as it is.
fn large() -> V {
    let words: Vec<String> = (0..4000).map(|n: u64| format!("{:x}", n * 0x9E37_79B9)).collect();
    text(&words.join(" "))
}

/// A value that changes is written, whatever else changes, and everything else of the row stays: large
/// values, columns of the target alone, and rows that refer to it.
#[tokio::test]
async fn an_identity_column_follows_the_source() {
    let standby = Standby::new(
        "identity_column",
        "CREATE TABLE t (id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, a text, b text,
                         mark int GENERATED ALWAYS AS IDENTITY, own text DEFAULT 'unset',
                         twice int GENERATED ALWAYS AS (n * 2) STORED);
         CREATE TABLE child (id int REFERENCES t ON DELETE CASCADE)",
    );
    let columns = vec![key(int_column("id")), int_column("n"), text_column("a"), text_column("b")];
    let table = relation("t", ReplicaIdentity::Default, columns);
    let mut target = standby.target();
    target.open(&standby.source()).await.unwrap();
    let mut stream = Stream::after(1000);
    for rows in SIZES {
        standby.execute("TRUNCATE t, child");
        for id in 0..rows {
            stream.insert(&table, &[int(id), int(id), large(), text("old")]);
        }
        target.apply(stream.commit()).await.unwrap();
        standby.execute(
            "UPDATE t SET own = 'kept ' || id; INSERT INTO child SELECT id FROM t;
             CREATE TABLE IF NOT EXISTS before AS SELECT * FROM t;
             TRUNCATE before; INSERT INTO before SELECT * FROM t",
        );
        // every second value changes
        for id in 0..rows {
            let n = if id % 2 == 0 { id } else { id + 1000 };
            stream.update(&table, None, &[int(id), int(n), V::Unchanged, text("new")]);
        }
        target.apply(stream.commit()).await.unwrap();
        // and then all of them, and nothing else
        for id in 0..rows {
            stream.update(&table, None, &[int(id), int(id + 5000), V::Unchanged, V::Unchanged]);
        }
        target.apply(stream.commit()).await.unwrap();
        // the key of one moves as well
        let old = [int(0), V::Null, V::Null, V::Null];
        stream.update(&table, Some(&old), &[int(-1), int(7), V::Unchanged, V::Unchanged]);
        target.apply(stream.commit()).await.unwrap();
        let right = "SELECT count(*), count(*) FILTER (WHERE t.id = -1 AND t.n = 7),
                            count(*) FILTER (WHERE t.n = t.id + 5000 AND t.twice = 2 * t.n)
                       FROM t JOIN before AS o ON o.id = greatest(t.id, 0) AND o.a = t.a AND t.b = 'new'
                        AND o.mark = t.mark AND o.own = t.own";
        assert_eq!(standby.rows(right), format!("({rows},1,{})", rows - 1));
        assert_eq!(standby.rows("SELECT count(*) FROM child"), format!("({rows})"));
    }
    // what is not there is an error, as ever
    stream.update(&table, None, &[int(12345), int(1), V::Unchanged, text("new")]);
    let error = target.apply(stream.commit()).await.unwrap_err();
    assert!(error.to_string().contains("(id)=(12345): 0 rows"), "{error}");
}

/// There is nothing but the key and a column that UPDATE may not set.
#[tokio::test]
async fn an_identity_column_that_is_all_there_is() {
    let standby = Standby::new(
        "identity_alone",
        "CREATE TABLE t (id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY)",
    );
    let columns = vec![key(int_column("id")), int_column("n")];
    let table = relation("t", ReplicaIdentity::Default, columns);
    let mut target = standby.target();
    target.open(&standby.source()).await.unwrap();
    let mut stream = Stream::after(1000);
    for rows in SIZES {
        stream.truncate(&table);
        (0..rows).for_each(|id| stream.insert(&table, &[int(id), int(id)]));
        target.apply(stream.commit()).await.unwrap();
        for id in 0..rows {
            stream.update(&table, None, &[int(id), int(if id == 1 { 1 } else { id + 1000 })]);
        }
        target.apply(stream.commit()).await.unwrap();
        let right = "SELECT count(*) FROM t WHERE n = CASE id WHEN 1 THEN 1 ELSE id + 1000 END";
        assert_eq!(standby.rows(right), format!("({rows})"));
    }
}

#[tokio::test]
async fn an_identity_column_of_a_table_without_a_key() {
    let standby = Standby::new(
        "identity_keyless",
        "CREATE TABLE t (n int GENERATED ALWAYS AS IDENTITY, a text, own text DEFAULT 'unset')",
    );
    let columns = vec![int_column("n"), text_column("a")];
    let table = relation("t", ReplicaIdentity::Full, columns);
    let mut target = standby.target();
    target.open(&standby.source()).await.unwrap();
    let mut stream = Stream::after(1000);
    (0..2).for_each(|_| stream.insert(&table, &[int(1), text("twin")]));
    stream.insert(&table, &[int(2), large()]);
    target.apply(stream.commit()).await.unwrap();
    standby.execute("UPDATE t SET own = 'kept'");
    // one of the twins; its other column alone; and one that keeps a large value
    stream.update(&table, Some(&[int(1), text("twin")]), &[int(3), text("twin")]);
    stream.update(&table, Some(&[int(3), text("twin")]), &[int(3), text("alone")]);
    stream.update(&table, Some(&[int(2), large()]), &[int(4), V::Unchanged]);
    target.apply(stream.commit()).await.unwrap();
    let rows = "SELECT n, left(a, 5), length(a) > 5 AS large, own FROM t ORDER BY n";
    let V::Var(bytes) = large() else { unreachable!() };
    let start = String::from_utf8(bytes[..5].to_vec()).unwrap();
    let start = if start.contains(' ') { format!("\"{start}\"") } else { start };
    assert_eq!(standby.rows(rows), format!("(1,twin,f,kept);(3,alone,f,kept);(4,{start},t,kept)"));
}
