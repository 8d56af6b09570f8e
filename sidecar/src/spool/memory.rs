//! The writer's side of the spool, and of its part in memory.

use std::sync::Arc;

use rsrepl_wire::{Frame, Lsn};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::log::{Files, Recovered};
use super::on_disk::Log;
use super::state::{Cursor, Shared, State};
use super::streams::Streamed;
use super::{Item, Reader, View};
use crate::described::Described;
use crate::error::{Error, Kind, Result};
use crate::ledger::Ledger;

/// WAL bytes without changes after which progress does not wait to become durable.
const PROGRESS_BYTES: u64 = 16 << 20;

/// Handle of the one writer; see the module's documentation.
#[derive(Debug)]
pub struct Spool {
    pub(super) shared: Arc<Shared>,
    /// A reader moved: there may be room.
    pub(super) room: watch::Receiver<()>,
    /// What of it is on disk.
    pub(super) log: Option<Log>,
    /// The tables that the files begin with, since the source began to describe them.
    described: Described,
}

impl Spool {
    /// A spool of at most `limit` bytes (one larger frame is let in when it is empty) and its readers.
    pub fn new(limit: usize, readers: usize) -> (Spool, Vec<Reader>) {
        Spool::with(State::new(readers), limit, None)
    }

    /// The same of what was recovered from disk: `limit` bytes of it are in memory, and on disk, but for one transaction,
    /// `limit_on_disk`. The ledger is told what is written and what is durable.
    pub fn on_disk(
        limit: usize,
        limit_on_disk: u64,
        readers: usize,
        recovered: Recovered,
        ledger: Arc<watch::Sender<Ledger>>,
    ) -> (Spool, Vec<Reader>) {
        let mut state = State::new(readers);
        let oldest = recovered.oldest();
        state.cursors = vec![Cursor::at(oldest); readers];
        state.base = recovered.next();
        state.written = state.base;
        (state.end, state.received) = (recovered.end(), recovered.end());
        state.files = Some(recovered.files(limit_on_disk));
        Spool::with(state, limit, Some(Log::new(recovered, ledger)))
    }

    fn with(state: State, limit: usize, log: Option<Log>) -> (Spool, Vec<Reader>) {
        let readers = state.cursors.len();
        let shared = Arc::new(Shared::new(state, limit));
        let room = shared.room.subscribe();
        let readers = (0..readers).map(|index| Reader::new(&shared, index)).collect();
        (Spool { shared, room, log, described: Described::default() }, readers)
    }

    /// Appends a frame, waiting for room. Cancel-safe: dropped before it is ready, nothing happened.
    ///
    /// # Errors
    /// [`Kind::Frame`] when the frame does not continue what came before, or cannot be gone through on its way to the
    /// disk; [`Kind::Disk`] when the spool on disk has failed.
    pub async fn append(&mut self, frame: &Frame) -> Result<()> {
        if !frame.has_messages() {
            return Ok(());
        }
        let end = self.check(frame)?;
        if self.is_on_disk() {
            // the thread that writes it looks for tables, and ends with what it cannot read
            let tables = frame.relations().map_err(|error| Error::from(error).at(frame.base()))?;
            tables.iter().try_for_each(|table| self.described.add(table))?;
        }
        let open = |open| (open || frame.begins()) && end.is_none();
        self.append_item(&Item::Frame(frame.clone()), open, end).await
    }

    /// Appends a transaction that was streamed and has committed. It takes no room in memory, but maybe on disk, and
    /// waits for that. Cancel-safe.
    ///
    /// # Errors
    /// [`Kind::Frame`] when a transaction is under way; [`Kind::Disk`] as above.
    pub async fn append_streamed(&mut self, streamed: &Arc<Streamed>) -> Result<()> {
        let begin = &streamed.begin;
        if self.shared.lock().open {
            let message = format!(
                "the change stream is out of order: transaction {} commits inside another",
                begin.xid
            );
            return Err(Error::new(Kind::Frame, message).at(begin.final_lsn));
        }
        self.append_item(&Item::Streamed(streamed.clone()), |_| false, Some(begin.end_lsn)).await
    }

    async fn append_item(
        &mut self,
        item: &Item,
        open: impl Fn(bool) -> bool,
        end: Option<Lsn>,
    ) -> Result<()> {
        loop {
            self.room.mark_unchanged();
            {
                let mut state = self.shared.lock();
                if let Some(failure) = state.files.as_ref().and_then(Files::failure) {
                    return Err(failure);
                }
                let streamed = matches!(item, Item::Streamed(_));
                if (streamed && state.files.is_none()
                    || state.make_room(item.bytes(), self.shared.limit))
                    && state.has_room_on_disk(|limit| limit)
                {
                    state.push(item.clone());
                    state.open = open(state.open);
                    state.end = end.unwrap_or(state.end);
                    state.received = state.received.max(state.end);
                    break;
                }
            }
            // the sender lives in `shared`, so this cannot fail
            let _ = self.room.changed().await;
        }
        self.shared.appended();
        Ok(())
    }

    /// Checks the order of frames; gives the end of the transaction when the frame has its commit.
    fn check(&self, frame: &Frame) -> Result<Option<Lsn>> {
        let open = self.shared.lock().open;
        let in_transaction = frame.xid() != 0;
        if in_transaction && frame.begins() == open {
            let what = if open { "begins inside another" } else { "goes on without a begin" };
            let message =
                format!("the change stream is out of order: transaction {} {what}", frame.xid());
            return Err(Error::new(Kind::Frame, message).at(frame.base()));
        }
        Ok(frame.commit()?.map(|commit| commit.end_lsn))
    }

    /// What the last frame says: the source may hold back transactions behind it, so that its position
    /// says nothing. To be called for every frame, also for one that is not appended.
    pub fn expect_more(&mut self, more: bool) {
        self.shared.lock().more = more;
    }

    /// See [`Self::expect_more`].
    pub fn more_expected(&self) -> bool {
        self.shared.lock().more
    }

    /// Notes that the source has nothing for us up to `lsn`. Inside a transaction this says nothing,
    /// nor while transactions may be held back.
    pub fn progress(&mut self, lsn: Lsn, urgent: bool) {
        let mut state = self.shared.lock();
        if state.open || state.more || (lsn <= state.end && !urgent) {
            return;
        }
        state.end = state.end.max(lsn);
        state.received = state.received.max(state.end);
        let item = Item::Progress { lsn: state.end, urgent };
        let unread = state.end_sequence().saturating_sub(1);
        let nobody_read_it = state.cursors.iter().all(|cursor| cursor.next <= unread)
            && state.files.as_ref().is_none_or(|files| files.taken <= unread);
        if let Some(files) = &mut state.files {
            files.due |= urgent || lsn.0.saturating_sub(files.end.0) >= PROGRESS_BYTES;
        }
        match state.items.back_mut() {
            // one entry is enough however long the source is idle
            Some(last @ Item::Progress { .. }) if nobody_read_it => *last = item,
            _ => state.push(item),
        }
        drop(state);
        self.shared.appended();
    }

    /// The connection to the source broke: a transaction under way will come again.
    pub fn cut(&mut self) {
        let mut state = self.shared.lock();
        state.more = false;
        if state.open {
            state.open = false;
            state.push(Item::Cut);
            drop(state);
            self.shared.appended();
        }
    }

    /// The source sends what ends after `lsn`. While it reads again the WAL before it, its keepalives
    /// speak of positions there; they are not where to go on.
    pub fn starts_behind(&mut self, lsn: Lsn) {
        let mut state = self.shared.lock();
        state.end = state.end.max(lsn);
        state.received = state.received.max(state.end);
        self.described.clear();
        let anew = state.end_sequence();
        if let Some(files) = &mut state.files {
            files.anew = anew;
        }
    }

    /// Where the source has to go on: the end of the last complete transaction.
    pub fn end(&self) -> Lsn {
        self.shared.lock().end
    }

    /// The highest LSN up to which everything was received, whatever is to come again.
    pub fn received(&self) -> Lsn {
        self.shared.lock().received
    }

    /// A reader needs what the spool no longer has; see [`Self::rewind`].
    pub fn rewind_wanted(&self) -> bool {
        self.shared.lock().rewind
    }

    /// Whether a transaction has begun and not ended.
    pub fn is_open(&self) -> bool {
        self.shared.lock().open
    }

    /// Why a transaction that was streamed could not be read back from the disk; told once.
    pub fn unreadable(&self) -> Option<Arc<Error>> {
        self.shared.lock().unreadable.take()
    }

    /// Prepares for the source to send again from the slot's confirmed position. Readers that are
    /// ahead of it see transactions again that they have, and skip them by their position.
    pub fn rewind(&mut self) {
        let mut state = self.shared.lock();
        state.rewind = false;
        state.open = false;
        state.more = false;
        state.end = Lsn::INVALID;
        state.push(Item::Cut);
        let restart = state.end_sequence();
        for cursor in state.cursors.iter_mut().filter(|cursor| cursor.waits_for_rewind) {
            *cursor = Cursor::at(restart);
        }
        drop(state);
        self.shared.appended();
    }

    /// Cancelled when the spool on disk cannot be written to any more; see [`Self::failure`].
    pub fn broken(&self) -> CancellationToken {
        self.shared.broken.clone()
    }

    /// It is on disk, too.
    pub fn is_on_disk(&self) -> bool {
        self.log.is_some()
    }

    /// Waits until a reader has moved or has asked for a rewind.
    pub async fn moved(&mut self) {
        let _ = self.room.changed().await;
    }

    /// A look at the spool for others.
    pub fn view(&self) -> View {
        View { shared: self.shared.clone() }
    }

    /// At most half of the limit is used.
    pub fn has_room(&self) -> bool {
        let mut state = self.shared.lock();
        state.make_room(self.shared.limit / 2, self.shared.limit)
            && state.has_room_on_disk(|limit| limit / 2)
    }

    /// Nothing more will be appended: readers get what is there and then `None`.
    pub fn close(&mut self) {
        self.shared.lock().closed = true;
        self.shared.appended();
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.close();
        if let Some(files) = &mut self.shared.lock().files {
            files.finish = true;
        }
        self.shared.moved();
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
