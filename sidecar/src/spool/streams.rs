//! Transactions in progress: what came of each waits in a file of its own until it commits, and takes
//! its place in the log then.
//!
//! A file is lost when the connection to the source breaks, and with the process. The slot keeps what is
//! needed to send it again: its `restart_lsn` stays before every transaction that has not ended, and its
//! `confirmed_flush_lsn` never passes a commit that is not applied.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use bytesize::ByteSize;
use rsrepl_wire::{
    Begin, Commit, Frame, FrameWriter, STREAM_FRAME_OVERHEAD, StreamAbort, StreamCommit, StreamEnd,
};

use super::Item;
use super::file::{FrameFile, Usage};
use crate::error::{Error, Kind, Result};

/// Files at a time, of transactions in progress and of those that are not applied everywhere: each is an
/// open file of the process.
const FILES_MAX: usize = 256;

/// Transactions in progress, as the receiver of frames sees them.
#[derive(Debug)]
pub struct Streams {
    dir: PathBuf,
    /// Bytes of all files together.
    limit: u64,
    open: HashMap<u32, FrameFile>,
    /// The one that was appended to last: no other holds anything in memory.
    last: u32,
    usage: Arc<Usage>,
}

/// Reads how much the files take.
#[derive(Clone, Debug)]
pub struct StreamsView(Arc<Usage>);

/// A transaction that was streamed and has committed. The file goes away with the last handle.
#[derive(Debug)]
pub struct Streamed {
    pub begin: Begin,
    file: FrameFile,
}

impl Streams {
    /// Files of at most `limit` bytes in all go to `dir`, which is made when the first is needed.
    pub fn new(dir: PathBuf, limit: u64) -> Self {
        Streams { dir, limit, open: HashMap::new(), last: 0, usage: Arc::default() }
    }

    /// Takes one streamed frame; gives the transaction when it has committed with it.
    ///
    /// # Errors
    /// [`Kind::Disk`]: there is no room for it. [`Kind::Frame`]: it does not fit what came before.
    pub fn take(&mut self, frame: &Frame) -> Result<Option<Streamed>> {
        let taken = match frame.stream_end()? {
            None => self.append(frame).map(|()| None),
            Some(StreamEnd::Abort(abort)) => self.abort(frame.xid(), abort).map(|()| None),
            Some(StreamEnd::Commit(commit)) => self.commit(commit).map(Some),
        };
        taken.map_err(|error| error.at(frame.base()))
    }

    fn append(&mut self, frame: &Frame) -> Result<()> {
        let xid = frame.xid();
        self.check_room(frame)?;
        let last = std::mem::replace(&mut self.last, xid);
        if last != xid
            && let Some(file) = self.open.get_mut(&last)
        {
            file.settle()?;
        }
        let file = match self.open.entry(xid) {
            Entry::Occupied(file) => file.into_mut(),
            Entry::Vacant(place) => place.insert(FrameFile::create(&self.dir, &self.usage)?),
        };
        file.append(frame.bytes())
    }

    /// At most half of each limit is used.
    pub fn has_room(&self) -> bool {
        self.usage.files.load(Ordering::Relaxed) <= FILES_MAX / 2
            && self.usage.bytes.load(Ordering::Relaxed) <= self.limit / 2
    }

    /// Refuses what passes the limits.
    fn check_room(&self, frame: &Frame) -> Result<()> {
        let files = self.usage.files.load(Ordering::Relaxed);
        if files >= FILES_MAX && !self.open.contains_key(&frame.xid()) {
            let message = format!("{FILES_MAX} large transactions wait for their end or a target");
            return Err(Error::new(Kind::Disk, message));
        }
        let bytes = self.usage.bytes.load(Ordering::Relaxed);
        if bytes + STREAM_FRAME_OVERHEAD + frame.len() as u64 > self.limit {
            let message = format!(
                "large transactions in progress or not on every target yet take {} and may take {}",
                ByteSize(bytes),
                ByteSize(self.limit)
            );
            return Err(Error::new(Kind::Disk, message)
                .hint("see to targets that are away, or raise spool.max_disk"));
        }
        Ok(())
    }

    fn abort(&mut self, xid: u32, abort: StreamAbort) -> Result<()> {
        if abort.xid == xid {
            return self.open.remove(&xid).map(drop).ok_or_else(|| unknown(xid));
        }
        let file = self.open.get_mut(&xid).ok_or_else(|| unknown(xid))?;
        file.cut(abort.place)?;
        if xid == self.last { Ok(()) } else { file.settle() }
    }

    fn commit(&mut self, commit: StreamCommit) -> Result<Streamed> {
        let StreamCommit { size, begin } = commit;
        let mut file = self.open.remove(&begin.xid).ok_or_else(|| unknown(begin.xid))?;
        if file.size() != size {
            let message = format!(
                "transaction {} has {size} bytes on the source, and {} came",
                begin.xid,
                file.size()
            );
            return Err(Error::new(Kind::Frame, message));
        }
        file.settle()?;
        Ok(Streamed { begin, file })
    }

    /// The connection is gone: what has not ended comes again.
    pub fn clear(&mut self) {
        self.open.clear();
    }

    /// Transactions that have begun and not ended.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// A look at the files for others.
    pub fn view(&self) -> StreamsView {
        StreamsView(self.usage.clone())
    }
}

impl StreamsView {
    /// Transactions that have a file.
    pub fn files(&self) -> usize {
        self.0.files.load(Ordering::Relaxed)
    }

    /// Bytes in all files.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }
}

#[cold]
fn unknown(xid: u32) -> Error {
    let message =
        format!("the change stream is out of order: transaction {xid} ends without a part");
    Error::new(Kind::Frame, message)
}

impl Streamed {
    /// Bytes of its frames.
    pub(super) fn size(&self) -> u64 {
        self.file.size()
    }

    /// The frame at this place and the place behind it; `None` at the end.
    pub(super) fn frame(&self, place: u64) -> Result<Option<(Frame, u64)>> {
        self.file.read(place)
    }

    /// What comes before the first frame, and behind the last one.
    pub(super) fn ends(&self) -> Result<(Frame, Frame)> {
        let begin = &self.begin;
        let Begin { final_lsn, end_lsn, commit_time, .. } = *begin;
        let commit = Commit { final_lsn, end_lsn, commit_time };
        Ok((made(begin, |w| w.begin(begin))?, made(begin, |w| w.commit(&commit))?))
    }
}

/// One reader's way through a streamed transaction: as if it had come whole.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) sequence: u64,
    streamed: Arc<Streamed>,
    next: Next,
}

#[derive(Clone, Copy, Debug)]
enum Next {
    Begin,
    /// At this place of the file.
    Frame(u64),
    Commit,
    Nothing,
}

impl Reading {
    pub(super) fn new(sequence: u64, streamed: Arc<Streamed>) -> Self {
        Reading { sequence, streamed, next: Next::Begin }
    }

    /// Everything has been read.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.next, Next::Nothing)
    }

    /// The reader has the transaction already: the file is not read.
    pub(super) fn skip(&mut self) {
        if let Next::Frame(_) = self.next {
            self.next = Next::Commit;
        }
    }

    /// A frame with BEGIN, those that came, a frame with COMMIT.
    pub(super) fn next(&mut self) -> Item {
        self.step().unwrap_or_else(|error| {
            self.next = Next::Nothing;
            Item::Unreadable(Arc::new(error))
        })
    }

    fn step(&mut self) -> Result<Item> {
        if let Next::Begin = self.next {
            self.next = Next::Frame(0);
            return Ok(Item::Frame(self.streamed.ends()?.0));
        }
        if let Next::Frame(place) = self.next
            && let Some((frame, behind)) = self.streamed.frame(place)?
        {
            self.next = Next::Frame(behind);
            return Ok(Item::Frame(frame));
        }
        self.next = Next::Nothing;
        Ok(Item::Frame(self.streamed.ends()?.1))
    }
}

/// A frame that the source did not send.
fn made(begin: &Begin, write: impl FnOnce(&mut FrameWriter)) -> Result<Frame> {
    let mut writer = FrameWriter::new();
    writer.start(begin.final_lsn, begin.xid);
    write(&mut writer);
    Ok(Frame::parse(Bytes::copy_from_slice(writer.finish()))?)
}

#[cfg(test)]
#[path = "streams_tests.rs"]
mod tests;
