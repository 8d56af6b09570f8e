//! Shutdowns, slow readers, silent peers.

use std::time::Duration;

use rsrepl_sidecar::error::Kind;
use rsrepl_sidecar::source::{Event, PLUGIN, ReplicationClient, StatusUpdate};
use rsrepl_sidecar::tls;
use rsrepl_tests::postgres::Postgres;
use rsrepl_tests::proxy::Proxy;
use rsrepl_tests::scratch::Scratch;
use rsrepl_wire::Lsn;

use crate::{
    LIMIT, SLOT, all_at, block_on, connect_to, emit, execute, messages, new_stream, transaction,
    value,
};

/// Three times the server's patience.
const PAUSE: Duration = Duration::from_secs(6);

/// Messages and bytes that no socket buffers hold.
const MESSAGES: usize = 40_000;

fn impatient(scratch: &Scratch) -> Postgres {
    Postgres::start(scratch, "source", "wal_sender_timeout = 2s")
}

#[test]
fn a_resting_reader_lives_by_its_status_updates() {
    let scratch = Scratch::new("source-rest");
    let server = impatient(&scratch);
    let connect = connect_to(&server);
    block_on(async {
        let (mut reader, mut writer) = new_stream(&connect).await.split();
        let sql = format!(
            "SELECT count(pg_logical_emit_message(true, '', repeat('x', 1000)))
             FROM generate_series(1, {MESSAGES})"
        );
        execute(&connect, &sql).await;
        let end = tokio::time::Instant::now() + PAUSE;
        while tokio::time::Instant::now() < end {
            writer.send(StatusUpdate::default(), false).await.unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let (contents, _) = transaction(&mut reader).await;
        assert_eq!(contents.len(), MESSAGES);
    });
}

#[test]
fn without_status_updates_the_server_ends_the_stream() {
    let scratch = Scratch::new("source-mute");
    let server = impatient(&scratch);
    let connect = connect_to(&server);
    block_on(async {
        let (mut reader, _writer) = new_stream(&connect).await.split();
        tokio::time::sleep(PAUSE).await;
        let error = loop {
            match reader.next().await {
                Ok(Event::Keepalive { .. }) => {}
                Ok(event) => panic!("{event:?}"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), Kind::Connection, "{error}");
    });
}

#[test]
fn a_fast_shutdown_waits_only_for_confirmation() {
    let scratch = Scratch::new("source-stop");
    let mut server = Postgres::start(&scratch, "source", "");
    let connect = connect_to(&server);
    let took = block_on(async {
        let mut stream = new_stream(&connect).await;
        emit(&connect, "'one'").await;
        let stopping = tokio::task::spawn_blocking(move || server.stop_fast());
        let mut last = Lsn::INVALID;
        // what a pipeline does whose targets keep up
        loop {
            let (mut reader, mut writer) = stream.split();
            match reader.next_raw().await.unwrap() {
                Event::Frame { wal_end, .. } => last = last.max(wal_end),
                Event::Keepalive { wal_end, reply_requested, .. } => {
                    last = last.max(wal_end);
                    if reply_requested {
                        writer.send(all_at(last), false).await.unwrap();
                    }
                }
                Event::Silence => panic!("the server went on"),
                Event::End => break,
            }
            stream = rsrepl_sidecar::source::ReplicationStream::join(reader, writer);
        }
        stopping.await.unwrap()
    });
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_peer_that_is_gone_is_noticed() {
    let scratch = Scratch::new("source-gone");
    let server = Postgres::start(&scratch, "source", "");
    let proxy = Proxy::start(server.port());
    let connect = tls::parse(&server.conninfo_through(proxy.port(), "postgres")).unwrap();
    block_on(async {
        let patience = Duration::from_millis(400);
        let mut stream = new_stream(&connect).await.patience(patience, 5 * patience);
        // idle, but there: it answers each time
        let mut answers = 0;
        let start = tokio::time::Instant::now();
        while answers < 4 {
            match stream.next().await.unwrap() {
                Event::Silence => {
                    stream.send_status(StatusUpdate::default(), true).await.unwrap();
                }
                Event::Keepalive { .. } => answers += 1,
                event => panic!("{event:?}"),
            }
            assert!(start.elapsed() < LIMIT, "{answers} answers");
        }
        proxy.stall(true);
        let error = loop {
            match stream.next().await {
                Ok(Event::Silence) => {
                    stream.send_status(StatusUpdate::default(), true).await.unwrap();
                }
                Ok(_) => {}
                Err(error) => break error,
            }
            assert!(start.elapsed() < 2 * LIMIT, "never given up");
        };
        assert_eq!(error.kind(), Kind::Connection);
        assert!(error.to_string().contains("nothing came"), "{error}");
        proxy.stall(false);
        proxy.cut();
    });
}

#[test]
fn a_killed_server_is_a_broken_connection_and_the_slot_survives() {
    let scratch = Scratch::new("source-kill");
    let mut server = Postgres::start(&scratch, "source", "");
    let connect = connect_to(&server);
    let confirmed = block_on(async {
        let (mut reader, mut writer) = new_stream(&connect).await.split();
        emit(&connect, "'one'").await;
        let (_, end) = transaction(&mut reader).await;
        writer.send(all_at(end), true).await.unwrap();
        while value(&connect, "SELECT confirmed_flush_lsn FROM pg_replication_slots").await
            != end.to_string()
        {
            reader.next_raw().await.unwrap();
        }
        emit(&connect, "'two'").await;
        let server = tokio::task::spawn_blocking(move || {
            server.kill();
            server
        });
        let error = loop {
            if let Err(error) = reader.next_raw().await {
                break error;
            }
        };
        assert_eq!(error.kind(), Kind::Connection, "{error}");
        (server.await.unwrap(), end)
    });
    let (mut server, end) = confirmed;
    server.launch();
    block_on(async {
        let mut client = ReplicationClient::connect(&connect).await.unwrap();
        let slot = client.slot(SLOT).await.unwrap().unwrap();
        assert_eq!(slot.plugin.as_deref(), Some(PLUGIN));
        let stream = client.start(SLOT, end, &messages()).await.unwrap();
        let (mut reader, _writer) = stream.split();
        let (contents, _) = transaction(&mut reader).await;
        assert_eq!(contents, ["two"], "not from where we asked");
    });
}
