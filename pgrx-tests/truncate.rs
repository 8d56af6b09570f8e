//! TRUNCATE with all its words.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::decoding_tests::harness::Source;

    #[pg_test]
    fn every_emptied_table_is_named() {
        let mut source = Source::new("truncate");
        source.run(
            "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int REFERENCES a);
             CREATE TABLE c (id serial)",
        );
        source.run("TRUNCATE a CASCADE");
        source.run("TRUNCATE c RESTART IDENTITY");
        source.run("TRUNCATE a, b, c");
        source.run("BEGIN; TRUNCATE c; ROLLBACK");
        let expected = [
            "BEGIN",
            "RELATION public.a d (id int4 key)",
            "RELATION public.b d (id int4)",
            "TRUNCATE public.a public.b cascade",
            "COMMIT",
            "BEGIN",
            "RELATION public.c d (id int4)",
            "TRUNCATE public.c restart identity",
            "COMMIT",
            "BEGIN",
            "TRUNCATE public.a public.b public.c",
            "COMMIT",
        ];
        assert_eq!(source.lines(&[]), expected);
    }

    #[pg_test]
    fn a_truncate_stands_where_it_happened() {
        let mut source = Source::new("truncate_order");
        source.run("CREATE TABLE t (id int)");
        source.run("BEGIN; INSERT INTO t VALUES (1); TRUNCATE t; INSERT INTO t VALUES (2); COMMIT");
        assert_eq!(
            source.changes(&[]),
            ["INSERT public.t id=1", "TRUNCATE public.t", "INSERT public.t id=2"]
        );
    }
}
