use rsrepl_sidecar::error::{Decision, Kind};
use rsrepl_sidecar::preflight::Severity;
use rsrepl_sidecar::schema::Policy;
use rsrepl_sidecar::target::Target;
use rsrepl_sidecar::target::postgres::{PostgresTarget, check};
use rsrepl_wire::{Column, Encoding, ReplicaIdentity};

use crate::stream::{Stream, column, int, int_column, key, relation, text_column};
use crate::{Apply, Standby};

#[tokio::test]
async fn everything_that_does_not_fit_is_told_at_once() {
    let standby = Standby::new(
        "unfit",
        "CREATE TABLE t (id smallint, a text, n numeric(5,2), must int NOT NULL);
         CREATE TABLE keyless (id int);
         CREATE VIEW v AS SELECT 1 AS id",
    );
    let numeric =
        Column { typmod: ((8 << 16) | 2) + 4, ..column("n", 1700, "numeric", Encoding::Numeric) };
    let t = relation(
        "t",
        ReplicaIdentity::Default,
        vec![key(int_column("id")), text_column("a"), numeric, text_column("missing")],
    );
    let of_ids = |name: &str| relation(name, ReplicaIdentity::Default, vec![key(int_column("id"))]);
    let relations =
        [&t, &of_ids("nowhere"), &of_ids("v"), &of_ids("keyless")].map(|r| (**r).clone());
    let findings = check(&standby.options(), "s", &relations).await;
    let told: Vec<(Severity, &str)> =
        findings.iter().map(|finding| (finding.severity, finding.what.as_str())).collect();
    let expected = [
        (Severity::Error, "column id of public.t is pg_catalog.int4 on the source"),
        (Severity::Error, "column n of public.t has a narrower length or precision"),
        (Severity::Error, "column missing of public.t is missing"),
        (Severity::Error, "column must of public.t is NOT NULL"),
        (Severity::Warning, "table public.nowhere is missing"),
        (Severity::Error, "public.v is not a table"),
        (Severity::Warning, "no unique index of public.keyless"),
    ];
    assert_eq!(told.len(), expected.len(), "{findings:#?}");
    for ((severity, what), (expected_severity, words)) in told.iter().zip(expected) {
        assert!(what.contains(words), "{words:?} is not in {what:?}");
        assert_eq!(*severity, expected_severity, "{what}");
    }
    assert_eq!(standby.rows("SELECT to_regclass('rsrepl.positions')"), "()", "nothing is changed");

    // the same at run time, as one error that a mended target gets over
    let mut options = standby.options();
    options.schema_changes = Policy::Stop;
    let mut target = PostgresTarget::new(options);
    target.open(&standby.source()).await.unwrap();
    let mut stream = Stream::after(1000);
    let nowhere = of_ids("nowhere");
    stream.insert(&nowhere, &[int(1)]);
    let error = target.apply(stream.commit()).await.unwrap_err();
    assert_eq!((error.kind(), error.decision()), (Kind::Setup, Decision::Retry), "{error}");
    standby.execute("CREATE TABLE nowhere (id int PRIMARY KEY)");
    target.open(&standby.source()).await.unwrap();
    let mut replay = Stream::after(1000);
    replay.insert(&nowhere, &[int(1)]);
    target.apply(replay.commit()).await.unwrap();
    assert_eq!(standby.rows("SELECT id FROM nowhere"), "(1)");
}

#[tokio::test]
async fn a_role_without_superuser_is_told_its_grants() {
    let standby = Standby::new(
        "grants",
        "CREATE ROLE lowly LOGIN PASSWORD 'lowly-secret';
         REVOKE TEMPORARY ON DATABASE grants FROM PUBLIC;
         CREATE TABLE t (id int PRIMARY KEY)",
    );
    let port = standby.server.postgres.port();
    let mut options = crate::options_for(&format!(
        "host=127.0.0.1 port={port} user=lowly password=lowly-secret dbname=grants"
    ));
    options.schema_changes = Policy::Stop;
    let table = relation("t", ReplicaIdentity::Default, vec![key(int_column("id"))]);
    let findings = check(&options, "s", &[(*table).clone()]).await;
    assert_eq!(findings.len(), 1, "{findings:#?}");
    let grant = "GRANT SET ON PARAMETER session_replication_role TO \"lowly\"";
    assert!(findings[0].mend.contains(grant), "{findings:#?}");

    // each mend is run as it stands, until nothing is found
    standby.execute(grant);
    let findings = check(&options, "s", &[(*table).clone()]).await;
    assert_eq!(findings.len(), 3, "{findings:#?}");
    for finding in &findings {
        assert_eq!(finding.severity, Severity::Error);
        assert!(!format!("{finding:?}").contains("lowly-secret"));
        standby.execute(&finding.mend);
    }
    assert_eq!(check(&options, "s", &[(*table).clone()]).await, []);
    // tables are altered by their owner alone
    options.schema_changes = Policy::Additive;
    let findings = check(&options, "s", &[(*table).clone()]).await;
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(findings[0].severity, Severity::Warning);
    assert!(findings[0].mend.contains("OWNER TO \"lowly\""), "{findings:#?}");

    let mut target = PostgresTarget::new(options);
    target.open(&standby.source()).await.unwrap();
    let mut stream = Stream::after(1000);
    (0..50).for_each(|id| stream.insert(&table, &[int(id)]));
    target.apply(stream.commit()).await.unwrap();
    assert_eq!(standby.rows("SELECT count(*) FROM t"), "(50)");
}

#[tokio::test]
async fn wrong_credentials_show_no_password() {
    let standby = Standby::new("credentials", "");
    let port = standby.server.postgres.port();
    let options = crate::options_for(&format!(
        "host=127.0.0.1 port={port} user=postgres password=wrong-secret dbname=credentials"
    ));
    let findings = check(&options, "s", &[]).await;
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(findings[0].severity, Severity::Error);
    assert!(findings[0].what.contains("28P01"), "{findings:#?}");
    assert!(!format!("{findings:?}").contains("wrong-secret"));
}
