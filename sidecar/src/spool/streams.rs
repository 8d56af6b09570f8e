//! Transactions in progress: what came of each waits in a file of its own until it commits, and takes
//! its place in the log then.
//!
//! A file is lost when the connection to the source breaks, and with the process. The slot keeps what is
//! needed to send it again: its `restart_lsn` stays before every transaction that has not ended, and its
//! `confirmed_flush_lsn` never passes a commit that is not applied.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use rsrepl_wire::{Begin, Commit, Frame, FrameWriter, StreamAbort, StreamCommit, StreamEnd};

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
    open: HashMap<u32, FrameFile>,
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
    /// Files go to `dir`, which is made when the first is needed.
    pub fn new(dir: PathBuf) -> Self {
        Streams { dir, open: HashMap::new(), usage: Arc::default() }
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
        if let Some(file) = self.open.get_mut(&frame.xid()) {
            return file.append(frame.bytes());
        }
        if self.usage.files.load(Ordering::Relaxed) >= FILES_MAX {
            let message = format!("{FILES_MAX} large transactions wait for their end or a target");
            return Err(Error::new(Kind::Disk, message));
        }
        let mut file = FrameFile::create(&self.dir, &self.usage)?;
        file.append(frame.bytes())?;
        self.open.insert(frame.xid(), file);
        Ok(())
    }

    fn abort(&mut self, xid: u32, abort: StreamAbort) -> Result<()> {
        if abort.xid == xid {
            return self.open.remove(&xid).map(drop).ok_or_else(|| unknown(xid));
        }
        self.open.get_mut(&xid).ok_or_else(|| unknown(xid))?.cut(abort.place)
    }

    fn commit(&mut self, commit: StreamCommit) -> Result<Streamed> {
        let StreamCommit { size, begin } = commit;
        let file = self.open.remove(&begin.xid).ok_or_else(|| unknown(begin.xid))?;
        if file.size() != size {
            let message = format!(
                "transaction {} has {size} bytes on the source, and {} came",
                begin.xid,
                file.size()
            );
            return Err(Error::new(Kind::Frame, message));
        }
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
    End,
}

impl Reading {
    pub(super) fn new(sequence: u64, streamed: Arc<Streamed>) -> Self {
        Reading { sequence, streamed, next: Next::Begin }
    }

    /// Everything has been read.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.next, Next::End)
    }

    /// A frame with BEGIN, those that came, a frame with COMMIT.
    pub(super) fn next(&mut self) -> Item {
        self.step().unwrap_or_else(|error| {
            self.next = Next::End;
            Item::Unreadable(Arc::new(error))
        })
    }

    fn step(&mut self) -> Result<Item> {
        let begin = &self.streamed.begin;
        if let Next::Begin = self.next {
            self.next = Next::Frame(0);
            return made(begin, |writer| writer.begin(begin));
        }
        if let Next::Frame(place) = self.next
            && let Some((frame, behind)) = self.streamed.file.read(place)?
        {
            self.next = Next::Frame(behind);
            return Ok(Item::Frame(frame));
        }
        self.next = Next::End;
        let Begin { final_lsn, end_lsn, commit_time, .. } = *begin;
        made(begin, |writer| writer.commit(&Commit { final_lsn, end_lsn, commit_time }))
    }
}

/// A frame that the source did not send.
fn made(begin: &Begin, write: impl FnOnce(&mut FrameWriter)) -> Result<Item> {
    let mut writer = FrameWriter::new();
    writer.start(begin.final_lsn, begin.xid);
    write(&mut writer);
    Ok(Item::Frame(Frame::parse(Bytes::copy_from_slice(writer.finish()))?))
}

#[cfg(test)]
#[path = "streams_tests.rs"]
mod tests;
