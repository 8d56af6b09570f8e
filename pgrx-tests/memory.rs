//! Memory is bounded, whatever the size of a transaction and the number of tables.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::decoding_tests::harness::{Reader, Source, connect};

    /// The most memory that the backend ever had resident, in KiB.
    fn peak(client: &mut postgres::Client) -> u64 {
        memory(client, "VmHWM")
    }

    /// A line of the backend's `/proc/…/status`, in KiB.
    fn memory(client: &mut postgres::Client, line: &str) -> u64 {
        let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|found| found.starts_with(line)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[pg_test]
    fn a_large_transaction_takes_no_more_than_a_small_one() {
        let mut source = Source::new("large");
        source.run("CREATE TABLE t (id int, j jsonb, x text[], c text)");
        source.run(
            "INSERT INTO t SELECT i, jsonb_build_object('a', repeat('j', 300)),
                                  array_fill('element'::text, ARRAY[30]), repeat('c', 3000)
             FROM generate_series(1, 100000) i",
        );
        let mut backend = connect(&source.database);
        let count = "SELECT count(*), sum(octet_length(data))
                     FROM pg_logical_slot_peek_binary_changes('rsrepl_large', NULL, $1)";
        backend
            .batch_execute("SET logical_decoding_work_mem = '1MB'; SET work_mem = '1MB'")
            .unwrap();
        backend.query_one(count, &[&Some(1i32)]).unwrap();
        let before = peak(&mut backend);
        let row = backend.query_one(count, &[&None::<i32>]).unwrap();
        let grown = peak(&mut backend).saturating_sub(before);
        assert!(row.get::<_, i64>(0) > 1000, "few frames");
        // what send functions and decompression give for 100,000 rows is over 300 MiB
        assert!(grown < 24 * 1024, "grew by {grown} KiB");
    }

    #[pg_test]
    fn the_cache_of_tables_is_bounded() {
        // 48 tables of 1,400 columns are more than the cache holds
        let mut source = Source::new("many_tables");
        let columns: Vec<String> = (0..1400).map(|i| format!("c{i} int")).collect();
        let columns = columns.join(", ");
        for i in 0..48 {
            source
                .run(&format!("CREATE TABLE t{i} ({columns}); INSERT INTO t{i} (c1) VALUES ({i})"));
        }
        source.run("INSERT INTO t47 (c1) VALUES (100); INSERT INTO t0 (c1) VALUES (200)");
        let lines = source.lines(&[]);
        let described = |name: &str| {
            lines
                .iter()
                .filter(|line| line.starts_with(&format!("RELATION public.{name} ")))
                .count()
        };
        assert_eq!(described("t47"), 1);
        assert_eq!(described("t0"), 2, "a table that was forgotten is described again");
        let inserts: Vec<&String> =
            lines.iter().filter(|line| line.starts_with("INSERT")).collect();
        assert_eq!(inserts.len(), 50);
        assert!(inserts[49].starts_with("INSERT public.t0 c0=NULL c1=200 c2=NULL"));
    }

    #[pg_test]
    fn sessions_leave_nothing_behind() {
        let mut source = Source::new("sessions_memory");
        source.run("CREATE TABLE t (id int, j jsonb)");
        source.run("INSERT INTO t SELECT i, '{\"a\": 1}' FROM generate_series(1, 2000) i");
        let expected = Reader::default().messages(&source.peek(&[])).len();
        for _ in 0..20 {
            source.peek(&[]);
        }
        // without the shared buffers, of which it meets others while other tests run
        let before = memory(&mut source.client, "RssAnon");
        for _ in 0..100 {
            source.peek(&[]);
        }
        let grown = memory(&mut source.client, "RssAnon").saturating_sub(before);
        assert!(grown < 2 * 1024, "grew by {grown} KiB");
        assert_eq!(Reader::default().messages(&source.peek(&[])).len(), expected);
    }
}
