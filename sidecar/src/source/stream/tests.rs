//! The stream over an in-memory pipe, the server's bytes written by hand.

use rsrepl_wire::FrameWriter;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;

/// A stream and the server's end of it.
fn stream() -> (ReplicationStream, DuplexStream) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (read, write) = tokio::io::split(near);
    let reader = MessageReader::new(Box::new(read));
    (ReplicationStream::new(reader, MessageWriter::new(Box::new(write))), far)
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

fn xlog_data(payload: &[u8]) -> Vec<u8> {
    let head = [&b"w"[..], &1u64.to_be_bytes(), &2u64.to_be_bytes(), &3i64.to_be_bytes()].concat();
    message(b'd', &[&head, payload].concat())
}

fn keepalive(wal_end: u64, reply: u8) -> Vec<u8> {
    message(b'd', &[&b"k"[..], &wal_end.to_be_bytes(), &9i64.to_be_bytes(), &[reply]].concat())
}

/// What becomes of these bytes, and then the end of the connection.
async fn event_of(bytes: &[u8]) -> Result<Event> {
    let (mut stream, mut far) = stream();
    far.write_all(bytes).await.unwrap();
    drop(far);
    stream.next().await
}

#[tokio::test]
async fn frames_and_keepalives_come_as_sent() {
    let mut writer = FrameWriter::new();
    writer.start(Lsn(7), 5);
    writer.logical(Lsn(8), true, "p", b"content");
    let bytes = writer.finish().to_vec();
    let (mut stream, mut far) = stream();
    far.write_all(&[xlog_data(&bytes), keepalive(77, 1), keepalive(78, 0)].concat()).await.unwrap();
    let Event::Frame { wal_start, wal_end, server_time, frame } = stream.next().await.unwrap()
    else {
        panic!("a frame was sent");
    };
    assert_eq!((wal_start, wal_end, server_time), (Lsn(1), Lsn(2), 3));
    assert_eq!((frame.bytes().as_ref(), frame.xid()), (&bytes[..], 5));
    for (wal_end, reply_requested) in [(Lsn(77), true), (Lsn(78), false)] {
        let expected = Event::Keepalive { wal_end, server_time: 9, reply_requested };
        assert_eq!(stream.next().await.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_bad_frame_has_its_lsn() {
    let error =
        event_of(&xlog_data(b"this is no frame, but long enough for one")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Frame);
    assert_eq!(error.lsn(), Some(Lsn(2)));
}

#[tokio::test]
async fn what_is_not_the_protocol_is_an_error() {
    let too_long = (FRAME_MAX as u32 + 100).to_be_bytes();
    for (bytes, says) in [
        (message(b'd', b""), "too short"),
        (message(b'd', b"w1234567"), "too short"),
        (message(b'd', &keepalive(1, 1)[5..21]), "too short"),
        (message(b'd', &[&keepalive(1, 1)[5..], b"x"].concat()), "too long"),
        (message(b'd', b"x"), "copy data of type 'x'"),
        (message(b'T', &[0, 0]), "message of type 'T'"),
        (message(0xFF, b""), "broke the protocol"),
        ([&b"d"[..], &too_long].concat(), "the limit is"),
        (vec![b'd', 0, 0, 0, 1], "length is invalid"),
        (b"d\0\0".to_vec(), "closed the connection"),
        (vec![], "closed the connection"),
        (message(b'E', b"SFATAL\0C57P01\0Mstopping\0\0"), "stopping (SQLSTATE 57P01)"),
        (message(b'E', b"CXX"), "the source ended the stream"),
        (message(b'E', b""), "the source ended the stream"),
    ] {
        let error = event_of(&bytes).await.unwrap_err();
        assert!(error.to_string().contains(says), "{says}: {error}");
    }
}

#[tokio::test]
async fn notices_and_parameters_are_passed_over() {
    let bytes = [
        message(b'N', b"VWARNING\0C01000\0Mlook\0\0"),
        message(b'S', b"application_name\0x\0"),
        keepalive(4, 0),
    ];
    let event = event_of(&bytes.concat()).await.unwrap();
    assert!(matches!(event, Event::Keepalive { wal_end: Lsn(4), .. }), "{event:?}");
}

#[tokio::test]
async fn both_ends_of_a_stream_are_seen() {
    for end in [message(b'c', b""), message(b'C', b"COPY 0\0")] {
        let (mut stream, mut far) = stream();
        far.write_all(&end).await.unwrap();
        drop(far);
        assert_eq!(stream.next().await.unwrap(), Event::End);
        assert_eq!(stream.next().await.unwrap(), Event::End, "it stays at its end");
    }
}

#[tokio::test]
async fn a_status_update_is_laid_out_as_documented() {
    let (mut stream, mut far) = stream();
    let status = StatusUpdate { written: Lsn(3), flushed: Lsn(2), applied: Lsn(1) };
    stream.send_status(status, true).await.unwrap();
    let mut bytes = [0; 39];
    far.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes[..6], [b'd', 0, 0, 0, 38, b'r']);
    assert_eq!(bytes[6..14], 3u64.to_be_bytes());
    assert_eq!(bytes[14..22], 2u64.to_be_bytes());
    assert_eq!(bytes[22..30], 1u64.to_be_bytes());
    let sent = i64::from_be_bytes(bytes[30..38].try_into().unwrap());
    assert!((now() - sent).abs() < 60_000_000, "{sent}");
    assert_eq!(bytes[38], 1);
}

const SHORT: Duration = Duration::from_millis(30);

#[tokio::test]
async fn a_silent_server_is_asked_and_then_given_up() {
    let (stream, _far) = stream();
    let mut stream = stream.patience(SHORT, SHORT);
    assert_eq!(stream.next().await.unwrap(), Event::Silence);
    let error = stream.next().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Connection);
    assert!(error.to_string().contains("nothing came"), "{error}");
}

#[tokio::test]
async fn a_server_that_answers_is_kept() {
    let (stream, mut far) = stream();
    let mut stream = stream.patience(SHORT, SHORT);
    for _ in 0..3 {
        assert_eq!(stream.next().await.unwrap(), Event::Silence);
        far.write_all(&keepalive(1, 0)).await.unwrap();
        // the reader rests for longer than its patience; what came counts all the same
        tokio::time::sleep(3 * SHORT).await;
        assert!(matches!(stream.next().await.unwrap(), Event::Keepalive { .. }));
    }
}

/// A message that does not come to its end is silence.
#[tokio::test]
async fn a_server_that_sends_a_byte_now_and_then_is_given_up() {
    let (stream, mut far) = stream();
    let mut stream = stream.patience(SHORT, SHORT);
    let trickle = tokio::spawn(async move {
        far.write_all(&[b'd', 0, 1, 0, 0]).await.unwrap();
        while far.write_all(b"w").await.is_ok() {
            tokio::time::sleep(SHORT / 20).await;
        }
    });
    assert_eq!(stream.next().await.unwrap(), Event::Silence);
    assert_eq!(stream.next().await.unwrap_err().kind(), Kind::Connection);
    trickle.abort();
}

#[tokio::test]
async fn a_server_that_does_not_listen_is_given_up() {
    let (stream, _far) = stream();
    let mut stream = stream.patience(SHORT, SHORT);
    let told = async {
        loop {
            if let Err(error) = stream.send_status(StatusUpdate::default(), true).await {
                break error;
            }
        }
    };
    let error = timeout(Duration::from_secs(20), told).await.expect("it hangs");
    assert_eq!(error.kind(), Kind::Connection);
    assert!(error.to_string().contains("taken nothing"), "{error}");
}

#[tokio::test]
async fn cancelled_waits_count_as_waiting() {
    let (stream, _far) = stream();
    let mut stream = stream.patience(SHORT, SHORT);
    let mut cancelled = 0;
    let event = loop {
        tokio::select! {
            event = stream.next() => break event,
            () = tokio::time::sleep(SHORT / 10) => cancelled += 1,
        }
        assert!(cancelled < 1000, "the timer started anew with each call");
    };
    assert_eq!(event.unwrap(), Event::Silence);
    assert!(cancelled > 1, "{cancelled}");
}

#[tokio::test]
async fn close_confirms_and_waits_for_the_end() {
    let (stream, mut far) = stream();
    let last = StatusUpdate { written: Lsn(9), flushed: Lsn(9), applied: Lsn(9) };
    let closing = tokio::spawn(stream.close(last));
    let mut status_and_done = [0; 44];
    far.read_exact(&mut status_and_done).await.unwrap();
    assert_eq!(status_and_done[39..], message(b'c', b""));
    assert!(!closing.is_finished());
    // some more data was under way
    let answer = [keepalive(5, 1), xlog_data(b"late"), message(b'c', b"")].concat();
    far.write_all(&answer).await.unwrap();
    closing.await.unwrap().unwrap();
    let mut rest = Vec::new();
    far.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, message(b'X', b""));
}
