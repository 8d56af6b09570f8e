//! Messages of the frontend/backend protocol, in and out. Both directions are cancel-safe: what a
//! dropped future has read or not yet written stays here.

use bytes::{Bytes, BytesMut};
use postgres_protocol::message::backend::{COPY_DATA_TAG, Header, Message};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::error::{Error, Kind, Result};

pub(super) type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;
pub(super) type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// Bytes of the buffer that is read into. Frames are slices of it, so one that is kept keeps all of
/// it; since frames are released in the order they came, that is at most two buffers more than the
/// frames themselves. Where much comes that nobody keeps, frames are copied: see [`MessageReader::keep`].
pub(super) const READ_BUFFER: usize = 256 * 1024;

/// Bytes that are kept for each that is passed over, in a buffer that is not diluted. Heads are passed over, too, which
/// are a quarter of the smallest transactions.
const KEPT_PER_PASSED: usize = 2;

/// Bytes of free space below which a new buffer is begun.
const READ_MIN: usize = 16 * 1024;

/// Bytes of the largest message but for CopyData in the stream: nothing else that is right is large, and before the
/// stream has begun nobody may be authenticated.
pub(super) const CONTROL_MESSAGE_MAX: usize = 1024 * 1024;

/// Tag and length.
const HEADER_LEN: usize = 5;

/// A whole message; `bytes` starts with the tag.
pub(super) struct Raw {
    bytes: BytesMut,
}

impl Raw {
    pub(super) fn tag(&self) -> u8 {
        self.bytes.first().copied().unwrap_or_default()
    }

    /// What follows tag and length, without a copy.
    pub(super) fn into_body(self) -> Bytes {
        let mut bytes = self.bytes.freeze();
        bytes.split_off(HEADER_LEN.min(bytes.len()))
    }

    pub(super) fn parse(mut self) -> Result<Message> {
        match Message::parse(&mut self.bytes) {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(violation("a message is incomplete")),
            Err(error) => Err(violation("a message cannot be read").because(error)),
        }
    }
}

/// The server does not speak the protocol; a new connection may help.
pub(super) fn violation(what: &str) -> Error {
    Error::new(Kind::Connection, format!("the source broke the protocol: {what}"))
}

pub(super) struct MessageReader {
    io: ReadHalf,
    buf: BytesMut,
    /// Bytes of the largest CopyData message accepted, header included.
    copy_data_max: usize,
    /// Bytes of the buffer that somebody keeps, and of what was passed over.
    kept: usize,
    passed: usize,
    /// Much of the buffer before this one was passed over.
    diluted: bool,
}

impl MessageReader {
    pub(super) fn new(io: ReadHalf) -> Self {
        MessageReader {
            io,
            buf: BytesMut::new(),
            copy_data_max: CONTROL_MESSAGE_MAX,
            kept: 0,
            passed: 0,
            diluted: false,
        }
    }

    /// The stream begins.
    pub(super) fn set_copy_data_max(&mut self, limit: usize) {
        self.copy_data_max = limit;
    }

    /// What is to be kept of the last message. A slice of the buffer holds all of it, which the spool does not know.
    /// So it is copied when the buffer before was not mostly kept: of each two buffers that are held, one is
    /// mostly what the spool counts. (What is large is not copied. It has its share of a buffer.)
    pub(super) fn keep(&mut self, part: Bytes) -> Bytes {
        self.passed = self.passed.saturating_sub(part.len());
        self.kept += part.len();
        match self.diluted && part.len() < READ_BUFFER / 2 {
            true => Bytes::copy_from_slice(&part),
            false => part,
        }
    }

    /// The next message. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Raw> {
        loop {
            match self.buffered()? {
                Ok(raw) => return Ok(raw),
                Err(needed) => self.fill(needed).await?,
            }
        }
    }

    /// The next message if all of it is here, or how many bytes the buffer must hold for it.
    fn buffered(&mut self) -> Result<Result<Raw, usize>> {
        let Some(header) = Header::parse(&self.buf)
            .map_err(|error| violation("a message's length is invalid").because(error))?
        else {
            return Ok(Err(HEADER_LEN));
        };
        // Header::parse refuses lengths under 4
        let total = usize::try_from(header.len()).unwrap_or(usize::MAX).saturating_add(1);
        let limit = match header.tag() {
            COPY_DATA_TAG => self.copy_data_max,
            _ => CONTROL_MESSAGE_MAX,
        };
        if total > limit {
            return Err(violation(&format!(
                "a message of type {:?} claims {total} bytes, the limit is {limit}",
                char::from(header.tag()),
            )));
        }
        if self.buf.len() < total {
            return Ok(Err(total));
        }
        self.passed += total;
        Ok(Ok(Raw { bytes: self.buf.split_to(total) }))
    }

    async fn fill(&mut self, needed: usize) -> Result<()> {
        let free = self.buf.capacity() - self.buf.len();
        if self.buf.capacity() < needed || (free < READ_MIN && needed <= READ_BUFFER) {
            // A new buffer, never the old one grown: frames may hold the old one, and the memory of a
            // very large message must go with that message. Such a one gets exactly its size, so
            // that nothing else comes to live in its buffer.
            let mut fresh = BytesMut::with_capacity(needed.max(READ_BUFFER));
            fresh.extend_from_slice(&self.buf);
            self.buf = fresh;
            self.diluted = self.passed > self.kept / KEPT_PER_PASSED;
            (self.kept, self.passed) = (0, 0);
        }
        match self.io.read_buf(&mut self.buf).await {
            Ok(0) => Err(Error::new(Kind::Connection, "the source closed the connection")),
            Ok(_) => Ok(()),
            Err(error) => Err(broken(error)),
        }
    }
}

fn broken(error: std::io::Error) -> Error {
    Error::new(Kind::Connection, "the connection with the source broke").because(error)
}

pub(super) struct MessageWriter {
    io: WriteHalf,
    buf: BytesMut,
    /// Written, but perhaps still inside of the TLS layer.
    unflushed: bool,
}

impl MessageWriter {
    pub(super) fn new(io: WriteHalf) -> Self {
        MessageWriter { io, buf: BytesMut::new(), unflushed: false }
    }

    /// Where whole messages are put, to be sent by [`flush`](Self::flush).
    pub(super) fn queue(&mut self) -> &mut BytesMut {
        &mut self.buf
    }

    /// Sends what is queued. Cancel-safe: what was not sent goes first the next time.
    pub(super) async fn flush(&mut self) -> Result<()> {
        while !self.buf.is_empty() {
            self.unflushed = true;
            match self.io.write_buf(&mut self.buf).await {
                Ok(0) => return Err(broken(std::io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) => return Err(broken(error)),
            }
        }
        if self.unflushed {
            self.io.flush().await.map_err(broken)?;
            self.unflushed = false;
        }
        Ok(())
    }

    /// Sends a message that `put` writes; it fails for a text with a NUL byte.
    pub(super) async fn send(
        &mut self,
        put: impl FnOnce(&mut BytesMut) -> std::io::Result<()>,
    ) -> Result<()> {
        let before = self.buf.len();
        if let Err(error) = put(&mut self.buf) {
            self.buf.truncate(before);
            return Err(
                Error::new(Kind::Config, "a value cannot be sent to the source").because(error)
            );
        }
        self.flush().await
    }

    pub(super) async fn shutdown(&mut self) {
        // the server is gone either way
        let _ = self.io.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::server_error::ServerError;
    use fallible_iterator::FallibleIterator;
    use proptest::prelude::*;

    fn reader_of(bytes: &[u8], at_once: usize) -> MessageReader {
        let (mut far, near) = tokio::io::duplex(at_once);
        let bytes = bytes.to_vec();
        tokio::spawn(async move { far.write_all(&bytes).await });
        MessageReader::new(Box::new(near))
    }

    fn copy_data(len: usize) -> Vec<u8> {
        let mut message = vec![b'd'];
        message.extend_from_slice(&(len as u32 + 4).to_be_bytes());
        message.extend((0..len).map(|i| i as u8));
        message
    }

    #[tokio::test]
    async fn messages_of_all_sizes_come_whole() {
        let sizes = [0, 1, 65_000, 7, READ_BUFFER, READ_BUFFER - 5, 3, 700_000, 20];
        let stream: Vec<u8> = sizes.iter().flat_map(|size| copy_data(*size)).collect();
        for at_once in [999, 100_000] {
            let mut reader = reader_of(&stream, at_once);
            for size in sizes {
                let raw = reader.next().await.unwrap();
                assert_eq!(raw.tag(), b'd');
                assert_eq!(raw.into_body(), copy_data(size)[5..], "{size}");
            }
            assert_eq!(reader.next().await.err().unwrap().kind(), Kind::Connection);
        }
    }

    #[tokio::test]
    async fn a_large_message_leaves_no_large_buffer() {
        let stream = [copy_data(700_000), copy_data(3), copy_data(4)].concat();
        let mut reader = reader_of(&stream, 1_000_000);
        drop(reader.next().await.unwrap());
        drop(reader.next().await.unwrap());
        assert!(reader.buf.capacity() <= READ_BUFFER, "{}", reader.buf.capacity());
    }

    /// What is held of a buffer is another test's: `sidecar/tests/hostile`.
    #[tokio::test]
    async fn what_is_kept_is_copied_where_most_is_passed_over() {
        let (small, filler) = (copy_data(100), copy_data(READ_BUFFER / 4));
        let diluted = [&small[..], &filler.repeat(5)].concat();
        let dense = small.repeat(2 * READ_BUFFER / small.len());
        let mut reader = reader_of(&[&diluted[..], &dense, &dense].concat(), 100_000);
        reader.set_copy_data_max(READ_BUFFER);
        let mut copied = Vec::new();
        while let Ok(raw) = reader.next().await {
            let body = raw.into_body();
            if body.len() == 100 {
                let kept = reader.keep(body.clone());
                assert_eq!(kept, body);
                copied.push(kept.as_ptr() != body.as_ptr());
            }
        }
        assert_eq!(copied.len(), 1 + 2 * dense.len() / small.len());
        let begin = copied.iter().position(|copied| *copied).expect("behind what was diluted");
        assert!(!copied[0] && begin < 10, "{begin}");
        assert!(!copied[copied.len() / 2..].contains(&true), "dense again");
    }

    #[tokio::test]
    async fn only_copy_data_may_be_large() {
        for tag in *b"ENSZ" {
            let mut bytes = vec![tag];
            bytes.extend_from_slice(&(CONTROL_MESSAGE_MAX as u32).to_be_bytes());
            let mut reader = reader_of(&bytes, 64);
            reader.set_copy_data_max(usize::MAX);
            let error = reader.next().await.err().unwrap();
            assert!(error.to_string().contains("the limit is"), "{error}");
        }
        let mut reader = reader_of(&copy_data(CONTROL_MESSAGE_MAX), 100_000);
        reader.set_copy_data_max(2 * CONTROL_MESSAGE_MAX);
        assert_eq!(reader.next().await.unwrap().into_body().len(), CONTROL_MESSAGE_MAX);
    }

    #[tokio::test]
    async fn hostile_lengths_are_refused_before_memory_is_taken() {
        for length in [0u32, 3, 0x7FFF_FFFF, 0x8000_0000, u32::MAX, CONTROL_MESSAGE_MAX as u32] {
            let mut bytes = vec![b'R'];
            bytes.extend_from_slice(&length.to_be_bytes());
            let mut reader = reader_of(&bytes, 64);
            let error = reader.next().await.err().unwrap();
            assert!(error.to_string().contains("broke the protocol"), "{length}: {error}");
            assert!(reader.buf.capacity() <= READ_BUFFER, "{length}");
        }
    }

    #[tokio::test]
    async fn a_truncated_message_is_a_closed_connection() {
        let message = copy_data(50);
        for len in 0..message.len() {
            let error = reader_of(&message[..len], 64).next().await.err().unwrap();
            assert!(error.to_string().contains("closed"), "{len}: {error}");
        }
    }

    #[tokio::test]
    async fn a_cancelled_read_loses_nothing() {
        let (mut far, near) = tokio::io::duplex(64);
        let mut reader = MessageReader::new(Box::new(near));
        let message = copy_data(20);
        for part in message.chunks(3) {
            far.write_all(part).await.unwrap();
            tokio::select! {
                biased;
                raw = reader.next() => assert_eq!(raw.unwrap().into_body(), message[5..]),
                () = tokio::task::yield_now() => {}
            }
        }
    }

    #[tokio::test]
    async fn a_cancelled_write_goes_on_where_it_was() {
        let (near, mut far) = tokio::io::duplex(4);
        let mut writer = MessageWriter::new(Box::new(near));
        writer.queue().extend_from_slice(b"0123456789");
        tokio::select! {
            biased;
            _ = writer.flush() => panic!("ten bytes into four"),
            () = tokio::task::yield_now() => {}
        }
        let mut read = [0; 12];
        let (sent, got) = tokio::join!(
            writer.send(|buf| {
                buf.extend_from_slice(b"ab");
                Ok(())
            }),
            far.read_exact(&mut read)
        );
        sent.unwrap();
        got.unwrap();
        assert_eq!(&read, b"0123456789ab");
    }

    proptest! {
        /// Invariant 9, also for postgres-protocol: whatever comes, it is a message or an error.
        #[test]
        fn no_bytes_panic(
            tag in any::<u8>(),
            known in prop::sample::select(b"RSKZENDTCGHIAts123ncd".to_vec()),
            body in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            for tag in [tag, known] {
                let mut bytes = BytesMut::from(&[tag][..]);
                bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
                bytes.extend_from_slice(&body);
                match (Raw { bytes }).parse() {
                    Ok(Message::DataRow(row)) => {
                        let _ = super::super::client::read_row(&row);
                    }
                    Ok(Message::ErrorResponse(error)) => {
                        let error = ServerError::parse(error.fields()).into_error("it failed");
                        prop_assert!(!error.to_string().is_empty());
                    }
                    Ok(Message::AuthenticationSasl(offer)) => {
                        let mut names = offer.mechanisms();
                        while let Ok(Some(_)) = names.next() {}
                    }
                    Ok(_) | Err(_) => {}
                }
            }
        }
    }
}
