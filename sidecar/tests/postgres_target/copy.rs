//! What a target has recorded of an initial copy.

use rsrepl_sidecar::copy::{CopyTarget, Records, Snapshot, Standing};
use rsrepl_sidecar::target::postgres::PostgresCopy;
use rsrepl_wire::Lsn;

use crate::Standby;

fn snapshot(lsn: u64) -> Snapshot {
    Snapshot { lsn: Lsn(lsn), xmin: lsn }
}

fn unfinished(lsn: u64) -> Standing {
    Standing::Unfinished(Records { caught_up: snapshot(lsn), chunks: Vec::new() })
}

/// Whatever a copy believes: where the records say that it is, its position is, or none.
#[tokio::test]
async fn a_copy_ends_where_its_records_are() {
    let standby = Standby::new("copy_ends", "");
    let source = standby.source();
    let mut copy = PostgresCopy::new(standby.options());
    assert_eq!(copy.open(&source).await.unwrap(), Standing::New);
    copy.caught_up(snapshot(100)).await.unwrap();
    let error = copy.finish(Lsn(200)).await.unwrap_err();
    assert!(error.to_string().contains("another sidecar copies to it"), "{error}");
    assert_eq!(copy.open(&source).await.unwrap(), unfinished(100));
    // another epoch: what is under way in this one comes to nothing
    let mut second = PostgresCopy::new(standby.options());
    standby.execute("UPDATE rsrepl.copies SET epoch = epoch + 1");
    copy.finish(Lsn(100)).await.unwrap_err();
    drop(copy);
    assert_eq!(second.open(&source).await.unwrap(), unfinished(100));
    second.finish(Lsn(100)).await.unwrap();
    assert_eq!(second.open(&source).await.unwrap(), Standing::Positioned(Lsn(100)));
    assert_eq!(standby.rows("SELECT applied_lsn FROM rsrepl.positions"), "(0/64)");
}
