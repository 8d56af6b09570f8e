//! What a target says of a sync: `sidecar/src/sync`.

use rsrepl_sidecar::batch::Batch;
use rsrepl_sidecar::error::Kind;
use rsrepl_sidecar::sync::SyncTarget;
use rsrepl_sidecar::target::postgres::PostgresSyncs;
use rsrepl_sidecar::target::{Ancestor, SourceIdentity, Target};
use rsrepl_wire::Lsn;

use crate::{Apply, Standby};

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
