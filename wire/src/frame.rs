//! The unit of one `OutputPluginWrite`: a checksummed header and messages of one transaction.
//!
//! ```text
//!  0  u8   format version
//!  1  u8   flags: 0x01 a transaction begins here, 0x02 its commit is here
//!  2  u16  zero
//!  4  u32  CRC32C of bytes 0..4 and 8..end
//!  8  u64  base LSN
//! 16  u32  xid of the transaction; 0 for a logical message outside of one
//! 20  u32  number of messages
//! 24       messages
//! ```
//!
//! A transaction is one or more frames without another's between them: the first has flag 0x01, the
//! last 0x02. A non-transactional logical message is a frame of its own, with neither flag and xid 0.

use bytes::Bytes;

use crate::error::{DecodeError, DecodeErrorKind};
use crate::limits::{FORMAT_VERSION, FRAME_MAX, FRAME_TARGET};
use crate::lsn::Lsn;
use crate::message::{
    Begin, Body, Commit, Delete, HEADER_LEN as MESSAGE_HEADER_LEN, Insert, LogicalMessage, Message,
    OldRowKind, Truncate, Update, tag,
};
use crate::reader::Reader;
use crate::relation::Relation;
use crate::row::RowWriter;

/// Bytes before the first message.
pub const HEADER_LEN: usize = 24;

const FLAG_BEGIN: u8 = 0x01;
const FLAG_COMMIT: u8 = 0x02;

/// Bytes of a whole commit message.
const COMMIT_LEN: usize = MESSAGE_HEADER_LEN + 24;

const CRC_AT: usize = 4;
const CRC_FROM: usize = 8;

fn checksum(frame: &[u8]) -> u32 {
    let (head, rest) = frame.split_at(CRC_FROM.min(frame.len()));
    let head = head.get(..CRC_AT).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c(head), rest)
}

/// Builds frames in one buffer that is kept from frame to frame.
///
/// Usage: [`start`](Self::start), messages, [`finish`](Self::finish), send the bytes, `start` again.
#[derive(Debug, Default)]
pub struct FrameWriter {
    buf: Vec<u8>,
    base: Lsn,
    flags: u8,
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
        self.buf.extend_from_slice(&[FORMAT_VERSION, 0, 0, 0, 0, 0, 0, 0]);
        self.buf.extend_from_slice(&base.0.to_le_bytes());
        self.buf.extend_from_slice(&xid.to_le_bytes());
        self.buf.extend_from_slice(&0u32.to_le_bytes());
        self.base = base;
        self.flags = 0;
        self.messages = 0;
    }

    /// Bytes of the frame so far, header included.
    pub fn len(&self) -> usize {
        self.buf.len()
    }

    /// No message was written since `start` (or there was no `start`).
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// The frame has reached the size at which it should be sent.
    pub fn is_full(&self) -> bool {
        self.buf.len() >= FRAME_TARGET
    }

    fn message(&mut self, tag: u8, body: impl FnOnce(&mut Vec<u8>, Lsn)) {
        let at = self.buf.len();
        self.buf.extend_from_slice(&[tag, 0, 0, 0, 0]);
        body(&mut self.buf, self.base);
        // FRAME_MAX bounds what PostgreSQL can send, and it is under u32::MAX
        let len = (self.buf.len() - at - MESSAGE_HEADER_LEN) as u32;
        if let Some(field) = self.buf.get_mut(at + 1..at + MESSAGE_HEADER_LEN) {
            field.copy_from_slice(&len.to_le_bytes());
        }
        self.messages += 1;
    }

    pub fn begin(&mut self, begin: &Begin) {
        self.flags |= FLAG_BEGIN;
        self.message(tag::BEGIN, |buf, _| begin.put(buf));
    }

    pub fn commit(&mut self, commit: &Commit) {
        self.flags |= FLAG_COMMIT;
        self.message(tag::COMMIT, |buf, _| commit.put(buf));
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
            new(&mut shape.writer(buf));
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
            new(&mut shape.writer(buf));
        });
    }

    /// An update with its old row.
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
        self.message(tag::UPDATE, |buf, base| {
            Update::put_head(buf, base, lsn, relation, Some(kind));
            let at = buf.len();
            buf.extend_from_slice(&[0; 4]);
            old(&mut old_shape.writer(buf));
            let len = (buf.len() - at - 4) as u32;
            if let Some(field) = buf.get_mut(at..at + 4) {
                field.copy_from_slice(&len.to_le_bytes());
            }
            new(&mut new_shape.writer(buf));
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
            old(&mut shape.writer(buf));
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

    /// Fills in the header and gives the whole frame; valid until the next `start`.
    pub fn finish(&mut self) -> &[u8] {
        let (flags, messages) = (self.flags, self.messages);
        let mut set = |at: usize, bytes: &[u8]| {
            if let Some(field) = self.buf.get_mut(at..at + bytes.len()) {
                field.copy_from_slice(bytes);
            }
        };
        set(1, &[flags]);
        set(20, &messages.to_le_bytes());
        let crc = checksum(&self.buf);
        if let Some(field) = self.buf.get_mut(CRC_AT..CRC_FROM) {
            field.copy_from_slice(&crc.to_le_bytes());
        }
        &self.buf
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
    fn writer(self, buf: &mut Vec<u8>) -> RowWriter<'_> {
        RowWriter::new(buf, self.columns, self.nulls, self.unchanged)
    }
}

/// A received frame whose version and checksum are right. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    bytes: Bytes,
    flags: u8,
    base: Lsn,
    xid: u32,
    messages: u32,
}

impl Frame {
    /// Checks version, checksum and header, in this order. The messages are read by
    /// [`messages`](Self::messages).
    pub fn parse(bytes: Bytes) -> Result<Frame, DecodeError> {
        let mut reader = Reader::new(&bytes, 0, "frame");
        let version = reader.u8("format version")?;
        if version == 0 || version > FORMAT_VERSION {
            return Err(
                reader.error(DecodeErrorKind::Version { found: version, known: FORMAT_VERSION })
            );
        }
        if bytes.len() > FRAME_MAX {
            return Err(reader.error(DecodeErrorKind::Limit {
                field: "frame length",
                value: bytes.len() as u64,
                limit: FRAME_MAX as u64,
            }));
        }
        let flags = reader.u8("frame flags")?;
        let zero = reader.take(2, "reserved")?;
        let found = reader.u32("checksum")?;
        let base = reader.lsn("base lsn")?;
        let xid = reader.u32("xid")?;
        let messages = reader.u32("message count")?;
        let computed = checksum(&bytes);
        if found != computed {
            return Err(reader.error(DecodeErrorKind::Checksum { found, computed }));
        }
        let unknown = u64::from(flags & !(FLAG_BEGIN | FLAG_COMMIT));
        if unknown != 0 {
            return Err(
                reader.error(DecodeErrorKind::Unknown { field: "frame flag", value: unknown })
            );
        }
        if zero != [0, 0] {
            return Err(reader.error(DecodeErrorKind::Unknown {
                field: "reserved bytes",
                value: u64::from(zero.iter().any(|b| *b != 0)),
            }));
        }
        Ok(Frame { flags, base, xid, messages, bytes })
    }

    /// A transaction begins in this frame.
    pub fn begins(&self) -> bool {
        self.flags & FLAG_BEGIN != 0
    }

    /// The commit of its transaction is the last message of this frame.
    pub fn commits(&self) -> bool {
        self.flags & FLAG_COMMIT != 0
    }

    /// The first message, when a transaction begins in this frame. Reads no other message.
    pub fn begin(&self) -> Result<Option<Begin>, DecodeError> {
        if !self.begins() {
            return Ok(None);
        }
        match self.messages().next() {
            Some(Ok(Message::Begin(begin))) => Ok(Some(begin)),
            Some(Err(error)) => Err(error),
            _ => Err(DecodeError {
                kind: DecodeErrorKind::Unknown { field: "message before the begin", value: 0 },
                what: "frame",
                offset: HEADER_LEN,
            }),
        }
    }

    /// The last message, when the commit is in this frame. Reads no other message: a commit has a
    /// fixed length.
    pub fn commit(&self) -> Result<Option<Commit>, DecodeError> {
        if !self.commits() {
            return Ok(None);
        }
        let at = self.bytes.len().saturating_sub(COMMIT_LEN).max(HEADER_LEN);
        let tail = Messages { at, ..self.messages() }.read_one()?;
        match tail {
            Some(Message::Commit(commit)) => Ok(Some(commit)),
            _ => Err(DecodeError {
                kind: DecodeErrorKind::Unknown { field: "message after the commit", value: 0 },
                what: "frame",
                offset: at,
            }),
        }
    }

    /// xid of the transaction; 0 for a logical message outside of one.
    pub fn xid(&self) -> u32 {
        self.xid
    }

    /// The LSN that the change LSNs are counted from.
    pub fn base(&self) -> Lsn {
        self.base
    }

    /// Bytes of the whole frame.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// A frame has a header, so it is never empty.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The frame as it came.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Reads the messages in order; the iterator ends after the first error. Their number and the
    /// frame's flags are checked against the header.
    pub fn messages(&self) -> Messages {
        Messages {
            bytes: self.bytes.clone(),
            at: HEADER_LEN,
            frame: self.clone(),
            seen: 0,
            flags: 0,
            done: false,
        }
    }
}

/// Iterator over the messages of a [`Frame`].
#[derive(Debug)]
pub struct Messages {
    bytes: Bytes,
    at: usize,
    frame: Frame,
    seen: u32,
    flags: u8,
    done: bool,
}

impl Messages {
    fn read_one(mut self) -> Result<Option<Message>, DecodeError> {
        self.read()
    }

    fn read(&mut self) -> Result<Option<Message>, DecodeError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let mut reader = Reader::new(rest, self.at, "frame");
        if rest.is_empty() {
            if self.seen != self.frame.messages || self.flags != self.frame.flags {
                let value = u64::from(self.seen);
                return Err(reader.error(DecodeErrorKind::Unknown {
                    field: "count or flags of messages",
                    value,
                }));
            }
            return Ok(None);
        }
        let tag = reader.u8("message tag")?;
        if self.flags & FLAG_COMMIT != 0 {
            let count = rest.len();
            return Err(reader.error(DecodeErrorKind::Trailing { field: "the commit", count }));
        }
        let len = reader.u32("message length")? as usize;
        let body = reader.take_shared(&self.bytes.slice(self.at..), len, "message")?;
        let origin = self.at + MESSAGE_HEADER_LEN;
        self.at += reader.at();
        self.seen = self.seen.saturating_add(1);
        self.flags |= match tag {
            tag::BEGIN => FLAG_BEGIN,
            tag::COMMIT => FLAG_COMMIT,
            _ => 0,
        };
        Message::read(tag, Body::new(&body, origin, self.frame.base)).map(Some)
    }
}

impl Iterator for Messages {
    type Item = Result<Message, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let message = self.read().transpose();
        self.done = !matches!(message, Some(Ok(_)));
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relation::{Column, Encoding, ReplicaIdentity, TypeKind};
    use crate::row::Value;

    fn table() -> Relation {
        let column = |name: &str, oid, encoding| Column {
            name: name.into(),
            key: name == "id",
            not_null: name == "id",
            generated: false,
            type_oid: oid,
            base_oid: oid,
            typmod: -1,
            kind: TypeKind::Base,
            element_oid: 0,
            element_kind: TypeKind::Base,
            type_schema: "pg_catalog".into(),
            type_name: "t".into(),
            encoding,
        };
        Relation {
            oid: 16385,
            schema: "public".into(),
            name: "t".into(),
            replica_identity: ReplicaIdentity::Default,
            columns: vec![
                column("id", 23, Encoding::Fixed(4)),
                column("a", 25, Encoding::Varlena),
                column("b", 25, Encoding::Varlena),
            ],
        }
    }

    #[test]
    fn a_transaction_comes_back() {
        let relation = table();
        let begin = Begin {
            xid: 7,
            final_lsn: Lsn(900),
            end_lsn: Lsn(950),
            commit_time: -5,
            origin: "o".into(),
        };
        let commit = Commit { final_lsn: Lsn(900), end_lsn: Lsn(950), commit_time: -5 };
        let mut writer = FrameWriter::new();
        writer.start(Lsn(500), 7);
        writer.begin(&begin);
        writer.relation(&relation);
        let shape = RowShape { columns: 3, nulls: true, unchanged: true };
        writer.update_with_old(
            Lsn(400),
            16385,
            OldRowKind::Key,
            RowShape { columns: 3, nulls: true, unchanged: false },
            |row| {
                row.fixed(&1i32.to_le_bytes());
                row.null();
                row.null();
            },
            shape,
            |row| {
                row.fixed(&2i32.to_le_bytes());
                row.unchanged();
                row.variable(b"x");
            },
        );
        writer.commit(&commit);
        let frame = Frame::parse(Bytes::copy_from_slice(writer.finish())).unwrap();
        assert!(frame.begins() && frame.commits());
        assert_eq!(frame.begin(), Ok(Some(begin.clone())));
        assert_eq!(frame.commit(), Ok(Some(commit)));
        let messages: Vec<_> = frame.messages().collect::<Result<_, _>>().unwrap();
        assert_eq!(messages[0], Message::Begin(begin));
        assert_eq!(messages[1], Message::Relation(relation.clone()));
        let Message::Update(update) = &messages[2] else { panic!("{:?}", messages[2]) };
        assert_eq!(update.lsn, Lsn(400));
        let values: Vec<_> = update.new.values(&relation).unwrap().map(Result::unwrap).collect();
        assert_eq!(values, [Value::Data(&[2, 0, 0, 0]), Value::Unchanged, Value::Data(b"x")]);
        let old = update.old.as_ref().unwrap();
        let values: Vec<_> = old.row.values(&relation).unwrap().map(Result::unwrap).collect();
        assert_eq!(values, [Value::Data(&[1, 0, 0, 0]), Value::Null, Value::Null]);
        assert_eq!(messages[3], Message::Commit(commit));
    }

    #[test]
    fn one_flipped_bit_anywhere_is_seen() {
        let mut writer = FrameWriter::new();
        writer.start(Lsn(1), 1);
        writer.relation(&table());
        let good = writer.finish().to_vec();
        Frame::parse(Bytes::from(good.clone())).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Frame::parse(Bytes::from(bad)).is_err(), "bit {bit}");
        }
    }
}
