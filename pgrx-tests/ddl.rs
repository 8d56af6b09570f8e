//! Tables that are made, altered and dropped in the middle of the stream.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use rsrepl_wire::Message;

    use crate::decoding_tests::harness::{Reader, Source};

    fn without_borders(mut lines: Vec<String>) -> Vec<String> {
        lines.retain(|line| line != "BEGIN" && line != "COMMIT");
        lines
    }

    #[pg_test]
    fn ddl_inside_of_a_transaction() {
        let mut source = Source::new("ddl_inside");
        source.run(
            "BEGIN; CREATE TABLE t (id int); INSERT INTO t VALUES (1);
             ALTER TABLE t ADD a text DEFAULT 'a'; INSERT INTO t VALUES (2, 'b');
             ALTER TABLE t RENAME a TO b; INSERT INTO t VALUES (3, 'c');
             ALTER TABLE t ALTER id TYPE bigint; INSERT INTO t VALUES (4, 'd');
             ALTER TABLE t RENAME TO u; INSERT INTO u VALUES (5, 'e');
             COMMIT",
        );
        let expected = [
            "RELATION public.t d (id int4)",
            "INSERT public.t id=1",
            "RELATION public.t d (id int4, a text)",
            "INSERT public.t id=2 a=b",
            "RELATION public.t d (id int4, b text)",
            "INSERT public.t id=3 b=c",
            "RELATION public.t d (id int8, b text)",
            "INSERT public.t id=4 b=d",
            "RELATION public.u d (id int8, b text)",
            "INSERT public.u id=5 b=e",
        ];
        assert_eq!(without_borders(source.lines(&[])), expected);
    }

    #[pg_test]
    fn the_past_is_described_as_it_was() {
        // everything is decoded after the last change, with the catalogs of each moment
        let mut source = Source::new("ddl_past");
        source.run("CREATE TABLE t (id int PRIMARY KEY, a text)");
        source.run("INSERT INTO t VALUES (1, 'x')");
        source.run("ALTER TABLE t DROP a");
        source.run("INSERT INTO t VALUES (2)");
        source.run("DROP TABLE t");
        source.run("CREATE TABLE t (other text)");
        source.run("INSERT INTO t VALUES ('y')");
        source.run("DROP TABLE t");
        let expected = [
            "RELATION public.t d (id int4 key, a text)",
            "INSERT public.t id=1 a=x",
            "RELATION public.t d (id int4 key)",
            "INSERT public.t id=2",
            "RELATION public.t d (other text)",
            "INSERT public.t other=y",
        ];
        assert_eq!(without_borders(source.lines(&[])), expected);
    }

    #[pg_test]
    fn columns_keep_their_numbers() {
        let mut source = Source::new("ddl_numbers");
        source.run("CREATE TABLE t (id int, gone int, a text, b text)");
        source.run("ALTER TABLE t DROP gone; INSERT INTO t VALUES (1)");
        source.run("ALTER TABLE t RENAME a TO z; ALTER TABLE t DROP b; ALTER TABLE t ADD b int");
        source.run("INSERT INTO t VALUES (1)");
        let frames = source.take(&[]);
        let messages = Reader::default().messages(&frames);
        let described: Vec<_> = messages
            .iter()
            .filter_map(|message| match message {
                Message::Relation(relation) => Some(&relation.columns),
                _ => None,
            })
            .map(|columns| columns.iter().map(|c| (c.number, c.name.as_str())).collect::<Vec<_>>())
            .collect();
        assert_eq!(described, [[(1, "id"), (3, "a"), (4, "b")], [(1, "id"), (3, "z"), (5, "b")]]);
    }

    #[pg_test]
    fn renamed_types_and_schemas_are_told() {
        let mut source = Source::new("ddl_names");
        source.run("CREATE SCHEMA s; CREATE TYPE s.e AS ENUM ('a'); CREATE TABLE s.t (e s.e)");
        source.run("INSERT INTO s.t VALUES ('a')");
        source.run("ALTER TYPE s.e RENAME TO f");
        source.run("ALTER TYPE s.f RENAME VALUE 'a' TO 'b'");
        source.run("INSERT INTO s.t VALUES ('b')");
        source.run("ALTER SCHEMA s RENAME TO z");
        source.run("INSERT INTO z.t VALUES ('b')");
        let expected = [
            "RELATION s.t d (e e)",
            "INSERT s.t e=a",
            "RELATION s.t d (e f)",
            "INSERT s.t e=b",
            "RELATION z.t d (e f)",
            "INSERT z.t e=b",
        ];
        assert_eq!(without_borders(source.lines(&[])), expected);
    }

    #[pg_test]
    fn a_table_that_did_not_change_is_not_described_again() {
        let mut source = Source::new("ddl_same");
        source.run("CREATE TABLE t (id int PRIMARY KEY)");
        source.run("INSERT INTO t VALUES (1)");
        source.run("CREATE INDEX ON t (id)");
        source.run("CREATE TABLE other (id int)");
        source.run("ANALYZE t");
        source.run("ALTER TABLE t SET (fillfactor = 90)");
        source.run("CREATE PUBLICATION p FOR TABLE t");
        source.run("INSERT INTO t VALUES (2)");
        source.run("VACUUM FULL t");
        source.run("INSERT INTO t VALUES (3)");
        let expected = [
            "RELATION public.t d (id int4 key)",
            "INSERT public.t id=1",
            "INSERT public.t id=2",
            "INSERT public.t id=3",
        ];
        assert_eq!(without_borders(source.lines(&[])), expected);
    }

    #[pg_test]
    fn a_rewrite_sends_no_rows() {
        let mut source = Source::new("ddl_rewrite");
        source.run("CREATE TABLE t (id int); INSERT INTO t VALUES (1), (2)");
        assert_eq!(source.changes(&[]).len(), 2);
        source.run("ALTER TABLE t ALTER id TYPE text USING 'x' || id");
        assert!(source.take(&[]).is_empty());
        source.run("UPDATE t SET id = 'y'");
        assert_eq!(source.changes(&[]).len(), 2);
    }

    #[pg_test]
    fn any_number_of_invalidations_between_two_changes() {
        // more tables and types than are told apart, the one that matters among them
        let mut source = Source::new("ddl_many");
        source.run("CREATE TYPE e AS ENUM ('a'); CREATE TABLE t (id int, e e)");
        let create = |from: i32| -> String {
            (from..from + 100).map(|i| format!("CREATE TABLE other{i} (id int);")).collect()
        };
        source.run(&format!(
            "BEGIN; INSERT INTO t VALUES (1); {} ALTER TABLE t RENAME id TO x; {}
             INSERT INTO t VALUES (2); COMMIT",
            create(0),
            create(100)
        ));
        source.run(&format!("{} ALTER TYPE e RENAME TO f; {}", create(200), create(300)));
        source.run("INSERT INTO t VALUES (3)");
        let expected = [
            "RELATION public.t d (id int4, e e)",
            "INSERT public.t id=1 e=NULL",
            "RELATION public.t d (x int4, e e)",
            "INSERT public.t x=2 e=NULL",
            "RELATION public.t d (x int4, e f)",
            "INSERT public.t x=3 e=NULL",
        ];
        assert_eq!(without_borders(source.lines(&[])), expected);
    }
}
