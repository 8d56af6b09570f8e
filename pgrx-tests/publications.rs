//! Tables and operations of publications, as pgoutput takes them.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::decoding_tests::harness::{Source, connect};

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
    fn a_missing_publication_is_an_error_before_18() {
        let mut source = Source::new("publications_missing");
        source.run("CREATE TABLE t (id int); INSERT INTO t VALUES (1)");
        if source.major() >= 18 {
            // pgoutput of that version warns, and sends nothing
            assert_eq!(source.changes(&[("publications", "nowhere")]), [""; 0]);
            return;
        }
        let refusal = source.refusal(&[("publications", "nowhere")]);
        assert_eq!(refusal.message, "publication \"nowhere\" does not exist");
        assert!(refusal.hint.contains("before the slot"), "{}", refusal.hint);
    }

    #[pg_test]
    fn column_lists_that_differ_are_refused() {
        let mut source = Source::new("publications_lists");
        source.run(
            "CREATE TABLE t (id int, a int, b int); CREATE PUBLICATION p FOR TABLE t (id, a);
             CREATE PUBLICATION q FOR TABLE t (id, b); CREATE PUBLICATION r FOR TABLE t;
             CREATE PUBLICATION s FOR ALL TABLES; CREATE PUBLICATION u FOR TABLE t (a, id)",
        );
        source.run("INSERT INTO t VALUES (1, 2, 3)");
        for names in ["p,q", "r,p", "p,s"] {
            let refusal = source.refusal(&[("publications", names)]);
            let expected =
                "cannot use different column lists for table \"t\" in different publications";
            assert_eq!(refusal.message, expected, "{names}");
            assert!(refusal.hint.contains("that agree"), "{}", refusal.hint);
        }
        // the slot is not stuck: with others it goes on
        assert_eq!(source.changes(&[("publications", "p,u")]), ["INSERT public.t id=1 a=2"]);
    }

    #[pg_test]
    fn a_stored_generated_column_comes_unless_a_list_leaves_it_out() {
        let mut source = Source::new("publications_generated");
        source.run(
            "CREATE TABLE t (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id * 2) STORED, a int);
             CREATE TABLE u (LIKE t INCLUDING ALL);
             CREATE PUBLICATION p FOR TABLE t, u (id, a)",
        );
        source.run("INSERT INTO t (id, a) VALUES (1, 5); INSERT INTO u (id, a) VALUES (1, 5)");
        let expected = [
            "BEGIN",
            "RELATION public.t d (id int4 key, g int4 generated, a int4)",
            "INSERT public.t id=1 g=2 a=5",
            "RELATION public.u d (id int4 key, a int4)",
            "INSERT public.u id=1 a=5",
            "COMMIT",
        ];
        assert_eq!(source.lines(&[("publications", "p")]), expected);
    }

    #[pg_test]
    fn an_error_in_a_filter_is_that_of_postgresql() {
        let mut source = Source::new("publications_error");
        source.run("CREATE TABLE t (id int, a int); CREATE PUBLICATION p FOR TABLE t WHERE (1 / a > 0) WITH (publish = 'insert')");
        source.run("INSERT INTO t VALUES (1, 1)");
        source.run("INSERT INTO t VALUES (2, 0)");
        assert_eq!(source.refusal(&[("publications", "p")]).message, "division by zero");
        source.run("INSERT INTO t VALUES (3, 1)");
        assert_eq!(source.refusal(&[("publications", "p")]).message, "division by zero");
        assert_eq!(source.changes(&[]).len(), 3);
    }

    /// What PostgreSQL knows of the value is in the TOAST table, and cannot be read there: a target has to
    /// refuse such a row. (pgoutput does the same; a native subscription writes NULL.)
    #[pg_test]
    fn a_row_that_enters_a_filter_may_lack_toasted_values() {
        let mut source = Source::new("publications_toast");
        source.run(
            "CREATE TABLE t (id int PRIMARY KEY, big text);
             ALTER TABLE t ALTER big SET STORAGE EXTERNAL; CREATE PUBLICATION p FOR TABLE t WHERE (id > 10)",
        );
        source.run("INSERT INTO t VALUES (1, repeat('b', 4000))");
        source.run("UPDATE t SET id = 11");
        source.run("UPDATE t SET id = 2");
        let expected =
            ["INSERT public.t id=11 big=UNCHANGED", "DELETE public.t id=11 big=NULL (key)"];
        assert_eq!(source.changes(&[("publications", "p")]), expected);
    }

    #[pg_test]
    fn filters_and_conversions_leave_nothing_behind() {
        let mut source = Source::new("publications_memory");
        source.run(
            "CREATE TABLE p (id int PRIMARY KEY, a text, b jsonb) PARTITION BY RANGE (id);
             CREATE TABLE p1 (b jsonb, a text, id int NOT NULL);
             ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (1000000);
             CREATE PUBLICATION q FOR TABLE p WHERE (id % 2 = 0 AND id::numeric > 0) WITH (publish_via_partition_root)",
        );
        let changes = |source: &mut Source, count: usize| {
            for _ in 0..count {
                source.run("ALTER PUBLICATION q SET (publish = 'insert'); INSERT INTO p SELECT 2, repeat('x', 100), '{}'; DELETE FROM p");
            }
        };
        let mut backend = connect(&source.database);
        let pid: i32 = backend.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
        let mut peak = |source: &Source| {
            let sql = "SELECT count(*) FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL, 'publications', 'q')";
            let count: i64 = backend.query_one(sql, &[&source.database]).unwrap().get(0);
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
            (count, line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap())
        };
        changes(&mut source, 100);
        let (count, before) = peak(&source);
        changes(&mut source, 1000);
        let (more, after) = peak(&source);
        assert!(more >= count + 1000, "{count} and {more} frames");
        // a description with a filter takes over 8 KiB
        let grown = after.saturating_sub(before);
        assert!(grown < 4 * 1024, "grew by {grown} KiB");
    }
}
