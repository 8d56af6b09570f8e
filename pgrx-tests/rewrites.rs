//! The rows of tables that are rewritten.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::decoding_tests::harness::{Options, Source};
    use crate::decoding_tests::receiver::compare;

    const REWRITES: Options = &[("rewrites", "on")];

    fn source(name: &str, sql: &str) -> Source {
        let mut source = Source::new(name);
        source.run("CREATE EXTENSION rsrepl");
        source.run(sql);
        source.take(&[]);
        source
    }

    const T: &str =
        "CREATE TABLE t (id int PRIMARY KEY, gone int, a text); ALTER TABLE t DROP gone;
                     INSERT INTO t VALUES (1, 'x'), (2, 'y')";

    #[pg_test]
    fn rows_come_behind_the_message() {
        let mut source = source("rewrites_rows", T);
        source.run(
            "BEGIN; INSERT INTO t VALUES (3, 'z'); ALTER TABLE t ALTER id TYPE bigint USING id * 10, ADD r int DEFAULT length(md5(random()::text));
             INSERT INTO t VALUES (4, 'new'); COMMIT",
        );
        source.run("INSERT INTO t VALUES (5, 'later')");
        let table = "ALTER TABLE r public.t (1 id bigint not null; 3 a text; \
                     4 r integer = length(md5((random())::text))) key id";
        let expected = [
            "INSERT public.t id=3 a=z".to_owned(),
            format!("{table} rewrite"),
            "INSERT public.t id=10 a=x r=32".into(),
            "INSERT public.t id=20 a=y r=32".into(),
            "INSERT public.t id=30 a=z r=32".into(),
            table.into(),
            "INSERT public.t id=4 a=new r=32".into(),
            "INSERT public.t id=5 a=later r=32".into(),
        ];
        let whole = source.peek(REWRITES);
        let lines = crate::decoding_tests::harness::Reader::default().lines(&whole);
        let described =
            lines.iter().filter(|line| line.starts_with("RELATION")).collect::<Vec<_>>();
        assert_eq!(
            described,
            [
                "RELATION public.t d (id int4 key, a text)",
                "RELATION public.t d (id int8 key, a text, r int4)"
            ]
        );
        assert_eq!(source.changes(REWRITES), expected);
    }

    #[pg_test]
    fn without_the_option_or_the_message_there_are_none() {
        let mut source = source("rewrites_none", T);
        source.run("ALTER TABLE t ALTER id TYPE bigint");
        let table = "ALTER TABLE r public.t (1 id bigint not null; 3 a text) key id";
        assert_eq!(source.changes(&[]), [table, table]);
        source.run(
            "ALTER EVENT TRIGGER rsrepl_table_rewrite DISABLE; ALTER TABLE t ALTER id TYPE int",
        );
        assert_eq!(source.changes(REWRITES), [table.replace("bigint", "integer")]);
        source.run("ALTER EVENT TRIGGER rsrepl_table_rewrite ENABLE ALWAYS");
        // what writes a table anew and changes nothing
        source.run("VACUUM FULL t");
        source.run("CLUSTER t USING t_pkey; CREATE MATERIALIZED VIEW m AS SELECT * FROM t; REFRESH MATERIALIZED VIEW m; DROP MATERIALIZED VIEW m");
        assert!(source.changes(REWRITES).is_empty());
        // of which not every change is sent: the target may have other rows
        source.run("CREATE PUBLICATION p FOR TABLE t WITH (publish = 'insert')");
        source.run("ALTER TABLE t ALTER id TYPE bigint");
        let lines = source.changes(&[("rewrites", "on"), ("publications", "p")]);
        assert_eq!(lines[lines.len() - 2..], [table, table]);
    }

    #[pg_test]
    fn what_becomes_unlogged_is_not_emptied() {
        let mut source = source(
            "rewrites_unlogged",
            "CREATE TABLE t (id int); CREATE TABLE p (id int) PARTITION BY LIST (id);
             CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
             CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2);
             CREATE PUBLICATION root FOR ALL TABLES WITH (publish_via_partition_root)",
        );
        source.run("INSERT INTO t VALUES (1); INSERT INTO p VALUES (1), (2)");
        source.take(&[]);
        source.run("ALTER TABLE t SET UNLOGGED, ALTER id TYPE bigint; ALTER TABLE p1 SET UNLOGGED");
        let root: Options = &[("rewrites", "on"), ("publications", "root")];
        assert!(source.changes(root).is_empty());
    }

    #[pg_test]
    fn rows_of_a_rewrite_that_is_not_told_are_not_those_of_the_one_before() {
        let mut source = source("rewrites_twice", T);
        source.run(
            "BEGIN; ALTER TABLE t ALTER id TYPE bigint; ALTER EVENT TRIGGER rsrepl_table_rewrite DISABLE;
             ALTER TABLE t ALTER id TYPE int; COMMIT",
        );
        let lines = source.changes(REWRITES);
        assert_eq!(lines.iter().filter(|line| line.starts_with("INSERT")).count(), 2, "{lines:?}");
    }

    #[pg_test]
    fn large_values_come_whole() {
        const LARGE: &str = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 1024) i)";
        let mut source =
            source("rewrites_toast", "CREATE TABLE t (id int PRIMARY KEY, a text, b text)");
        source.run(&format!(
            "INSERT INTO t SELECT i, {LARGE}, repeat('b', 100000) FROM generate_series(1, 2) i"
        ));
        source.take(&[]);
        source.run("ALTER TABLE t ALTER id TYPE bigint");
        let lines = source.changes(REWRITES);
        assert_eq!(
            lines[1..3],
            [1, 2].map(|id| format!("INSERT public.t id={id} a=32768 bytes b=100000 bytes"))
        );
    }

    #[pg_test]
    fn a_savepoint_takes_them_back() {
        let mut source = source("rewrites_savepoint", T);
        source.run(
            "BEGIN; SAVEPOINT a; ALTER TABLE t ALTER id TYPE bigint USING -id; INSERT INTO t VALUES (-3, 'gone');
             ROLLBACK TO a; INSERT INTO t VALUES (3, 'z'); ALTER TABLE t ALTER id TYPE smallint; COMMIT",
        );
        let table = "ALTER TABLE r public.t (1 id smallint not null; 3 a text) key id";
        let expected = [
            "INSERT public.t id=3 a=z",
            &format!("{table} rewrite"),
            "INSERT public.t id=1 a=x",
            "INSERT public.t id=2 a=y",
            "INSERT public.t id=3 a=z",
            table,
        ];
        assert_eq!(source.changes(REWRITES), expected);
    }

    #[pg_test]
    fn partitions_are_told_of_as_one() {
        let mut source = source(
            "rewrites_partitions",
            "CREATE TABLE p (id int, a int) PARTITION BY LIST (id);
             CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
             CREATE TABLE p2 (a int, id int); ALTER TABLE p ATTACH PARTITION p2 FOR VALUES IN (2);
             INSERT INTO p VALUES (1, 1), (2, 2)",
        );
        source.run("BEGIN; ALTER TABLE p ALTER a TYPE text USING 'v' || a; ALTER TABLE p ALTER a TYPE int USING 7; COMMIT");
        let of = |ty: &str, rewrite: &str| {
            [
                format!("ALTER TABLE p public.p (1 id integer; 2 a {ty}) no rows{rewrite}"),
                format!("ALTER TABLE r public.p1 (1 id integer; 2 a {ty}){rewrite}"),
                format!("ALTER TABLE r public.p2 (1 a {ty}; 2 id integer){rewrite}"),
            ]
        };
        let all = |ty: &str, values: [&str; 2]| {
            let [p, p1, p2] = of(ty, " rewrite");
            let mut lines = vec![
                p,
                p1,
                format!("INSERT public.p1 id=1 a={}", values[0]),
                p2,
                format!("INSERT public.p2 a={} id=2", values[1]),
            ];
            lines.extend(of(ty, ""));
            lines
        };
        assert_eq!(
            source.changes(REWRITES),
            [all("text", ["v1", "v2"]), all("integer", ["7", "7"])].concat()
        );
    }

    #[pg_test]
    fn partitions_come_again_under_the_name_of_the_root() {
        let mut source = source(
            "rewrites_root",
            "CREATE TABLE p (id int, a int) PARTITION BY LIST (id);
             CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
             CREATE TABLE p2 (a int, id int); ALTER TABLE p ATTACH PARTITION p2 FOR VALUES IN (2);
             INSERT INTO p VALUES (1, 1), (2, 2);
             CREATE PUBLICATION root FOR TABLE p WITH (publish_via_partition_root)",
        );
        source.run("ALTER TABLE p ALTER a TYPE text USING 'v' || a");
        let table = "ALTER TABLE p public.p (1 id integer; 2 a text)";
        let expected = [
            &format!("{table} rewrite"),
            "INSERT public.p id=1 a=v1",
            "INSERT public.p id=2 a=v2",
            table,
        ];
        assert_eq!(source.changes(&[("rewrites", "on"), ("publications", "root")]), expected);
    }

    #[pg_test]
    fn a_large_rewrite_is_streamed() {
        let mut source = source(
            "rewrites_streamed",
            "SET logical_decoding_work_mem = '64kB'; CREATE TABLE t (id int PRIMARY KEY, v text)",
        );
        if source.loses_tables_when_streaming() {
            return;
        }
        source.run("INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 3000) i");
        source.take(&[]);
        source.run(
            "BEGIN; SAVEPOINT a; ALTER TABLE t ALTER id TYPE bigint; ROLLBACK TO a;
             SAVEPOINT b; ALTER TABLE t ALTER id TYPE numeric; RELEASE b; UPDATE t SET v = 'new' WHERE id < 1000; COMMIT",
        );
        let receiver = compare(&mut source, REWRITES);
        assert_eq!(receiver.commits, 1);
        let inserts = receiver.lines.iter().filter(|line| line.starts_with("INSERT")).count();
        assert_eq!(inserts, 3000);
    }
}
