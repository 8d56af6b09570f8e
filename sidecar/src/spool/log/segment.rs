//! One file of the log: where it is, how it begins, and how its records are read.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::BytesMut;

use super::super::file::wait_for_disk;
use super::record::{self, Found, HEADER_LEN, Record};

/// Bytes that are read at a time. (Few in tests, which would never see a second time otherwise.)
const AT_ONCE: usize = if cfg!(test) { 512 } else { 256 << 10 };

const EXTENSION: &str = "segment";

/// The file of the segment whose first entry has this number.
pub(super) fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:016x}.{EXTENSION}"))
}

/// The number in a file's name, if it is one of a segment.
pub(super) fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(EXTENSION)?.strip_suffix('.')?;
    u64::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 16)
}

/// A new file that begins with `head`, which is its header and more; durable, and so is its name. What was there
/// under that name is replaced.
pub(super) fn create(dir: &Path, first: u64, head: &[u8]) -> io::Result<File> {
    let temporary = dir.join("segment.new");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(&temporary)?;
    file.write_all_at(head, 0)?;
    file.sync_all()?;
    fs::rename(&temporary, path(dir, first))?;
    sync_names(dir)?;
    Ok(file)
}

/// Makes names in a folder durable: those that were made, and that those are gone which were removed.
pub(super) fn sync_names(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Reads the records of one segment in order.
#[derive(Debug)]
pub(super) struct Records {
    file: File,
    /// Of the next record.
    offset: u64,
    /// What was read of the file from there on.
    bytes: BytesMut,
}

/// What [`Records::next`] found.
#[derive(Debug)]
pub(super) enum Next {
    Record(Record),
    End,
    /// No whole record, and why.
    Bad(&'static str),
}

impl Records {
    pub(super) fn open(dir: &Path, first: u64) -> io::Result<Records> {
        Ok(Records::of(File::open(path(dir, first))?))
    }

    pub(super) fn of(file: File) -> Records {
        Records { file, offset: HEADER_LEN as u64, bytes: BytesMut::new() }
    }

    /// Where the next record is.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// What was read ahead may be something else by now.
    pub(super) fn forget(&mut self) {
        self.bytes.clear();
    }

    /// The next record of the first `end` bytes of the file.
    pub(super) fn next(&mut self, end: u64) -> io::Result<Next> {
        let mut wanted = record::RECORD_HEADER_LEN;
        loop {
            let left = end.saturating_sub(self.offset);
            if left == 0 {
                return Ok(Next::End);
            }
            if left < wanted as u64 {
                return Ok(Next::Bad("it ends early"));
            }
            if self.bytes.len() < wanted && !wait_for_disk(|| self.fill(wanted, end))? {
                return Ok(Next::Bad("the file ends early"));
            }
            match record::take(&mut self.bytes) {
                Found::Record(record) => {
                    self.offset += (record::RECORD_HEADER_LEN + record.content.len()) as u64;
                    return Ok(Next::Record(record));
                }
                Found::Longer(bytes) => wanted = bytes,
                Found::Bad(why) => return Ok(Next::Bad(why)),
            }
        }
    }

    /// Reads on until there are `wanted` bytes; false when the file has fewer.
    fn fill(&mut self, wanted: usize, end: u64) -> io::Result<bool> {
        let have = self.bytes.len();
        let left = usize::try_from(end - self.offset).unwrap_or(usize::MAX);
        let until = wanted.max(AT_ONCE).min(left);
        self.bytes.resize(until, 0);
        let mut filled = have;
        while filled < until {
            let place = self.bytes.get_mut(filled..).unwrap_or_default();
            match self.file.read_at(place, self.offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.bytes.truncate(have);
                    return Err(error);
                }
            }
        }
        self.bytes.truncate(filled);
        Ok(filled >= wanted)
    }
}
