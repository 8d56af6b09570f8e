//! UPDATE and DELETE under each replica identity.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use std::sync::{Arc, Mutex};

    use postgres::NoTls;

    use crate::decoding_tests::harness::{Source, config};

    #[pg_test]
    fn default_sends_the_old_key_only_when_it_changed() {
        let mut source = Source::new("identity_default");
        source.run("CREATE TABLE t (a text, id int PRIMARY KEY, b text)");
        source.run("INSERT INTO t VALUES ('x', 1, NULL)");
        source.run("UPDATE t SET b = 'y'; UPDATE t SET id = 2; DELETE FROM t");
        let expected = [
            "BEGIN",
            "RELATION public.t d (a text, id int4 key, b text)",
            "INSERT public.t a=x id=1 b=NULL",
            "COMMIT",
            "BEGIN",
            "UPDATE public.t a=x id=1 b=y",
            "UPDATE public.t a=x id=2 b=y (key a=NULL id=1 b=NULL)",
            "DELETE public.t a=NULL id=2 b=NULL (key)",
            "COMMIT",
        ];
        assert_eq!(source.lines(&[]), expected);
    }

    #[pg_test]
    fn an_index_may_be_the_identity() {
        let mut source = Source::new("identity_index");
        source.run(
            "CREATE TABLE t (id int PRIMARY KEY, a text NOT NULL, b int NOT NULL, c int);
             CREATE UNIQUE INDEX i ON t (b, a) INCLUDE (c);
             ALTER TABLE t REPLICA IDENTITY USING INDEX i",
        );
        source.run("INSERT INTO t VALUES (1, 'x', 10, 100)");
        source.run("UPDATE t SET id = 2; UPDATE t SET a = 'y'; DELETE FROM t");
        let expected = [
            "BEGIN",
            "RELATION public.t i (id int4, a text key, b int4 key, c int4)",
            "INSERT public.t id=1 a=x b=10 c=100",
            "COMMIT",
            "BEGIN",
            "UPDATE public.t id=2 a=x b=10 c=100",
            "UPDATE public.t id=2 a=y b=10 c=100 (key id=NULL a=x b=10 c=NULL)",
            "DELETE public.t id=NULL a=y b=10 c=NULL (key)",
            "COMMIT",
        ];
        assert_eq!(source.lines(&[]), expected);
    }

    #[pg_test]
    fn full_sends_the_whole_old_row() {
        let mut source = Source::new("identity_full");
        source.run("CREATE TABLE t (id int PRIMARY KEY, a text); CREATE TABLE u (a int, b int)");
        source.run("ALTER TABLE t REPLICA IDENTITY FULL; ALTER TABLE u REPLICA IDENTITY FULL");
        source.run("INSERT INTO t VALUES (1, 'x'); INSERT INTO u VALUES (1, NULL), (1, NULL)");
        source.run("UPDATE t SET a = NULL; UPDATE u SET b = 2; DELETE FROM t; DELETE FROM u");
        let expected = [
            "BEGIN",
            "RELATION public.t f (id int4 key, a text)",
            "INSERT public.t id=1 a=x",
            "RELATION public.u f (a int4, b int4)",
            "INSERT public.u a=1 b=NULL",
            "INSERT public.u a=1 b=NULL",
            "COMMIT",
            "BEGIN",
            "UPDATE public.t id=1 a=NULL (full id=1 a=x)",
            "UPDATE public.u a=1 b=2 (full a=1 b=NULL)",
            "UPDATE public.u a=1 b=2 (full a=1 b=NULL)",
            "DELETE public.t id=1 a=NULL (full)",
            "DELETE public.u a=1 b=2 (full)",
            "DELETE public.u a=1 b=2 (full)",
            "COMMIT",
        ];
        assert_eq!(source.lines(&[]), expected);
    }

    #[pg_test]
    fn rows_without_identity_are_told_and_not_dropped() {
        let mut source = Source::new("identity_nothing");
        source.run("CREATE TABLE t (id int PRIMARY KEY, a int); CREATE TABLE u (a int)");
        source.run("ALTER TABLE t REPLICA IDENTITY NOTHING");
        source.run("INSERT INTO t VALUES (1, 1); INSERT INTO u VALUES (1)");
        source.run("UPDATE t SET a = 2; UPDATE u SET a = 2; DELETE FROM t; DELETE FROM u");
        let expected = [
            "BEGIN",
            "RELATION public.t n (id int4, a int4)",
            "INSERT public.t id=1 a=1",
            "RELATION public.u d (a int4)",
            "INSERT public.u a=1",
            "COMMIT",
            "BEGIN",
            "UPDATE public.t id=1 a=2",
            "UPDATE public.u a=2",
            "DELETE public.t id=NULL a=NULL (nothing)",
            "DELETE public.u a=NULL (nothing)",
            "COMMIT",
        ];
        assert_eq!(source.lines(&[]), expected);
    }

    #[pg_test]
    fn the_server_warns_once_per_table() {
        let mut source = Source::new("identity_warning");
        source.run("CREATE TABLE t (a int); CREATE TABLE u (a int)");
        source.run("INSERT INTO t VALUES (1), (2), (3); INSERT INTO u VALUES (1)");
        source.run("DELETE FROM t WHERE a < 3; UPDATE t SET a = 4; UPDATE u SET a = 2");
        let warnings = Arc::new(Mutex::new(Vec::new()));
        let sink = warnings.clone();
        let mut config = config(&source.database);
        config.notice_callback(move |notice| {
            let hint = notice.hint().unwrap_or_default().to_owned();
            sink.lock().unwrap().push((notice.message().to_owned(), hint));
        });
        source.client = config.connect(NoTls).unwrap();
        source.take(&[]);
        let text = |what: &str, table: &str, doing: &str| {
            let because = "because it does not have a replica identity";
            (
                format!("targets cannot {what} table \"public.{table}\" {because}"),
                format!("To enable {doing} the table, set REPLICA IDENTITY using ALTER TABLE."),
            )
        };
        let expected = [text("delete from", "t", "deleting from"), text("update", "u", "updating")];
        assert_eq!(*warnings.lock().unwrap(), expected);
    }

    #[pg_test]
    fn postgres_refuses_such_statements_on_published_tables() {
        let mut source = Source::new("identity_published");
        source.run("CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
        source.run("CREATE PUBLICATION p FOR TABLE t");
        let error = source.client.batch_execute("DELETE FROM t").unwrap_err();
        let message = error.as_db_error().unwrap().message().to_owned();
        assert!(message.contains("does not have a replica identity"), "{message}");
    }

    #[pg_test]
    fn a_change_of_identity_is_seen_where_it_happened() {
        let mut source = Source::new("identity_changes");
        source.run("CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t VALUES (1, 1)");
        source.run("UPDATE t SET a = 2");
        source.run("ALTER TABLE t REPLICA IDENTITY FULL");
        source.run("UPDATE t SET a = 3");
        source.run("ALTER TABLE t REPLICA IDENTITY DEFAULT");
        source.run("DELETE FROM t");
        let mut lines = source.lines(&[]);
        lines.retain(|line| line != "BEGIN" && line != "COMMIT");
        let expected = [
            "RELATION public.t d (id int4 key, a int4)",
            "INSERT public.t id=1 a=1",
            "UPDATE public.t id=1 a=2",
            "RELATION public.t f (id int4 key, a int4)",
            "UPDATE public.t id=1 a=3 (full id=1 a=2)",
            "RELATION public.t d (id int4 key, a int4)",
            "DELETE public.t id=1 a=NULL (key)",
        ];
        assert_eq!(lines, expected);
    }
}
