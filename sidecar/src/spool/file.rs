//! A file of frames, each behind its length: what was received of a transaction that has not ended, or
//! not been applied everywhere.
//!
//! It has no name (it is unlinked as soon as it is made), so whatever happens to the process, nothing of
//! it is left on the disk. Nothing is synchronized: after a crash everything comes again from the slot.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use rsrepl_wire::limits::FRAME_MAX;
use rsrepl_wire::{Frame, STREAM_FRAME_OVERHEAD, StreamPlace};

use crate::error::{Error, Kind, Result};

/// What all files together take.
#[derive(Debug, Default)]
pub(super) struct Usage {
    pub(super) files: AtomicUsize,
    pub(super) bytes: AtomicU64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct FrameFile {
    file: File,
    /// Bytes of frames and their lengths.
    size: u64,
    usage: Arc<Usage>,
}

impl FrameFile {
    /// An empty file in `dir`, which is made when it is not there.
    pub(super) fn create(dir: &Path, usage: &Arc<Usage>) -> Result<FrameFile> {
        let file = unnamed(dir).map_err(|error| failed(&error, "make a file", Some(dir)))?;
        usage.files.fetch_add(1, Ordering::Relaxed);
        Ok(FrameFile { file, size: 0, usage: usage.clone() })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn append(&mut self, frame: &[u8]) -> Result<()> {
        // FRAME_MAX is under u32::MAX
        let len = frame.len() as u32;
        let written = self
            .file
            .write_all_at(&len.to_le_bytes(), self.size)
            .and_then(|()| self.file.write_all_at(frame, self.size + STREAM_FRAME_OVERHEAD));
        written.map_err(|error| failed(&error, "write", None))?;
        self.resized(self.size + STREAM_FRAME_OVERHEAD + frame.len() as u64);
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
            true => Some(self.frame_at(place.frame)?.0.until(place.offset as usize)?),
            false => None,
        };
        self.file.set_len(place.frame).map_err(|error| failed(&error, "shorten", None))?;
        self.resized(place.frame);
        head.map_or(Ok(()), |head| self.append(&head))
    }

    /// The frame at `place`, and the place behind it; none at the end.
    pub(super) fn read(&self, place: u64) -> Result<Option<(Frame, u64)>> {
        if place == self.size { Ok(None) } else { self.frame_at(place).map(Some) }
    }

    fn frame_at(&self, place: u64) -> Result<(Frame, u64)> {
        let mut len = [0; 4];
        let read = |buf: &mut [u8], at: u64| {
            let read = self.file.read_exact_at(buf, at);
            read.map_err(|error| failed(&error, "read", None))
        };
        read(&mut len, place)?;
        let len = u32::from_le_bytes(len);
        let start = place.saturating_add(STREAM_FRAME_OVERHEAD);
        let end = start.saturating_add(u64::from(len));
        if len as usize > FRAME_MAX || end > self.size {
            let message = format!("byte {place} of a file of frames is not where one begins");
            return Err(Error::new(Kind::Frame, message));
        }
        let mut bytes = vec![0; len as usize];
        read(&mut bytes, start)?;
        Ok((Frame::parse(Bytes::from(bytes))?, end))
    }

    fn resized(&mut self, size: u64) {
        let bytes = &self.usage.bytes;
        bytes.fetch_add(size, Ordering::Relaxed);
        bytes.fetch_sub(self.size, Ordering::Relaxed);
        self.size = size;
    }
}

impl Drop for FrameFile {
    fn drop(&mut self) {
        self.usage.bytes.fetch_sub(self.size, Ordering::Relaxed);
        self.usage.files.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A file without a name, for reading and writing.
fn unnamed(dir: &Path) -> io::Result<File> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    if !dir.is_dir() {
        made?;
    }
    let path = dir.join(format!("{}-{:016x}", std::process::id(), rand::random::<u64>()));
    // new: nothing that somebody else has put there is followed or written to
    let file =
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// Finds out whether files can be made in `dir` and written to.
///
/// # Errors
/// [`Kind::Disk`].
pub fn check_dir(dir: &Path) -> Result<()> {
    let mut file = FrameFile::create(dir, &Arc::default())?;
    file.append(&[0; 4096])
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
