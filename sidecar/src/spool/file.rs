//! A file of frames, each behind its length: what was received of a transaction that has not ended, or
//! not been applied everywhere.
//!
//! It has no name (it is unlinked as soon as it is made), so whatever happens to the process, nothing of
//! it is left on the disk. Nothing is synchronized: after a crash everything comes again from the slot.
//!
//! # A disk may be slow
//!
//! Frames are written many at a time, and the runtime's other tasks run elsewhere while a file is written
//! or read. Freeing a large file takes long, too; it is done beside.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use rsrepl_wire::limits::FRAME_MAX;
use rsrepl_wire::{Frame, STREAM_FRAME_OVERHEAD, StreamPlace};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::dir;
use crate::error::{Error, Kind, Result};

/// Bytes that gather before they are written. (Few in tests, which would never see a second time
/// otherwise.)
const AT_ONCE: usize = if cfg!(test) { 512 } else { 256 << 10 };

/// What all files together take.
#[derive(Debug, Default)]
pub(super) struct Usage {
    pub(super) files: AtomicUsize,
    pub(super) bytes: AtomicU64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct FrameFile {
    file: Arc<File>,
    /// Bytes of frames and their lengths, written or not.
    size: u64,
    /// Those in the file: whole frames.
    written: u64,
    /// The others.
    tail: Vec<u8>,
    usage: Arc<Usage>,
}

impl FrameFile {
    /// An empty file in `dir`, which is made when it is not there.
    pub(super) fn create(dir: &Path, usage: &Arc<Usage>) -> Result<FrameFile> {
        let file = wait_for_disk(|| dir::unnamed(dir))
            .map_err(|error| failed(&error, "make a file", Some(dir)))?;
        usage.files.fetch_add(1, Ordering::Relaxed);
        let (file, usage) = (Arc::new(file), usage.clone());
        Ok(FrameFile { file, size: 0, written: 0, tail: Vec::new(), usage })
    }

    /// Bytes of frames and their lengths, written or not.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn append(&mut self, frame: &[u8]) -> Result<()> {
        self.resized(self.size + STREAM_FRAME_OVERHEAD + frame.len() as u64);
        // FRAME_MAX is under u32::MAX
        self.tail.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        if frame.len() >= AT_ONCE {
            // not copied
            self.flush()?;
            return self.write(frame);
        }
        self.tail.extend_from_slice(frame);
        if self.tail.len() >= AT_ONCE { self.flush() } else { Ok(()) }
    }

    /// Writes what is not written, and takes no memory then until there is more.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.flush()?;
        self.tail = Vec::new();
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let mut tail = std::mem::take(&mut self.tail);
        self.write(&tail)?;
        tail.clear();
        self.tail = tail;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if !bytes.is_empty() {
            wait_for_disk(|| self.file.write_all_at(bytes, self.written))
                .map_err(|error| failed(&error, "write", None))?;
            self.written += bytes.len() as u64;
        }
        Ok(())
    }

    /// Takes away everything from `place` on.
    ///
    /// # Errors
    /// [`Kind::Frame`] when there is no such place.
    pub(super) fn cut(&mut self, place: StreamPlace) -> Result<()> {
        if place.size() > self.size {
            let message = format!(
                "the change stream is out of order: it takes back from byte {} on what has {}",
                place.size(),
                self.size
            );
            return Err(Error::new(Kind::Frame, message));
        }
        let head = match place.cuts_frame() {
            true => Some(self.frame_at(place.frame)?.until(place.offset as usize)?),
            false => None,
        };
        self.shorten(place.frame)?;
        head.map_or(Ok(()), |head| self.append(&head))
    }

    fn shorten(&mut self, size: u64) -> Result<()> {
        match size.checked_sub(self.written) {
            Some(kept) => self.tail.truncate(kept as usize),
            None => {
                wait_for_disk(|| self.file.set_len(size))
                    .map_err(|error| failed(&error, "shorten", None))?;
                self.tail.clear();
                self.written = size;
            }
        }
        self.resized(size);
        Ok(())
    }

    fn resized(&mut self, size: u64) {
        let bytes = &self.usage.bytes;
        bytes.fetch_add(size, Ordering::Relaxed);
        bytes.fetch_sub(self.size, Ordering::Relaxed);
        self.size = size;
    }

    /// The frame at `place`, which may not be written yet.
    fn frame_at(&self, place: u64) -> Result<Frame> {
        let Some(offset) = place.checked_sub(self.written) else {
            let found = self.read(place)?;
            return found.map(|(frame, _)| frame).ok_or_else(|| no_frame(place));
        };
        let tail = self.tail.get(offset as usize..).and_then(|rest| rest.split_first_chunk());
        let found = tail.and_then(|(len, rest)| rest.get(..u32::from_le_bytes(*len) as usize));
        let bytes = found.ok_or_else(|| no_frame(place))?;
        Ok(Frame::parse(Bytes::copy_from_slice(bytes))?)
    }

    /// The frame at `place` of a file that is settled, and the place behind it; none at the end.
    pub(super) fn read(&self, place: u64) -> Result<Option<(Frame, u64)>> {
        if place == self.written {
            return Ok(None);
        }
        let (bytes, behind) = wait_for_disk(|| self.bytes_at(place))?;
        Ok(Some((Frame::parse(bytes)?, behind)))
    }

    fn bytes_at(&self, place: u64) -> Result<(Bytes, u64)> {
        let read = |buf: &mut [u8], at: u64| {
            let read = self.file.read_exact_at(buf, at);
            read.map_err(|error| failed(&error, "read", None))
        };
        let start = place.saturating_add(STREAM_FRAME_OVERHEAD);
        if start > self.written {
            return Err(no_frame(place));
        }
        let mut len = [0; STREAM_FRAME_OVERHEAD as usize];
        read(&mut len, place)?;
        let len = u32::from_le_bytes(len) as usize;
        let end = start.saturating_add(len as u64);
        if len > FRAME_MAX || end > self.written {
            return Err(no_frame(place));
        }
        let mut bytes = vec![0; len];
        read(&mut bytes, start)?;
        Ok((bytes.into(), end))
    }
}

impl Drop for FrameFile {
    fn drop(&mut self) {
        let (file, usage, size) = (self.file.clone(), self.usage.clone(), self.size);
        let free = move || {
            // whoever closes it then has nothing left to do; a failure leaves it to that
            let _ = file.set_len(0);
            usage.bytes.fetch_sub(size, Ordering::Relaxed);
            usage.files.fetch_sub(1, Ordering::Relaxed);
        };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(free)),
            Err(_) => free(),
        }
    }
}

/// Does what may wait for the disk; the runtime's other tasks run elsewhere meanwhile.
pub(super) fn wait_for_disk<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        // there is no elsewhere
        _ => work(),
    }
}

#[cold]
fn no_frame(place: u64) -> Error {
    let message = format!("byte {place} of a file of frames is not where one begins");
    Error::new(Kind::Frame, message)
}

#[cold]
fn failed(error: &io::Error, what: &str, dir: Option<&Path>) -> Error {
    let of = dir.map_or("a file of the spool".to_owned(), |dir| format!("in {}", dir.display()));
    Error::new(Kind::Disk, format!("cannot {what} {of} for a transaction in progress: {error}"))
        .hint("see to room and rights there, or name another folder as spool.dir")
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
