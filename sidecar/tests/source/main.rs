//! The source client against real servers. `test_decoding` stands in for our plugin, except in `combine` and `schema`: what is tested
//! is the connection and the protocol, not what is in a frame.

mod access;
mod combine;
mod faults;
mod schema;
mod stream;

use std::time::Duration;

use rsrepl_sidecar::source::{
    Event, ReplicationClient, ReplicationStream, StatusUpdate, StreamReader,
};
use rsrepl_sidecar::tls::{self, PgConnect};
use rsrepl_tests::postgres::Postgres;
use rsrepl_wire::Lsn;

const SLOT: &str = "s";
const PLUGIN: &str = "test_decoding";

/// More than any step takes.
const LIMIT: Duration = Duration::from_secs(30);

fn connect_to(server: &Postgres) -> PgConnect {
    tls::parse(&server.conninfo("postgres")).expect("a connection string")
}

/// Runs a test that awaits; the harness itself blocks, so it stays outside.
fn block_on<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(5 * LIMIT, test).await.expect("it hangs") })
}

async fn execute(connect: &PgConnect, sql: &str) {
    let client = connect.connect().await.expect("connect");
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// The one value of a query, as text.
async fn value(connect: &PgConnect, sql: &str) -> String {
    let client = connect.connect().await.expect("connect");
    let row = client.query_one(&format!("SELECT ({sql})::text"), &[]).await;
    row.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

fn no_empty_transactions() -> Vec<(String, String)> {
    vec![("skip-empty-xacts".into(), "1".into())]
}

/// A stream of a new slot.
async fn new_stream(connect: &PgConnect) -> ReplicationStream {
    let mut client = ReplicationClient::connect(connect).await.expect("connect");
    let start = client.create_slot(SLOT, PLUGIN).await.expect("create the slot");
    client.start(SLOT, start, &no_empty_transactions()).await.expect("start")
}

fn all_at(lsn: Lsn) -> StatusUpdate {
    StatusUpdate { written: lsn, flushed: lsn, applied: lsn }
}

/// Texts of test_decoding up to a COMMIT, and the LSN that came with it.
async fn transaction(reader: &mut StreamReader) -> (Vec<String>, Lsn) {
    let mut texts = Vec::new();
    loop {
        if let Event::Frame { frame, wal_end, .. } = reader.next_raw().await.expect("the stream") {
            let text = String::from_utf8(frame.to_vec()).expect("text");
            let end = text.starts_with("COMMIT");
            texts.push(text);
            if end {
                return (texts, wal_end);
            }
        }
    }
}
