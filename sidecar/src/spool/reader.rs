//! One target's place in the log.

use std::sync::Arc;

use rsrepl_wire::Lsn;
use tokio::sync::watch;

use super::Item;
use super::log::{self, DiskReader, Place, Segment};
use super::state::{Cursor, Shared};
use super::streams::Reading;
use crate::error::Kind;

/// One target's place in the log.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    index: usize,
    /// Something was appended.
    news: watch::Receiver<()>,
    /// The streamed transaction that is being read.
    reading: Option<Reading>,
    /// What it lags behind what is in memory is read from the files.
    disk: Option<DiskReader>,
    /// The tables that are described at the beginning of this segment are to be given out first.
    tables: Option<Segment>,
}

/// The log no longer has what the reader's checkpoint points at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evicted;

impl Reader {
    pub(super) fn new(shared: &Arc<Shared>, index: usize) -> Reader {
        let (shared, news) = (shared.clone(), shared.news.subscribe());
        Reader { shared, index, news, reading: None, disk: None, tables: None }
    }

    /// The next entry with its sequence number, if there is one.
    pub fn try_next(&mut self) -> Option<(u64, Item)> {
        if let Some(segment) = self.tables.take()
            && let Some(frame) = self.tables_of(segment)
        {
            return Some((segment.first, frame));
        }
        if self.reading.is_none() {
            let state = self.shared.lock();
            let cursor = *state.cursors.get(self.index)?;
            if cursor.waits_for_rewind {
                return None;
            }
            if cursor.next < state.base && state.files.is_some() {
                // at the end, what is on disk can wait for the next start
                let leaves = state.closed && !self.is_inside();
                drop(state);
                return if leaves { None } else { self.next_on_disk() };
            }
            let item = state.get(cursor.next)?.clone();
            drop(state);
            self.disk = None;
            let Item::Streamed(streamed) = item else {
                self.passed(cursor.next);
                return Some((cursor.next, item));
            };
            self.reading = Some(Reading::new(cursor.next, streamed));
        }
        let reading = self.reading.as_mut()?;
        let (sequence, item) = (reading.sequence, reading.next());
        if let Item::Unreadable(error) = &item
            && error.kind() == Kind::Disk
        {
            self.shared.lock().unreadable = Some(error.clone());
        }
        if reading.is_done() {
            self.reading = None;
            self.passed(sequence);
        }
        Some((sequence, item))
    }

    fn is_inside(&self) -> bool {
        self.disk.as_ref().is_some_and(DiskReader::is_inside)
    }

    fn tables_of(&self, segment: Segment) -> Option<Item> {
        let dir = self.shared.lock().files.as_ref()?.dir.clone();
        log::tables(&dir, segment)
            .map(|frame| frame.map(Item::Frame))
            .unwrap_or_else(|error| Some(Item::Unreadable(Arc::new(error))))
    }

    /// An entry that is not in memory any more, or a part of one.
    fn next_on_disk(&mut self) -> Option<(u64, Item)> {
        loop {
            let (dir, place, next) = {
                let state = self.shared.lock();
                let files = state.files.as_ref()?;
                let next = state.cursors.get(self.index)?.next;
                if files.failed.is_some() || files.cutting.is_some_and(|from| next >= from) {
                    // what was there is being taken away
                    return None;
                }
                let place = Place::of(files, self.disk.as_ref(), next);
                (files.dir.clone(), place, next)
            };
            match DiskReader::read(&mut self.disk, &dir, &place, next) {
                Ok(None) => {}
                Ok(Some(part)) => {
                    if let Item::Frame(frame) = &part.item
                        && let Ok(Some(begin)) = frame.begin()
                        && let Some(cursor) = self.shared.lock().cursors.get_mut(self.index)
                    {
                        cursor.since = Some((part.sequence, begin.commit_time));
                    }
                    if !part.goes_on {
                        self.passed(part.sequence);
                    }
                    return Some((part.sequence, part.item));
                }
                Err(_) if self.cut_since(&place) => {}
                Err(error) => {
                    self.disk = None;
                    return Some((next, Item::Unreadable(Arc::new(error))));
                }
            }
        }
    }

    /// What was there may have been taken away while it was read.
    fn cut_since(&self, place: &Place) -> bool {
        let state = self.shared.lock();
        let files = state.files.as_ref();
        files.is_some_and(|files| files.cuts != place.cuts() || files.failed.is_some())
    }

    /// The transaction that has begun is not wanted: when it was streamed, only its end is still given out.
    pub fn skip(&mut self) {
        if let Some(reading) = &mut self.reading {
            reading.skip();
        } else if let Some(disk) = &mut self.disk {
            disk.skip();
        }
    }

    /// The entry was given out.
    fn passed(&mut self, sequence: u64) {
        if let Some(cursor) = self.shared.lock().cursors.get_mut(self.index) {
            cursor.next = sequence + 1;
        }
        self.shared.room.send_replace(());
    }

    /// The next entry; waits for it. `None` when the spool is closed and read to its end.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<(u64, Item)> {
        loop {
            self.news.mark_unchanged();
            if let Some(entry) = self.try_next() {
                return Some(entry);
            }
            if self.shared.lock().closed {
                return None;
            }
            self.news.changed().await.ok()?;
        }
    }

    /// The highest LSN up to which everything was received.
    pub fn received(&self) -> Lsn {
        self.shared.lock().received
    }

    /// Bytes that the spool holds at most.
    pub fn limit(&self) -> usize {
        self.shared.limit
    }

    /// Everything before `sequence` shows on the target, and may have to be read again.
    pub fn applied(&mut self, sequence: u64) {
        if let Some(cursor) = self.shared.lock().cursors.get_mut(self.index) {
            cursor.applied = cursor.applied.max(sequence);
        }
    }

    /// Everything before `sequence` is durable on the target.
    pub fn checkpoint(&mut self, sequence: u64) {
        let mut state = self.shared.lock();
        if let Some(cursor) = state.cursors.get_mut(self.index) {
            cursor.checkpoint = cursor.checkpoint.max(sequence);
            cursor.applied = cursor.applied.max(sequence);
        }
        let lowest = state.lowest(|cursor| cursor.checkpoint);
        state.drop_below(lowest, |_| false);
        drop(state);
        self.shared.moved();
    }

    /// Goes back to the checkpoint. When that is [`Evicted`] a rewind is asked for, and the reader
    /// goes on behind it.
    pub fn restart(&mut self) -> std::result::Result<(), Evicted> {
        self.forget();
        {
            let mut state = self.shared.lock();
            let least = if state.files.is_some() { 0 } else { state.base };
            if let Some(cursor) = state.cursors.get_mut(self.index)
                && cursor.checkpoint >= least
                && !cursor.waits_for_rewind
            {
                cursor.next = cursor.checkpoint;
                cursor.applied = cursor.checkpoint;
                return Ok(());
            }
        }
        self.ask_for_rewind();
        Err(Evicted)
    }

    /// What is here is of no use (it cannot be decoded): have it sent again. A spool on disk has what the
    /// source may not have any more: from there it is read again.
    pub fn ask_for_rewind(&mut self) {
        self.forget();
        let mut state = self.shared.lock();
        if state.files.is_some() {
            return;
        }
        state.rewind = true;
        if let Some(cursor) = state.cursors.get_mut(self.index) {
            cursor.waits_for_rewind = true;
        }
        drop(state);
        self.shared.moved();
    }

    fn forget(&mut self) {
        self.reading = None;
        self.disk = None;
        self.tables = None;
    }

    /// Of a spool on disk: where it begins; everything that ends behind it is there.
    pub fn begin(&self) -> Option<Lsn> {
        let state = self.shared.lock();
        let files = state.files.as_ref()?;
        Some(files.segments.front().map_or(state.end, |segment| segment.start))
    }

    /// Of a spool on disk: goes to where everything is behind that ends after `position`, and more before it. The
    /// tables are described anew from there on. False, and nothing is moved, when the spool begins later.
    pub fn seek(&mut self, position: Lsn) -> bool {
        self.forget();
        let mut state = self.shared.lock();
        let found = state.files.as_ref().and_then(|files| files.segment_at(position));
        let Some(segment) = found else { return false };
        if let Some(cursor) = state.cursors.get_mut(self.index) {
            *cursor = Cursor::at(segment.first);
        }
        self.tables = Some(segment);
        true
    }
}
