//! A server that is killed between a commit and its flush.

use rsrepl_sidecar::config::MissingRows;
use rsrepl_sidecar::schema::Policy;
use rsrepl_sidecar::target::postgres::{PostgresOptions, PostgresTarget};
use rsrepl_sidecar::target::{Event, SourceIdentity, Target};
use rsrepl_sidecar::tls::PgConnect;
use rsrepl_tests::postgres::Postgres;
use rsrepl_tests::scratch::Scratch;
use rsrepl_wire::{Lsn, ReplicaIdentity};

use crate::blocking;
use crate::stream::{Stream, int, int_column, relation};

/// How often the server is killed.
const KILLS: u64 = 8;

/// Batches under way at a time.
const DEPTH: usize = 3;

/// Transaction number `n` ends at `LSN_STEP * n` and inserts `n`.
const LSN_STEP: u64 = 100;

fn number(position: Lsn) -> u64 {
    assert_eq!(position.0 % LSN_STEP, 0, "{position} is between two transactions");
    position.0 / LSN_STEP
}

/// Applies transactions from `next` on until `last` is applied; gives the last one told to be durable.
async fn apply(target: &mut PostgresTarget, mut next: u64, last: u64) -> u64 {
    let table = relation("t", ReplicaIdentity::Full, vec![int_column("id")]);
    let (mut applied, mut durable) = (next - 1, 0);
    while applied < last {
        while next <= last && target.has_room(true) {
            let mut stream = Stream::after(LSN_STEP * next - 16);
            stream.insert(&table, &[int(i32::try_from(next).unwrap())]);
            target.submit(stream.commit());
            next += 1;
        }
        match target.next().await.unwrap() {
            Event::Applied => applied += 1,
            Event::Durable(position) => durable = number(position),
            Event::Room => {}
        }
    }
    durable
}

/// What was told to be durable is there, the rest comes again, and nothing twice.
async fn survives(name: &str, workers: usize) {
    let scratch = blocking(|| Scratch::new(name));
    // left to itself, the WAL is flushed late
    let settings = "wal_writer_delay = 1s\nwal_writer_flush_after = 1GB";
    let mut server = blocking(|| Postgres::start(&scratch, "standby", settings));
    blocking(|| server.execute("postgres", "CREATE TABLE t (id int)"));
    let connection = rsrepl_sidecar::tls::parse(&server.conninfo("postgres")).unwrap();
    let source = SourceIdentity {
        system_id: 1,
        timeline: 1,
        database: "shop".into(),
        slot: "crashes".into(),
        ancestors: None,
    };
    let (mut durable, mut lost) = (0, 0);
    let (mut last, mut reached) = (0, 0);
    for kill in 1..=KILLS {
        let mut target = PostgresTarget::new(options(connection.clone(), workers));
        let position = number(target.open(&source).await.unwrap());
        assert!(position >= durable, "{durable} was durable, and {position} is there");
        lost += reached - position;
        last += 37 * kill;
        durable = apply(&mut target, position + 1, last).await.max(position);
        reached = last;
        blocking(|| {
            server.kill();
            server.launch();
        });
    }
    let mut target = PostgresTarget::new(options(connection, workers));
    let position = number(target.open(&source).await.unwrap());
    assert!(position >= durable);
    last += 1;
    apply(&mut target, position + 1, last).await;
    target.hurry();
    while target.next().await.unwrap() != Event::Durable(Lsn(last * LSN_STEP)) {}
    blocking(|| {
        server.kill();
        server.launch();
    });
    let counts = "SELECT concat_ws(' ', count(*), count(DISTINCT id), min(id), max(id)) FROM t";
    let counts = blocking(|| server.value("postgres", counts)).unwrap();
    assert_eq!(counts, format!("{last} {last} 1 {last}"));
    assert!(lost > 0, "no crash took anything back: this proves nothing");
}

#[tokio::test]
async fn one_writer_loses_and_doubles_nothing() {
    survives("pg-crashes", 1).await;
}

#[tokio::test]
async fn several_writers_lose_and_double_nothing() {
    survives("pg-crashes-3", 3).await;
}

fn options(connection: PgConnect, workers: usize) -> PostgresOptions {
    PostgresOptions {
        name: "standby".into(),
        connection,
        schema_changes: Policy::default(),
        workers,
        batches: DEPTH,
        missing_rows: MissingRows::Error,
        creates: None,
    }
}
