//! What may break while a sidecar runs: connections, targets, rows that a target refuses.

use std::time::Duration;

use rsrepl_tests::proxy::Proxy;
use rsrepl_tests::rig::{CLICKHOUSE, DATABASE, Rig, STANDBY};
use rsrepl_tests::wait;

const LIMIT: Duration = Duration::from_secs(60);

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v text, at timestamptz)";

fn count(rig: &Rig) -> Option<String> {
    rig.standby.value(DATABASE, "SELECT count(*) FROM t")
}

fn count_clickhouse(rig: &Rig) -> String {
    let query = format!("SELECT count() FROM {DATABASE}.t FINAL");
    rig.clickhouse.try_query(&query).unwrap_or_default().trim().to_owned()
}

/// The error must say enough to find the row.
fn assert_names_the_row(text: &str, target: &str) {
    for part in [target, "public.t", "id", "42", "LSN"] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
}

#[test]
fn a_row_that_the_standby_refuses_stops_the_standby_alone() {
    let mut rig = Rig::new("refused-pg", SCHEMA);
    rig.standby.execute(DATABASE, "ALTER TABLE t ALTER v SET NOT NULL");
    rig.run();
    rig.execute("INSERT INTO t VALUES (1, 'fine')");
    rig.settle(LIMIT);
    rig.execute("INSERT INTO t VALUES (42, NULL)");
    rig.execute("INSERT INTO t VALUES (43, 'after')");
    wait::until(LIMIT, "ClickHouse goes on", || count_clickhouse(&rig) == "3");
    wait::until(LIMIT, "the standby is reported as stopped", || {
        rig.reported(STANDBY).contains("\"stopped\"")
    });
    let report = rig.reported(STANDBY);
    assert_names_the_row(&report, STANDBY);
    assert!(report.contains("\\\"v\\\"") || report.contains(" v"), "no column in {report}");
    assert_names_the_row(&rig.sidecar.log(), STANDBY);
    assert_eq!(count(&rig).as_deref(), Some("1"), "something was skipped");
    assert!(!rig.sidecar.ready(), "ready with a stopped target");

    // Mended by its owner, it goes on where it stopped.
    rig.standby.execute(DATABASE, "ALTER TABLE t ALTER v DROP NOT NULL");
    rig.sidecar.terminate();
    rig.run();
    rig.settle(LIMIT);
    rig.assert_equal();
}

#[test]
fn a_value_that_clickhouse_cannot_hold_stops_clickhouse_alone() {
    let mut rig = Rig::new("refused-ch", SCHEMA);
    rig.run();
    rig.execute("INSERT INTO t VALUES (1, 'fine', now())");
    rig.settle(LIMIT);
    rig.execute("INSERT INTO t VALUES (42, 'x', 'infinity')");
    rig.execute("INSERT INTO t VALUES (43, 'after', now())");
    wait::until(LIMIT, "the standby goes on", || count(&rig).as_deref() == Some("3"));
    wait::until(LIMIT, "ClickHouse is reported as stopped", || {
        rig.reported(CLICKHOUSE).contains("\"stopped\"")
    });
    let report = rig.reported(CLICKHOUSE);
    assert_names_the_row(&report, CLICKHOUSE);
    assert!(report.contains("at") && report.contains("infinity"), "no column or value in {report}");
    assert_eq!(count_clickhouse(&rig), "1", "something was skipped or changed");
}

#[test]
fn cut_and_stalled_connections_lose_nothing() {
    let mut rig = Rig::new("proxy", SCHEMA);
    let source = Proxy::start(rig.source.port());
    let standby = Proxy::start(rig.standby.port());
    let clickhouse = Proxy::start(rig.clickhouse.http_port());
    let through = [
        rig.source.conninfo_through(source.port(), DATABASE),
        rig.standby.conninfo_through(standby.port(), DATABASE),
        rig.clickhouse.url_through(clickhouse.port(), DATABASE),
    ];
    rig.configure(|config| {
        let [source, standby, clickhouse] = through;
        config.source = source;
        config.postgres[0].connection = standby;
        config.clickhouse[0].connection = clickhouse;
    });
    rig.run();
    for round in 0..12 {
        let first = round * 2_000;
        rig.execute(&format!(
            "INSERT INTO t SELECT i, 'v' || i FROM generate_series({first}, {first} + 1999) i;
             UPDATE t SET v = v || '.' WHERE id % 7 = 0"
        ));
        let proxy = [&source, &standby, &clickhouse][round % 3];
        proxy.stall(true);
        std::thread::sleep(Duration::from_millis(150));
        proxy.stall(false);
        proxy.cut();
    }
    rig.settle(LIMIT);
    rig.assert_equal();
    rig.assert_discreet();
}

#[test]
fn a_target_that_is_away_does_not_hold_up_the_other() {
    let mut rig = Rig::new("outage", SCHEMA);
    rig.run();
    rig.settle(LIMIT);
    rig.clickhouse.kill();
    rig.execute("INSERT INTO t SELECT i, 'v' FROM generate_series(1, 5000) i");
    rig.settle_standby(LIMIT);
    assert_eq!(count(&rig).as_deref(), Some("5000"));
    // What ClickHouse lacks, the slot keeps.
    let end = rig.wal_end();
    wait::stays(Duration::from_secs(3), "the slot waits for ClickHouse", || rig.confirmed() < end);
    rig.sidecar.kill();
    rig.sidecar.launch();
    rig.clickhouse.launch();
    rig.sidecar.wait_ready(LIMIT);
    rig.settle(LIMIT);
    rig.assert_equal();
}
