//! The CopyBoth stream: frames and keepalives in, status updates out.
//!
//! ```text
//! 'w'  u8 tag  i64 start of WAL data  i64 end of WAL  i64 send time  payload    (to us)
//! 'k'  u8 tag  i64 end of WAL         i64 send time   u8 reply wanted           (to us)
//! 'r'  u8 tag  i64 written  i64 flushed  i64 applied  i64 send time  u8 reply   (from us)
//! ```
//!
//! Times are microseconds since 2000-01-01 00:00:00 UTC. Each is the content of a CopyData message;
//! see "Streaming Replication Protocol" in PostgreSQL's documentation.

use std::time::{Duration, SystemTime};

use bytes::{Buf, BufMut, Bytes};
use postgres_protocol::message::backend::{
    COMMAND_COMPLETE_TAG, COPY_DATA_TAG, COPY_DONE_TAG, ERROR_RESPONSE_TAG, Message,
    NOTICE_RESPONSE_TAG, PARAMETER_STATUS_TAG,
};
use postgres_protocol::message::frontend;
use rsrepl_wire::limits::FRAME_MAX;
use rsrepl_wire::{Frame, Lsn};
use tokio::time::{Instant, timeout, timeout_at};

use super::framing::{MessageReader, MessageWriter, Raw, violation};
use super::server_error::ServerError;
use crate::error::{Error, Kind, Result};

/// Silence of the server after which it is asked for a sign of life: half of PostgreSQL's default
/// `wal_sender_timeout`.
pub const PING_AFTER: Duration = Duration::from_secs(30);

/// Further silence after which it is given up.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// How long the server may take nothing of what we say, with all buffers between us full.
pub const HEARD_WITHIN: Duration = Duration::from_secs(30);

/// How long the server may take to end the stream when we end it.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Tag and length of CopyData, and the head of 'w'.
const DATA_HEADER_MAX: usize = 5 + 25;

const XLOG_DATA: u8 = b'w';
const KEEPALIVE: u8 = b'k';
const STATUS_UPDATE: u8 = b'r';

/// PostgreSQL's epoch, seconds after the Unix epoch.
const EPOCH: Duration = Duration::from_secs(946_684_800);

/// What comes from the source. `P` is [`Frame`], or [`Bytes`] for a frame that was not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<P = Frame> {
    Frame {
        /// As the walsender sent it; logical decoding puts the LSN of the change or commit here.
        wal_start: Lsn,
        wal_end: Lsn,
        /// Microseconds since 2000-01-01 00:00:00 UTC on the server's clock.
        server_time: i64,
        frame: P,
    },
    Keepalive {
        /// Everything below it was decoded, and what of it is for us was sent before this. Between two
        /// transactions it is a position that can be confirmed, but not after a frame with MORE.
        wal_end: Lsn,
        /// Microseconds since 2000-01-01 00:00:00 UTC on the server's clock.
        server_time: i64,
        /// The server waits for a status update: now, or it will take us for dead; and when it
        /// shuts down, until all of `wal_end` is confirmed as flushed.
        reply_requested: bool,
    },
    /// Nothing came for [`PING_AFTER`]: send a status update that asks for a reply. If the server
    /// stays silent, [`StreamReader::next`] fails after [`GIVE_UP_AFTER`].
    Silence,
    /// The server ended the stream in good order (it shuts down). Nothing comes after it.
    End,
}

/// What a status update says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatusUpdate {
    /// Received.
    pub written: Lsn,
    /// Safe: the slot's `confirmed_flush_lsn` moves here (invariant 4).
    pub flushed: Lsn,
    /// Applied; PostgreSQL only shows it, in `pg_stat_replication`.
    pub applied: Lsn,
}

/// A running stream, both halves together.
pub struct ReplicationStream {
    reader: StreamReader,
    writer: StatusWriter,
}

/// The half that receives.
pub struct StreamReader {
    messages: MessageReader,
    /// Since when we wait for the server, across cancelled calls of `next`.
    waiting_since: Option<Instant>,
    /// When [`Event::Silence`] was returned; `None` since anything came.
    pinged: Option<Instant>,
    ended: bool,
    ping_after: Duration,
    give_up_after: Duration,
}

/// The half that confirms. It works while the reader rests, and must be used then too: a server that
/// hears nothing for `wal_sender_timeout` ends the stream.
pub struct StatusWriter {
    messages: MessageWriter,
    heard_within: Duration,
}

impl ReplicationStream {
    pub(super) fn new(mut messages: MessageReader, writer: MessageWriter) -> Self {
        messages.set_copy_data_max(FRAME_MAX + DATA_HEADER_MAX);
        ReplicationStream {
            reader: StreamReader {
                messages,
                waiting_since: None,
                pinged: None,
                ended: false,
                ping_after: PING_AFTER,
                give_up_after: GIVE_UP_AFTER,
            },
            writer: StatusWriter { messages: writer, heard_within: HEARD_WITHIN },
        }
    }

    /// Other limits than [`PING_AFTER`], and [`GIVE_UP_AFTER`] and [`HEARD_WITHIN`].
    #[must_use]
    pub fn patience(mut self, ping_after: Duration, give_up_after: Duration) -> Self {
        self.writer.heard_within = give_up_after;
        self.reader.ping_after = ping_after;
        self.reader.give_up_after = give_up_after;
        self
    }

    /// See [`StreamReader::next`].
    pub async fn next(&mut self) -> Result<Event> {
        self.reader.next().await
    }

    /// See [`StatusWriter::send`].
    pub async fn send_status(&mut self, status: StatusUpdate, reply: bool) -> Result<()> {
        self.writer.send(status, reply).await
    }

    /// The halves, for two tasks; [`join`](Self::join) them to close the stream.
    pub fn split(self) -> (StreamReader, StatusWriter) {
        (self.reader, self.writer)
    }

    /// The halves of one stream together again.
    pub fn join(reader: StreamReader, writer: StatusWriter) -> Self {
        ReplicationStream { reader, writer }
    }

    /// Confirms `last` and ends the stream; what still comes is dropped. Takes [`CLOSE_TIMEOUT`] at
    /// most.
    ///
    /// # Errors
    /// When it is not certain that the server has read `last`: it then sends some again next time.
    pub async fn close(mut self, last: StatusUpdate) -> Result<()> {
        let closing = async {
            self.writer.put(last, false);
            frontend::copy_done(self.writer.messages.queue());
            self.writer.messages.flush().await?;
            self.reader.drain().await?;
            frontend::terminate(self.writer.messages.queue());
            self.writer.messages.flush().await?;
            self.writer.messages.shutdown().await;
            Ok(())
        };
        timeout(CLOSE_TIMEOUT, closing).await.unwrap_or_else(|_| {
            let text = format!("the source did not end the stream within {CLOSE_TIMEOUT:?}");
            Err(Error::new(Kind::Connection, text))
        })
    }
}

impl StreamReader {
    /// The next event. Cancel-safe, for `tokio::select!`.
    ///
    /// # Errors
    /// [`Kind::Frame`] for a frame that fails its checks; [`Kind::Connection`] for a stream that
    /// broke, or a server that is silent; what the server says otherwise. The stream is of no use
    /// then.
    pub async fn next(&mut self) -> Result<Event> {
        Ok(match self.next_raw().await? {
            Event::Frame { wal_start, wal_end, server_time, frame } => {
                let frame = Frame::parse(frame).map_err(|error| Error::from(error).at(wal_end))?;
                Event::Frame { wal_start, wal_end, server_time, frame }
            }
            Event::Keepalive { wal_end, server_time, reply_requested } => {
                Event::Keepalive { wal_end, server_time, reply_requested }
            }
            Event::Silence => Event::Silence,
            Event::End => Event::End,
        })
    }

    /// [`next`](Self::next) without a look at the frame.
    pub async fn next_raw(&mut self) -> Result<Event<Bytes>> {
        loop {
            if self.ended {
                return Ok(Event::End);
            }
            let Some(raw) = self.wait().await? else { return Ok(Event::Silence) };
            match raw.tag() {
                COPY_DATA_TAG => {
                    let event = read_event(raw.into_body())?;
                    return Ok(self.kept(event));
                }
                // at a shutdown the walsender goes without CopyDone
                COPY_DONE_TAG | COMMAND_COMPLETE_TAG => self.ended = true,
                NOTICE_RESPONSE_TAG | ERROR_RESPONSE_TAG => match raw.parse()? {
                    Message::NoticeResponse(body) => ServerError::parse(body.fields()).log_notice(),
                    Message::ErrorResponse(body) => {
                        return Err(ServerError::parse(body.fields())
                            .into_error("the source ended the stream"));
                    }
                    _ => {}
                },
                PARAMETER_STATUS_TAG => {}
                tag => {
                    let tag = char::from(tag);
                    return Err(violation(&format!("a message of type {tag:?} in the stream")));
                }
            }
        }
    }

    fn kept(&mut self, event: Event<Bytes>) -> Event<Bytes> {
        let Event::Frame { wal_start, wal_end, server_time, frame } = event else { return event };
        Event::Frame { wal_start, wal_end, server_time, frame: self.messages.keep(frame) }
    }

    /// The next message, or `None` when it is time to ask whether the server is there. Time that the
    /// reader itself rested does not count: what has come meanwhile is read first, and an error
    /// comes only after a ping.
    async fn wait(&mut self) -> Result<Option<Raw>> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let deadline = match self.pinged {
            None => since + self.ping_after,
            Some(pinged) => pinged + self.give_up_after,
        };
        // polls the reader before it looks at the time
        match timeout_at(deadline, self.messages.next()).await {
            Ok(message) => {
                self.waiting_since = None;
                self.pinged = None;
                message.map(Some)
            }
            Err(_) if self.pinged.is_none() => {
                self.pinged = Some(Instant::now());
                Ok(None)
            }
            Err(_) => {
                let silent = since.elapsed().as_secs();
                let text = format!("nothing came from the source for {silent} s, not even a reply");
                Err(Error::new(Kind::Connection, text))
            }
        }
    }

    /// Reads to the end of the stream.
    async fn drain(&mut self) -> Result<()> {
        while !self.ended {
            self.next_raw().await?;
        }
        Ok(())
    }
}

/// Reads the content of a CopyData message.
fn read_event(mut body: Bytes) -> Result<Event<Bytes>> {
    let short = |_| violation("a message of the stream is too short");
    match body.try_get_u8().map_err(short)? {
        XLOG_DATA => Ok(Event::Frame {
            wal_start: Lsn(body.try_get_u64().map_err(short)?),
            wal_end: Lsn(body.try_get_u64().map_err(short)?),
            server_time: body.try_get_i64().map_err(short)?,
            frame: body,
        }),
        KEEPALIVE => {
            let event = Event::Keepalive {
                wal_end: Lsn(body.try_get_u64().map_err(short)?),
                server_time: body.try_get_i64().map_err(short)?,
                reply_requested: body.try_get_u8().map_err(short)? != 0,
            };
            match body.has_remaining() {
                false => Ok(event),
                true => Err(violation("a keepalive of the stream is too long")),
            }
        }
        tag => {
            let tag = char::from(tag);
            Err(violation(&format!("copy data of type {tag:?} in the stream")))
        }
    }
}

impl StatusWriter {
    /// Sends a status update; `reply` asks the server for a keepalive. Cancel-safe: what was not sent
    /// goes before the next one.
    ///
    /// # Errors
    /// [`Kind::Connection`], also when the server takes nothing for [`HEARD_WITHIN`].
    pub async fn send(&mut self, status: StatusUpdate, reply: bool) -> Result<()> {
        let limit = self.heard_within;
        let sending = async {
            // so that cancelled calls do not pile up
            self.messages.flush().await?;
            self.put(status, reply);
            self.messages.flush().await
        };
        timeout(limit, sending).await.unwrap_or_else(|_| {
            let text = format!("the source has taken nothing of what it is told for {limit:?}");
            Err(Error::new(Kind::Connection, text))
        })
    }

    fn put(&mut self, status: StatusUpdate, reply: bool) {
        const LEN: u32 = 4 + 1 + 4 * 8 + 1;
        let buf = self.messages.queue();
        buf.put_u8(COPY_DATA_TAG);
        buf.put_u32(LEN);
        buf.put_u8(STATUS_UPDATE);
        buf.put_u64(status.written.0);
        buf.put_u64(status.flushed.0);
        buf.put_u64(status.applied.0);
        buf.put_i64(now());
        buf.put_u8(u8::from(reply));
    }
}

/// Microseconds since 2000-01-01 00:00:00 UTC; 0 for a clock before that.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + EPOCH);
    i64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
