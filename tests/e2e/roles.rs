//! Nothing needs a superuser at run time: the grants of docs/operations.md are enough.

use std::time::Duration;

use rsrepl_tests::rig::{DATABASE, Rig, STANDBY};
use rsrepl_tests::variant::Variant;
use rsrepl_tests::{SECRET, wait};

const LIMIT: Duration = Duration::from_secs(60);

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

#[test]
fn documented_grants_are_enough() {
    let mut rig = Rig::with("roles", SCHEMA, Variant::of_test("roles").without_loss());
    rig.execute(&format!(
        "CREATE ROLE reader LOGIN REPLICATION PASSWORD '{SECRET}'; CALL rsrepl.grant_sidecar('reader')"
    ));
    rig.standby.execute(
        DATABASE,
        &format!(
            "CREATE ROLE writer LOGIN PASSWORD '{SECRET}';
             GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO writer;
             GRANT TEMPORARY, CREATE ON DATABASE {DATABASE} TO writer;
             GRANT SET ON PARAMETER session_replication_role TO writer;
             GRANT EXECUTE ON FUNCTION pg_replication_origin_create(text),
                 pg_replication_origin_oid(text), pg_replication_origin_session_setup(text),
                 pg_replication_origin_xact_setup(pg_lsn, timestamptz) TO writer"
        ),
    );
    rig.configure(|config| {
        config.source = config.source.replace("user=postgres", "user=reader");
        let standby = &mut config.postgres[0].connection;
        *standby = standby.replace("user=postgres", "user=writer");
        // only the owner of a table may alter it
        config.postgres[0].options.push_str("\nschema_changes = \"stop\"");
        config.sections = "[logging]\nformat = \"json\"\n".to_owned();
    });
    let output = rig.sidecar.command("check");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "check wants more:\n{text}");
    assert!(!text.contains("warning"), "check warns:\n{text}");

    rig.run();
    rig.execute("INSERT INTO t SELECT i, i FROM generate_series(1, 20000) i");
    rig.execute("UPDATE t SET v = v || 'x' WHERE id % 2 = 0; DELETE FROM t WHERE id % 10 = 0");
    rig.execute("TRUNCATE t; INSERT INTO t VALUES (1, 'after')");
    rig.settle(LIMIT);
    rig.assert_equal();
    wait::until(LIMIT, "the source knows", || rig.reported(STANDBY).contains("\"running\""));

    let output = rig.sidecar.command("status");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "status fails:\n{text}");
    for part in ["confirmed_flush_lsn", STANDBY, "clickhouse", "running", "sidecar: ready"] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
    let log = rig.sidecar.log();
    for line in log.lines() {
        let entry: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|e| panic!("not JSON ({e}): {line}"));
        assert_eq!(entry["level"], "INFO", "a complaint: {line}");
    }
    rig.assert_discreet();
}
