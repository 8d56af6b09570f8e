//! The source client against real servers. What is tested is the connection and the protocol, not what is in a frame:
//! most transactions are logical messages.

mod access;
mod combine;
mod faults;
mod schema;
mod stream;

use std::time::Duration;

use rsrepl_sidecar::source::{
    Event, PLUGIN, ReplicationClient, ReplicationStream, StatusUpdate, StreamReader,
};
use rsrepl_sidecar::tls::{self, PgConnect};
use rsrepl_tests::postgres::Postgres;
use rsrepl_wire::{Lsn, Message};

const SLOT: &str = "s";
/// Of another output plugin, one that every server has.
const OTHER_PLUGIN: &str = "pgoutput";

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

fn messages() -> Vec<(String, String)> {
    vec![("messages".into(), "on".into())]
}

/// A transaction of one message.
async fn emit(connect: &PgConnect, content: &str) {
    execute(connect, &format!("SELECT pg_logical_emit_message(true, '', {content})")).await;
}

/// A stream of a new slot.
async fn new_stream(connect: &PgConnect) -> ReplicationStream {
    let mut client = ReplicationClient::connect(connect).await.expect("connect");
    let start = client.create_slot(SLOT, PLUGIN).await.expect("create the slot");
    client.start(SLOT, start, &messages()).await.expect("start")
}

fn all_at(lsn: Lsn) -> StatusUpdate {
    StatusUpdate { written: lsn, flushed: lsn, applied: lsn }
}

/// Contents of the messages of the next transaction, and the LSN that came with its end.
async fn transaction(reader: &mut StreamReader) -> (Vec<String>, Lsn) {
    let mut contents = Vec::new();
    loop {
        let Event::Frame { frame, wal_end, .. } = reader.next().await.expect("the stream") else {
            continue;
        };
        for message in frame.messages() {
            match message.expect("a message") {
                Message::Logical(message) => {
                    contents.push(String::from_utf8(message.content.to_vec()).expect("text"));
                }
                Message::Commit(_) => return (contents, wal_end),
                _ => {}
            }
        }
    }
}
