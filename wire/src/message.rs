//! The messages of a frame, each encoder beside its decoder, fields in the same order.
//!
//! ```text
//! tag u8 | length u32 | body (length bytes)
//! ```
//!
//! The LSN of a change is a zigzag varint: its difference to the frame's base LSN.

use bytes::Bytes;

use crate::error::{DecodeError, DecodeErrorKind};
use crate::limits::{FRAME_MAX, NAME_MAX, TRUNCATE_RELATIONS_MAX};
use crate::lsn::Lsn;
use crate::reader::Reader;
use crate::relation::Relation;
use crate::row::Row;
use crate::streamed::{StreamAbort, StreamCommit};
use crate::varint;

pub(crate) mod tag {
    pub(crate) const BEGIN: u8 = b'B';
    pub(crate) const RELATION: u8 = b'R';
    pub(crate) const INSERT: u8 = b'I';
    pub(crate) const UPDATE: u8 = b'U';
    pub(crate) const DELETE: u8 = b'D';
    pub(crate) const TRUNCATE: u8 = b'T';
    pub(crate) const LOGICAL: u8 = b'M';
    pub(crate) const COMMIT: u8 = b'C';
    pub(crate) const STREAM_COMMIT: u8 = b'c';
    pub(crate) const STREAM_ABORT: u8 = b'a';
}

/// Tag and length before each message's body, in bytes.
pub(crate) const HEADER_LEN: usize = 5;

/// Bytes of a commit's body: it is the one message that is also read from the end of a frame.
pub(crate) const COMMIT_LEN: usize = 24;

/// One message of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Begin(Begin),
    Relation(Relation),
    Insert(Insert),
    Update(Update),
    Delete(Delete),
    Truncate(Truncate),
    Logical(LogicalMessage),
    Commit(Commit),
    StreamCommit(StreamCommit),
    StreamAbort(StreamAbort),
}

/// The start of a transaction; its commit is already in the source's WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Top-level transaction id.
    pub xid: u32,
    /// LSN of the commit record.
    pub final_lsn: Lsn,
    /// LSN just after the commit record: the position of whoever has applied the transaction.
    pub end_lsn: Lsn,
    /// Microseconds since 2000-01-01 00:00:00 UTC.
    pub commit_time: i64,
    /// Name of the replication origin that the transaction came from; empty when it is local.
    pub origin: String,
}

/// The end of a transaction; every field but the time as in its [`Begin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// LSN of the commit record.
    pub final_lsn: Lsn,
    /// LSN just after the commit record.
    pub end_lsn: Lsn,
    /// Microseconds since 2000-01-01 00:00:00 UTC.
    pub commit_time: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Insert {
    /// LSN of the change record.
    pub lsn: Lsn,
    /// [`Relation::oid`].
    pub relation: u32,
    pub new: Row,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    pub lsn: Lsn,
    pub relation: u32,
    /// Absent when the key did not change (replica identity DEFAULT and INDEX).
    pub old: Option<OldRow>,
    pub new: Row,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    pub lsn: Lsn,
    pub relation: u32,
    /// Look at its kind: it may say that nothing identifies the row.
    pub old: OldRow,
}

/// The row before an UPDATE or DELETE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldRow {
    pub kind: OldRowKind,
    pub row: Row,
}

/// How much of the old row is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldRowKind {
    /// The columns of the replica identity; all others are null and say nothing.
    Key,
    /// Every column (replica identity FULL).
    Full,
    /// Nothing: a row was deleted that the table's replica identity cannot name, and every column is
    /// null. In a DELETE only; an UPDATE of that kind has no old row.
    None,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncate {
    pub lsn: Lsn,
    pub cascade: bool,
    pub restart_identity: bool,
    /// [`Relation::oid`] of each table that was emptied, cascaded ones included.
    pub relations: Vec<u32>,
}

/// `pg_logical_emit_message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogicalMessage {
    pub lsn: Lsn,
    /// Part of the transaction around it; otherwise it stands alone in its frame.
    pub transactional: bool,
    pub prefix: String,
    pub content: Bytes,
}

const OLD_NONE: u8 = 0;
const OLD_KEY: u8 = 1;
const OLD_FULL: u8 = 2;

impl OldRowKind {
    pub(crate) fn byte(kind: Option<OldRowKind>) -> u8 {
        match kind {
            None | Some(OldRowKind::None) => OLD_NONE,
            Some(OldRowKind::Key) => OLD_KEY,
            Some(OldRowKind::Full) => OLD_FULL,
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Option<Self>, DecodeError> {
        match reader.u8("old row kind")? {
            OLD_NONE => Ok(None),
            OLD_KEY => Ok(Some(OldRowKind::Key)),
            OLD_FULL => Ok(Some(OldRowKind::Full)),
            byte => {
                let value = u64::from(byte);
                Err(reader.error(DecodeErrorKind::Unknown { field: "old row kind", value }))
            }
        }
    }
}

pub(crate) fn put_string(buf: &mut Vec<u8>, text: &str) {
    varint::put(buf, text.len() as u64);
    buf.extend_from_slice(text.as_bytes());
}

/// What a body is read from; rows and contents are slices of the frame.
pub(crate) struct Body<'a> {
    frame: &'a Bytes,
    pub(crate) reader: Reader<'a>,
    base: Lsn,
}

impl<'a> Body<'a> {
    /// The body of the message at offset `at` of `frame`: `bytes`, a slice of it.
    pub(crate) fn new(frame: &'a Bytes, bytes: &'a [u8], at: usize, base: Lsn) -> Self {
        Body { frame, reader: Reader::new(bytes, at + HEADER_LEN, "frame"), base }
    }

    fn change_lsn(&mut self) -> Result<Lsn, DecodeError> {
        let delta = varint::unzigzag(self.reader.varint("change lsn")?);
        Ok(Lsn(self.base.0.wrapping_add_signed(delta)))
    }

    fn rest(&mut self) -> Result<Bytes, DecodeError> {
        self.reader.take_shared(self.frame, self.reader.remaining(), "row")
    }

    /// A row before another one: with its length.
    fn measured_row(&mut self) -> Result<Row, DecodeError> {
        let len = self.reader.u32("old row length")? as usize;
        Ok(Row(self.reader.take_shared(self.frame, len, "old row")?))
    }
}

pub(crate) fn put_change_lsn(buf: &mut Vec<u8>, base: Lsn, lsn: Lsn) {
    varint::put(buf, varint::zigzag(lsn.0.wrapping_sub(base.0) as i64));
}

impl Begin {
    pub(crate) fn put(&self, buf: &mut Vec<u8>) {
        buf.extend_from_slice(&self.xid.to_le_bytes());
        buf.extend_from_slice(&self.final_lsn.0.to_le_bytes());
        buf.extend_from_slice(&self.end_lsn.0.to_le_bytes());
        buf.extend_from_slice(&self.commit_time.to_le_bytes());
        put_string(buf, &self.origin);
    }

    pub(crate) fn read(body: &mut Body<'_>) -> Result<Self, DecodeError> {
        let r = &mut body.reader;
        Ok(Begin {
            xid: r.u32("xid")?,
            final_lsn: r.lsn("final lsn")?,
            end_lsn: r.lsn("end lsn")?,
            commit_time: r.i64("commit time")?,
            origin: r.string("origin", NAME_MAX)?.to_owned(),
        })
    }
}

impl Commit {
    pub(crate) fn put(&self, buf: &mut Vec<u8>) {
        buf.extend_from_slice(&self.final_lsn.0.to_le_bytes());
        buf.extend_from_slice(&self.end_lsn.0.to_le_bytes());
        buf.extend_from_slice(&self.commit_time.to_le_bytes());
    }

    fn read(body: &mut Body<'_>) -> Result<Self, DecodeError> {
        let r = &mut body.reader;
        Ok(Commit {
            final_lsn: r.lsn("final lsn")?,
            end_lsn: r.lsn("end lsn")?,
            commit_time: r.i64("commit time")?,
        })
    }
}

impl Insert {
    /// Everything before the row, which the caller writes after it.
    pub(crate) fn put_head(buf: &mut Vec<u8>, base: Lsn, lsn: Lsn, relation: u32) {
        put_change_lsn(buf, base, lsn);
        buf.extend_from_slice(&relation.to_le_bytes());
    }

    fn read(body: &mut Body<'_>) -> Result<Self, DecodeError> {
        Ok(Insert {
            lsn: body.change_lsn()?,
            relation: body.reader.u32("relation oid")?,
            new: Row(body.rest()?),
        })
    }
}

impl Update {
    /// Everything before the rows: with an old row its length and bytes follow, then the new one.
    pub(crate) fn put_head(
        buf: &mut Vec<u8>,
        base: Lsn,
        lsn: Lsn,
        relation: u32,
        old: Option<OldRowKind>,
    ) {
        put_change_lsn(buf, base, lsn);
        buf.extend_from_slice(&relation.to_le_bytes());
        buf.push(OldRowKind::byte(old));
    }

    fn read(body: &mut Body<'_>) -> Result<Self, DecodeError> {
        let lsn = body.change_lsn()?;
        let relation = body.reader.u32("relation oid")?;
        let old = match OldRowKind::read(&mut body.reader)? {
            None => None,
            Some(kind) => Some(OldRow { kind, row: body.measured_row()? }),
        };
        Ok(Update { lsn, relation, old, new: Row(body.rest()?) })
    }
}

impl Delete {
    /// Everything before the old row.
    pub(crate) fn put_head(buf: &mut Vec<u8>, base: Lsn, lsn: Lsn, relation: u32, old: OldRowKind) {
        put_change_lsn(buf, base, lsn);
        buf.extend_from_slice(&relation.to_le_bytes());
        buf.push(OldRowKind::byte(Some(old)));
    }

    fn read(body: &mut Body<'_>) -> Result<Self, DecodeError> {
        let lsn = body.change_lsn()?;
        let relation = body.reader.u32("relation oid")?;
        let kind = OldRowKind::read(&mut body.reader)?.unwrap_or(OldRowKind::None);
        Ok(Delete { lsn, relation, old: OldRow { kind, row: Row(body.rest()?) } })
    }
}

const TRUNCATE_CASCADE: u8 = 0x01;
const TRUNCATE_RESTART_IDENTITY: u8 = 0x02;

impl Truncate {
    pub(crate) fn put(
        buf: &mut Vec<u8>,
        base: Lsn,
        lsn: Lsn,
        cascade: bool,
        restart_identity: bool,
        relations: &[u32],
    ) {
        put_change_lsn(buf, base, lsn);
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        buf.push(
            flag(cascade, TRUNCATE_CASCADE) | flag(restart_identity, TRUNCATE_RESTART_IDENTITY),
        );
        varint::put(buf, relations.len() as u64);
        for relation in relations {
            buf.extend_from_slice(&relation.to_le_bytes());
        }
    }

    fn read(body: &mut Body<'_>) -> Result<Self, DecodeError> {
        let lsn = body.change_lsn()?;
        let r = &mut body.reader;
        let flags = r.flags("truncate flags", TRUNCATE_CASCADE | TRUNCATE_RESTART_IDENTITY)?;
        let count = r.count("truncated relations", TRUNCATE_RELATIONS_MAX)?;
        let relations = (0..count).map(|_| r.u32("relation oid")).collect::<Result<_, _>>()?;
        Ok(Truncate {
            lsn,
            cascade: flags & TRUNCATE_CASCADE != 0,
            restart_identity: flags & TRUNCATE_RESTART_IDENTITY != 0,
            relations,
        })
    }
}

const LOGICAL_TRANSACTIONAL: u8 = 0x01;

impl LogicalMessage {
    pub(crate) fn put(
        buf: &mut Vec<u8>,
        base: Lsn,
        lsn: Lsn,
        transactional: bool,
        prefix: &str,
        content: &[u8],
    ) {
        put_change_lsn(buf, base, lsn);
        buf.push(if transactional { LOGICAL_TRANSACTIONAL } else { 0 });
        put_string(buf, prefix);
        varint::put(buf, content.len() as u64);
        buf.extend_from_slice(content);
    }

    fn read(body: &mut Body<'_>) -> Result<Self, DecodeError> {
        let lsn = body.change_lsn()?;
        let flags = body.reader.flags("logical message flags", LOGICAL_TRANSACTIONAL)?;
        let prefix = body.reader.string("message prefix", NAME_MAX)?.to_owned();
        let len = body.reader.count("message length", FRAME_MAX)?;
        let content = body.reader.take_shared(body.frame, len, "message content")?;
        Ok(LogicalMessage {
            lsn,
            transactional: flags & LOGICAL_TRANSACTIONAL != 0,
            prefix,
            content,
        })
    }
}

impl Message {
    /// Reads the body of a message with this tag; every byte of it must be used.
    pub(crate) fn read(tag: u8, mut body: Body<'_>) -> Result<Message, DecodeError> {
        let body = &mut body;
        let message = match tag {
            tag::BEGIN => Message::Begin(Begin::read(body)?),
            tag::RELATION => Message::Relation(Relation::read(&mut body.reader)?),
            tag::INSERT => Message::Insert(Insert::read(body)?),
            tag::UPDATE => Message::Update(Update::read(body)?),
            tag::DELETE => Message::Delete(Delete::read(body)?),
            tag::TRUNCATE => Message::Truncate(Truncate::read(body)?),
            tag::LOGICAL => Message::Logical(LogicalMessage::read(body)?),
            tag::COMMIT => Message::Commit(Commit::read(body)?),
            tag::STREAM_COMMIT => Message::StreamCommit(StreamCommit::read(body)?),
            tag::STREAM_ABORT => Message::StreamAbort(StreamAbort::read(body)?),
            _ => {
                let value = u64::from(tag);
                let kind = DecodeErrorKind::Unknown { field: "message tag", value };
                let error = body.reader.error(kind);
                return Err(DecodeError { offset: error.offset - HEADER_LEN, ..error });
            }
        };
        body.reader.finish("message")?;
        Ok(message)
    }
}
