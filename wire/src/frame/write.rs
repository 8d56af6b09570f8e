//! How the plugin builds frames.

use std::collections::TryReserveError;

use super::{
    CHECKSUM, FLAG_BEGIN, FLAG_COMMIT, FLAG_MORE, FLAG_STREAM, HEADER_LEN, Header, checksum,
};
use crate::limits::FRAME_TARGET;
use crate::lsn::Lsn;
use crate::message::{
    Begin, Commit, Delete, HEADER_LEN as MESSAGE_HEADER_LEN, Insert, LogicalMessage, OldRowKind,
    Truncate, Update, tag,
};
use crate::relation::Relation;
use crate::row::RowWriter;
use crate::streamed::{StreamAbort, StreamCommit};

/// Builds frames in one buffer that is kept from frame to frame.
///
/// Usage: [`start`](Self::start), messages, [`finish`](Self::finish), send the bytes,
/// [`go_on`](Self::go_on) or `start` again. A row that is not of its shape is a panic. Whatever unwinds out of a message, nothing of that
/// message is in the frame, and the writer goes on behind the one before.
#[derive(Debug, Default)]
pub struct FrameWriter {
    buf: Vec<u8>,
    /// Bytes of `buf` that are header and whole messages.
    whole: usize,
    header: Header,
    /// Where the last COMMIT of the frame ends.
    committed: Option<Committed>,
    /// xid of the last BEGIN.
    xid: u32,
}

#[derive(Clone, Copy, Debug)]
struct Committed {
    /// Bytes up to it, the header among them.
    len: usize,
    /// Messages up to it.
    messages: u32,
}

impl FrameWriter {
    /// An empty writer; no memory is taken before the first frame.
    pub fn new() -> Self {
        FrameWriter::default()
    }

    /// Starts a frame; what was in the buffer is gone. `base` is best the LSN of its first change.
    pub fn start(&mut self, base: Lsn, xid: u32) {
        // one enormous row must not keep its memory for the rest of the session
        if self.buf.capacity() > 16 * FRAME_TARGET {
            self.buf = Vec::new();
        }
        self.buf.clear();
        self.buf.reserve(FRAME_TARGET + FRAME_TARGET / 4);
        self.header = Header { base, xid, ..Header::default() };
        self.buf.extend_from_slice(&self.header.to_bytes());
        self.whole = HEADER_LEN;
        self.committed = None;
    }

    /// Starts a frame of a streamed transaction.
    pub fn start_stream(&mut self, base: Lsn, xid: u32) {
        self.start(base, xid);
        self.header.flags = FLAG_STREAM;
    }

    /// Bytes of the frame so far, header included.
    pub fn len(&self) -> usize {
        self.whole
    }

    /// Bytes that the writer holds in memory.
    pub fn capacity(&self) -> usize {
        self.buf.capacity()
    }

    /// Makes room for so many bytes, as [`RowWriter::try_reserve`].
    pub fn try_reserve(&mut self, bytes: usize) -> Result<(), TryReserveError> {
        self.buf.try_reserve(bytes)
    }

    /// No message was written since `start` (or there was no `start`).
    pub fn is_empty(&self) -> bool {
        self.header.messages == 0
    }

    /// The frame has reached the size at which it should be sent.
    pub fn is_full(&self) -> bool {
        self.whole >= FRAME_TARGET
    }

    fn message(&mut self, tag: u8, body: impl FnOnce(&mut Vec<u8>, Lsn)) {
        self.buf.truncate(self.whole);
        let at = self.whole;
        self.buf.extend_from_slice(&[tag, 0, 0, 0, 0]);
        body(&mut self.buf, self.header.base);
        // FRAME_MAX bounds what PostgreSQL can send, and it is under u32::MAX
        let len = (self.buf.len() - at - MESSAGE_HEADER_LEN) as u32;
        if let Some(field) = self.buf.get_mut(at + 1..at + MESSAGE_HEADER_LEN) {
            field.copy_from_slice(&len.to_le_bytes());
        }
        self.header.messages += 1;
        self.whole = self.buf.len();
    }

    /// First in its frame, or after a commit.
    pub fn begin(&mut self, begin: &Begin) {
        self.message(tag::BEGIN, |buf, _| begin.put(buf));
        self.xid = begin.xid;
        if self.committed.is_none() {
            self.header.flags |= FLAG_BEGIN;
        }
    }

    pub fn commit(&mut self, commit: &Commit) {
        self.message(tag::COMMIT, |buf, _| commit.put(buf));
        self.header.flags |= FLAG_COMMIT;
        self.committed = Some(Committed { len: self.whole, messages: self.header.messages });
    }

    /// Whether transactions may be held back after this frame; see the module's documentation.
    pub fn set_more(&mut self, more: bool) {
        self.header.flags &= !FLAG_MORE;
        if more {
            self.header.flags |= FLAG_MORE;
        }
    }

    /// Alone in a frame begun with [`start_stream`](Self::start_stream).
    pub fn stream_commit(&mut self, commit: &StreamCommit) {
        self.message(tag::STREAM_COMMIT, |buf, _| commit.put(buf));
    }

    /// Alone in a frame begun with [`start_stream`](Self::start_stream).
    pub fn stream_abort(&mut self, abort: &StreamAbort) {
        self.message(tag::STREAM_ABORT, |buf, _| abort.put(buf));
    }

    pub fn relation(&mut self, relation: &Relation) {
        self.message(tag::RELATION, |buf, _| relation.put(buf));
    }

    /// `shape` is the row's column count and whether nulls or unchanged values may come.
    pub fn insert(
        &mut self,
        lsn: Lsn,
        relation: u32,
        shape: RowShape,
        new: impl FnOnce(&mut RowWriter<'_>),
    ) {
        self.message(tag::INSERT, |buf, base| {
            Insert::put_head(buf, base, lsn, relation);
            shape.write(buf, new);
        });
    }

    /// An update whose old row is not in the stream.
    pub fn update(
        &mut self,
        lsn: Lsn,
        relation: u32,
        shape: RowShape,
        new: impl FnOnce(&mut RowWriter<'_>),
    ) {
        self.message(tag::UPDATE, |buf, base| {
            Update::put_head(buf, base, lsn, relation, None);
            shape.write(buf, new);
        });
    }

    /// An update with its old row.
    ///
    /// # Panics
    /// When `kind` is `None`: such an update has no old row.
    #[allow(clippy::too_many_arguments)] // two rows, each with its shape
    pub fn update_with_old(
        &mut self,
        lsn: Lsn,
        relation: u32,
        kind: OldRowKind,
        old_shape: RowShape,
        old: impl FnOnce(&mut RowWriter<'_>),
        new_shape: RowShape,
        new: impl FnOnce(&mut RowWriter<'_>),
    ) {
        assert_ne!(kind, OldRowKind::None, "an old row that is none");
        self.message(tag::UPDATE, |buf, base| {
            Update::put_head(buf, base, lsn, relation, Some(kind));
            let at = buf.len();
            buf.extend_from_slice(&[0; 4]);
            old_shape.write(buf, old);
            let len = (buf.len() - at - 4) as u32;
            if let Some(field) = buf.get_mut(at..at + 4) {
                field.copy_from_slice(&len.to_le_bytes());
            }
            new_shape.write(buf, new);
        });
    }

    pub fn delete(
        &mut self,
        lsn: Lsn,
        relation: u32,
        kind: OldRowKind,
        shape: RowShape,
        old: impl FnOnce(&mut RowWriter<'_>),
    ) {
        self.message(tag::DELETE, |buf, base| {
            Delete::put_head(buf, base, lsn, relation, kind);
            shape.write(buf, old);
        });
    }

    pub fn truncate(&mut self, lsn: Lsn, cascade: bool, restart_identity: bool, relations: &[u32]) {
        self.message(tag::TRUNCATE, |buf, base| {
            Truncate::put(buf, base, lsn, cascade, restart_identity, relations);
        });
    }

    pub fn logical(&mut self, lsn: Lsn, transactional: bool, prefix: &str, content: &[u8]) {
        self.message(tag::LOGICAL, |buf, base| {
            LogicalMessage::put(buf, base, lsn, transactional, prefix, content);
        });
    }

    /// Fills in the header and gives the frame; valid until the next `start`. A frame in which a
    /// transaction ends is given up to the end of the last one; of what comes behind it
    /// [`go_on`](Self::go_on) makes the next frame.
    pub fn finish(&mut self) -> &[u8] {
        self.buf.truncate(self.whole);
        let mut header = self.header;
        let mut len = self.whole;
        if let Some(committed) = self.committed {
            header.messages = committed.messages;
            len = committed.len;
        }
        let frame = self.buf.get_mut(..len).unwrap_or_default();
        // there is no header before the first `start`
        if let Some(place) = frame.first_chunk_mut::<HEADER_LEN>() {
            *place = header.to_bytes();
        }
        let sum = checksum(frame).to_le_bytes();
        if let Some(place) = frame.get_mut(CHECKSUM) {
            place.copy_from_slice(&sum);
        }
        frame
    }

    /// After [`finish`](Self::finish): starts the next frame with what did not go into that one, the
    /// beginning of a transaction. False, and nothing is started, when there is nothing.
    pub fn go_on(&mut self) -> bool {
        let Some(committed) = self.committed.take().filter(|at| at.len < self.whole) else {
            return false;
        };
        self.buf.copy_within(committed.len..self.whole, HEADER_LEN);
        self.whole -= committed.len - HEADER_LEN;
        self.buf.truncate(self.whole);
        let messages = self.header.messages - committed.messages;
        let base = self.header.base;
        self.header = Header { flags: FLAG_BEGIN, base, xid: self.xid, messages, ..self.header };
        true
    }
}

/// What a row needs to know before its first value; see [`RowWriter`].
#[derive(Clone, Copy, Debug)]
pub struct RowShape {
    /// Columns of the relation.
    pub columns: usize,
    /// A null may come.
    pub nulls: bool,
    /// An unchanged TOAST value may come.
    pub unchanged: bool,
}

impl RowShape {
    fn write(self, buf: &mut Vec<u8>, row: impl FnOnce(&mut RowWriter<'_>)) {
        let mut writer = RowWriter::new(buf, self.columns, self.nulls, self.unchanged);
        row(&mut writer);
        assert_eq!(writer.columns_written(), self.columns, "columns written of a row");
    }
}
