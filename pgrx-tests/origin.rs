//! Changes that came from another server.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::decoding_tests::harness::{Source, connect};

    #[pg_test]
    fn origins_are_named_or_left_out() {
        let mut source = Source::new("origin");
        source.run("CREATE TABLE t (id int)");
        source.run("SELECT pg_replication_origin_create('elsewhere')");
        source.run("INSERT INTO t VALUES (1)");
        let mut applier = connect(&source.database);
        applier
            .batch_execute(
                "SELECT pg_replication_origin_session_setup('elsewhere');
                 INSERT INTO t VALUES (2)",
            )
            .unwrap();
        drop(applier);
        source.run("INSERT INTO t VALUES (3)");
        let frames = source.peek(&[("origin", "any")]);
        let lines = crate::decoding_tests::harness::Reader::default().lines(&frames);
        let expected = [
            "BEGIN",
            "RELATION public.t d (id int4)",
            "INSERT public.t id=1",
            "COMMIT",
            "BEGIN from elsewhere",
            "INSERT public.t id=2",
            "COMMIT",
            "BEGIN",
            "INSERT public.t id=3",
            "COMMIT",
        ];
        assert_eq!(lines, expected);
        assert_eq!(source.peek(&[]), frames, "any is the default");
        let local = source.changes(&[("origin", "none")]);
        assert_eq!(local, ["INSERT public.t id=1", "INSERT public.t id=3"]);
    }

    #[pg_test]
    fn a_dropped_origin_keeps_its_name() {
        let mut source = Source::new("origin_dropped");
        source.run("CREATE TABLE t (id int)");
        source.run("SELECT pg_replication_origin_create('short-lived')");
        let mut applier = connect(&source.database);
        for sql in [
            "SELECT pg_replication_origin_session_setup('short-lived')",
            "INSERT INTO t VALUES (1)",
            "SELECT pg_replication_origin_session_reset()",
        ] {
            applier.batch_execute(sql).unwrap();
        }
        source.run("SELECT pg_replication_origin_drop('short-lived')");
        assert_eq!(source.lines(&[])[0], "BEGIN from short-lived");
    }
}
