//! `pg_logical_emit_message`.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::decoding_tests::harness::Source;

    /// Several runs: in one string, statements outside of BEGIN … COMMIT share a transaction. The
    /// last one commits, which makes the message before it durable.
    fn run_script(source: &mut Source) {
        source.run("CREATE TABLE t (id int)");
        source.run(
            "BEGIN; INSERT INTO t VALUES (1);
             SELECT pg_logical_emit_message(false, 'alone', 'before');
             SELECT pg_logical_emit_message(true, 'inside', 'with it');
             INSERT INTO t VALUES (2); COMMIT",
        );
        source.run("SELECT pg_logical_emit_message(true, 'own', '')");
        source.run(
            "BEGIN; SELECT pg_logical_emit_message(true, 'gone', 'x');
             SELECT pg_logical_emit_message(false, 'alone', 'kept'); ROLLBACK",
        );
        source.run("INSERT INTO t VALUES (3)");
    }

    #[pg_test]
    fn messages_are_off_by_default() {
        let mut source = Source::new("messages_off");
        run_script(&mut source);
        assert_eq!(source.changes(&[]), [1, 2, 3].map(|id| format!("INSERT public.t id={id}")));
    }

    #[pg_test]
    fn messages_come_inside_or_alone() {
        let mut source = Source::new("messages_on");
        run_script(&mut source);
        let expected = [
            "MESSAGE alone alone: before",
            "BEGIN",
            "RELATION public.t d (id int4)",
            "INSERT public.t id=1",
            "MESSAGE in transaction inside: with it",
            "INSERT public.t id=2",
            "COMMIT",
            "BEGIN",
            "MESSAGE in transaction own: ",
            "COMMIT",
            "MESSAGE alone alone: kept",
            "BEGIN",
            "INSERT public.t id=3",
            "COMMIT",
        ];
        assert_eq!(source.lines(&[("messages", "true")]), expected);
    }

    #[pg_test]
    fn a_message_may_be_large() {
        let mut source = Source::new("messages_large");
        source.run("SELECT pg_logical_emit_message(false, 'large', repeat('y', 1000000))");
        source.run("SELECT pg_logical_emit_message(true, 'large', repeat('x', 1000000))");
        let lines = source.lines(&[("messages", "on")]);
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[0], format!("MESSAGE alone large: {}", "y".repeat(1_000_000)));
        assert_eq!(lines[2], format!("MESSAGE in transaction large: {}", "x".repeat(1_000_000)));
    }
}
