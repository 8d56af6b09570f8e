//! The replication origin of a session.

use std::time::Duration;

use rsrepl_sidecar::preflight::Severity;
use rsrepl_sidecar::target::Target;
use rsrepl_sidecar::target::postgres::{PostgresTarget, check};
use rsrepl_tests::build;
use rsrepl_tests::postgres::Postgres;
use rsrepl_tests::scratch::Scratch;

use crate::{Standby, blocking, options_for, source_for};

/// More than any of these takes.
const LIMIT: Duration = Duration::from_secs(30);

/// Sessions that have tried to take an origin.
const TRIED: &str = "SELECT count(*) FROM pg_stat_activity \
    WHERE datname = current_database() AND application_name = 'rsrepl' \
      AND query ~ 'pg_replication_origin_session_setup'";

/// A session that was cut off has its origin until its server process has noticed.
#[tokio::test(flavor = "multi_thread")]
async fn a_predecessor_that_is_about_to_end_is_waited_for() {
    let standby = Standby::new("predecessor", "");
    let (mut first, mut second) = (standby.target(), standby.target());
    first.open(&standby.source()).await.unwrap();
    let source = standby.source();
    let opening = tokio::spawn(async move { second.open(&source).await.map(|_| second) });
    let second_has_tried = async {
        // its own last statement is another by now
        while standby.rows(TRIED) == "(0)" && !opening.is_finished() {}
    };
    tokio::time::timeout(LIMIT, second_has_tried).await.expect("it tries");
    first.close().await;
    let opened = tokio::time::timeout(LIMIT, opening).await.expect("it does not hang");
    opened.unwrap().expect("it waits");
}

#[tokio::test]
async fn a_predecessor_that_stays_is_named() {
    let standby = Standby::new("stays", "");
    let (mut first, mut second) = (standby.target(), standby.target());
    first.open(&standby.source()).await.unwrap();
    let pid = standby.rows(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'rsrepl' \
                            AND datname = current_database()",
    );
    let error = second.open(&standby.source()).await.unwrap_err().to_string();
    assert!(error.contains("origin rsrepl_slot_stays_"), "{error}");
    assert!(error.contains(&format!("PID {}", pid.trim_matches(['(', ')']))), "{error}");
    assert!(error.contains("pg_terminate_backend"), "{error}");
}

#[tokio::test]
async fn check_counts_the_places_that_are_left() {
    let scratch = blocking(|| Scratch::new("pg-origins"));
    let places = match build::postgres_major() {
        18.. => "max_active_replication_origins",
        _ => "max_replication_slots",
    };
    let server = blocking(|| Postgres::start(&scratch, "standby", &format!("{places} = 3")));
    let mut options = options_for(&server.conninfo("postgres"));
    options.workers = 4;
    let found = check(&options, "origins", &[]).await;
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].severity, Severity::Error);
    assert!(found[0].what.contains("4 more replication origins"), "{found:#?}");
    assert!(found[0].mend.contains(&format!("SET {places} = 4,")), "{found:#?}");

    options.workers = 2;
    assert_eq!(check(&options, "origins", &[]).await, []);
    let mut target = PostgresTarget::new(options.clone());
    target.open(&source_for("origins")).await.unwrap();
    target.close().await;
    // it has its places; for another there is one
    assert_eq!(check(&options, "origins", &[]).await, []);
    let found = check(&options, "others", &[]).await;
    assert!(found[0].what.contains("2 of the server's 3 places are taken"), "{found:#?}");
    assert!(found[0].mend.contains(&format!("SET {places} = 4,")), "{found:#?}");
}
