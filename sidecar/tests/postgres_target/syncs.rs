//! What is recorded of tables that are copied anew: `sidecar/src/sync`.

use rsrepl_sidecar::batch::Batch;
use rsrepl_sidecar::error::Kind;
use rsrepl_sidecar::sync::{Stage, SyncTarget, Table};
use rsrepl_sidecar::target::postgres::{PostgresSyncs, check};
use rsrepl_sidecar::target::{Ancestor, SourceIdentity, Target};
use rsrepl_wire::Lsn;

use crate::{Apply, Standby};

const OID: u32 = 17;

fn asked(stage: Stage) -> Table {
    Table { oid: OID, name: "public.t".into(), stage, ..Table::default() }
}

async fn open(standby: &Standby) -> PostgresSyncs {
    let mut syncs = PostgresSyncs::new(standby.options());
    syncs.open(&standby.source()).await.unwrap();
    syncs
}

/// What is recorded: stages and slots.
async fn stages(syncs: &mut PostgresSyncs) -> Vec<(Stage, String)> {
    let tables = syncs.read().await.unwrap();
    tables.into_iter().map(|table| (table.stage, table.slot)).collect()
}

/// An administrator asks, and the sidecar's role, which makes no tables, goes on with it.
#[tokio::test]
async fn what_somebody_else_asks_for_can_be_read() {
    let standby = Standby::new(
        "asked",
        "CREATE ROLE lowly_asked LOGIN PASSWORD 'lowly-secret';
         GRANT SET ON PARAMETER session_replication_role TO lowly_asked;
         CREATE SCHEMA rsrepl; GRANT USAGE ON SCHEMA rsrepl TO lowly_asked;
         CREATE TABLE rsrepl.positions (slot text PRIMARY KEY, system_id bigint NOT NULL, timeline bigint NOT NULL,
             database text NOT NULL, applied_lsn pg_lsn NOT NULL, commit_time timestamptz, xid bigint,
             updated timestamptz NOT NULL DEFAULT clock_timestamp());
         GRANT SELECT, INSERT, UPDATE, DELETE ON rsrepl.positions TO lowly_asked",
    );
    open(&standby).await.request(&[asked(Stage::Requested)]).await.unwrap();
    let port = standby.server.postgres.port();
    let options = crate::options_for(&format!(
        "host=127.0.0.1 port={port} user=lowly_asked password=lowly-secret dbname=asked"
    ));
    let mut syncs = PostgresSyncs::new(options.clone());
    syncs.open(&standby.source()).await.unwrap();
    assert_eq!(stages(&mut syncs).await, [(Stage::Requested, String::new())]);
    let copying = Table { slot: "slot_sync".into(), ..asked(Stage::Copying) };
    syncs.write(&[copying]).await.unwrap();
    // what is not granted is told with the statement, by `check` and by what fails
    standby.execute("REVOKE ALL ON rsrepl.syncs FROM lowly_asked; REVOKE DELETE ON rsrepl.positions FROM lowly_asked");
    let error = syncs.read().await.unwrap_err();
    assert!(error.advice().is_some_and(|hint| hint.contains("lowly_asked")), "{error}");
    let findings = check(&options, "s", &[]).await;
    for table in ["rsrepl.syncs", "rsrepl.positions"] {
        let lacks = |mend: &str| mend.starts_with("GRANT") && mend.contains(table);
        assert!(findings.iter().any(|found| lacks(&found.mend)), "{table}: {findings:#?}");
    }
    for finding in findings {
        standby.execute(&finding.mend);
    }
    let left = check(&options, "s", &[]).await;
    assert!(!left.iter().any(|found| found.what.contains("rsrepl.")), "{left:#?}");
    assert_eq!(stages(&mut syncs).await.len(), 1);
}

/// A stage that leaves the table out never becomes one that does not, but by a sync.
#[tokio::test]
async fn what_is_given_up_stays_held() {
    let standby = Standby::new("given_up", "CREATE TABLE t (id int PRIMARY KEY)");
    let mut syncs = open(&standby).await;
    // what has not begun is withdrawn
    for stage in [Stage::Requested, Stage::ToDecide] {
        syncs.request(&[asked(stage)]).await.unwrap();
        syncs.cancel(&[asked(stage)]).await.unwrap();
        assert!(stages(&mut syncs).await.is_empty());
    }
    let slot = "slot_sync_1_0";
    let copying = Table { slot: slot.into(), ..asked(Stage::Copying) };
    syncs.write(std::slice::from_ref(&copying)).await.unwrap();
    assert!(syncs.cancelled(slot).await.unwrap().is_empty());
    syncs.cancel(&[asked(Stage::Requested)]).await.unwrap();
    syncs.cancel(&[asked(Stage::Requested)]).await.unwrap();
    assert_eq!(syncs.cancelled(slot).await.unwrap(), [OID]);
    assert_eq!(stages(&mut syncs).await, [(Stage::Copying, slot.to_owned())]);
    let given_up = Table { stage: Stage::GivenUp, ..copying };
    syncs.give_up(slot, std::slice::from_ref(&given_up)).await.unwrap();
    // as long as something of it is left, nothing new begins
    syncs.request(&[asked(Stage::Requested)]).await.unwrap();
    assert_eq!(stages(&mut syncs).await, [(Stage::GivenUp, slot.to_owned())]);
    syncs.end(slot, &[]).await.unwrap();
    assert!(syncs.cancelled(slot).await.unwrap().is_empty(), "it goes with the sync");
    syncs.write(&[Table { slot: String::new(), ..given_up }]).await.unwrap();
    let held = [(Stage::GivenUp, String::new())];
    syncs.withdraw(&[asked(Stage::Requested)]).await.unwrap();
    syncs.request(&[asked(Stage::ToDecide)]).await.unwrap();
    assert_eq!(stages(&mut syncs).await, held);
    syncs.request(&[asked(Stage::Requested)]).await.unwrap();
    assert_eq!(stages(&mut syncs).await, [(Stage::RequestedAgain, String::new())]);
    syncs.cancel(&[asked(Stage::Requested)]).await.unwrap();
    assert_eq!(stages(&mut syncs).await, held);
}

/// Versions before did not look whether a table had rows when its first came.
#[tokio::test]
async fn rows_of_a_table_that_an_earlier_version_recorded_are_looked_for() {
    let standby =
        Standby::new("strange", "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    let mut syncs = open(&standby).await;
    syncs.request(&[asked(Stage::Requested)]).await.unwrap();
    standby.execute(
        "CREATE TABLE rsrepl.tables (slot text NOT NULL, source_oid bigint NOT NULL, target_oid bigint NOT NULL,
             record text NOT NULL, updated timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (slot, source_oid))",
    );
    let table = r#"{"oid":17,"schema":"public","name":"t","columns":[]}"#;
    let slot = &standby.source().slot;
    for (had_rows, strange) in
        [("", vec![OID]), (r#""had_rows":false,"#, vec![]), (r#""had_rows":true,"#, vec![OID])]
    {
        standby.execute(&format!(
            r#"DELETE FROM rsrepl.tables;
               INSERT INTO rsrepl.tables VALUES ('{slot}', {OID}, 't'::regclass::oid, '{{"table":{table},{had_rows}"places":{{}}}}')"#
        ));
        let found = syncs.strange(&[asked(Stage::Requested)]).await.unwrap();
        assert_eq!(found, strange, "{had_rows:?}");
    }
    // such a record can be read: with rows and without the word that it had none, it is not as if it were not there
    standby.execute("DELETE FROM t");
    assert_eq!(syncs.strange(&[asked(Stage::Requested)]).await.unwrap(), [OID]);
}

/// The source as it is after a promotion that left timeline 1 at `left_at`.
fn promoted(before: SourceIdentity, left_at: u64) -> SourceIdentity {
    let ancestors = Some(vec![Ancestor { timeline: 1, left_at: Lsn(left_at) }]);
    SourceIdentity { timeline: 2, ancestors, ..before }
}

#[tokio::test]
async fn what_a_sync_has_brought_must_be_in_the_past_of_the_source() {
    let standby = Standby::new("sync_past", "");
    let mut syncs = PostgresSyncs::new(standby.options());
    let source = SourceIdentity { timeline: 1, ..standby.source() };
    syncs.open(&source).await.unwrap();
    assert!(!syncs.has_begun("rsrepl_sync_1_0").await.unwrap());
    let mut target = standby.target();
    let sync = SourceIdentity { slot: "rsrepl_sync_1_0".into(), ..source.clone() };
    target.open(&sync).await.unwrap();
    target.apply(Batch::progress(Lsn(100))).await.unwrap();
    target.close().await;
    assert!(syncs.has_begun("rsrepl_sync_1_0").await.unwrap());
    syncs.open(&promoted(source.clone(), 100)).await.unwrap();
    assert!(syncs.has_begun("rsrepl_sync_1_0").await.unwrap());
    syncs.open(&promoted(source, 99)).await.unwrap();
    let error = syncs.has_begun("rsrepl_sync_1_0").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Identity, "{error}");
    assert!(!syncs.has_begun("rsrepl_sync_2_0").await.unwrap(), "another's");
}
