//! The one thread that changes files: writes what has gathered, synchronizes it, tells, begins new segments and
//! removes old ones.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rsrepl_wire::{Frame, FrameWriter, Lsn, Relation};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::warn;

use super::super::state::{Shared, State};
use super::super::{Item, Streamed};
use super::record::{self, HEADER_LEN, Header, Kind as RecordKind, RecordHeader};
use super::room::{Room, passed};
use super::{Failing, Recovered, Segment, segment, segment_size};
use crate::error::{Error, Kind, Result};
use crate::guard::panicked;
use crate::ledger::Ledger;

/// Bytes that gather before they are written. (Few in tests, which would never see a second time otherwise.)
const AT_ONCE: usize = if cfg!(test) { 512 } else { 1 << 20 };

/// Bytes of entries that are written before they are synchronized.
const ROUND: usize = 8 << 20;

/// Progress alone may wait so long, as it does on targets.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// See the module's documentation.
pub(in super::super) struct Writer {
    room: Room,
    ledger: Arc<watch::Sender<Ledger>>,
    _lock: File,
    system_id: u64,
    segment_size: u64,
    file: File,
    segment: Segment,
    /// Bytes of the segment that are on the disk for good.
    synced: u64,
    /// Bytes of the segment up to where no transaction is open.
    whole: u64,
    /// The number of the entry behind that.
    behind_whole: u64,
    open: bool,
    /// Entries that were written.
    next: u64,
    /// End of the last transaction or progress written.
    end: Lsn,
    /// Written to the file next.
    buffer: Vec<u8>,
    /// As the source described them on this connection.
    tables: BTreeMap<u32, Relation>,
    synced_at: Instant,
}

/// What there is to do.
enum Work {
    Write { entries: Vec<(u64, Item)>, anew: u64 },
    Remove(Segment),
    End,
}

/// The thread, and how to see that it has ended.
#[derive(Debug)]
pub(in super::super) struct Running(Mutex<mpsc::Receiver<()>>);

impl Running {
    /// Waits until it has ended; false when that takes too long.
    pub(in super::super) fn wait(self, limit: Duration) -> bool {
        let ended = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        ended.recv_timeout(limit) == Err(RecvTimeoutError::Disconnected)
    }
}

impl Recovered {
    /// That of the next segment.
    fn head(&self, system_id: u64, start: Lsn) -> Header {
        let (previous, previous_len) = self.previous;
        Header { first: self.next, previous, previous_len, start, system_id }
    }

    /// The first segment where there is none: readers have nowhere to begin without it.
    pub(in super::super) fn begin(
        &self,
        system_id: u64,
        start: Lsn,
        failing: &Failing,
    ) -> io::Result<File> {
        let head = self.head(system_id, start).to_bytes();
        failing.room(head.len())?;
        segment::create(&self.dir, self.next, &head)
    }
}

impl Writer {
    /// Goes on in a thread behind what was recovered, with `file`, the first segment, or with a new one: when the disk
    /// is full, targets can be served from what is there meanwhile.
    pub(in super::super) fn start(
        recovered: Recovered,
        file: Option<File>,
        (system_id, start): (u64, Lsn),
        shared: Arc<Shared>,
        ledger: Arc<watch::Sender<Ledger>>,
        failing: Failing,
    ) -> Result<Running> {
        let header = recovered.head(system_id, start);
        let Recovered { dir, lock, .. } = recovered;
        let segment = Segment { first: header.first, start, bytes: HEADER_LEN as u64 };
        let segment_size = {
            let mut state = shared.lock();
            let files =
                state.files.as_mut().ok_or_else(|| Error::new(Kind::Internal, "no files"))?;
            (files.end, files.durable) = (start, start);
            if file.is_some() {
                files.segments.push_back(segment);
            }
            segment_size(files.limit)
        };
        ledger.send_modify(|ledger| ledger.spooled(start, start));
        let room = Room { shared, dir, failing };
        let (running, ended) = mpsc::channel();
        // large files are freed beside
        let runtime = Handle::try_current().ok();
        let work = move || {
            // dropped last
            let _running: mpsc::Sender<()> = running;
            let lock = lock;
            let _inside = runtime.as_ref().map(Handle::enter);
            let file = match file {
                Some(file) => file,
                None => match room.retry(|| room.create(segment.first, &header.to_bytes())) {
                    Ok(file) => {
                        if let Some(files) = &mut room.shared.lock().files {
                            files.segments.push_back(segment);
                        }
                        file
                    }
                    Err(failure) => return room.give_up(failure, None),
                },
            };
            let writer = Writer {
                room,
                ledger,
                _lock: lock,
                system_id,
                segment_size,
                file,
                segment,
                synced: segment.bytes,
                whole: segment.bytes,
                behind_whole: segment.first,
                open: false,
                next: segment.first,
                end: start,
                buffer: Vec::new(),
                tables: BTreeMap::new(),
                synced_at: Instant::now(),
            };
            writer.run();
        };
        let thread = thread::Builder::new().name("spool".into()).spawn(work);
        thread.map_err(|error| {
            Error::new(Kind::Internal, "no thread for the spool").because(error)
        })?;
        Ok(Running(Mutex::new(ended)))
    }

    fn run(mut self) {
        let ended = catch_unwind(AssertUnwindSafe(|| self.work()));
        if let Err(failure) = ended.unwrap_or_else(|panic| Err(panicked(&*panic))) {
            self.fail(failure);
        }
    }

    fn work(&mut self) -> Result<()> {
        loop {
            match self.wait() {
                Work::Write { entries, anew } => self.round(entries, anew)?,
                Work::Remove(segment) => self.room.remove(segment),
                Work::End => return Ok(()),
            }
        }
    }

    /// Waits for something to do.
    fn wait(&self) -> Work {
        let mut state = self.room.shared.lock();
        loop {
            let closed = state.closed;
            let unwritten = state.end_sequence() > state.written;
            let Some(files) = &state.files else { return Work::End };
            let waits = PROGRESS_INTERVAL.saturating_sub(self.synced_at.elapsed());
            if unwritten && (files.due || files.prompt || closed || waits.is_zero()) {
                return self.entries(&mut state);
            }
            if let Some(segment) = passed(&mut state) {
                return Work::Remove(segment);
            }
            if state.files.as_ref().is_none_or(|files| files.finish) {
                return Work::End;
            }
            let limit = if unwritten { waits } else { PROGRESS_INTERVAL };
            state = self.room.shared.wait(state, limit);
        }
    }

    /// The next entries to be written, as many as are synchronized together.
    fn entries(&self, state: &mut State) -> Work {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let mut sequence = state.written;
        while let Some(item) = state.get(sequence)
            && bytes < ROUND
        {
            bytes += item.bytes();
            entries.push((sequence, item.clone()));
            sequence += 1;
        }
        let more = state.end_sequence() > sequence;
        let Some(files) = &mut state.files else { return Work::End };
        files.due &= more;
        files.taken = sequence;
        Work::Write { entries, anew: files.anew }
    }

    fn round(&mut self, entries: Vec<(u64, Item)>, anew: u64) -> Result<()> {
        let mut streamed = false;
        for (sequence, item) in entries {
            if sequence >= anew && self.next <= anew {
                self.tables.clear();
            }
            streamed |= matches!(item, Item::Streamed(_));
            self.entry(sequence, item)?;
            self.next = sequence + 1;
        }
        self.flush()?;
        self.written(streamed);
        self.sync()?;
        if self.segment.bytes >= self.segment_size && !self.open {
            self.roll()?;
        }
        Ok(())
    }

    fn entry(&mut self, sequence: u64, item: Item) -> Result<()> {
        match item {
            Item::Frame(frame) => {
                let relations = frame.relations()?;
                self.tables.extend(relations.into_iter().map(|table| (table.oid, table)));
                let end = frame.commit()?.map(|commit| commit.end_lsn);
                self.open = (self.open || frame.begins()) && end.is_none();
                self.end = end.unwrap_or(self.end);
                self.put(RecordKind::Frame, sequence, false, frame.bytes())?;
            }
            Item::Streamed(streamed) => self.streamed(sequence, &streamed)?,
            Item::Progress { lsn, .. } => {
                self.end = self.end.max(lsn);
                self.put(RecordKind::Progress, sequence, false, &lsn.0.to_le_bytes())?;
            }
            Item::Cut => {
                self.cut()?;
                self.put(RecordKind::Cut, sequence, false, &[])?;
            }
            Item::Unreadable(_) => {}
        }
        if !self.open {
            self.whole = self.segment.bytes + self.buffer.len() as u64;
            self.behind_whole = sequence + 1;
        }
        Ok(())
    }

    /// As if it had come whole.
    fn streamed(&mut self, sequence: u64, streamed: &Streamed) -> Result<()> {
        let (begin, commit) = streamed.ends()?;
        self.put(RecordKind::Frame, sequence, true, begin.bytes())?;
        let mut place = 0;
        while let Some((frame, behind)) = streamed.frame(place)? {
            self.put(RecordKind::Frame, sequence, true, frame.bytes())?;
            place = behind;
        }
        self.put(RecordKind::Frame, sequence, false, commit.bytes())?;
        self.end = streamed.begin.end_lsn;
        Ok(())
    }

    fn put(
        &mut self,
        kind: RecordKind,
        sequence: u64,
        goes_on: bool,
        content: &[u8],
    ) -> Result<()> {
        let header = RecordHeader { kind, goes_on, sequence, synced: self.synced };
        record::put(&mut self.buffer, header, content);
        if self.buffer.len() >= AT_ONCE { self.flush() } else { Ok(()) }
    }

    /// Writes what has gathered. A disk that is full is waited for.
    fn flush(&mut self) -> Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        if !buffer.is_empty() {
            let at = self.segment.bytes;
            self.room.retry(|| {
                self.room.failing.write(&self.file, &buffer, at).inspect_err(|_| {
                    // what is there of it is in nobody's way, if this fails, too
                    let _ = self.file.set_len(at);
                })
            })?;
            self.segment.bytes += buffer.len() as u64;
        }
        self.buffer = buffer;
        self.buffer.clear();
        if self.buffer.capacity() > 4 * AT_ONCE {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// Takes away what came of a transaction that will come again.
    fn cut(&mut self) -> Result<()> {
        self.flush()?;
        self.open = false;
        if self.segment.bytes == self.whole {
            return Ok(());
        }
        // first told, so that a reader that finds something else there knows why
        self.segment.bytes = self.whole;
        self.synced = self.synced.min(self.whole);
        {
            let mut state = self.room.shared.lock();
            if let Some(files) = &mut state.files {
                files.cuts += 1;
                files.cutting = Some(self.behind_whole);
            }
            state.resized(self.segment);
        }
        self.file.set_len(self.whole).map_err(|error| self.unsynced(error))?;
        // or what comes in its place might be found mixed with it
        self.room.failing.sync(&self.file).map_err(|error| self.unsynced(error))?;
        self.synced = self.whole;
        Ok(())
    }

    /// Readers may find it in the files, and memory may do without.
    fn written(&mut self, streamed: bool) {
        let mut state = self.room.shared.lock();
        let (segment, next, end) = (self.segment, self.next, self.end);
        state.set_written(next, streamed);
        state.resized(segment);
        let mut cut = None;
        if let Some(files) = &mut state.files {
            files.end = end;
            cut = files.cutting.take();
        }
        drop(state);
        if cut.is_some() {
            // who waits for what comes in its place
            self.room.shared.news.send_replace(());
        }
        self.room.shared.moved();
        self.ledger.send_modify(|ledger| ledger.written(end));
    }

    fn sync(&mut self) -> Result<()> {
        let begun = Instant::now();
        self.room.failing.sync(&self.file).map_err(|error| self.unsynced(error))?;
        self.synced = self.segment.bytes;
        self.synced_at = Instant::now();
        // first of all: who waits until everything is synchronized then tells the source what the ledger says
        let end = self.end;
        self.ledger.send_modify(|ledger| ledger.spooled(end, end));
        let mut state = self.room.shared.lock();
        if let Some(files) = &mut state.files {
            files.synced = self.next;
            files.durable = self.end;
            files.syncs += 1;
            files.sync_time += begun.elapsed();
        }
        drop(state);
        self.room.shared.moved();
        Ok(())
    }

    /// Begins the next segment; everything of this one is synchronized.
    fn roll(&mut self) -> Result<()> {
        let header = Header {
            first: self.next,
            previous: self.segment.first,
            previous_len: self.segment.bytes,
            start: self.end,
            system_id: self.system_id,
        };
        let mut head = header.to_bytes().to_vec();
        if let Some(frame) = described(&self.tables)? {
            let (kind, sequence, synced) = (RecordKind::Tables, self.next, 0);
            let header = RecordHeader { kind, goes_on: false, sequence, synced };
            record::put(&mut head, header, frame.bytes());
        }
        let file = self.room.retry(|| self.room.create(header.first, &head))?;
        let bytes = head.len() as u64;
        self.segment = Segment { first: header.first, start: header.start, bytes };
        self.file = file;
        (self.synced, self.whole) = (bytes, bytes);
        let mut state = self.room.shared.lock();
        if let Some(files) = &mut state.files {
            files.segments.push_back(self.segment);
        }
        Ok(())
    }

    fn unsynced(&self, error: io::Error) -> Error {
        let what = format!(
            "the spool in {} was not synchronized with the disk, so that nobody can say what is on it",
            self.room.dir.display()
        );
        Error::new(Kind::Disk, what)
            .because(error)
            .hint("see to the disk, and start rsrepl again: what was not confirmed comes again")
    }

    /// Nothing is written any more. What is not known to be on the disk is taken away, so that it is not
    /// believed at the next start.
    fn fail(&mut self, failure: Error) {
        // before it is taken away: a reader would take what it finds for damage
        self.segment.bytes = self.synced;
        self.room.give_up(failure, Some(self.segment));
        let cut = self.file.set_len(self.synced).and_then(|()| self.file.sync_all());
        if let Err(error) = cut {
            warn!(%error, "what was written last cannot be taken away");
        }
    }
}

/// A frame that describes these tables.
fn described(tables: &BTreeMap<u32, Relation>) -> Result<Option<Frame>> {
    if tables.is_empty() {
        return Ok(None);
    }
    let mut writer = FrameWriter::new();
    writer.start(Lsn::INVALID, 0);
    tables.values().for_each(|table| writer.relation(table));
    Ok(Some(Frame::parse(Bytes::copy_from_slice(writer.finish()))?))
}
