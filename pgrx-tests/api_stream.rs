//! The SQL API on a slot of this plugin, with changes that were committed.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::decoding_tests::harness::Source;

    /// A value of every type that has something of its own, as `decode_frame` shows it and as the
    /// server's output function does.
    #[pg_test]
    fn api_decode_frame_shows_values_as_the_server_does() {
        let mut source = Source::new("api_values");
        source.run("CREATE EXTENSION rsrepl; SET datestyle = ISO; SET timezone = 'UTC'");
        let xml = if source.has_type("xml") { "xml" } else { "text" };
        source.run(
            &"CREATE TYPE color AS ENUM ('red', 'g\u{fc}n');
             CREATE TYPE pair AS (a int, b text);
             CREATE DOMAIN percent AS numeric(5, 2) CHECK (VALUE <= 100);
             CREATE TABLE t (
                 id int PRIMARY KEY, b bool, i2 int2, i8 int8, f4 float4, f8 float8, n numeric,
                 n2 numeric(12, 2), s text, v varchar(10), c char(5), m name, y bytea, d date, h time,
                 hz timetz, ts timestamp, tz timestamptz, iv interval, u uuid, j json, jb jsonb,
                 e color, ip inet, net cidr, mac macaddr, bits bit(5), vb varbit, ai int[], at text[],
                 ae color[], an numeric[], az timestamptz[], co pair, dom percent, r int4range,
                 mr int4multirange, p point, q tsquery, qs tsquery[], ve tsvector, x xml, rc regclass,
                 mo money)"
                .replace("x xml", &format!("x {xml}")),
        );
        source.run(
            "INSERT INTO t VALUES (
                 1, true, -2, 9e18, 'NaN', '-Infinity', '-Infinity', 1.5, E'\u{e9}\\n\"', 'v', 'c', 'm',
                 '\\x00ff', '4714-11-24 BC', '24:00', '12:00:00.5+05:30', 'infinity',
                 '2026-01-31 12:00:00.000001+09', '-1 mons +2 days -03:04:05.6',
                 '00112233-4455-6677-8899-aabbccddeeff', '{\"a\" : 1}', '{\"b\": 1.50}', 'g\u{fc}n',
                 '10.1.2.3/8', '2001:db8::/32', '08:00:2b:01:02:03', '10101', '1',
                 '[0:1]={1,NULL}', '{\"a b\",NULL,\"NULL\",\"\"}', '{red}', '{NaN,1.10}',
                 '{2026-01-31 12:00:00+09}', '(1,\"x y\")', 99.99, '[1,5)', '{[1,2),[3,4)}', '(1,-2.5)',
                 'a & !b', ARRAY['a'::tsquery, NULL], 'a:1 b', '<a/>', 'pg_class', '12.34')",
        );
        let columns = source.value(
            "SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute
             WHERE attrelid = 't'::regclass AND attnum > 0",
        );
        source.run(
            "CREATE TEMP TABLE shown AS SELECT d.*
             FROM pg_logical_slot_peek_binary_changes('rsrepl_api_values', NULL, NULL) AS c,
                 rsrepl.decode_frame(c.data) AS d WHERE d.kind = 'insert'",
        );
        assert_eq!(source.value("SELECT count(*) FROM shown"), "1");
        assert_eq!(source.value("SELECT (detail IS NULL) FROM shown"), "true");
        for column in columns.split(' ') {
            let shown = source.value(&format!("SELECT new ->> '{column}' FROM shown"));
            // what a column's output function writes: a cast to text drops the padding of char(n)
            let own = source.value(&format!("SELECT format('%s', {column}) FROM t"));
            assert_eq!(shown, own, "{column}");
        }
    }

    #[pg_test]
    fn api_slots_shows_the_slots_of_this_plugin() {
        let mut source = Source::new("api_slots");
        source.run("CREATE EXTENSION rsrepl");
        source.run("SELECT pg_create_logical_replication_slot('api_other', 'pgoutput')");
        let slot = "FROM rsrepl.slots WHERE slot_name = 'rsrepl_api_slots'";
        assert_eq!(
            source.value("SELECT count(*) FROM rsrepl.slots WHERE slot_name = 'api_other'"),
            "0"
        );
        source.run("SELECT pg_drop_replication_slot('api_other')");
        source.run(
            "SET logical_decoding_work_mem = '64kB'; CREATE TABLE t (a text);
             INSERT INTO t SELECT repeat('x', 100) FROM generate_series(1, 10000)",
        );
        assert_eq!(
            source.value(&format!(
                "SELECT concat_ws(' ', database, active, wal_status, lag_bytes > 1000000, \
                 retained_bytes >= lag_bytes, spilled_bytes) {slot}"
            )),
            "rsrepl_api_slots f reserved t t 0"
        );
        let health = |source: &mut Source, check: &str| {
            source.value(&format!(
                "SELECT status FROM rsrepl.health() \
                 WHERE name = '{check}' AND object = 'rsrepl_api_slots'"
            ))
        };
        assert_eq!(health(&mut source, "slot_active"), "warning");
        assert_eq!(health(&mut source, "slot_wal"), "ok");
        // others write too, so lag is compared with where the stream has got to: what is flushed is decoded
        let end = source.value("pg_current_wal_flush_lsn()");
        source.take(&[]);
        assert_eq!(
            source.value(&format!(
                "SELECT concat_ws(' ', confirmed_flush_lsn >= '{end}', spilled_transactions > 0, \
                 spilled_bytes > 1000000, decoded_bytes > 1000000) {slot}"
            )),
            "t t t t"
        );
    }

    /// What a sidecar reports is in an UNLOGGED table: it is not decoded.
    #[pg_test]
    fn api_reports_are_not_in_the_stream() {
        let mut source = Source::new("api_reports");
        source.run("CREATE EXTENSION rsrepl");
        source.take(&[]);
        source.run(
            r#"SELECT rsrepl.report('{"slot": "s", "version": "1", "pid": 1, "host": "h",
                "spool_bytes": 0, "reconnects": 0, "targets": [
                    {"name": "a", "kind": "postgres", "state": "running", "lag_bytes": 0,
                     "lag_seconds": 0, "events": 0, "events_per_second": 0, "batches": 0,
                     "transactions": 0, "retries": 0}]}')"#,
        );
        assert_eq!(source.value("SELECT count(*) FROM rsrepl.targets"), "1");
        assert!(source.take(&[]).is_empty());
    }
}
