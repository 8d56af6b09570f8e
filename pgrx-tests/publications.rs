//! Tables and operations of publications, as pgoutput takes them.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::decoding_tests::harness::Source;

    #[pg_test]
    fn tables_and_operations_are_chosen() {
        let mut source = Source::new("publications");
        source.run(
            "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY);
             CREATE TABLE c (id int PRIMARY KEY);
             CREATE PUBLICATION ins FOR TABLE a, b WITH (publish = 'insert');
             CREATE PUBLICATION del FOR TABLE b WITH (publish = 'delete, truncate')",
        );
        source.run("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1); INSERT INTO c VALUES (1)");
        source.run("UPDATE a SET id = 2; UPDATE b SET id = 2; DELETE FROM a; DELETE FROM b");
        source.run("TRUNCATE a, b, c");
        source.run("INSERT INTO c VALUES (2)");
        let expected = [
            "BEGIN",
            "RELATION public.a d (id int4 key)",
            "INSERT public.a id=1",
            "RELATION public.b d (id int4 key)",
            "INSERT public.b id=1",
            "COMMIT",
            "BEGIN",
            "DELETE public.b id=2 (key)",
            "COMMIT",
            "BEGIN",
            "TRUNCATE public.b",
            "COMMIT",
        ];
        assert_eq!(source.lines(&[("publications", "ins,del")]), expected);
    }

    #[pg_test]
    fn all_tables_and_schemas() {
        let mut source = Source::new("publications_schema");
        source.run("CREATE SCHEMA s; CREATE TABLE s.t (id int); CREATE TABLE t (id int)");
        source.run(
            "CREATE PUBLICATION p FOR TABLES IN SCHEMA s; CREATE PUBLICATION q FOR ALL TABLES",
        );
        source.run("INSERT INTO s.t VALUES (1); INSERT INTO t VALUES (1)");
        let of = |name| [("publications", name)];
        let reader = |frames: &[_]| super::super::harness::Reader::default().lines(frames).len();
        assert_eq!(reader(&source.peek(&of("p"))), 4);
        assert_eq!(reader(&source.peek(&of("q"))), 6);
        source.run("CREATE TABLE s.u (id int)");
        source.run("INSERT INTO s.u VALUES (2)");
        let changes = source.changes(&of("p"));
        assert_eq!(changes, ["INSERT s.t id=1", "INSERT s.u id=2"]);
    }

    #[pg_test]
    fn a_partition_is_published_with_its_ancestors() {
        let mut source = Source::new("publications_leaf");
        source.run(
            "CREATE TABLE p (id int) PARTITION BY LIST (id);
             CREATE TABLE q PARTITION OF p FOR VALUES IN (1, 2) PARTITION BY LIST (id);
             CREATE TABLE q1 PARTITION OF q FOR VALUES IN (1);
             CREATE TABLE r PARTITION OF p FOR VALUES IN (3);
             CREATE PUBLICATION top FOR TABLE p; CREATE PUBLICATION middle FOR TABLE q;
             CREATE PUBLICATION other FOR TABLE r",
        );
        source.run("INSERT INTO p VALUES (1), (3)");
        for (name, rows) in [("top", 2), ("middle", 1), ("other", 1)] {
            let frames = source.peek(&[("publications", name)]);
            let lines = super::super::harness::Reader::default().lines(&frames);
            let inserts = lines.iter().filter(|line| line.starts_with("INSERT")).count();
            assert_eq!(inserts, rows, "{name}: {lines:?}");
        }
        assert_eq!(source.changes(&[("publications", "middle")]), ["INSERT public.q1 id=1"]);
    }

    #[pg_test]
    fn a_change_of_a_publication_counts_from_where_it_happened() {
        let mut source = Source::new("publications_changes");
        source.run(
            "CREATE TABLE a (id int); CREATE TABLE b (id int); CREATE PUBLICATION p FOR TABLE a",
        );
        source.run("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)");
        source.run("ALTER PUBLICATION p SET TABLE b");
        source.run("INSERT INTO a VALUES (2); INSERT INTO b VALUES (2)");
        source.run("ALTER PUBLICATION p SET (publish = 'update')");
        source.run("INSERT INTO b VALUES (3)");
        source.run("ALTER PUBLICATION p ADD TABLE a; ALTER PUBLICATION p SET (publish = 'insert')");
        source.run("INSERT INTO a VALUES (4)");
        assert_eq!(
            source.changes(&[("publications", "p")]),
            ["INSERT public.a id=1", "INSERT public.b id=2", "INSERT public.a id=4"]
        );
    }

    #[pg_test]
    fn a_missing_publication_is_an_error() {
        let mut source = Source::new("publications_missing");
        source.run("CREATE TABLE t (id int); INSERT INTO t VALUES (1)");
        let refusal = source.refusal(&[("publications", "nowhere")]);
        assert_eq!(refusal.message, "publication \"nowhere\" does not exist");
        assert!(refusal.hint.contains("before the slot"), "{}", refusal.hint);
    }

    #[pg_test]
    fn what_is_not_supported_is_refused_by_name() {
        let mut source = Source::new("publications_refused");
        source.run(
            "CREATE TABLE t (id int, a int); CREATE TABLE u (id int, a int);
             CREATE TABLE p (id int) PARTITION BY LIST (id);
             CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
             CREATE PUBLICATION filter FOR TABLE t WHERE (a > 1);
             CREATE PUBLICATION columns FOR TABLE u (id);
             CREATE PUBLICATION root FOR TABLE p WITH (publish_via_partition_root)",
        );
        let cases = [
            (
                "filter",
                "INSERT INTO t VALUES (1, 1)",
                "table \"t\" has a row filter in publication \"filter\"; \
                 row filters are not supported yet by rsrepl",
            ),
            (
                "columns",
                "INSERT INTO u VALUES (1, 1)",
                "table \"u\" has a column list in publication \"columns\"; \
                 column lists are not supported yet by rsrepl",
            ),
            (
                "root",
                "INSERT INTO p VALUES (1)",
                "table \"p1\" is published through its partitioned table in publication \"root\"; \
                 publish_via_partition_root is not supported yet by rsrepl",
            ),
        ];
        for (name, insert, message) in cases {
            source.run(insert);
            assert_eq!(source.refusal(&[("publications", name)]).message, message);
            // the slot is not stuck: without that publication it goes on
            assert_eq!(source.changes(&[]).len(), 1);
        }
    }
}
