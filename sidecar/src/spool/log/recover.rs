//! What is there of a spool when it is opened: which segments, up to where they are whole, and what cannot be.
//!
//! # Torn, or damaged?
//!
//! What was written and not synchronized when a machine went down may be there in part, and in any part: such a tail
//! is cut off, and comes again from the source, as it was never confirmed. What had been synchronized must be there.
//! Each record says how much of its segment was synchronized when it was written. So a record that cannot be read,
//! with one behind it that was written after the place had been synchronized, is damage. (Where nothing comes behind
//! it, the slot tells: it was confirmed further than the spool goes.)

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rsrepl_wire::{Frame, Lsn};
use rustix::fs::{FlockOperation, flock};
use tracing::{info, warn};

use super::meta::{self, Meta};
use super::record::{HEADER_LEN, Header, Kind as RecordKind, RECORD_HEADER_LEN, Record, Unread};
use super::segment::{self, Next, Records};
use super::{Files, LOST, Segment};
use crate::error::{Error, Kind, Result};

/// How often a lock is tried, and the pause between: a predecessor may be about to end.
const LOCK_ATTEMPTS: u32 = 30;
const LOCK_RETRY: Duration = Duration::from_millis(100);

/// Bytes of a tail that are looked through at a time.
const LOOK: usize = 1 << 20;

/// A spool on disk that nobody else has; see the module's documentation.
#[derive(Debug)]
pub struct Recovered {
    pub(super) dir: PathBuf,
    /// Held as long as it is open.
    pub(super) lock: File,
    /// `None`: there was no spool.
    pub(super) meta: Option<Meta>,
    /// Oldest first.
    pub(super) segments: VecDeque<Segment>,
    /// Number and bytes of the segment before the next one that will be made.
    pub(super) previous: (u64, u64),
    /// The number of the next entry.
    pub(super) next: u64,
    /// End of the last whole transaction or progress.
    pub(super) end: Lsn,
}

impl Recovered {
    /// Opens the spool in `dir`, which is made when it is not there.
    ///
    /// # Errors
    /// [`Kind::Disk`]: the folder cannot be used. [`Kind::Config`]: somebody else uses it, or a later version wrote
    /// it. [`Kind::Identity`]: something is damaged.
    pub fn open(dir: &Path) -> Result<Recovered> {
        let cannot = |error: io::Error| cannot_use(dir, error);
        make(dir).map_err(cannot)?;
        let lock = lock(dir)?;
        let meta = Meta::read(dir)?;
        let mut recovered = Recovered {
            dir: dir.to_owned(),
            lock,
            meta,
            segments: VecDeque::new(),
            previous: (0, 0),
            next: 1,
            end: Lsn::INVALID,
        };
        let headers = recovered.headers()?;
        let Some(last) = headers.last().copied() else {
            return match &recovered.meta {
                None => Ok(recovered),
                Some(_) => Err(lost(dir, "its segments are gone")),
            };
        };
        if recovered.meta.is_none() {
            // a segment is made first, and then it is said whose it is
            let empty = [HEADER_LEN as u64];
            let sizes = recovered.segments.iter().map(|segment| segment.bytes);
            if sizes.eq(empty) {
                recovered.segments.clear();
                return Ok(recovered);
            }
            return Err(lost(dir, "spool.json is gone"));
        }
        recovered.scan_last(last)?;
        info!(
            dir = %dir.display(),
            segments = recovered.segments.len(),
            from = %recovered.segments.front().map_or(recovered.end, |segment| segment.start),
            to = %recovered.end,
            "the spool is open"
        );
        Ok(recovered)
    }

    pub(in super::super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(in super::super) fn meta(&self) -> Option<&Meta> {
        self.meta.as_ref()
    }

    /// There is no segment.
    pub(in super::super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The number of the oldest entry.
    pub(in super::super) fn oldest(&self) -> u64 {
        self.segments.front().map_or(self.next, |segment| segment.first)
    }

    /// The number of the next entry.
    pub(in super::super) fn next(&self) -> u64 {
        self.next
    }

    /// End of the last whole transaction or progress.
    pub(in super::super) fn end(&self) -> Lsn {
        self.end
    }

    /// What is shared of it; of `limit` bytes at most.
    pub(in super::super) fn files(&self, limit: u64) -> Files {
        Files {
            dir: self.dir.clone(),
            segments: self.segments.clone(),
            limit,
            unwritten: 0,
            taken: self.next,
            synced: self.next,
            end: self.end,
            durable: self.end,
            due: false,
            prompt: false,
            anew: self.next,
            cuts: 0,
            cutting: None,
            kept_until: None,
            stuck: None,
            failed: None,
            finish: false,
            syncs: 0,
            sync_time: Duration::ZERO,
        }
    }

    /// Of all segments, oldest first.
    fn headers(&mut self) -> Result<Vec<Header>> {
        let dir = self.dir.clone();
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&dir).map_err(|error| cannot_use(&dir, error))? {
            let name = entry.map_err(|error| cannot_use(&dir, error))?.file_name();
            numbers.extend(name.to_str().and_then(segment::number));
        }
        numbers.sort_unstable();
        let mut headers: Vec<Header> = Vec::new();
        for number in numbers {
            let header = self.header(number)?;
            if let (Some(before), Some(segment)) = (headers.last(), self.segments.back()) {
                if header.previous != before.first {
                    let gone = segment::path(&dir, header.previous);
                    return Err(lost(&dir, &format!("{} is gone", gone.display())));
                }
                if header.previous_len != segment.bytes {
                    return Err(damaged(
                        &segment::path(&dir, before.first),
                        segment.bytes.min(header.previous_len),
                        &format!("it had {} bytes, and has {}", header.previous_len, segment.bytes),
                    ));
                }
            }
            let bytes = fs::metadata(segment::path(&dir, number))
                .map_err(|error| cannot_use(&dir, error))?
                .len();
            self.segments.push_back(Segment { first: header.first, start: header.start, bytes });
            headers.push(header);
        }
        Ok(headers)
    }

    fn header(&self, number: u64) -> Result<Header> {
        let path = segment::path(&self.dir, number);
        let mut bytes = [0; HEADER_LEN];
        let read = File::open(&path).and_then(|file| file.read_exact_at(&mut bytes, 0));
        match read {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(damaged(&path, 0, "it is shorter than its header"));
            }
            other => other.map_err(|error| cannot_use(&path, error))?,
        }
        let header = Header::read(&bytes).map_err(|why| match why {
            Unread::Format(format) => meta::newer(&self.dir, format),
            Unread::Short | Unread::NotOurs => damaged(&path, 0, "it is no segment of a spool"),
            Unread::Checksum => damaged(&path, 0, "its header has a wrong checksum"),
        })?;
        let system = self.meta.as_ref().map(|meta| meta.system_id);
        if header.first != number || system.is_some_and(|system| system != header.system_id) {
            return Err(damaged(&path, 0, "it belongs to another spool, or has another name"));
        }
        Ok(header)
    }

    /// Reads the last segment, the only one that may have a torn tail, and cuts that off.
    fn scan_last(&mut self, header: Header) -> Result<()> {
        let Some(last) = self.segments.back_mut() else { return Ok(()) };
        let path = segment::path(&self.dir, last.first);
        let cannot = |error: io::Error| cannot_use(&path, error);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).open(&path).map_err(cannot)?;
        let mut scan = Scan::of(header);
        let mut records = Records::of(file.try_clone().map_err(cannot)?);
        loop {
            match records.next(last.bytes).map_err(cannot)? {
                Next::Record(record) => {
                    let at = records.offset() - (RECORD_HEADER_LEN + record.content.len()) as u64;
                    scan.take(record, records.offset())
                        .map_err(|why| damaged(&path, at, &why.to_string()))?;
                }
                Next::End => break,
                Next::Bad(why) => {
                    let at = records.offset();
                    if written_behind(&file, at, last.bytes).map_err(cannot)? {
                        return Err(damaged(&path, at, why));
                    }
                    break;
                }
            }
        }
        if scan.whole < last.bytes {
            warn!(
                file = %path.display(),
                bytes = last.bytes - scan.whole,
                "the end of the spool, which was not confirmed, is cut off; it comes again"
            );
            file.set_len(scan.whole).map_err(cannot)?;
        }
        // by a process that was killed it was written, and perhaps no more than that
        file.sync_all().map_err(cannot)?;
        (self.end, self.next) = (scan.end, scan.next);
        last.bytes = scan.whole;
        self.previous = (header.first, last.bytes);
        if scan.entries == 0 {
            // replaced by the next one, which has the same number
            self.previous = (header.previous, header.previous_len);
            self.segments.pop_back();
        }
        Ok(())
    }
}

/// What the records of a segment come to.
struct Scan {
    entries: u64,
    /// A transaction has begun and not ended.
    open: bool,
    /// The number of the next entry.
    next: u64,
    /// Bytes up to the end of the last entry behind which nothing is open.
    whole: u64,
    /// Of what is whole.
    end: Lsn,
}

impl Scan {
    fn of(header: Header) -> Scan {
        let Header { first, start, .. } = header;
        Scan { entries: 0, open: false, next: first, whole: HEADER_LEN as u64, end: start }
    }

    fn take(&mut self, record: Record, behind: u64) -> Result<()> {
        let mut end = None;
        match record.header.kind {
            RecordKind::Tables => {
                self.whole = behind;
                return Ok(());
            }
            RecordKind::Frame => {
                let frame = Frame::parse(record.content)?;
                end = frame.commit()?.map(|commit| commit.end_lsn);
                self.open = (self.open || frame.begins()) && end.is_none();
            }
            RecordKind::Progress => end = Some(super::progress(&record.content)?),
            RecordKind::Cut => self.open = false,
        }
        if !record.header.goes_on && !self.open {
            self.entries += 1;
            self.next = record.header.sequence + 1;
            self.whole = behind;
        }
        self.end = end.unwrap_or(self.end);
        Ok(())
    }
}

/// Whether anything behind `at` was written when the bytes there had been synchronized.
fn written_behind(file: &File, at: u64, end: u64) -> io::Result<bool> {
    let mut bytes = vec![0; LOOK + RECORD_HEADER_LEN];
    let mut from = at;
    while from < end {
        let len = usize::try_from(end - from).unwrap_or(usize::MAX).min(bytes.len());
        let window = bytes.get_mut(..len).unwrap_or_default();
        file.read_exact_at(window, from)?;
        for (offset, found) in window.windows(RECORD_HEADER_LEN).enumerate() {
            if let Ok(Some((header, content, _))) = super::record::look(found)
                && header.synced > at
                && header.synced <= from + offset as u64
                && is_record(file, from + offset as u64, content, end)?
            {
                return Ok(true);
            }
        }
        from += LOOK as u64;
    }
    Ok(false)
}

fn is_record(file: &File, at: u64, content: usize, end: u64) -> io::Result<bool> {
    let len = RECORD_HEADER_LEN + content;
    if at + len as u64 > end {
        return Ok(false);
    }
    let mut bytes = bytes::BytesMut::zeroed(len);
    file.read_exact_at(&mut bytes, at)?;
    Ok(matches!(super::record::take(&mut bytes), super::record::Found::Record(_)))
}

/// Makes the folder and those above it, so that no power cut takes their names away again, with all that is in them.
fn make(dir: &Path) -> io::Result<()> {
    let missing = dir.ancestors().take_while(|folder| !folder.is_dir()).count();
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    if !dir.is_dir() {
        made?;
    }
    // the folder above may have been made by who looked whether it can be used
    for (above, parent) in dir.ancestors().skip(1).take(missing.max(2)).enumerate() {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match segment::sync_names(parent) {
            // others' folders need not be readable to us
            Err(_) if above >= missing => {}
            synced => synced?,
        }
    }
    Ok(())
}

fn lock(dir: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    let path = dir.join("lock");
    let file = options
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| cannot_use(&path, error))?;
    for attempt in 0..LOCK_ATTEMPTS {
        if attempt > 0 {
            thread::sleep(LOCK_RETRY);
        }
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(error) => return Err(cannot_use(&path, error.into())),
        }
    }
    let what = format!("another process uses the spool in {}", dir.display());
    Err(Error::new(Kind::Config, what)
        .hint("one sidecar, one spool.dir: end the other, or name another folder"))
}

#[cold]
fn cannot_use(path: &Path, error: io::Error) -> Error {
    Error::new(Kind::Disk, format!("the spool cannot use {}", path.display()))
        .because(error)
        .hint("see to room and rights there, or name another folder as spool.dir")
}

#[cold]
fn lost(dir: &Path, why: &str) -> Error {
    let what = format!("the spool in {} is not whole: {why}", dir.display());
    Error::new(Kind::Identity, what).hint(LOST)
}

/// Of what was confirmed to the slot, something cannot be read.
#[cold]
pub(super) fn damaged(path: &Path, offset: u64, why: &str) -> Error {
    let what = format!("the spool is damaged: {} at byte {offset}: {why}", path.display());
    Error::new(Kind::Identity, what).hint(LOST)
}
