//! How the sidecar reads frames: the header at once, each message when it is asked for.

use bytes::Bytes;

use super::{FLAG_BEGIN, FLAG_COMMIT, FLAG_MORE, FLAG_STREAM, HEADER_LEN, Header};
use crate::error::{DecodeError, DecodeErrorKind};
use crate::limits::FRAME_MAX;
use crate::lsn::Lsn;
use crate::message::{
    Begin, Body, COMMIT_LEN, Commit, HEADER_LEN as MESSAGE_HEADER_LEN, Message, tag,
};
use crate::reader::Reader;
use crate::relation::Relation;
use crate::streamed::StreamEnd;

/// A received frame whose version and checksum are right. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    bytes: Bytes,
    pub(super) header: Header,
}

impl Frame {
    /// Checks version, checksum and header, in this order. The messages are read by
    /// [`messages`](Self::messages).
    pub fn parse(bytes: Bytes) -> Result<Frame, DecodeError> {
        if bytes.len() > FRAME_MAX {
            let (value, limit) = (bytes.len() as u64, FRAME_MAX as u64);
            let kind = DecodeErrorKind::Limit { field: "frame length", value, limit };
            return Err(DecodeError { kind, what: "frame", offset: FRAME_MAX });
        }
        Ok(Frame { header: Header::read(&bytes)?, bytes })
    }

    /// It starts between transactions: its first message is a BEGIN.
    pub fn begins(&self) -> bool {
        self.header.flags & FLAG_BEGIN != 0
    }

    /// It ends between transactions: its last message is a COMMIT.
    pub fn commits(&self) -> bool {
        self.header.flags & FLAG_COMMIT != 0
    }

    /// Transactions may have been held back after this frame: keepalives mean nothing until there
    /// comes one without it.
    pub fn more(&self) -> bool {
        self.header.flags & FLAG_MORE != 0
    }

    /// There are messages: without any it only says that there is nothing [`more`](Self::more).
    pub fn has_messages(&self) -> bool {
        self.header.messages != 0
    }

    /// The first message, when that is a BEGIN. Reads no other message.
    pub fn begin(&self) -> Result<Option<Begin>, DecodeError> {
        if !self.begins() {
            return Ok(None);
        }
        match self.read_at(HEADER_LEN)? {
            (Message::Begin(begin), _) => Ok(Some(begin)),
            _ => Err(self.flag_lies(FLAG_BEGIN, HEADER_LEN)),
        }
    }

    /// The last message, when that is a COMMIT. Reads no other message: a commit has a fixed length.
    pub fn commit(&self) -> Result<Option<Commit>, DecodeError> {
        if !self.commits() {
            return Ok(None);
        }
        let at = self.bytes.len().saturating_sub(MESSAGE_HEADER_LEN + COMMIT_LEN).max(HEADER_LEN);
        match self.read_at(at)? {
            (Message::Commit(commit), _) => Ok(Some(commit)),
            _ => Err(self.flag_lies(FLAG_COMMIT, at)),
        }
    }

    /// A part of a transaction in progress, or how it ended; see [`crate::streamed`].
    pub fn streams(&self) -> bool {
        self.header.flags & FLAG_STREAM != 0
    }

    /// How a streamed transaction ended, or one of its subtransactions, when this frame says so.
    /// Reads no other message.
    pub fn stream_end(&self) -> Result<Option<StreamEnd>, DecodeError> {
        let first = self.bytes.get(HEADER_LEN).copied();
        if !self.streams() || !matches!(first, Some(tag::STREAM_COMMIT | tag::STREAM_ABORT)) {
            return Ok(None);
        }
        let end = match self.messages().collect::<Result<Vec<_>, _>>()?.pop() {
            Some(Message::StreamCommit(commit)) => Some(StreamEnd::Commit(commit)),
            Some(Message::StreamAbort(abort)) => Some(StreamEnd::Abort(abort)),
            _ => None,
        };
        Ok(end)
    }

    /// The tables that it describes. Reads no other message: it goes from one to the next by their lengths.
    pub fn relations(&self) -> Result<Vec<Relation>, DecodeError> {
        let mut found = Vec::new();
        let mut at = HEADER_LEN;
        while let Some(&kind) = self.bytes.get(at) {
            if kind == tag::RELATION {
                let (message, next) = self.read_at(at)?;
                if let Message::Relation(relation) = message {
                    found.push(relation);
                }
                at = next;
                continue;
            }
            let mut reader = Reader::new(self.bytes.get(at..).unwrap_or_default(), at, "frame");
            reader.u8("message tag")?;
            let len = reader.u32("message length")? as usize;
            reader.take(len, "message")?;
            at += reader.at();
        }
        Ok(found)
    }

    fn flag_lies(&self, flag: u8, offset: usize) -> DecodeError {
        let (found, expected) = (self.header.flags & !flag, self.header.flags);
        let field = "flags of the messages";
        let kind =
            DecodeErrorKind::Mismatch { field, found: found.into(), expected: expected.into() };
        DecodeError { kind, what: "frame", offset }
    }

    /// xid of its first transaction; 0 for a logical message outside of one, and without messages.
    pub fn xid(&self) -> u32 {
        self.header.xid
    }

    /// The LSN that the change LSNs are counted from.
    pub fn base(&self) -> Lsn {
        self.header.base
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

    /// Reads the messages in order; the iterator ends after the first error. Their number, and
    /// where BEGIN and COMMIT are, is checked against the header.
    pub fn messages(&self) -> Messages {
        let flags = self.header.flags & (FLAG_STREAM | FLAG_MORE);
        Messages { frame: self.clone(), at: HEADER_LEN, seen: 0, flags, ended: false, done: false }
    }

    /// The message at this offset, and the offset of what follows it.
    fn read_at(&self, at: usize) -> Result<(Message, usize), DecodeError> {
        let rest = self.bytes.get(at..).unwrap_or_default();
        let mut reader = Reader::new(rest, at, "frame");
        let tag = reader.u8("message tag")?;
        let len = reader.u32("message length")? as usize;
        let body = reader.take(len, "message")?;
        let message = Message::read(tag, Body::new(&self.bytes, body, at, self.header.base))?;
        Ok((message, at + reader.at()))
    }
}

/// Iterator over the messages of a [`Frame`].
#[derive(Debug)]
pub struct Messages {
    frame: Frame,
    /// Offset of the next message.
    at: usize,
    seen: u32,
    /// Those that the messages so far call for.
    flags: u8,
    /// The last one was a COMMIT.
    ended: bool,
    done: bool,
}

impl Messages {
    fn read(&mut self) -> Result<Option<Message>, DecodeError> {
        let left = self.frame.len().saturating_sub(self.at);
        if left == 0 {
            return self.end().map(|()| None);
        }
        let (message, next) = self.frame.read_at(self.at)?;
        self.check_place(&message)?;
        match &message {
            Message::Begin(_) if self.ended => self.ended = false,
            Message::Begin(begin) => {
                self.expect("number of messages before the begin", self.seen, 0)?;
                self.expect("xid of the begin", begin.xid, self.frame.xid())?;
                self.flags |= FLAG_BEGIN;
            }
            _ if self.ended => {
                let kind = DecodeErrorKind::Trailing { field: "the commit", count: left };
                return Err(self.error(kind));
            }
            Message::Commit(_) => {
                self.flags |= FLAG_COMMIT;
                self.ended = true;
            }
            _ => {}
        }
        self.at = next;
        self.seen = self.seen.saturating_add(1);
        Ok(Some(message))
    }

    /// Messages that only streamed frames may have, and those that they may not.
    fn check_place(&self, message: &Message) -> Result<(), DecodeError> {
        let stream = u32::from(self.frame.streams());
        match message {
            Message::Begin(_) | Message::Commit(_) => self.expect("stream flag", stream, 0),
            Message::StreamCommit(_) | Message::StreamAbort(_) => {
                self.expect("stream flag", stream, 1)?;
                self.expect("number of messages", self.frame.header.messages, 1)?;
                match message {
                    Message::StreamCommit(commit) => {
                        self.expect("xid of the commit", commit.begin.xid, self.frame.xid())
                    }
                    _ => Ok(()),
                }
            }
            Message::Logical(logical) if !logical.transactional => {
                self.expect("stream flag", stream, 0)
            }
            _ => Ok(()),
        }
    }

    /// What must hold when all messages are read.
    fn end(&self) -> Result<(), DecodeError> {
        let header = &self.frame.header;
        self.expect("number of messages", self.seen, header.messages)?;
        self.expect("flags of the messages", self.flags.into(), header.flags.into())?;
        // a transaction that goes on in the next frame has no other beside it
        let commits = self.flags & FLAG_COMMIT != 0;
        self.expect("number of commits at the end", self.ended.into(), commits.into())
    }

    fn expect(&self, field: &'static str, found: u32, expected: u32) -> Result<(), DecodeError> {
        if found == expected {
            return Ok(());
        }
        let (found, expected) = (found.into(), expected.into());
        Err(self.error(DecodeErrorKind::Mismatch { field, found, expected }))
    }

    fn error(&self, kind: DecodeErrorKind) -> DecodeError {
        DecodeError { kind, what: "frame", offset: self.at }
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
