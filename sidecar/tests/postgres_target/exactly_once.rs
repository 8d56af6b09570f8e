use rsrepl_sidecar::batch::Position;
use rsrepl_sidecar::error::{Decision, Kind};
use rsrepl_sidecar::target::{Ancestor, Event, SourceIdentity, Target};
use rsrepl_wire::{Lsn, ReplicaIdentity};

use crate::stream::{Stream, int, int_column, key, relation};
use crate::{Apply, Standby};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY)";

fn table() -> std::sync::Arc<rsrepl_wire::Relation> {
    relation("t", ReplicaIdentity::Default, vec![key(int_column("id"))])
}

#[tokio::test]
async fn a_position_is_as_durable_as_its_rows() {
    let standby = Standby::new("durable", SCHEMA);
    let table = table();
    let mut target = standby.target();
    assert_eq!(target.open(&standby.source()).await.unwrap(), Lsn::INVALID);

    let mut stream = Stream::after(1000);
    stream.insert(&table, &[int(1)]);
    target.apply(stream.commit()).await.unwrap();
    let applied = stream.lsn();

    // a transaction larger than a batch: nothing shows, and a crash takes all of it back
    stream.insert(&table, &[int(2)]);
    target.apply(stream.part()).await.unwrap();
    (0..100).for_each(|i| stream.insert(&table, &[int(100 + i)]));
    target.apply(stream.part()).await.unwrap();
    assert_eq!(standby.rows("SELECT id FROM t"), "(1)");
    drop(target); // as abrupt as it gets for the server: the connection is gone

    let mut target = standby.target();
    assert_eq!(target.open(&standby.source()).await.unwrap(), applied);
    let mut replay = Stream::after(applied.0);
    replay.insert(&table, &[int(2)]);
    target.apply(replay.part()).await.unwrap();
    replay.insert(&table, &[int(3)]);
    target.apply(replay.commit()).await.unwrap();
    assert_eq!(standby.rows("SELECT id FROM t ORDER BY id"), "(1);(2);(3)");

    // a position alone moves too, and says nothing of a transaction
    let mut progress = replay.commit();
    progress.commit = progress.commit.map(|p| Position { lsn: p.lsn, ..Position::default() });
    target.apply(progress).await.unwrap();
    target.close().await;
    assert_eq!(standby.target().open(&standby.source()).await.unwrap(), replay.lsn());
    assert_eq!(
        standby.rows("SELECT commit_time = '2000-01-01 00:00:01+00', xid FROM rsrepl.positions"),
        "(t,7)"
    );
}

/// Only this server's own disk is not waited for: whoever waits for a standby goes on doing so.
#[tokio::test]
async fn what_is_told_to_be_durable_is_on_disk() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, \
                  setting text DEFAULT current_setting('synchronous_commit'))";
    for (setting, expected) in
        [("off", "off"), ("on", "off"), ("local", "off"), ("remote_write", "remote_write")]
    {
        let standby = Standby::new(&format!("disk_{setting}"), schema);
        let database = format!("disk_{setting}");
        standby.execute(&format!("ALTER DATABASE {database} SET synchronous_commit = {setting}"));
        let mut target = standby.target();
        target.open(&standby.source()).await.unwrap();
        let mut stream = Stream::after(1000);
        stream.insert(&table(), &[int(1)]);
        target.apply(stream.commit()).await.unwrap();
        assert_eq!(standby.rows("SELECT setting FROM t"), format!("({expected})"));
        assert_eq!(target.next().await.unwrap(), Event::Durable(stream.lsn()));
    }
}

#[tokio::test]
async fn rows_carry_the_origin() {
    let standby = Standby::new("origin", SCHEMA);
    let mut target = standby.target();
    target.open(&standby.source()).await.unwrap();
    let mut stream = Stream::after(1000);
    stream.insert(&table(), &[int(1)]);
    target.apply(stream.commit()).await.unwrap();
    target.close().await;
    let remote = standby.rows(
        "SELECT remote_lsn - '0/0'::pg_lsn FROM pg_replication_origin_status \
         WHERE external_id = 'rsrepl_slot_origin_' \
            || (SELECT oid FROM pg_database WHERE datname = current_database())",
    );
    assert_eq!(remote, format!("({})", stream.lsn().0));
}

#[tokio::test]
async fn a_second_sidecar_applies_nothing() {
    let standby = Standby::new("second", SCHEMA);
    let source = standby.source();
    let (mut first, mut second) = (standby.target(), standby.target());
    first.open(&source).await.unwrap();
    let refused = second.open(&source).await.unwrap_err();
    assert_eq!(refused.decision(), Decision::Retry, "{refused}");

    // a predecessor that was believed dead comes back after its successor has applied something
    first.close().await;
    let mut late = standby.target();
    late.open(&source).await.unwrap();
    standby.execute("UPDATE rsrepl.positions SET applied_lsn = '0/500'");
    let mut stream = Stream::after(0x500);
    stream.insert(&table(), &[int(1)]);
    let error = late.apply(stream.commit()).await.unwrap_err();
    assert_eq!(error.decision(), Decision::Retry, "{error}");
    assert!(error.to_string().contains("another sidecar"), "{error}");
    assert_eq!(standby.rows("SELECT * FROM t"), "");
}

#[tokio::test]
async fn two_targets_may_be_databases_of_one_server() {
    let (first, second) =
        (Standby::new("one_of_two", SCHEMA), Standby::new("other_of_two", SCHEMA));
    let source = first.source();
    let (mut one, mut other) = (first.target(), second.target());
    one.open(&source).await.unwrap();
    other.open(&source).await.unwrap();
    for (standby, target) in [(&first, &mut one), (&second, &mut other)] {
        let mut stream = Stream::after(1000);
        stream.insert(&table(), &[int(1)]);
        target.apply(stream.commit()).await.unwrap();
        assert_eq!(standby.rows("SELECT id FROM t"), "(1)");
    }
}

#[tokio::test]
async fn the_wrong_source_is_refused() {
    let standby = Standby::new("identity", SCHEMA);
    let source = standby.source();
    let mut target = standby.target();
    target.open(&SourceIdentity { timeline: 3, ..source.clone() }).await.unwrap();
    target.close().await;
    // before sessions fail, which end when this thread gets to it
    standby.execute("UPDATE rsrepl.positions SET applied_lsn = '0/500'");
    for wrong in [
        SourceIdentity { timeline: 2, ..source.clone() },
        SourceIdentity { timeline: 3, system_id: 1, ..source.clone() },
        SourceIdentity { timeline: 3, database: "other".into(), ..source.clone() },
    ] {
        let error = standby.target().open(&wrong).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Identity, "{error}");
    }
    // promotions: of a server that had less, and of one that had it all
    let promoted = |left_at| {
        let ancestors = Some(vec![Ancestor { timeline: 3, left_at: Lsn(left_at) }]);
        SourceIdentity { timeline: 4, ancestors, ..source.clone() }
    };
    let error = standby.target().open(&promoted(0x4FF)).await.unwrap_err();
    assert_eq!((error.kind(), error.decision()), (Kind::Identity, Decision::Stop), "{error}");
    for part in ["0/500 of timeline 3", "left that at 0/4FF", "DELETE FROM rsrepl.positions"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    standby.target().open(&promoted(0x500)).await.unwrap();
    assert_eq!(standby.rows("SELECT timeline FROM rsrepl.positions"), "(4)");
}

#[tokio::test]
async fn positions_of_the_source_are_not_the_targets() {
    let standby = Standby::new("chain", SCHEMA);
    let mut target = standby.target();
    target.open(&standby.source()).await.unwrap();
    let mut other = (*table()).clone();
    (other.schema, other.name) = ("rsrepl".into(), "positions".into());
    let other = std::sync::Arc::new(other);
    let mut stream = Stream::after(1000);
    stream.truncate(&other);
    stream.insert(&other, &[int(1)]);
    stream.insert(&table(), &[int(1)]);
    target.apply(stream.commit()).await.unwrap();
    assert_eq!(standby.rows("SELECT id, (SELECT count(*) FROM rsrepl.positions) FROM t"), "(1,1)");
}
