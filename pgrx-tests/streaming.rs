//! Transactions that are sent while they run: what a receiver makes of them is what it would have been
//! sent whole.

#[pgrx::pg_schema]
mod tests {
    use bytes::Bytes;
    use pgrx::prelude::*;
    use rsrepl_wire::{Frame, StreamEnd};

    use crate::decoding_tests::harness::{Options, Source, connect};
    use crate::decoding_tests::receiver::{Receiver, compare};

    const STREAMING: Options = &[("streaming", "on"), ("messages", "on")];
    const WHOLE: Options = &[("messages", "on")];

    /// A database whose decoding streams almost at once.
    fn source(name: &str) -> Source {
        let mut source = Source::new(name);
        source.run("SET logical_decoding_work_mem = '64kB'");
        source.run(
            "CREATE TABLE t (id int, v text); CREATE TABLE u (id int PRIMARY KEY, v text);
             ALTER TABLE u ALTER v SET STORAGE EXTERNAL;
             ALTER TABLE t REPLICA IDENTITY FULL",
        );
        source
    }

    fn rows(table: &str, from: i32, to: i32) -> String {
        format!("INSERT INTO {table} SELECT i, 'row ' || i FROM generate_series({from}, {to}) i;")
    }

    #[pg_test]
    fn a_large_transaction_is_sent_before_its_commit() {
        let mut source = source("stream_commit");
        source.run(&rows("t", 1, 5000));
        let frames = source.peek(STREAMING);
        let frames: Vec<_> = frames.into_iter().map(|f| Frame::parse(f).unwrap()).collect();
        assert!(frames.len() > 5, "{} frames", frames.len());
        assert!(frames.iter().all(Frame::streams));
        assert!(matches!(frames.last().unwrap().stream_end(), Ok(Some(StreamEnd::Commit(_)))));
        let receiver = compare(&mut source, WHOLE);
        assert_eq!((receiver.commits, receiver.aborts, receiver.lines.len()), (1, 0, 5002));
    }

    #[pg_test]
    fn without_the_option_everything_comes_whole() {
        let mut source = source("stream_off");
        source.run(&rows("t", 1, 5000));
        for options in [WHOLE, &[("streaming", "off")]] {
            let frames = source.peek(options);
            assert!(frames.into_iter().all(|bytes| !Frame::parse(bytes).unwrap().streams()));
        }
        let refusal = source.refusal(&[("streaming", "parallel")]);
        assert!(refusal.message.contains("\"parallel\""), "{}", refusal.message);
    }

    #[pg_test]
    fn what_is_rolled_back_ends_with_an_abort() {
        let mut source = source("stream_abort");
        source.run(&format!("BEGIN; {} ROLLBACK", rows("t", 1, 5000)));
        source.run("INSERT INTO t VALUES (0, 'after')");
        // the catalogs of a transaction that has aborted are gone: it may be noticed at the first look
        let receiver = compare(&mut source, WHOLE);
        assert_eq!(receiver.lines, ["BEGIN", "INSERT public.t id=0 v=after", "COMMIT"]);
    }

    #[pg_test]
    fn a_part_that_was_sent_is_taken_back() {
        let mut source = source("stream_abort_sent");
        // a transaction that is running while a part of it is given out
        source.run(&format!("BEGIN; {}", rows("t", 11, 5000)));
        let mut other = connect(&source.database);
        other.batch_execute("SET logical_decoding_work_mem = '64kB'").unwrap();
        // what is not flushed is not decoded, and a commit flushes all that is before it
        other.batch_execute("CREATE TABLE empty ()").unwrap();
        let sql = "SELECT data FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL, 'streaming', 'on')";
        let sent = other.query(sql, &[&source.database]).unwrap();
        assert!(sent.len() > 1, "nothing of a transaction in progress");
        let frames = sent.iter().map(|row| Bytes::from(row.get::<_, Vec<u8>>(0)));
        assert!(frames.into_iter().all(|bytes| Frame::parse(bytes).unwrap().streams()));
        source.run("ROLLBACK");
        let receiver = compare(&mut source, WHOLE);
        assert_eq!((receiver.commits, receiver.lines.len()), (0, 0));
    }

    #[pg_test]
    fn a_subtransaction_that_is_rolled_back_is_cut_off() {
        let mut source = source("stream_savepoints");
        source.run(&rows("t", -1, 0));
        source.run(&format!(
            "BEGIN; {} SAVEPOINT a; {} SAVEPOINT b; {} RELEASE b; {} ROLLBACK TO a; {}
             SAVEPOINT c; {} SAVEPOINT d; {} ROLLBACK TO d; {} RELEASE c; {} COMMIT",
            rows("t", 1, 1500),
            rows("t", 1501, 3000),
            rows("t", 3001, 4500),
            rows("t", 4501, 4510),
            rows("t", 4511, 6000),
            rows("t", 6001, 7500),
            rows("t", 7501, 9000),
            rows("t", 9001, 9010),
            rows("t", 9011, 10500),
        ));
        let receiver = compare(&mut source, WHOLE);
        assert_eq!(receiver.commits, 1);
        assert!(receiver.aborts >= 1, "nothing was taken back");
    }

    #[pg_test]
    fn savepoint_loops() {
        let mut source = source("stream_loops");
        source.run(&rows("t", -1, 0));
        source.run(
            "DO $$ BEGIN
                 FOR i IN 1..3000 LOOP
                     BEGIN
                         INSERT INTO t VALUES (i, 'row ' || i);
                         IF i % 3 = 0 THEN RAISE EXCEPTION 'back'; END IF;
                         BEGIN
                             INSERT INTO t VALUES (-i, repeat('x', i % 100));
                             IF i % 5 = 0 THEN RAISE EXCEPTION 'back'; END IF;
                         EXCEPTION WHEN OTHERS THEN NULL; END;
                     EXCEPTION WHEN OTHERS THEN NULL; END;
                     INSERT INTO t VALUES (i, 'outside');
                 END LOOP;
             END $$",
        );
        let receiver = compare(&mut source, WHOLE);
        assert_eq!(receiver.commits, 1);
    }

    #[pg_test]
    fn many_subtransactions_are_taken_back_with_the_one_around_them() {
        let mut source = source("stream_children");
        source.run(&rows("t", -1, 0));
        source.run(&format!(
            "BEGIN; {} SAVEPOINT a;
             DO $$ BEGIN FOR i IN 1..3000 LOOP
                 BEGIN INSERT INTO t VALUES (i, 'inside'); EXCEPTION WHEN OTHERS THEN NULL; END;
             END LOOP; END $$;
             INSERT INTO t VALUES (0, 'around'); ROLLBACK TO a; {} COMMIT",
            rows("t", 1, 3000),
            rows("t", 3001, 3010),
        ));
        let receiver = compare(&mut source, WHOLE);
        assert_eq!(receiver.commits, 1);
        assert!(receiver.aborts <= 2, "{} for one ROLLBACK TO", receiver.aborts);
    }

    #[pg_test]
    fn truncate_messages_and_ddl_come_in_their_place() {
        let mut source = source("stream_ddl");
        source.run(&format!(
            "BEGIN; {} TRUNCATE t, u CASCADE;
             SELECT pg_logical_emit_message(true, 'p', 'in it');
             ALTER TABLE t ADD n int DEFAULT 5; CREATE TABLE made (id int);
             INSERT INTO t SELECT i, 'new', i FROM generate_series(1, 3000) i;
             SAVEPOINT a; ALTER TABLE t DROP v; {} ROLLBACK TO a;
             INSERT INTO t SELECT i, 'last', i FROM generate_series(1, 3000) i;
             INSERT INTO made SELECT generate_series(1, 3000); COMMIT",
            rows("t", 1, 3000),
            "INSERT INTO t SELECT i, i FROM generate_series(1, 3000) i;",
        ));
        source.run("INSERT INTO t VALUES (1, 'after', 2)");
        let receiver = compare(&mut source, WHOLE);
        assert_eq!(receiver.commits, 1);
        let expected = "INSERT public.t id=1 v=after n=2";
        assert_eq!(
            receiver.lines.get(receiver.lines.len() - 2).map(String::as_str),
            Some(expected)
        );
    }

    #[pg_test]
    fn toasted_values() {
        let mut source = source("stream_toast");
        source.run(
            "BEGIN; INSERT INTO u SELECT i, repeat(md5(i::text), 300) FROM generate_series(1, 60) i;
             UPDATE u SET id = id + 1000 WHERE id % 2 = 0;
             UPDATE u SET v = repeat('other', 2000) WHERE id % 3 = 0; COMMIT",
        );
        let receiver = compare(&mut source, WHOLE);
        assert_eq!(receiver.commits, 1);
        assert!(receiver.lines.iter().any(|line| line.contains("UNCHANGED")), "no unchanged value");
        assert!(receiver.lines.iter().any(|line| line.contains("9600 bytes")));
    }

    #[pg_test]
    fn small_transactions_come_in_between() {
        let mut source = source("stream_between");
        let mut other = connect(&source.database);
        source.run(&format!("BEGIN; {}", rows("t", 1, 2000)));
        other
            .batch_execute("BEGIN; INSERT INTO u SELECT i, 'u' FROM generate_series(1, 3000) i")
            .unwrap();
        let mut third = connect(&source.database);
        third.batch_execute("INSERT INTO t VALUES (0, 'between')").unwrap();
        third.batch_execute("SELECT pg_logical_emit_message(false, 'p', 'alone')").unwrap();
        source.run(&rows("t", 2001, 4000));
        third.batch_execute("INSERT INTO t VALUES (0, 'again')").unwrap();
        other.batch_execute("ROLLBACK").unwrap();
        third.batch_execute("INSERT INTO u VALUES (1, 'small')").unwrap();
        source.run("COMMIT");
        third.batch_execute("INSERT INTO t VALUES (0, 'last')").unwrap();
        let receiver = compare(&mut source, WHOLE);
        assert_eq!(receiver.commits, 1);
    }

    #[pg_test]
    fn what_is_not_wanted_is_not_there() {
        let mut source = source("stream_filtered");
        source.run("CREATE PUBLICATION p FOR TABLE u");
        source.value("SELECT pg_drop_replication_slot('rsrepl_stream_filtered')");
        source.value("SELECT slot_name FROM pg_create_logical_replication_slot('rsrepl_stream_filtered', 'rsrepl')");
        source.run(&rows("t", 1, 5000));
        source.run(&format!("BEGIN; {} ROLLBACK", rows("t", 1, 5000)));
        source.run(&format!(
            "BEGIN; {} SAVEPOINT a; {} ROLLBACK TO a; COMMIT",
            rows("t", 1, 5000),
            rows("t", 1, 500)
        ));
        let frames = source.peek(&[("streaming", "on"), ("publications", "p")]);
        assert_eq!(frames.len(), 0, "of transactions of which nothing is wanted");
        source.run(&format!(
            "BEGIN; {} INSERT INTO u VALUES (1, 'a'); {} COMMIT",
            rows("t", 1, 5000),
            rows("t", 1, 5000)
        ));
        let receiver = compare(&mut source, &[("publications", "p")]);
        assert_eq!(receiver.commits, 1);
        assert_eq!(receiver.lines, ["BEGIN", "INSERT public.u id=1 v=a", "COMMIT"]);
    }

    #[pg_test]
    fn the_origin_is_that_of_the_commit() {
        let mut source = source("stream_origin");
        source.run("SELECT pg_replication_origin_create('rsrepl_stream_origin')");
        source.run("SELECT pg_replication_origin_session_setup('rsrepl_stream_origin')");
        source.run(&rows("t", 1, 5000));
        source.run("SELECT pg_replication_origin_session_reset()");
        source.run(&rows("t", 5001, 10000));
        let frames = source.peek(&[("streaming", "on"), ("origin", "none")]);
        let mut local = Receiver::default();
        frames.iter().for_each(|frame| local.take(frame));
        assert_eq!((local.commits, local.lines.len()), (1, 5002));
        let receiver = compare(&mut source, WHOLE);
        assert_eq!(receiver.commits, 2);
        assert_eq!(receiver.lines[0], "BEGIN from rsrepl_stream_origin");
        source.run("SELECT pg_replication_origin_drop('rsrepl_stream_origin')");
    }

    #[pg_test]
    fn a_prepared_transaction_is_streamed_too() {
        let mut source = source("stream_prepared");
        source.run(&format!("BEGIN; {} PREPARE TRANSACTION 'stream_a'", rows("t", 1, 3000)));
        source.run(&format!("BEGIN; {} PREPARE TRANSACTION 'stream_b'", rows("t", 3001, 6000)));
        source.run("ROLLBACK PREPARED 'stream_a'");
        source.run("COMMIT PREPARED 'stream_b'");
        let receiver = compare(&mut source, WHOLE);
        assert_eq!(receiver.commits, 1);
    }

    /// The ERROR of a concurrent abort in one of our own looks at the catalog: the publication has to be
    /// looked up anew while a transaction is given out that has aborted since.
    #[pg_test]
    fn a_transaction_that_aborts_meanwhile_ends_alone() {
        let mut source = source("stream_concurrent");
        source.run("CREATE TABLE other (id int); CREATE PUBLICATION p FOR TABLE t, u");
        source.value("SELECT pg_drop_replication_slot('rsrepl_stream_concurrent')");
        source.value("SELECT slot_name FROM pg_create_logical_replication_slot('rsrepl_stream_concurrent', 'rsrepl')");
        let mut third = connect(&source.database);
        third
            .batch_execute("INSERT INTO t VALUES (0, 'before'); INSERT INTO u VALUES (0, 'before')")
            .unwrap();
        for round in 0..20 {
            source.run(&format!(
                "BEGIN; {} SAVEPOINT a; {}",
                rows("t", 1, 1000),
                rows("t", 1, 600)
            ));
            let change = if round % 2 == 0 { "ADD" } else { "DROP" };
            third.batch_execute(&format!("ALTER PUBLICATION p {change} TABLE other")).unwrap();
            source.run(&format!(
                "{} ROLLBACK TO a; {}",
                rows("t", 1601, 3000),
                rows("t", 3001, 5000)
            ));
            source.run(if round % 3 == 0 { "COMMIT" } else { "ROLLBACK" });
        }
        third
            .batch_execute("INSERT INTO t VALUES (0, 'after'); INSERT INTO u VALUES (1, 'after')")
            .unwrap();
        let receiver = compare(&mut source, &[("publications", "p")]);
        assert_eq!(receiver.commits, 7);
        let left = "SELECT count(*) FROM pg_backend_memory_contexts WHERE name LIKE 'rsrepl%'";
        assert_eq!(source.value(left), "0", "memory is left");
    }

    /// The same, provoked in the middle of parts.
    #[pg_test]
    fn the_session_goes_on_after_an_error_in_a_part() {
        let mut source = source("stream_error");
        source.run(&rows("t", -10, 0));
        let fault = "SELECT pg_logical_emit_message(true, 'rsrepl.test.rollback', '');";
        source.run(&format!(
            "BEGIN; {} {fault} {} ROLLBACK",
            rows("t", 1, 3000),
            rows("t", 1, 3000)
        ));
        source.run(&format!("BEGIN; {fault} {} ROLLBACK", rows("u", 1, 3000)));
        source.run(&rows("t", 10, 5000));
        source.run(&rows("u", 1, 5000));
        let mut receiver = Receiver::default();
        source.take(STREAMING).iter().for_each(|frame| receiver.take(frame));
        assert!(receiver.open.is_empty());
        assert_eq!(receiver.commits, 2);
        assert_eq!(receiver.lines.len(), 13 + 2 + 4991 + 2 + 5000);
    }

    /// The same in a row filter, of rows that are converted.
    #[pg_test]
    fn the_session_goes_on_after_an_error_in_a_filter() {
        let mut source = source("stream_filter");
        source.run(
            "CREATE TABLE p (id int, v text) PARTITION BY RANGE (id);
             CREATE TABLE p1 (v text, id int); ALTER TABLE p ATTACH PARTITION p1 DEFAULT;
             CREATE PUBLICATION q FOR TABLE p WHERE (id % 2 = 0 AND v LIKE 'v%')
               WITH (publish_via_partition_root, publish = 'insert')",
        );
        let fault = "SELECT pg_logical_emit_message(true, 'rsrepl.test.filter', '');";
        let rows = |from: i32, to: i32| {
            format!("INSERT INTO p SELECT i, 'v' || i FROM generate_series({from}, {to}) i;")
        };
        source.run(&rows(1, 10));
        // PostgreSQL finds out that one has aborted before anything of it is sent when it has to look into the catalogs, as
        // what other tests do may have it. So they are looked at for a row that is not sent before each.
        for _ in 0..5 {
            source.run(&rows(1, 1));
            source.run(&format!("BEGIN; {} {fault} {} ROLLBACK", rows(1, 3000), rows(1, 3000)));
        }
        source.run(&rows(1, 10000));
        source.run(&rows(1, 20));
        let mut receiver = Receiver::default();
        let options: Vec<_> = [STREAMING, &[("publications", "q")]].concat();
        source.take(&options).iter().for_each(|frame| receiver.take(frame));
        assert!(receiver.open.is_empty());
        assert_eq!(receiver.commits, 1);
        // from 18 on nothing is sent of a transaction that is known to have aborted
        assert!(receiver.aborts >= 1 || source.major() >= 18, "nothing was taken back");
        assert_eq!(receiver.lines.len(), 2 + 5 + 2 + 5000 + 2 + 10);
        let left = "SELECT count(*) FROM pg_backend_memory_contexts WHERE name LIKE 'rsrepl%'";
        assert_eq!(source.value(left), "0", "memory is left");
    }

    #[pg_test]
    fn nothing_spills() {
        let mut source = source("stream_spill");
        source.run(&rows("t", 1, 20000));
        source.take(STREAMING);
        source.run("SELECT pg_stat_force_next_flush()");
        let counts = "SELECT (spill_txns, stream_txns > 0) FROM pg_stat_replication_slots
                      WHERE slot_name = 'rsrepl_stream_spill'";
        assert_eq!(source.value(counts), "(0,t)");
    }
}
