//! An ERROR or a panic in a callback: the backend lives, the slot is as before, nothing is left.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::decoding_tests::harness::Source;

    /// With messages off, the message that breaks the callback is not looked at.
    const MESSAGES: &[(&str, &str)] = &[("messages", "on")];

    fn broken_by(name: &str, prefix: &str) -> Source {
        let mut source = Source::new(name);
        source.run("CREATE TABLE t (id int PRIMARY KEY, j jsonb)");
        source.run(&format!(
            "BEGIN; INSERT INTO t VALUES (1, '{{}}');
             SELECT pg_logical_emit_message(true, '{prefix}', '');
             INSERT INTO t VALUES (2, '{{}}'); COMMIT"
        ));
        source
    }

    fn survives(mut source: Source, message: &str) {
        let backend = source.value("pg_backend_pid()");
        for _ in 0..100 {
            let refusal = source.refusal(MESSAGES);
            assert!(refusal.message.contains(message), "{}", refusal.message);
        }
        assert_eq!(source.value("pg_backend_pid()"), backend, "the backend is another");
        let left = "SELECT count(*) FROM pg_backend_memory_contexts
                    WHERE name LIKE 'rsrepl%' OR name LIKE 'Logical decoding%'";
        assert_eq!(source.value(left), "0", "memory is left");
        let expected = ["INSERT public.t id=1 j={}", "INSERT public.t id=2 j={}"];
        assert_eq!(source.changes(&[]), expected);
    }

    #[pg_test]
    fn a_panic_is_an_error() {
        survives(broken_by("panic", "rsrepl.test.panic"), "provoked by a test");
    }

    #[pg_test]
    fn an_error_of_postgres_unwinds() {
        survives(broken_by("error", "rsrepl.test.error"), "invalid memory alloc request size");
    }

    #[pg_test]
    fn a_walsender_ends_with_the_error_and_the_next_goes_on() {
        let mut source = broken_by("panic_walsender", "rsrepl.test.panic");
        let failed =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| source.receive(MESSAGES)));
        assert!(failed.is_err(), "pg_recvlogical saw no error");
        let received = source.receive(&[]);
        assert!(!received.is_empty());
        assert!(source.take(&[]).is_empty());
    }
}
