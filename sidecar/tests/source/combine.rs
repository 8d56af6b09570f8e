//! Several transactions in one frame: what a walsender of our plugin sends, and when.

use rsrepl_sidecar::source::{self, Event, ReplicationClient, ReplicationStream};
use rsrepl_tests::postgres::Postgres;
use rsrepl_tests::scratch::Scratch;
use rsrepl_wire::{Lsn, Message};
use tokio::time::timeout;

use crate::{LIMIT, SLOT, all_at, block_on, connect_to, execute, value};

/// A server without traffic writes nothing to its WAL for longer than this.
const NOT_HELD: std::time::Duration = std::time::Duration::from_secs(10);

/// Each of so many rows in a transaction of its own.
fn tiny(count: u32) -> String {
    format!(
        "DO $$ BEGIN FOR i IN 1..{count} LOOP INSERT INTO t DEFAULT VALUES; COMMIT; END LOOP; END $$"
    )
}

fn options() -> Vec<(String, String)> {
    [("combine", "on"), ("messages", "on")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

/// What has come on a connection.
struct Received {
    stream: ReplicationStream,
    /// Ends of the transactions, in the order in which they came.
    ends: Vec<Lsn>,
    frames: usize,
    /// The last frame has MORE.
    more: bool,
    /// Keepalives that claimed, and so many transactions had come before each.
    claims: Vec<(Lsn, usize)>,
    /// Those after a frame with MORE.
    no_claims: usize,
}

impl Received {
    fn new(stream: ReplicationStream) -> Self {
        Received { stream, ends: vec![], frames: 0, more: false, claims: vec![], no_claims: 0 }
    }

    /// Receives until so many transactions have come and nothing is announced; no step takes long.
    async fn until(&mut self, transactions: usize) {
        while self.ends.len() < transactions || self.more {
            let event = timeout(NOT_HELD, self.stream.next());
            match event.await.expect("a transaction is held").expect("the stream") {
                Event::Frame { frame, .. } => {
                    self.frames += 1;
                    self.more = frame.more();
                    for message in frame.messages() {
                        if let Message::Commit(commit) = message.expect("a message") {
                            self.ends.push(commit.end_lsn);
                        }
                    }
                    // has the walsender say where it is, wherever it is
                    self.stream.send_status(all_at(Lsn(1)), true).await.expect("a status");
                }
                Event::Keepalive { .. } if self.more => self.no_claims += 1,
                Event::Keepalive { wal_end, .. } => self.claims.push((wal_end, self.ends.len())),
                event => panic!("{event:?}"),
            }
        }
        assert_eq!(self.ends.len(), transactions);
        assert!(self.ends.is_sorted());
        for (claimed, before) in &self.claims {
            let late = self.ends[*before..].iter().find(|end| **end <= *claimed);
            assert_eq!(late, None, "came after a keepalive that claimed {claimed}");
        }
    }
}

#[test]
fn a_backlog_comes_whole_and_in_few_frames() {
    let scratch = Scratch::new("source-combine");
    let server = Postgres::start(&scratch, "source", "");
    let connect = connect_to(&server);
    block_on(async {
        execute(&connect, "CREATE TABLE t (id bigserial PRIMARY KEY)").await;
        let mut client = ReplicationClient::connect(&connect).await.unwrap();
        let start = client.create_slot(SLOT, source::PLUGIN).await.unwrap();
        execute(&connect, &tiny(20_000)).await;
        let mut received = Received::new(client.start(SLOT, start, &options()).await.unwrap());
        received.until(20_000).await;
        assert!(received.frames < 400, "{} frames", received.frames);
        assert!(received.frames > 20, "{} frames of 64 KiB", received.frames);
        println!("{} claims, {} without one", received.claims.len(), received.no_claims);

        // a connection that does not ask for it gets each on its own
        drop(received);
        let client = ReplicationClient::connect(&connect).await.unwrap();
        await_free(&connect).await;
        let mut received = Received::new(client.start(SLOT, start, &[]).await.unwrap());
        received.until(20_000).await;
        assert_eq!(received.frames, 20_000);
        assert_eq!(received.no_claims, 0);
    });
}

/// What comes behind the last transaction of a backlog need not be for this slot at all.
#[test]
fn the_last_transaction_is_not_held_whatever_comes_behind_it() {
    let scratch = Scratch::new("source-held");
    let server = Postgres::start(&scratch, "source", "autovacuum = off");
    let connect = connect_to(&server);
    let other = rsrepl_sidecar::tls::parse(&server.conninfo("other")).unwrap();
    block_on(async {
        execute(&connect, "CREATE DATABASE other").await;
        execute(&connect, "CREATE TABLE t (id bigserial PRIMARY KEY)").await;
        execute(&other, "CREATE TABLE t (a text)").await;
        let mut client = ReplicationClient::connect(&connect).await.unwrap();
        let mut from = client.create_slot(SLOT, source::PLUGIN).await.unwrap();
        client.close().await;
        let long = "SELECT pg_logical_emit_message(true, 'p', repeat('x', 30000))";
        let filler = "INSERT INTO t SELECT repeat('x', 500) FROM generate_series(1, 300)";
        for round in 0..12 {
            // pages end at other places each time
            let count = 300 + 37 * round;
            execute(&connect, &tiny(count)).await;
            let more = match round % 6 {
                0 => 0,
                1 => (execute(&connect, "CHECKPOINT").await, 0).1, // RUNNING_XACTS
                2 => (execute(&other, filler).await, 0).1,
                3 => (execute(&connect, long).await, 1).1,
                4 => (execute(&connect, "SELECT pg_switch_wal()").await, 0).1,
                _ => {
                    (execute(&connect, "SELECT pg_logical_emit_message(false, 'p', 'x')").await, 0)
                        .1
                }
            };
            let client = ReplicationClient::connect(&connect).await.unwrap();
            await_free(&connect).await;
            let stream = client.start(SLOT, from, &options()).await.unwrap();
            let mut received = Received::new(stream);
            let backlog = count as usize + more;
            received.until(backlog).await;
            // and one after the other, each alone in the WAL
            for single in 1..=5 {
                execute(&connect, "INSERT INTO t DEFAULT VALUES").await;
                received.until(backlog + single).await;
            }
            from = *received.ends.last().unwrap();
            received.stream.close(all_at(from)).await.unwrap();
        }
    });
}

async fn await_free(connect: &rsrepl_sidecar::tls::PgConnect) {
    let free = async {
        while value(connect, "SELECT active FROM pg_replication_slots").await == "true" {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, free).await.expect("the slot is free");
}
