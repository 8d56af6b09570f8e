//! When the target tells that something is on its disk.

use std::process::Command;
use std::time::Duration;

use rsrepl_sidecar::target::postgres::PostgresTarget;
use rsrepl_sidecar::target::{Event, Target};
use rsrepl_tests::postgres::Postgres;
use rsrepl_tests::scratch::Scratch;
use rsrepl_wire::ReplicaIdentity;

use crate::stream::{Stream, int, int_column, relation};
use crate::{Apply, Standby, blocking, options_for, source_for};

/// More than any of these takes.
const LIMIT: Duration = Duration::from_secs(20);

/// Between two batches; an idle target would be looked at.
const PACE: Duration = Duration::from_millis(5);

const SCHEMA: &str = "CREATE TABLE t (id int)";

fn insert(stream: &mut Stream) {
    let table = relation("t", ReplicaIdentity::Full, vec![int_column("id")]);
    stream.insert(&table, &[int(1)]);
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, what).await.expect("it comes to that")
}

/// A process that is stopped and goes on when this is dropped.
struct Stopped(String);

impl Stopped {
    fn stop(pid: String) -> Stopped {
        signal("-STOP", &pid);
        Stopped(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal("-CONT", &self.0);
    }
}

fn signal(signal: &str, pid: &str) {
    let status = Command::new("kill").args([signal, pid]).status();
    assert!(status.expect("run kill").success(), "kill {signal} {pid}");
}

/// A transaction may be written for hours: what was committed before it does not wait for its end.
#[tokio::test]
async fn commits_become_durable_while_a_transaction_is_open() {
    for (workers, hurried) in [(1, false), (1, true), (3, false)] {
        let standby = Standby::new(&format!("open_{workers}_{hurried}"), SCHEMA);
        let mut options = standby.options();
        options.workers = workers;
        let mut target = PostgresTarget::new(options);
        target.open(&standby.source()).await.unwrap();
        let mut stream = Stream::after(1000);
        insert(&mut stream);
        target.submit(stream.commit());
        let committed = stream.lsn();
        insert(&mut stream);
        target.submit(stream.part());
        if hurried {
            target.hurry();
        }
        within(async { while target.next().await.unwrap() != Event::Durable(committed) {} }).await;
    }
}

/// Commits that the walwriter leaves in memory wait for the disk themselves in the end, also when there is
/// always a next one.
#[tokio::test]
async fn a_walwriter_that_does_nothing_is_not_waited_for_under_load() {
    let scratch = blocking(|| Scratch::new("pg-durable"));
    let server = blocking(|| Postgres::start(&scratch, "standby", ""));
    blocking(|| server.execute("postgres", SCHEMA));
    let walwriter = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'";
    let mut target = PostgresTarget::new(options_for(&server.conninfo("postgres")));
    target.open(&source_for("durable")).await.unwrap();
    let _stopped = Stopped::stop(blocking(|| server.value("postgres", walwriter)).unwrap());
    let mut stream = Stream::after(1000);
    let told = async {
        loop {
            // a steady load: never idle for long, and too small to fill a segment, which is flushed
            insert(&mut stream);
            target.apply(stream.commit()).await.unwrap();
            tokio::select! {
                biased;
                event = target.next() => return event.unwrap(),
                () = tokio::time::sleep(PACE) => {}
            }
        }
    };
    let told = within(told).await;
    assert!(matches!(told, Event::Durable(_)), "{told:?}");
    target.close().await;
}

/// What was committed is committed, whether or not it can be seen how far it is.
#[tokio::test]
async fn a_look_that_fails_behind_a_commit_is_no_failure_of_it() {
    let standby = Standby::new(
        "blind",
        "CREATE ROLE blind LOGIN PASSWORD 'blind';
         GRANT SET ON PARAMETER session_replication_role TO blind;
         GRANT CREATE ON DATABASE blind TO blind;
         CREATE TABLE t (id int); GRANT ALL ON t TO blind",
    );
    let port = standby.server.postgres.port();
    let user = "user=blind password=blind dbname=blind";
    let mut target =
        PostgresTarget::new(options_for(&format!("host=127.0.0.1 port={port} {user}")));
    target.open(&standby.source()).await.unwrap();
    standby.execute("REVOKE EXECUTE ON FUNCTION pg_current_wal_flush_lsn() FROM PUBLIC");
    let mut stream = Stream::after(1000);
    insert(&mut stream);
    target.apply(stream.commit()).await.expect("it is committed");
    // one that waits for the disk tells of both
    insert(&mut stream);
    target.submit(stream.commit());
    target.hurry();
    let both = Event::Durable(stream.lsn());
    within(async { while target.next().await.unwrap() != both {} }).await;
    assert_eq!(standby.rows("SELECT count(*) FROM t"), "(2)");
}
