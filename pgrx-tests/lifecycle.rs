//! Transactions, frames and sessions.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::decoding_tests::harness::{Reader, Source};
    use rsrepl_wire::limits::FRAME_TARGET;
    use rsrepl_wire::{Frame, Lsn, Message};

    #[pg_test]
    fn a_transaction_is_begin_relation_rows_commit() {
        let mut source = Source::new("transaction");
        source.run("CREATE TABLE t (id int PRIMARY KEY, a text)");
        source.run("INSERT INTO t VALUES (1, 'x'), (2, NULL)");
        source.run("INSERT INTO t VALUES (3, '')");
        let expected = [
            "BEGIN",
            "RELATION public.t d (id int4 key, a text)",
            "INSERT public.t id=1 a=x",
            "INSERT public.t id=2 a=NULL",
            "COMMIT",
            "BEGIN",
            "INSERT public.t id=3 a=",
            "COMMIT",
        ];
        assert_eq!(source.lines(&[]), expected);
        assert!(source.lines(&[]).is_empty(), "the slot did not move on");
    }

    #[pg_test]
    fn empty_transactions_write_nothing() {
        let mut source = Source::new("empty");
        source.run("CREATE TABLE t (id int PRIMARY KEY)");
        source.run("BEGIN; INSERT INTO t VALUES (1); ROLLBACK");
        source.run("BEGIN; SELECT pg_current_xact_id(); COMMIT");
        source.run("CREATE UNLOGGED TABLE u (id int); INSERT INTO u VALUES (1)");
        source.run("CREATE TEMP TABLE v (id int); INSERT INTO v VALUES (1)");
        source.run("CREATE MATERIALIZED VIEW m AS SELECT 1 AS one; REFRESH MATERIALIZED VIEW m");
        source.run("ANALYZE t");
        source.run("VACUUM FULL t");
        assert!(source.take(&[]).is_empty());
    }

    #[pg_test]
    fn changes_have_rising_lsns_below_the_commit() {
        let mut source = Source::new("lsns");
        source.run("CREATE TABLE t (id int)");
        source.run("INSERT INTO t SELECT generate_series(1, 10000)");
        let frames = source.take(&[]);
        assert!(frames.len() > 1, "all in one frame");
        let mut last = Lsn(0);
        let mut ends = Vec::new();
        for message in Reader::default().messages(&frames) {
            match message {
                Message::Begin(begin) => ends.push((begin.final_lsn, begin.end_lsn)),
                Message::Insert(insert) => {
                    assert!(insert.lsn >= last);
                    last = insert.lsn;
                }
                Message::Commit(commit) => ends.push((commit.final_lsn, commit.end_lsn)),
                _ => {}
            }
        }
        assert_eq!(ends.len(), 2);
        assert_eq!(ends[0], ends[1]);
        assert!(last > Lsn(0) && last < ends[0].0 && ends[0].0 < ends[0].1);
    }

    #[pg_test]
    fn frames_are_packed_up_to_the_target_size() {
        let mut source = Source::new("packing");
        source.run("CREATE TABLE t (id int, a text)");
        source.run("INSERT INTO t SELECT i, repeat('x', 90) FROM generate_series(1, 5000) i");
        let frames = source.take(&[]);
        let (last, full) = frames.split_last().unwrap();
        assert!(!full.is_empty());
        for frame in full {
            assert!(frame.len() >= FRAME_TARGET && frame.len() < FRAME_TARGET + 200);
        }
        assert!(last.len() < FRAME_TARGET + 200);
        let xids: Vec<u32> =
            frames.iter().map(|frame| Frame::parse(frame.clone()).unwrap().xid()).collect();
        assert!(xids.iter().all(|xid| *xid == xids[0] && *xid != 0));
        let messages = Reader::default().messages(&frames);
        assert_eq!(messages.iter().filter(|m| matches!(m, Message::Insert(_))).count(), 5000);
        assert_eq!(messages.iter().filter(|m| matches!(m, Message::Relation(_))).count(), 1);
    }

    #[pg_test]
    fn a_backend_takes_any_number_of_sessions() {
        // PostgreSQL has room for 64 syscache callbacks, and a backend that runs out dies
        let mut source = Source::new("sessions");
        source.run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
        let first = source.peek(&[]);
        assert_eq!(first.len(), 1);
        for _ in 0..150 {
            assert_eq!(source.peek(&[]), first, "a session does not start from nothing");
        }
    }

    #[pg_test]
    fn the_walsender_sends_what_the_functions_return() {
        let mut source = Source::new("walsender");
        source.run("CREATE TABLE t (id int PRIMARY KEY, a text)");
        source.run("INSERT INTO t SELECT i, repeat('y', 50) FROM generate_series(1, 3000) i");
        source.run("UPDATE t SET a = 'z' WHERE id < 10; DELETE FROM t WHERE id > 2990");
        let mut expected = Vec::new();
        for frame in source.peek(&[]) {
            expected.extend_from_slice(&frame);
            expected.push(b'\n'); // pg_recvlogical's own
        }
        assert!(expected.len() > 2 * FRAME_TARGET);
        assert!(source.receive(&[]) == expected, "the walsender sent something else");
        assert!(source.take(&[]).is_empty(), "what was received is not confirmed");
    }

    #[pg_test]
    fn functions_give_each_transaction_on_its_own() {
        // what they hold back they would never send: they just stop reading
        let mut source = Source::new("uncombined");
        source.run("CREATE TABLE t (id int PRIMARY KEY)");
        source.run(
            "DO $$ BEGIN FOR i IN 1..500 LOOP INSERT INTO t VALUES (i); COMMIT; END LOOP; END $$",
        );
        let frames = source.take(&[("combine", "on")]);
        assert_eq!(frames.len(), 500);
        for frame in frames {
            let frame = Frame::parse(frame).unwrap();
            assert!(frame.begins() && frame.commits() && !frame.more());
        }
    }

    #[pg_test]
    fn text_functions_are_refused_by_postgres_itself() {
        let mut source = Source::new("textmode");
        let error = source
            .client
            .query("SELECT * FROM pg_logical_slot_get_changes('rsrepl_textmode', NULL, NULL)", &[])
            .unwrap_err();
        let message = error.as_db_error().unwrap().message().to_owned();
        assert!(message.contains("produces binary output"), "{message}");
    }
}
