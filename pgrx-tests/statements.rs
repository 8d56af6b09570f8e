//! Statements that reach the WAL in ways of their own.

#[pgrx::pg_schema]
mod tests {
    use std::io::Write;

    use pgrx::prelude::*;

    use crate::decoding_tests::harness::Source;

    #[pg_test]
    fn copy_writes_many_rows_in_one_record() {
        let mut source = Source::new("copy");
        source.run("CREATE TABLE t (id int PRIMARY KEY, a text)");
        let mut copy = source.client.copy_in("COPY t FROM STDIN").unwrap();
        for id in 0..1000 {
            // every tenth one is out of line
            let text = "0123456789abcdef".repeat(if id % 10 == 0 { 1000 } else { 1 });
            writeln!(copy, "{id}\t{id}{text}").unwrap();
        }
        copy.finish().unwrap();
        let changes = source.changes(&[]);
        assert_eq!(changes.len(), 1000);
        for (id, change) in changes.iter().enumerate() {
            let expected = match id % 10 {
                0 => format!("{} bytes", 16_000 + id.to_string().len()),
                _ => format!("{id}0123456789abcdef"),
            };
            assert_eq!(*change, format!("INSERT public.t id={id} a={expected}"));
        }
    }

    #[pg_test]
    fn on_conflict_is_what_it_came_to() {
        let mut source = Source::new("on_conflict");
        source.run("CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 1)");
        source.run(
            "INSERT INTO t VALUES (1, 5), (2, 6) ON CONFLICT (id) DO UPDATE SET n = excluded.n;
             INSERT INTO t VALUES (2, 7), (3, 8) ON CONFLICT DO NOTHING",
        );
        let expected = [
            "INSERT public.t id=1 n=1",
            "UPDATE public.t id=1 n=5",
            "INSERT public.t id=2 n=6",
            "INSERT public.t id=3 n=8",
        ];
        assert_eq!(source.changes(&[]), expected);
    }

    #[pg_test]
    fn merge_cascade_trigger_and_select_into() {
        let mut source = Source::new("statements");
        source.run(
            "CREATE TABLE a (id int PRIMARY KEY);
             CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a ON DELETE CASCADE);
             CREATE TABLE log (line text);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO log VALUES (TG_OP); RETURN NULL; END $$;
             CREATE TRIGGER note AFTER INSERT ON b FOR EACH ROW EXECUTE FUNCTION note()",
        );
        source.run("INSERT INTO a VALUES (1), (2); INSERT INTO b VALUES (10, 1)");
        source.run("DELETE FROM a WHERE id = 1");
        source.run(
            "MERGE INTO a USING (VALUES (2), (3)) AS s (id) ON a.id = s.id
             WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (s.id)",
        );
        source.run("CREATE TABLE c AS SELECT id FROM a");
        let expected = [
            "INSERT public.a id=1",
            "INSERT public.a id=2",
            "INSERT public.b id=10 a=1",
            "INSERT public.log line=INSERT",
            "DELETE public.a id=1 (key)",
            "DELETE public.b id=10 a=NULL (key)",
            "DELETE public.a id=2 (key)",
            "INSERT public.a id=3",
            "INSERT public.c id=3",
        ];
        assert_eq!(source.changes(&[]), expected);
    }

    #[pg_test]
    fn tables_of_no_columns_and_of_very_many() {
        let mut source = Source::new("widths");
        source.run("CREATE TABLE none (); INSERT INTO none DEFAULT VALUES");
        let columns: Vec<String> = (0..1600).map(|i| format!("c{i} bool")).collect();
        source.run(&format!("CREATE TABLE many ({})", columns.join(", ")));
        source.run("INSERT INTO many (c0, c1599) VALUES (true, false)");
        source.run(
            "ALTER TABLE none ADD a int; ALTER TABLE none DROP a; INSERT INTO none DEFAULT VALUES",
        );
        let changes = source.changes(&[]);
        assert_eq!(changes[0], "INSERT public.none");
        assert!(changes[1].starts_with("INSERT public.many c0=t c1=NULL"));
        assert!(changes[1].ends_with("c1598=NULL c1599=f"));
        assert_eq!(changes[2], "INSERT public.none");
    }

    #[pg_test]
    fn hot_updates_and_rows_of_other_sessions() {
        let mut source = Source::new("hot");
        source.run("CREATE TABLE t (id int PRIMARY KEY, n int) WITH (fillfactor = 10)");
        source.run("INSERT INTO t VALUES (1, 0)");
        for n in 1..=50 {
            source.run(&format!("UPDATE t SET n = {n}"));
        }
        source.run("SELECT * FROM t FOR UPDATE; UPDATE t SET n = n WHERE false");
        let changes = source.changes(&[]);
        assert_eq!(changes.len(), 51);
        assert_eq!(changes[50], "UPDATE public.t id=1 n=50");
    }
}
