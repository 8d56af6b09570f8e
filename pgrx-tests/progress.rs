//! Slots behind idle databases and filtered tables: WAL must not be kept for nothing.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::decoding_tests::harness::{Options, Source, connect};

    /// Receives to the end of the WAL, and checks that nothing came and everything is confirmed.
    fn confirms_without_output(source: &mut Source, options: Options) {
        let written = source.value("pg_current_wal_insert_lsn()");
        assert!(source.receive(options).is_empty());
        let confirmed = source.value(&format!(
            "SELECT confirmed_flush_lsn >= '{written}' FROM pg_replication_slots
             WHERE slot_name = '{}'",
            source.database
        ));
        assert_eq!(confirmed, "true");
    }

    #[pg_test]
    fn an_idle_database_confirms_what_others_write() {
        let mut source = Source::new("idle");
        let mut other = connect("postgres");
        other
            .batch_execute(
                "CREATE TABLE IF NOT EXISTS busy (a text);
                 INSERT INTO busy SELECT repeat('x', 100) FROM generate_series(1, 20000)",
            )
            .unwrap();
        confirms_without_output(&mut source, &[]);
    }

    #[pg_test]
    fn filtered_tables_are_confirmed() {
        let mut source = Source::new("filtered");
        source.run("CREATE TABLE t (a text); CREATE TABLE u (a text)");
        source.run("CREATE PUBLICATION p FOR TABLE u");
        source.run("INSERT INTO t SELECT repeat('x', 100) FROM generate_series(1, 20000)");
        source.run("SELECT pg_logical_emit_message(true, 'p', 'x') FROM generate_series(1, 500)");
        source.run("TRUNCATE t");
        confirms_without_output(&mut source, &[("publications", "p")]);
    }

    #[pg_test]
    fn empty_transactions_are_confirmed() {
        let mut source = Source::new("confirmed_empty");
        for i in 0..50 {
            source.run(&format!("CREATE TABLE t{i} (a int)"));
        }
        confirms_without_output(&mut source, &[]);
    }
}
