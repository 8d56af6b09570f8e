//! Savepoints, and what is rolled back to one.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::decoding_tests::harness::Source;

    #[pg_test]
    fn what_is_rolled_back_is_not_sent() {
        let mut source = Source::new("savepoints");
        source.run("CREATE TABLE t (id int)");
        source.run(
            "BEGIN; INSERT INTO t VALUES (1);
             SAVEPOINT a; INSERT INTO t VALUES (2); ROLLBACK TO a;
             SAVEPOINT b; INSERT INTO t VALUES (3); SAVEPOINT c; INSERT INTO t VALUES (4);
             RELEASE c; RELEASE b; INSERT INTO t VALUES (5);
             COMMIT",
        );
        let expected = [
            "BEGIN",
            "RELATION public.t d (id int4)",
            "INSERT public.t id=1",
            "INSERT public.t id=3",
            "INSERT public.t id=4",
            "INSERT public.t id=5",
            "COMMIT",
        ];
        assert_eq!(source.lines(&[]), expected);
    }

    #[pg_test]
    fn a_transaction_that_is_all_rolled_back_is_empty() {
        let mut source = Source::new("savepoints_empty");
        source.run("CREATE TABLE t (id int)");
        source.run("BEGIN; SAVEPOINT a; INSERT INTO t VALUES (1); ROLLBACK TO a; COMMIT");
        assert!(source.take(&[]).is_empty());
    }

    #[pg_test]
    fn ddl_that_is_rolled_back_leaves_no_trace() {
        let mut source = Source::new("savepoints_ddl");
        source.run("CREATE TABLE t (id int)");
        source.run(
            "BEGIN; INSERT INTO t VALUES (1);
             SAVEPOINT a; ALTER TABLE t ADD b int DEFAULT 5; INSERT INTO t VALUES (2, 2);
             ROLLBACK TO a; INSERT INTO t VALUES (3); COMMIT",
        );
        let expected = [
            "BEGIN",
            "RELATION public.t d (id int4)",
            "INSERT public.t id=1",
            "INSERT public.t id=3",
            "COMMIT",
        ];
        assert_eq!(source.lines(&[]), expected);
    }

    #[pg_test]
    fn transactions_come_whole_in_the_order_of_their_commits() {
        let mut source = Source::new("interleaved");
        source.run("CREATE TABLE t (id int)");
        let mut other = crate::decoding_tests::harness::connect(&source.database);
        source.run("BEGIN; INSERT INTO t VALUES (1)");
        other.batch_execute("BEGIN; INSERT INTO t VALUES (2)").unwrap();
        source.run("INSERT INTO t VALUES (3)");
        other.batch_execute("INSERT INTO t VALUES (4); COMMIT").unwrap();
        source.run("COMMIT");
        assert_eq!(source.changes(&[]), [2, 4, 1, 3].map(|id| format!("INSERT public.t id={id}")));
    }

    #[pg_test]
    fn a_prepared_transaction_comes_when_it_is_committed() {
        let mut source = Source::new("prepared");
        source.run("CREATE TABLE t (id int)");
        source.run("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'prepared_a'");
        source.run("BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'prepared_b'");
        assert!(source.take(&[]).is_empty());
        source.run("ROLLBACK PREPARED 'prepared_a'");
        source.run("COMMIT PREPARED 'prepared_b'");
        assert_eq!(source.changes(&[]), ["INSERT public.t id=2"]);
    }
}
