//! What the event triggers of `sql/schema_changes.sql` tell, and what of it goes out.

#[pgrx::pg_schema]
mod tests {
    use std::sync::{Arc, Mutex};

    use pgrx::prelude::*;

    use crate::decoding_tests::harness::{Options, Source, config};
    use crate::decoding_tests::receiver::compare;
    use postgres::NoTls;

    /// A database with a slot and the extension.
    fn source(name: &str) -> Source {
        let mut source = Source::new(name);
        source.run("CREATE EXTENSION rsrepl");
        source
    }

    /// Everything but BEGIN, COMMIT and RELATION.
    fn told(source: &mut Source, sql: &[&str], options: Options) -> Vec<String> {
        sql.iter().for_each(|sql| source.run(sql));
        source.changes(options)
    }

    #[pg_test]
    fn each_change_is_told_in_its_place() {
        let mut source = source("schema_place");
        let lines = told(
            &mut source,
            &[
                "CREATE TABLE t (id int PRIMARY KEY, a text)",
                "INSERT INTO t VALUES (1, 'a')",
                "BEGIN; INSERT INTO t VALUES (2, 'b');
             ALTER TABLE t ADD b timestamptz NOT NULL DEFAULT '2026-01-02 03:04:05+06';
             INSERT INTO t VALUES (3, 'c', 'epoch');
             ALTER TABLE t RENAME a TO z; ALTER TABLE t DROP z; ALTER TABLE t RENAME TO u; COMMIT",
                "CREATE SCHEMA s; ALTER TABLE u SET SCHEMA s",
                "ALTER SCHEMA s RENAME TO r",
                "SET timezone = 'Asia/Tokyo'; SET datestyle = 'SQL, DMY'; ALTER TABLE r.u ALTER b SET DEFAULT now()",
                "ALTER TABLE r.u REPLICA IDENTITY FULL, ALTER b DROP NOT NULL, DROP CONSTRAINT t_pkey",
                "CREATE INDEX ON r.u (b)",
                "COMMENT ON TABLE r.u IS 'x'",
                "GRANT SELECT ON r.u TO PUBLIC",
                "DROP SCHEMA r CASCADE",
            ],
            &[],
        );
        let b = "3 b timestamp with time zone not null = '2026-01-01 21:04:05+00'::timestamp with time zone \
                 missing 2026-01-01 21:04:05+00";
        let now = b.replace("'2026-01-01 21:04:05+00'::timestamp with time zone", "now()");
        let nullable = now.replace(" not null", "");
        let id = "1 id integer not null";
        let expected = [
            format!("CREATE TABLE r public.t ({id}; 2 a text) key id"),
            "INSERT public.t id=1 a=a".into(),
            "INSERT public.t id=2 a=b".into(),
            format!("ALTER TABLE r public.t ({id}; 2 a text; {b}) key id"),
            "INSERT public.t id=3 a=c b=1970-01-01 00:00:00+00".into(),
            format!("ALTER TABLE r public.t ({id}; 2 z text; {b}) key id"),
            format!("ALTER TABLE r public.t ({id}; {b}) key id"),
            format!("ALTER TABLE r public.u ({id}; {b}) key id"),
            format!("ALTER TABLE r s.u ({id}; {b}) key id"),
            format!("ALTER SCHEMA r r.u ({id}; {b}) key id"),
            format!("ALTER TABLE r r.u ({id}; {now}) key id"),
            format!("ALTER TABLE r r.u ({id}; {nullable}) identity f"),
            "DROP SCHEMA r.u gone".into(),
        ];
        assert_eq!(lines, expected);
    }

    #[pg_test]
    fn a_table_is_told_as_it_is() {
        let mut source = source("schema_described");
        let lines = told(
            &mut source,
            &["CREATE SCHEMA \"S\"; CREATE TYPE \"S\".mood AS ENUM ('a'); CREATE DOMAIN \"S\".few AS varchar(3)[];
             CREATE FUNCTION \"S\".one() RETURNS int LANGUAGE sql RETURN 1;
             CREATE COLLATION \"S\".\"de\" FROM \"C\"",
            "CREATE TABLE \"T,\" (b numeric(9,3), a int GENERATED ALWAYS AS IDENTITY, m \"S\".mood[] DEFAULT '{a}',
               d \"S\".few, x text COLLATE \"S\".de DEFAULT 'ä' || 'b', g int GENERATED ALWAYS AS (o + 1) STORED,
               o int DEFAULT \"S\".one(), i interval[], PRIMARY KEY (o, b) INCLUDE (a))",
            "ALTER TABLE \"T,\" ADD m2 \"S\".mood[] DEFAULT '{a,NULL}'; CREATE TABLE c AS SELECT 1 AS n",
            "CREATE TYPE pair AS (a int); CREATE TABLE typed OF pair; ALTER TYPE pair ADD ATTRIBUTE b text CASCADE",
            "DROP TYPE \"S\".mood CASCADE", "SELECT 2 AS m INTO e"],
            &[],
        );
        let table = |command: &str, mood: &str, rest: &str| {
            let mood = if mood.is_empty() { String::new() } else { format!("3 m {mood}; ") };
            format!(
                "{command} r public.T, (1 b numeric(9,3) not null; 2 a integer not null identity a; {mood}\
                 4 d \"S\".few; 5 x text = ('ä'::text || 'b'::text) collate \"S\".de; \
                 6 g integer = (o + 1) generated s; 7 o integer not null = \"S\".one(); \
                 8 i interval[]{rest}) key o,b"
            )
        };
        let of = |default: &str| format!("\"S\".mood[] = '{default}'::\"S\".mood[]");
        let m2 = format!("; 9 m2 {} missing {{a,NULL}}", of("{a,NULL}"));
        let expected = [
            table("CREATE TABLE", &of("{a}"), ""),
            table("ALTER TABLE", &of("{a}"), &m2),
            "INSERT public.c n=1".into(),
            "CREATE TABLE AS r public.c (1 n integer)".into(),
            "CREATE TABLE r public.typed (1 a integer)".into(),
            "ALTER TYPE r public.typed (1 a integer; 2 b text)".into(),
            table("DROP TYPE", "", ""),
            "INSERT public.e m=2".into(),
            "SELECT INTO r public.e (1 m integer)".into(),
        ];
        assert_eq!(lines, expected);
    }

    #[pg_test]
    fn what_is_not_replicated_is_not_told() {
        let mut source = source("schema_silent");
        let lines = told(
            &mut source,
            &[
                "CREATE TEMP TABLE a (id int); ALTER TABLE a ADD b int; DROP TABLE a",
                "CREATE UNLOGGED TABLE b (id int); ALTER TABLE b ALTER id TYPE text",
                "CREATE VIEW v AS SELECT 1 AS a; CREATE MATERIALIZED VIEW m AS SELECT 1 AS a; CREATE SEQUENCE s",
                "ALTER TABLE rsrepl.target_reports ADD x int",
                "ALTER TABLE b SET LOGGED",
            ],
            &[],
        );
        assert_eq!(lines, ["ALTER TABLE r public.b (1 id text)"]);
        // nobody listens
        source.run("SELECT pg_drop_replication_slot('rsrepl_schema_silent')");
        source.run("CREATE PUBLICATION everything FOR ALL TABLES");
        source.run("SELECT pg_create_logical_replication_slot('other_plugin', 'pgoutput')");
        source.run("CREATE TABLE t (id int); DROP TABLE t");
        let seen = source.value(
            "SELECT count(*) FROM pg_logical_slot_get_binary_changes('other_plugin', NULL, NULL, 'proto_version', '1',
               'publication_names', 'everything', 'messages', 'on')
             WHERE position('rsrepl.schema'::bytea IN data) > 0",
        );
        source.run("SELECT pg_drop_replication_slot('other_plugin')");
        assert_eq!(seen, "0");
    }

    #[pg_test]
    fn publications_choose_tables() {
        let mut source = source("schema_publications");
        let lines = told(
            &mut source,
            &["CREATE TABLE a (id int); CREATE TABLE b (id int); CREATE SCHEMA s; CREATE TABLE s.c (id int);
              CREATE PUBLICATION p FOR TABLE a",
            "ALTER TABLE a ADD x int; ALTER TABLE b ADD x int",
            "ALTER PUBLICATION p ADD TABLE b",
            "ALTER PUBLICATION p ADD TABLES IN SCHEMA s",
            "ALTER TABLE b ADD y int", "CREATE TABLE s.d (id int)",
            "ALTER PUBLICATION p DROP TABLE b", "ALTER TABLE b ADD z int"],
            &[("publications", "p")],
        );
        let expected = [
            "CREATE PUBLICATION r public.a (1 id integer)",
            "ALTER TABLE r public.a (1 id integer; 2 x integer)",
            "ALTER PUBLICATION r public.b (1 id integer; 2 x integer)",
            "ALTER PUBLICATION r s.c (1 id integer)",
            "ALTER TABLE r public.b (1 id integer; 2 x integer; 3 y integer)",
            "CREATE TABLE r s.d (1 id integer)",
        ];
        let lines: Vec<_> = lines.iter().filter(|line| !line.ends_with("DROP TABLE b")).collect();
        assert_eq!(lines, expected.iter().collect::<Vec<_>>());
    }

    #[pg_test]
    fn tables_above_come_first() {
        let mut source = source("schema_partitions");
        let lines = told(
            &mut source,
            &[
                "CREATE TABLE p (id int) PARTITION BY LIST (id);
              CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2);
              CREATE TABLE p1 (id int); ALTER TABLE p ATTACH PARTITION p1 FOR VALUES IN (1);
              CREATE TABLE parent (id int); CREATE TABLE child (x int) INHERITS (parent)",
                "INSERT INTO p VALUES (1)",
                "ALTER TABLE p ADD a int DEFAULT 7",
                "ALTER TABLE parent RENAME id TO n",
                "DROP TABLE p, parent CASCADE",
            ],
            &[],
        );
        let lines = &lines[lines.iter().position(|line| line.starts_with("INSERT")).unwrap() + 1..];
        let expected = [
            "ALTER TABLE p public.p (1 id integer; 2 a integer = 7 missing 7) no rows",
            "ALTER TABLE r public.p2 (1 id integer; 2 a integer = 7 missing 7)",
            "ALTER TABLE r public.p1 (1 id integer; 2 a integer = 7 missing 7)",
            "ALTER TABLE r public.parent (1 n integer)",
            "ALTER TABLE r public.child (1 n integer; 2 x integer)",
        ];
        assert_eq!(lines[..5], expected);
        let mut gone = lines[5..].to_vec();
        gone.sort();
        let all = ["child", "p", "p1", "p2", "parent"]
            .map(|name| format!("DROP TABLE public.{name} gone"));
        assert_eq!(gone, all);
    }

    #[pg_test]
    fn a_table_is_told_of_as_it_is_published() {
        let mut source = source("schema_published");
        source.run(
            "CREATE TABLE p (id int, a int, b int, PRIMARY KEY (id)) PARTITION BY LIST (id);
             CREATE TABLE q PARTITION OF p FOR VALUES IN (1) PARTITION BY LIST (id);
             CREATE TABLE q1 PARTITION OF q FOR VALUES IN (1);
             CREATE TABLE few (id int PRIMARY KEY, hidden int, a int);
             CREATE PUBLICATION root FOR TABLE p (id, b) WITH (publish_via_partition_root);
             CREATE PUBLICATION leaves FOR TABLE q;
             CREATE PUBLICATION few FOR TABLE few (hidden, a) WITH (publish = 'insert')",
        );
        source.take(&[]);
        source.run("ALTER TABLE p ADD c int; ALTER TABLE few ADD c int");
        let mut of = |name| {
            let frames = source.peek(&[("publications", name)]);
            let mut lines = crate::decoding_tests::harness::Reader::default().lines(&frames);
            lines.retain(|line| line.starts_with("ALTER"));
            lines
        };
        assert_eq!(
            of("root"),
            ["ALTER TABLE p public.p (1 id integer not null; 3 b integer) key id"]
        );
        let all = "(1 id integer not null; 2 a integer; 3 b integer; 4 c integer) key id";
        let leaves = [
            format!("ALTER TABLE p public.q {all} no rows"),
            format!("ALTER TABLE r public.q1 {all}"),
        ];
        assert_eq!(of("leaves"), leaves);
        assert_eq!(of("few"), ["ALTER TABLE r public.few (2 hidden integer; 3 a integer)"]);
    }

    /// As rows do, so that one cannot stop the stream where no row would.
    #[pg_test]
    fn a_missing_publication_does_not_stop_ddl() {
        let mut source = source("schema_missing");
        source.run("CREATE TABLE t (id int); ALTER TABLE t ADD a int");
        assert!(source.changes(&[("publications", "nowhere")]).is_empty());
    }

    #[pg_test]
    fn publications_that_differ_do_not_stop_ddl() {
        let mut source = source("schema_differ");
        source.run(
            "CREATE TABLE t (id int PRIMARY KEY, a int);
             CREATE PUBLICATION p FOR TABLE t (id, a); CREATE PUBLICATION q FOR TABLE t (id, a)",
        );
        source.take(&[]);
        source.run(
            "BEGIN; ALTER PUBLICATION p SET TABLE t (id); ALTER PUBLICATION q SET TABLE t (id); COMMIT;
             INSERT INTO t VALUES (1, 2)",
        );
        let lines = source.changes(&[("publications", "p,q")]);
        assert_eq!(lines.last().map(String::as_str), Some("INSERT public.t id=1"));
        assert!(lines.len() > 1, "{lines:?}"); // the second one agrees
    }

    #[pg_test]
    fn missing_values_are_as_their_types_write_them() {
        let mut source = source("schema_missing_values");
        source.run("CREATE TABLE t (id int); INSERT INTO t VALUES (1)");
        source.run(
            "ALTER TABLE t ADD b box DEFAULT '(1,1),(0,0)', ADD a text DEFAULT 'it''s \"{a,b}\"',
             ADD i int[] DEFAULT '{{1,NULL},{3,4}}', ADD e text DEFAULT ''",
        );
        let missing = source.value(
            "SELECT string_agg(c->>'missing', '|' ORDER BY (c->>'number')::int)
             FROM jsonb_array_elements(rsrepl.describe_table('t'::regclass)->'columns') AS c",
        );
        assert_eq!(missing, "(1,1),(0,0)|it's \"{a,b}\"|{{1,NULL},{3,4}}|");
    }

    #[pg_test]
    fn partitions_that_do_not_change_are_neither_locked_nor_told() {
        let mut source = source("schema_siblings");
        source.run(
            "CREATE TABLE p (id int DEFAULT 7) PARTITION BY LIST (id);
             CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); CREATE TABLE p2 (id int)",
        );
        source.take(&[]);
        let mut other = config(&source.database).connect(NoTls).unwrap();
        other.batch_execute("BEGIN; LOCK TABLE p1").unwrap();
        // without the lock of a sibling, these wait for nobody
        source.run("SET statement_timeout = '3s'; ALTER TABLE p RENAME TO q");
        other.batch_execute("COMMIT").unwrap();
        source.run("ALTER TABLE q ATTACH PARTITION p2 FOR VALUES IN (2)");
        let lines = source.changes(&[]);
        let told: Vec<_> = lines.iter().filter_map(|line| line.split(' ').nth(3)).collect();
        assert_eq!(told, ["public.q", "public.q", "public.p2"], "{lines:?}");
    }

    #[pg_test]
    fn a_description_that_is_too_long_is_a_warning() {
        let mut source = source("schema_long");
        source.run("CREATE TABLE t (id int)");
        source.take(&[]);
        source.run("ALTER TABLE t ADD a text; ALTER TABLE t ALTER a SET DEFAULT repeat('x', 10)");
        assert_eq!(source.changes(&[]).len(), 2);
        source.run(
            "DO $$ BEGIN EXECUTE format('ALTER TABLE t ALTER a SET DEFAULT %L', repeat('x', 1100000)); END $$",
        );
        source.run("INSERT INTO t VALUES (1, 'a')");
        assert_eq!(source.changes(&[]), ["INSERT public.t id=1 a=a"]);
    }

    #[pg_test]
    fn ddl_never_fails_because_of_it() {
        let mut source = source("schema_errors");
        source.run("CREATE FUNCTION public.to_json(oid) RETURNS int LANGUAGE sql AS 'SELECT 1/0'");
        // somebody without any right, with names of their own in front of ours
        source.run(
            "DROP ROLE IF EXISTS rsrepl_schema_nobody; CREATE ROLE rsrepl_schema_nobody LOGIN;
             GRANT CREATE ON SCHEMA public TO rsrepl_schema_nobody",
        );
        let mut nobody =
            config(&source.database).user("rsrepl_schema_nobody").connect(NoTls).unwrap();
        nobody
            .batch_execute(
                "CREATE FUNCTION public.format_type(oid, int) RETURNS text LANGUAGE plpgsql AS
                   'BEGIN RAISE EXCEPTION ''called by %'', current_user; END';
                 SET search_path = public, pg_catalog;
                 CREATE TABLE theirs (id int)",
            )
            .unwrap();
        assert_eq!(source.changes(&[]), ["CREATE TABLE r public.theirs (1 id integer)"]);
        // an error of ours is a warning, and what the statement did stays
        source.run(
            "CREATE OR REPLACE FUNCTION rsrepl.describe_table(relation oid) RETURNS jsonb LANGUAGE sql AS 'SELECT to_jsonb(1 / 0)'",
        );
        let said = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&said);
        let mut listening = config(&source.database)
            .notice_callback(move |notice| heard.lock().unwrap().push(notice.message().to_owned()))
            .connect(NoTls)
            .unwrap();
        listening
            .batch_execute("ALTER TABLE theirs ADD a int; ALTER TABLE theirs ALTER a TYPE text")
            .unwrap();
        let warning = "rsrepl could not tell its targets of this ALTER TABLE: division by zero";
        assert_eq!(*said.lock().unwrap(), [warning; 3]);
        let unlogged = "CREATE UNLOGGED TABLE u (id int); ALTER TABLE u SET LOGGED; DROP TABLE u; DROP TABLE theirs";
        listening.batch_execute(unlogged).unwrap();
        let lost = "rsrepl does not send the rows that table public.u has so far";
        assert!(said.lock().unwrap().iter().any(|said| said == lost), "{said:?}");
        assert_eq!(
            source.changes(&[("rewrites", "on")]),
            ["DROP TABLE public.u gone", "DROP TABLE public.theirs gone"]
        );
        source.run("DROP EXTENSION rsrepl");
        source.run("CREATE TABLE after (id int)");
        assert_eq!(source.changes(&[]).len(), 0);
        source.run("DROP OWNED BY rsrepl_schema_nobody; DROP ROLE rsrepl_schema_nobody");
    }

    #[pg_test]
    fn only_our_own_messages_are_believed() {
        let mut source = source("schema_forged");
        source.run("CREATE TABLE t (id int)");
        assert_eq!(source.changes(&[]).len(), 1);
        let forged = "'{\"version\": 1, \"command\": \"DROP TABLE\", \"dropped\": {\"oid\": 17000, \"schema\": \"public\", \"name\": \"t\"}}'";
        source.run(&format!("SELECT pg_logical_emit_message(true, 'rsrepl.schema', {forged})"));
        source.run(&format!("SELECT pg_logical_emit_message(false, 'rsrepl.schema', {forged})"));
        // a real one of another transaction
        source.run(&format!(
            "CREATE TABLE kept (content bytea); INSERT INTO kept SELECT rsrepl.seal_schema_change({forged})"
        ));
        source.take(&[]);
        source.run("SELECT pg_logical_emit_message(true, 'rsrepl.schema', content) FROM kept");
        source.run("INSERT INTO t VALUES (1)");
        assert_eq!(source.changes(&[("messages", "on")]), ["INSERT public.t id=1"]);
        // in its own it is taken
        source.run(&format!(
            "SELECT pg_logical_emit_message(true, 'rsrepl.schema', rsrepl.seal_schema_change({forged}))"
        ));
        assert_eq!(source.changes(&[]), ["DROP TABLE public.t gone"]);
        // and what it says may be anything
        for odd in [
            "",
            "[]",
            "{}",
            "{\"table\": {\"oid\": 4000000000}}",
            "{\"table\": 1}",
            "{\"table\": {\"oid\": -1}}",
            "\\xff",
        ] {
            source.run(&format!(
                "SELECT pg_logical_emit_message(true, 'rsrepl.schema', rsrepl.seal_schema_change('{odd}'))"
            ));
        }
        source.run("INSERT INTO t VALUES (2)");
        assert_eq!(source.changes(&[]), ["INSERT public.t id=2"]);
    }

    #[pg_test]
    fn names_are_utf8_on_the_wire() {
        let options = "ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'";
        let mut source = Source::with("schema_latin1", options);
        source.run("CREATE EXTENSION rsrepl; CREATE TABLE \"tä\" (\"ö\" text DEFAULT 'ß')");
        assert_eq!(source.changes(&[]), ["CREATE TABLE r public.tä (1 ö text = 'ß'::text)"]);
    }

    /// Of a transaction that runs meanwhile: `sidecar/tests/source/schema.rs`.
    #[pg_test]
    fn what_is_rolled_back_is_not_told_while_a_transaction_runs() {
        let mut source = source("schema_streamed");
        source.run(
            "SET logical_decoding_work_mem = '64kB'; CREATE TABLE t (id int PRIMARY KEY, v text)",
        );
        source.take(&[]);
        let rows = |from: i32| {
            format!(
                "INSERT INTO t SELECT i, 'row ' || i FROM generate_series({from}, {from} + 2999) i;"
            )
        };
        source.run(&format!(
            "BEGIN; {} SAVEPOINT a; ALTER TABLE t ADD gone int; {} SAVEPOINT b; ALTER TABLE t ADD b int; {}
             ROLLBACK TO a; ALTER TABLE t ADD stays int; {} RELEASE a; {} COMMIT",
            rows(10_000), rows(20_000), rows(30_000), rows(40_000), rows(50_000),
        ));
        let receiver = compare(&mut source, &[]);
        let told: Vec<_> = receiver.lines.iter().filter(|line| line.starts_with("ALTER")).collect();
        assert_eq!(
            told,
            ["ALTER TABLE r public.t (1 id integer not null; 2 v text; 3 stays integer) key id"]
        );
    }
}
