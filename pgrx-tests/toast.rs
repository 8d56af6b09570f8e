//! Large values: unchanged, compressed in the row, out of line, rewritten.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::decoding_tests::harness::Source;

    /// Text that does not compress: 32 KiB of hashes.
    const LARGE: &str = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 1024) i)";

    fn source(name: &str, identity: &str) -> Source {
        let mut source = Source::new(name);
        source.run("CREATE TABLE t (id int PRIMARY KEY, a text, n int, j jsonb, b bytea)");
        source.run(&format!("ALTER TABLE t REPLICA IDENTITY {identity}"));
        source.run(&format!(
            "INSERT INTO t VALUES (1, {LARGE}, 1, to_jsonb({LARGE}), {LARGE}::bytea)"
        ));
        source
    }

    #[pg_test]
    fn unchanged_values_are_not_sent_and_not_null() {
        let mut source = source("toast_unchanged", "DEFAULT");
        source.run("UPDATE t SET n = 2; UPDATE t SET id = 2; UPDATE t SET a = 'short'");
        source.run("UPDATE t SET j = NULL; DELETE FROM t");
        let expected = [
            "INSERT public.t id=1 a=32768 bytes n=1 j=32770 bytes b=65538 bytes",
            "UPDATE public.t id=1 a=UNCHANGED n=2 j=UNCHANGED b=UNCHANGED",
            "UPDATE public.t id=2 a=UNCHANGED n=2 j=UNCHANGED b=UNCHANGED \
             (key id=1 a=NULL n=NULL j=NULL b=NULL)",
            "UPDATE public.t id=2 a=short n=2 j=UNCHANGED b=UNCHANGED",
            "UPDATE public.t id=2 a=short n=2 j=NULL b=UNCHANGED",
            "DELETE public.t id=2 a=NULL n=NULL j=NULL b=NULL (key)",
        ];
        assert_eq!(source.changes(&[]), expected);
    }

    #[pg_test]
    fn the_old_row_under_full_has_the_whole_value() {
        let mut source = source("toast_full", "FULL");
        source.run("UPDATE t SET n = 2; DELETE FROM t");
        let expected = [
            "INSERT public.t id=1 a=32768 bytes n=1 j=32770 bytes b=65538 bytes",
            "UPDATE public.t id=1 a=UNCHANGED n=2 j=UNCHANGED b=UNCHANGED \
             (full id=1 a=32768 bytes n=1 j=32770 bytes b=65538 bytes)",
            "DELETE public.t id=1 a=32768 bytes n=2 j=32770 bytes b=65538 bytes (full)",
        ];
        assert_eq!(source.changes(&[]), expected);
    }

    #[pg_test]
    fn rewritten_values_arrive_whole() {
        let mut source = source("toast_rewritten", "DEFAULT");
        source.run("UPDATE t SET a = a || '!'");
        source.run("UPDATE t SET a = reverse(a), b = b || '\\x00'");
        let changes = source.changes(&[]);
        assert_eq!(
            changes[1..],
            [
                "UPDATE public.t id=1 a=32769 bytes n=1 j=UNCHANGED b=UNCHANGED",
                "UPDATE public.t id=1 a=32769 bytes n=1 j=UNCHANGED b=65540 bytes",
            ]
        );
    }

    #[pg_test]
    fn values_compressed_in_the_row_are_expanded() {
        let mut source = Source::new("toast_compressed");
        source.run("CREATE TABLE t (a text, j jsonb, n numeric, x text[])");
        // compressed, and short enough to stay in the row
        source.run("INSERT INTO t VALUES (repeat('ab', 5000))");
        source.run("INSERT INTO t (j) VALUES (to_jsonb(repeat('j', 6000)))");
        source.run("INSERT INTO t (n) VALUES (repeat('7', 9000)::numeric)");
        source.run("INSERT INTO t (x) VALUES (array_fill('element'::text, ARRAY[1000]))");
        let stored = source.value("SELECT pg_column_size(a) < 1000 FROM t WHERE a IS NOT NULL");
        assert_eq!(stored, "true", "not compressed");
        let expected = [
            "INSERT public.t a=10000 bytes j=NULL n=NULL x=NULL",
            "INSERT public.t a=NULL j=6002 bytes n=NULL x=NULL",
            "INSERT public.t a=NULL j=NULL n=9000 bytes x=NULL",
            "INSERT public.t a=NULL j=NULL n=NULL x=8001 bytes",
        ];
        assert_eq!(source.changes(&[]), expected);
    }

    #[pg_test]
    fn values_compressed_out_of_line_are_expanded() {
        let mut source = Source::new("toast_both");
        source.run("CREATE TABLE t (a text, b text COMPRESSION pglz)");
        source.run(&format!("INSERT INTO t VALUES (repeat('x', 3000000), {LARGE} || {LARGE})"));
        let sizes = source.value("SELECT pg_column_size(a) BETWEEN 2000 AND 100000 FROM t");
        assert_eq!(sizes, "true", "not compressed and out of line");
        assert_eq!(source.changes(&[]), ["INSERT public.t a=3000000 bytes b=65536 bytes"]);
    }

    #[pg_test]
    fn values_without_compression_stay_as_they_are() {
        let mut source = Source::new("toast_external");
        source.run("CREATE TABLE t (a text, b text); ALTER TABLE t ALTER a SET STORAGE EXTERNAL");
        source.run("INSERT INTO t VALUES (repeat('x', 100000), 'b')");
        source.run("UPDATE t SET b = 'c'");
        assert_eq!(
            source.changes(&[]),
            ["INSERT public.t a=100000 bytes b=b", "UPDATE public.t a=UNCHANGED b=c"]
        );
    }

    #[pg_test]
    fn a_large_key_is_sent_with_the_old_row() {
        let mut source = Source::new("toast_key");
        source.run("CREATE TABLE t (k text NOT NULL, n int); CREATE UNIQUE INDEX i ON t (k)");
        source.run("ALTER TABLE t REPLICA IDENTITY USING INDEX i");
        source.run("ALTER TABLE t ALTER k SET STORAGE EXTERNAL");
        source.run("INSERT INTO t VALUES (repeat('k', 2500), 1)");
        source.run("UPDATE t SET n = 2; DELETE FROM t");
        let changes = source.changes(&[]);
        assert_eq!(changes[0], "INSERT public.t k=2500 bytes n=1");
        assert!(changes[1].ends_with("(key k=2500 bytes n=NULL)"), "{}", changes[1]);
        assert_eq!(changes[2], "DELETE public.t k=2500 bytes n=NULL (key)");
    }
}
