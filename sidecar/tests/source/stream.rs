//! Slots and the stream in good weather.

use rsrepl_sidecar::error::{Decision, Kind};
use rsrepl_sidecar::source::{self, Event, PLUGIN, ReplicationClient, identify, verify_slot};
use rsrepl_tests::postgres::Postgres;
use rsrepl_tests::scratch::Scratch;
use rsrepl_wire::Lsn;

use crate::{
    OTHER_PLUGIN, SLOT, all_at, block_on, connect_to, emit, execute, messages, new_stream,
    transaction, value,
};

#[test]
fn a_stream_begins_goes_on_and_confirms() {
    let scratch = Scratch::new("source");
    let server = Postgres::start(&scratch, "source", "");
    let connect = connect_to(&server);
    block_on(async {
        let mut client = ReplicationClient::connect(&connect).await.unwrap();
        let info = identify(&mut client, SLOT).await.unwrap();
        let system = value(&connect, "SELECT system_identifier FROM pg_control_system()").await;
        assert_eq!(info.identity.system_id.to_string(), system);
        assert_eq!((info.identity.timeline, info.identity.database.as_str()), (1, "postgres"));
        assert!(info.wal_end > Lsn::INVALID);
        assert!(info.server_version.starts_with("1"), "{}", info.server_version);
        assert_eq!(client.show("datestyle").await.unwrap(), "ISO, MDY");
        assert_eq!(client.slot(SLOT).await.unwrap(), None);

        let point = client.create_slot(SLOT, PLUGIN).await.unwrap();
        let slot = client.slot(SLOT).await.unwrap().unwrap();
        assert_eq!(slot.plugin.as_deref(), Some(PLUGIN));
        assert_eq!(slot.confirmed_flush_lsn, Some(point));
        assert_eq!(verify_slot(&info, &slot, PLUGIN).unwrap(), point);
        let error = verify_slot(&info, &slot, OTHER_PLUGIN).unwrap_err();
        assert!(error.to_string().contains("belongs to the output plugin"), "{error}");

        // a message that is larger than the read buffer comes too
        let large = "'two'), pg_logical_emit_message(true, '', repeat('x', 3000000)";
        emit(&connect, large).await;
        let stream = client.start(SLOT, point, &messages()).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let (contents, first) = transaction(&mut reader).await;
        assert_eq!(contents[0], "two");
        assert_eq!(contents[1].matches('x').count(), 3_000_000);
        writer.send(all_at(first), true).await.unwrap();
        emit(&connect, "'three'").await;
        let (contents, _) = transaction(&mut reader).await;
        assert_eq!(contents, ["three"]);
        // the second transaction is received, but not confirmed
        let stream = source::ReplicationStream::join(reader, writer);
        stream.close(all_at(first)).await.unwrap();

        let mut client = ReplicationClient::connect(&connect).await.unwrap();
        let slot = client.slot(SLOT).await.unwrap().unwrap();
        assert_eq!(slot.confirmed_flush_lsn, Some(first));
        let stream = client.start(SLOT, first, &messages()).await.unwrap();
        let (mut reader, _writer) = stream.split();
        let (contents, _) = transaction(&mut reader).await;
        assert_eq!(contents, ["three"]);
    });
}

#[test]
fn slots_and_options_that_cannot_be_used() {
    let scratch = Scratch::new("source-slots");
    let server = Postgres::start(&scratch, "source", "max_replication_slots = 2");
    let connect = connect_to(&server);
    block_on(async {
        let mut stream = new_stream(&connect).await;
        let pid = value(&connect, "SELECT active_pid FROM pg_replication_slots").await;

        let client = ReplicationClient::connect(&connect).await.unwrap();
        let error = client.start(SLOT, Lsn(0), &[]).await.err().unwrap();
        assert_eq!((error.kind(), error.decision()), (Kind::Connection, Decision::Retry));
        assert!(error.to_string().contains(&pid), "{error}");

        let client = ReplicationClient::connect(&connect).await.unwrap();
        let error = client.start("nowhere", Lsn(0), &[]).await.err().unwrap();
        assert_eq!(error.kind(), Kind::Identity, "{error}");

        let mut client = ReplicationClient::connect(&connect).await.unwrap();
        let error = client.create_slot(SLOT, PLUGIN).await.err().unwrap();
        assert!(error.to_string().contains("already exists"), "{error}");
        // the client is still of use after a server's error
        let error = client.create_slot("bad_plugin", "no_such_plugin").await.err().unwrap();
        assert_eq!(error.kind(), Kind::Setup, "{error}");
        let point = client.create_slot("second", PLUGIN).await.unwrap();
        let error = client.create_slot("third", PLUGIN).await.err().unwrap();
        assert_eq!(error.kind(), Kind::Setup, "{error}");
        assert!(error.to_string().contains("max_replication_slots"), "{error}");

        // names and values arrive as they are
        let option = |name: &str, value: &str| [(name.to_owned(), value.to_owned())];
        let unknown = option("No'such option", "x");
        let error = client.start("second", point, &unknown).await.err().unwrap();
        assert!(error.to_string().contains("No'such option"), "{error}");
        let client = ReplicationClient::connect(&connect).await.unwrap();
        let error = client.start("second", point, &option("origin", "it's")).await.err().unwrap();
        assert!(error.to_string().contains("cannot be \"it's\""), "{error}");

        let mut client = ReplicationClient::connect(&connect).await.unwrap();
        client.drop_slot("second").await.unwrap();
        assert_eq!(client.slot("second").await.unwrap(), None);
        client.close().await;

        // the administrator ends the walsender: worth another try
        execute(&connect, &format!("SELECT pg_terminate_backend({pid})")).await;
        let error = loop {
            match stream.next().await {
                Ok(Event::Keepalive { .. }) => {}
                Ok(event) => panic!("{event:?}"),
                Err(error) => break error,
            }
        };
        assert_eq!(
            (error.kind(), error.decision()),
            (Kind::Connection, Decision::Retry),
            "{error}"
        );
    });
}
