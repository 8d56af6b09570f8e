//! `rsrepl.report`, `rsrepl.targets`, `rsrepl.health()` and who may use them.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use super::*;

    const REPORT: &str = r#"{
        "slot": "s", "version": "0.1.0", "pid": 42, "host": "h\u00e9",
        "received_lsn": "16/B374D848", "spooled_lsn": null, "confirmed_lsn": "0/0",
        "spool_bytes": 7, "reconnects": 1,
        "targets": [
            {"name": "a", "kind": "postgres", "state": "running", "applied_lsn": "0/2",
             "lag_bytes": 9, "lag_seconds": 61.5, "events": 3, "events_per_second": 1.5,
             "batches": 4, "transactions": 5, "retries": 6, "next_attempt": null,
             "last_error": null},
            {"name": "b", "kind": "clickhouse", "state": "retrying", "applied_lsn": null,
             "lag_bytes": 0, "lag_seconds": 0, "events": 0, "events_per_second": 0,
             "batches": 0, "transactions": 0, "retries": 2,
             "next_attempt": "2026-01-31T12:00:00.25Z", "last_error": "connection refused"}]}"#;

    fn one(query: &str) -> String {
        let value = Spi::get_one::<String>(query);
        value.unwrap_or_else(|error| panic!("{query}: {error}")).unwrap_or_default()
    }

    fn run(statement: &str) {
        Spi::run(statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    fn report(report: &str) {
        run(&format!("SELECT rsrepl.report($report${report}$report$)"));
    }

    /// The error of a statement, after which its transaction lives on.
    fn error_of(statement: &str) -> String {
        if one("SELECT to_regproc('public.api_error_of')::text").is_empty() {
            run("CREATE FUNCTION public.api_error_of(s text) RETURNS text LANGUAGE plpgsql AS \
                 $$BEGIN EXECUTE s; RETURN 'no error'; \
                 EXCEPTION WHEN OTHERS THEN RETURN SQLERRM; END$$");
        }
        one(&format!("SELECT public.api_error_of($statement${statement}$statement$)"))
    }

    fn status(check: &str) -> String {
        one(&format!("SELECT string_agg(status, ',') FROM rsrepl.health() WHERE name = '{check}'"))
    }

    #[pg_test]
    fn api_report_becomes_copies() {
        let with = |copies: &str| {
            let tail = format!(", \"copies\": {copies}}}");
            report(&format!("{}{tail}", REPORT.trim_end().trim_end_matches('}')));
        };
        let copy = |table: &str, chunks: u32, left: u32| {
            format!(
                r#"{{"table": "{table}", "chunks": {chunks}, "chunks_left": {left}, "rows": 7, "bytes": 8,
                    "bytes_per_second": 2.5, "seconds_left": null}}"#
            )
        };
        let all = "SELECT coalesce(string_agg(concat_ws(' ', table_name, state, chunks_left), ', ' \
                   ORDER BY table_name), '') FROM rsrepl.copies";
        let three = [copy("a", 0, 3), copy("b", 1, 2), copy("c", 4, 0)].join(", ");
        with(&format!("[{three}]"));
        assert_eq!(one(all), "a waiting 3, b copying 2, c copied 0");
        // nothing is said of them
        report(REPORT);
        assert_eq!(one(all), "a waiting 3, b copying 2, c copied 0");
        with(&format!("[{}]", copy("b", 2, 1)));
        assert_eq!(one(all), "b copying 1");
        let error = error_of(&format!(
            "SELECT rsrepl.report($r${}, \"copies\": [{{\"table\": \"a\"}}]}}$r$)",
            REPORT.trim_end().trim_end_matches('}')
        ));
        assert!(error.contains("copies[0].chunks: missing"), "{error}");
    }

    #[pg_test]
    fn api_report_becomes_targets() {
        report(REPORT);
        let row = |target: &str| {
            one(&format!(
                "SELECT (to_jsonb(t) - '{{slot,target,heartbeat_at,heartbeat_age,next_attempt}}'::text[])::text \
                 FROM rsrepl.targets AS t WHERE slot = 's' AND target = '{target}'"
            ))
        };
        assert_eq!(
            row("a"),
            r#"{"kind": "postgres", "state": "running", "detail": null, "events": 3, "batches": 4, "#
                .to_owned()
                + r#""retries": 6, "skipped": 0, "lag_bytes": 9, "last_error": null, "reconnects": 1, "applied_lsn": "0/2", "#
                + r#""lag_seconds": 61.5, "sidecar_pid": 42, "spool_bytes": 7, "spooled_lsn": null, "#
                + r#""received_lsn": "16/B374D848", "sidecar_host": "hé", "transactions": 5, "#
                + r#""confirmed_lsn": null, "delay_seconds": 0, "reported_state": "running", "#
                + r#""sidecar_version": "0.1.0", "events_per_second": 1.5}"#
        );
        assert!(row("b").contains(r#""last_error": "connection refused""#));
        assert_eq!(
            one("SELECT string_agg((next_attempt = '2026-01-31 12:00:00.25Z')::text, ',') \
                 FROM rsrepl.targets"),
            "true"
        );
        assert_eq!(
            one("SELECT bool_and(heartbeat_age BETWEEN '0' AND '10 s')::text FROM rsrepl.targets"),
            "true"
        );
    }

    #[pg_test]
    fn api_report_replaces_the_last_one() {
        report(REPORT);
        report(&REPORT.replace("\"slot\": \"s\"", "\"slot\": \"other\""));
        report(&REPORT.replace("\"name\": \"b\"", "\"name\": \"c\"").replace("61.5", "0"));
        assert_eq!(
            one("SELECT string_agg(slot || '/' || target || ' ' || lag_seconds, ', ' \
                 ORDER BY slot, target) FROM rsrepl.targets"),
            "other/a 61.5, other/b 0, s/a 0, s/c 0"
        );
        assert_eq!(one("SELECT rsrepl.forget('s') || ' ' || rsrepl.forget('s')"), "true false");
        assert_eq!(one("SELECT string_agg(DISTINCT slot, ',') FROM rsrepl.targets"), "other");
    }

    #[pg_test]
    fn api_report_names_the_field_that_is_wrong() {
        report(REPORT);
        for (from, to, expected) in [
            (r#""slot": "s""#, r#""slot": "S""#, "field slot: a slot name has lower case"),
            (r#""slot": "s", "#, "", "field slot: missing"),
            (
                r#""pid": 42"#,
                r#""pid": 4.5"#,
                "field pid: expected an integer from 0 to 2147483647, found 4.5",
            ),
            (r#""pid": 42"#, r#""pid": 3000000000"#, "field pid: expected an integer"),
            ("16/B374D848", "16-B374D848", "field received_lsn: not an LSN"),
            (
                r#""spool_bytes": 7"#,
                r#""spool_bytes": -7"#,
                "field spool_bytes: expected an integer from 0",
            ),
            (
                r#""targets": ["#,
                r#""targets": [1, "#,
                "field targets[0]: expected an object, found 1",
            ),
            (
                r#""running""#,
                r#""flying""#,
                "field targets[0].state: expected one of starting, catching_up",
            ),
            (r#""name": "b""#, r#""name": "a""#, "field targets[1].name: \"a\" is there twice"),
            ("61.5", "\"61.5\"", "field targets[0].lag_seconds: expected a number"),
            ("2026-01-31T", "2026-02-30T", "field targets[1].next_attempt: expected a time like"),
            ("12:00:00.25Z", "12:00:00.25+15:99", "field targets[1].next_attempt: expected a time"),
            (
                "\"connection refused\"",
                "[]",
                "field targets[1].last_error: expected a string, found an array",
            ),
        ] {
            let bad = REPORT.replace(from, to);
            assert_ne!(bad, REPORT, "{from}");
            let error = error_of(&format!("SELECT rsrepl.report($report${bad}$report$)"));
            assert!(error.contains(expected), "{to}: {error}");
        }
        assert!(
            error_of("SELECT rsrepl.report('[]')").contains("field (whole): expected an object")
        );
        // nothing of a refused report was stored
        assert_eq!(one("SELECT count(*)::text FROM rsrepl.targets"), "2");
    }

    #[pg_test]
    fn api_report_keeps_the_first_part_of_an_enormous_error() {
        report(&REPORT.replace("connection refused", &"é".repeat(10_000)));
        assert_eq!(
            one("SELECT length(last_error)::text FROM rsrepl.targets WHERE target = 'b'"),
            "4096"
        );
    }

    #[pg_test]
    fn api_silent_sidecar_is_not_shown_as_running() {
        report(REPORT);
        assert_eq!(status("target_state"), "ok,warning");
        assert_eq!(status("target_lag"), "warning,ok");
        run("UPDATE rsrepl.sidecar_reports SET reported_at = clock_timestamp() - interval '31 s'");
        assert_eq!(
            one(
                "SELECT string_agg(concat_ws(' ', state, reported_state, coalesce(lag_bytes::text, '-'), \
                 coalesce(lag_seconds::text, '-'), coalesce(events_per_second::text, '-')), ', ' \
                 ORDER BY target) FROM rsrepl.targets"
            ),
            "silent running - - -, silent retrying - - -"
        );
        assert_eq!(status("target_state"), "critical,critical");
        assert_eq!(status("target_lag"), "");
    }

    #[pg_test]
    fn api_report_tells_late_on_purpose_from_late() {
        // what a sidecar says to any extension, and what it says to one that knows more
        let condition = |condition: &str| {
            report(&REPORT.replace(
                "\"state\": \"running\",",
                &format!(
                    "\"state\": \"running\", \"condition\": \"{condition}\", \"detail\": \"0/30\", \"skipped\": 3,"
                ),
            ));
            one(
                "SELECT concat_ws(' ', state, detail, skipped, lag_seconds) FROM rsrepl.targets WHERE target = 'a'",
            )
        };
        let checks = || [status("target_state"), status("target_lag")];
        assert_eq!(condition("catching_up"), "catching_up 0/30 3 61.5");
        assert_eq!(checks(), ["ok,warning", "warning,ok"]);
        assert_eq!(condition("delayed"), "delayed 0/30 3 61.5");
        assert_eq!(checks(), ["ok,warning", "ok,ok"]);
        assert_eq!(condition("paused"), "paused 0/30 3 61.5");
        assert_eq!(checks(), ["warning,warning", "ok,ok"]);
        // a minute late is warned of: what is meant does not count, whatever it does
        report(
            &REPORT.replace("\"lag_seconds\": 61.5", "\"lag_seconds\": 61.5, \"delay_seconds\": 2"),
        );
        assert_eq!(status("target_lag"), "ok,ok");
        condition("paused");
        let remedy =
            "SELECT remedy FROM rsrepl.health() WHERE name = 'target_state' AND object = 's/a'";
        assert_eq!(one(remedy), "rsrepl resume --target a");
        // of a sidecar that knows no more
        report(REPORT);
        assert_eq!(
            one(
                "SELECT concat_ws(' ', state, detail, skipped) FROM rsrepl.targets WHERE target = 'a'"
            ),
            "running 0"
        );
        let bad = REPORT
            .replace("\"state\": \"running\",", "\"state\": \"running\", \"condition\": \"odd\",");
        let error = error_of(&format!("SELECT rsrepl.report($report${bad}$report$)"));
        assert!(error.contains("field targets[0].condition: expected one of starting"), "{error}");
    }

    #[pg_test]
    fn api_health_knows_lag_version_and_stopped_targets() {
        report(&REPORT.replace("retrying", "stopped").replace("0.1.0", "0.0.9"));
        assert_eq!(status("target_state"), "ok,critical");
        assert_eq!(status("sidecar_version"), "warning");
        assert_eq!(status("library_version"), "ok");
        assert_eq!(status("wal_level"), "ok");
        assert_eq!(
            one("SELECT status FROM rsrepl.health('10 s', '60 s') \
                 WHERE name = 'target_lag' AND object = 's/a'"),
            "critical"
        );
        assert_eq!(
            one(
                "SELECT count(*)::text FROM rsrepl.health() WHERE (status = 'ok') <> (remedy IS NULL)"
            ),
            "0"
        );
    }

    #[pg_test]
    fn api_health_finds_tables_whose_rows_cannot_be_named() {
        // other tests have tables and publications too; this transaction is rolled back
        run("DO $$ DECLARE p name; BEGIN FOR p IN SELECT pubname FROM pg_publication LOOP \
             EXECUTE format('DROP PUBLICATION %I', p); END LOOP; END $$");
        let missing = |table: &str| {
            one(&format!(
                "SELECT (detail LIKE '%: %{table}%')::text FROM rsrepl.health() \
                 WHERE name = 'replica_identity'"
            ))
        };
        run("CREATE TABLE public.\"No Key\" (a int)");
        run("CREATE TABLE public.keyed (a int PRIMARY KEY)");
        run("CREATE TABLE public.whole (a int); ALTER TABLE public.whole REPLICA IDENTITY FULL");
        run("CREATE UNLOGGED TABLE public.unlogged (a int)");
        assert_eq!(missing("public.\"No Key\""), "true");
        assert_eq!(missing("public.keyed"), "false");
        assert_eq!(missing("public.whole"), "false");
        assert_eq!(missing("public.unlogged"), "false");
        run("ALTER TABLE public.keyed REPLICA IDENTITY NOTHING");
        assert_eq!(missing("public.keyed"), "true");
        assert_eq!(status("replica_identity"), "warning");
        run("CREATE PUBLICATION inserts FOR TABLE public.keyed WITH (publish = 'insert')");
        assert_eq!(status("replica_identity"), "ok");
        run("CREATE PUBLICATION all_of_it FOR TABLE public.keyed");
        assert_eq!(missing("public.keyed"), "true");
        assert_eq!(missing("public.\"No Key\""), "false");
    }

    #[pg_test]
    fn api_sidecar_may_report_and_look_but_no_more() {
        run("CREATE ROLE api_sidecar LOGIN REPLICATION");
        let try_report = format!("SELECT rsrepl.report($report${REPORT}$report$)");
        let as_sidecar = |statement: &str| {
            run("SET LOCAL ROLE api_sidecar");
            let error = error_of(statement);
            run("RESET ROLE");
            error
        };
        assert_eq!(error_of("SELECT 1"), "no error"); // creates the function as its owner
        assert!(as_sidecar(&try_report).contains("permission denied"));
        run("CALL rsrepl.grant_sidecar('api_sidecar')");
        for allowed in [
            try_report.as_str(),
            "SELECT * FROM rsrepl.targets",
            "SELECT * FROM rsrepl.slots",
            "SELECT * FROM rsrepl.health()",
            "SELECT rsrepl.version(), rsrepl.output_plugin_libraries()",
        ] {
            assert_eq!(as_sidecar(allowed), "no error", "{allowed}");
        }
        for refused in [
            "SELECT rsrepl.forget('s')",
            "SELECT rsrepl.decode_frame('')",
            "DELETE FROM rsrepl.target_reports",
            "SELECT * FROM rsrepl.sidecar_reports",
            "CALL rsrepl.grant_sidecar('api_sidecar')",
        ] {
            assert!(as_sidecar(refused).contains("permission denied"), "{refused}");
        }
        run("SET LOCAL ROLE pg_monitor");
        assert_eq!(one("SELECT count(*)::text FROM rsrepl.targets"), "2");
        run("RESET ROLE");
    }

    /// SECURITY DEFINER: objects of the caller must not come before those that are meant.
    #[pg_test]
    fn api_report_does_not_look_into_the_callers_search_path() {
        run("CREATE SCHEMA mine; CREATE FUNCTION mine.clock_timestamp() RETURNS timestamptz \
             LANGUAGE sql AS $$SELECT 'epoch'::timestamptz$$");
        run("SET LOCAL search_path = mine, pg_catalog");
        report(REPORT);
        assert_eq!(
            one("SELECT bool_or(heartbeat_at = 'epoch')::text FROM rsrepl.targets"),
            "false"
        );
    }
}
