//! Probes, reports and the preflight tell the truth.

use std::time::Duration;

use rsrepl_tests::config::Target;
use rsrepl_tests::rig::{CLICKHOUSE, DATABASE, Rig, STANDBY};
use rsrepl_tests::scratch::{Scratch, free_port};
use rsrepl_tests::sidecar::Sidecar;
use rsrepl_tests::{SECRET, wait};

const LIMIT: Duration = Duration::from_secs(60);

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

#[test]
fn readiness_follows_every_part() {
    let mut rig = Rig::new("truth", SCHEMA);
    rig.run();
    let health = rig.sidecar.get("/healthz").map(|(status, _)| status);
    assert_eq!(health, Some(200));

    rig.clickhouse.kill();
    // With nothing to write nobody can know; a change shows it.
    rig.execute("INSERT INTO t VALUES (1)");
    wait::until(LIMIT, "not ready without ClickHouse", || !rig.sidecar.ready());
    rig.clickhouse.launch();
    rig.sidecar.wait_ready(LIMIT);

    rig.standby.kill();
    rig.execute("INSERT INTO t VALUES (2)");
    wait::until(LIMIT, "not ready without the standby", || !rig.sidecar.ready());
    rig.standby.launch();
    rig.sidecar.wait_ready(LIMIT);

    rig.source.kill();
    wait::until(LIMIT, "not ready without the source", || !rig.sidecar.ready());
    rig.source.launch();
    rig.sidecar.wait_ready(LIMIT);
    rig.settle(LIMIT);
    rig.assert_equal();
}

#[test]
fn metrics_and_reports_count_what_arrived() {
    let mut rig = Rig::new("metrics", SCHEMA);
    rig.run();
    rig.execute("INSERT INTO t SELECT i FROM generate_series(1, 500) i");
    rig.settle(LIMIT);
    for target in [STANDBY, CLICKHOUSE] {
        let labels = [("target", target)];
        let events = rig.sidecar.metric("rsrepl_events_processed_total", &labels);
        assert!(events >= Some(500.0), "{target}: {events:?} events");
        wait::until(LIMIT, "an idle target lags by nothing", || {
            rig.sidecar.metric("rsrepl_lag_seconds", &labels) == Some(0.0)
                && rig.sidecar.metric("rsrepl_lag_bytes", &labels) == Some(0.0)
        });
        for histogram in ["rsrepl_batch_size_count", "rsrepl_sink_latency_seconds_count"] {
            assert!(
                rig.sidecar.metric(histogram, &labels) >= Some(1.0),
                "{target}: no {histogram}"
            );
        }
        wait::until(LIMIT, "the source knows", || rig.reported(target).contains("\"running\""));
    }
    let unhealthy =
        "SELECT string_agg(h::text, '; ') FROM rsrepl.health() h WHERE status = 'critical'";
    assert_eq!(rig.source.value(DATABASE, unhealthy), None);
    rig.assert_discreet();
}

/// Every problem is in one list, none hides another, and no password is in it.
#[test]
fn check_reports_everything_at_once() {
    let mut rig = Rig::new("check", SCHEMA);
    rig.execute("CREATE TABLE lonely (id int PRIMARY KEY); CREATE TABLE keyless (v text)");
    rig.standby.execute(DATABASE, "CREATE TABLE keyless (v text)");
    let nobody = free_port();
    rig.configure(|config| {
        config.source_options = "publication = \"absent\"".to_owned();
        let elsewhere = config.postgres[0].connection.replace(DATABASE, "postgres");
        let wrong = elsewhere.replace(SECRET, "wr0ng-s3cret");
        config.postgres.push(Target::new("stranger", wrong));
        config.clickhouse[0].connection =
            format!("http://u:{SECRET}@127.0.0.1:{nobody}/{DATABASE}");
    });
    let output = rig.sidecar.command("check");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(!output.status.success(), "check is content:\n{text}");
    for part in ["absent", "CREATE PUBLICATION", "stranger", CLICKHOUSE] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
    assert!(!text.contains(SECRET) && !text.contains("wr0ng"), "a password in:\n{text}");

    // The same for what the tables lack.
    let url = rig.clickhouse.url(DATABASE);
    rig.configure(|config| {
        config.source_options.clear();
        config.postgres.truncate(1);
        // else a missing table would be made
        config.postgres[0].options.push_str("\nschema_changes = \"stop\"");
        config.clickhouse[0].connection = url;
    });
    let output = rig.sidecar.command("check");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(!output.status.success(), "check is content:\n{text}");
    for part in ["lonely", "keyless", "REPLICA IDENTITY"] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }

    rig.execute("DROP TABLE lonely; ALTER TABLE keyless REPLICA IDENTITY FULL");
    let output = rig.sidecar.command("check");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "after the mend:\n{text}");
}

/// Neither a source that is down nor a slot that another sidecar holds ends `run`.
#[test]
fn what_may_pass_by_itself_is_waited_for() {
    let mut rig = Rig::new("waits", SCHEMA);
    rig.source.kill();
    rig.sidecar.launch();
    wait::until(LIMIT, "the probe says what it waits for", || {
        let answer = rig.sidecar.get("/readyz");
        answer.is_some_and(|(code, body)| code == 503 && body.contains("cannot connect"))
    });
    rig.source.launch();
    rig.sidecar.wait_ready(LIMIT);

    let scratch = Scratch::new("waits-second");
    let mut config = rig.config.clone();
    config.telemetry_port = free_port();
    let mut second = Sidecar::new(&scratch, &config);
    second.launch();
    wait::until(LIMIT, "the second sees the first", || second.log().contains("is in use by PID"));
    assert!(!second.ready() && second.is_running());
    assert_eq!(rig.sidecar.terminate().code(), Some(0));
    second.wait_ready(LIMIT);
    rig.execute("INSERT INTO t VALUES (1)");
    rig.settle(LIMIT);
    rig.assert_equal();
    assert_eq!(second.terminate().code(), Some(0));
}
