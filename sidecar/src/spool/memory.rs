//! The spool in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rsrepl_wire::{Frame, Lsn};
use tokio::sync::watch;

use super::Item;
use super::streams::{Reading, Streamed};
use crate::error::{Error, Kind, Result};

/// Handle of the one writer; see the module's documentation.
#[derive(Debug)]
pub struct Spool {
    shared: Arc<Shared>,
    /// A reader moved: there may be room.
    room: watch::Receiver<()>,
}

/// One target's place in the log.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    index: usize,
    /// Something was appended.
    news: watch::Receiver<()>,
    /// The streamed transaction that is being read.
    reading: Option<Reading>,
}

/// Reads how full the spool is and who lags; moves nothing.
#[derive(Clone, Debug)]
pub struct View {
    shared: Arc<Shared>,
}

/// The log no longer has what the reader's checkpoint points at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evicted;

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    limit: usize,
    news: watch::Sender<()>,
    room: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    items: VecDeque<Item>,
    /// Sequence number of `items[0]`; numbers are never used twice.
    base: u64,
    bytes: usize,
    cursors: Vec<Cursor>,
    /// End of the last complete transaction or progress appended.
    end: Lsn,
    /// The highest `end` so far.
    received: Lsn,
    /// A transaction has begun and not ended.
    open: bool,
    /// The source may hold back transactions after the last frame: what it says of its position does
    /// not mean that everything before it is here.
    more: bool,
    rewind: bool,
    /// Why a streamed transaction could not be read back from the disk.
    unreadable: Option<Arc<Error>>,
    closed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Cursor {
    next: u64,
    checkpoint: u64,
    /// Everything before is on the target, durable or not; never below `checkpoint`.
    applied: u64,
    /// Has asked for a rewind and takes nothing before it.
    waits_for_rewind: bool,
}

impl Cursor {
    fn at(sequence: u64) -> Cursor {
        let (next, checkpoint, applied) = (sequence, sequence, sequence);
        Cursor { next, checkpoint, applied, waits_for_rewind: false }
    }
}

impl State {
    fn end_sequence(&self) -> u64 {
        self.base + self.items.len() as u64
    }

    fn get(&self, sequence: u64) -> Option<&Item> {
        let offset = usize::try_from(sequence.checked_sub(self.base)?).ok()?;
        self.items.get(offset)
    }

    fn lowest(&self, place: impl Fn(&Cursor) -> u64) -> u64 {
        let readers = self.cursors.iter().filter(|cursor| !cursor.waits_for_rewind);
        readers.map(place).min().unwrap_or_else(|| self.end_sequence())
    }

    fn drop_below(&mut self, sequence: u64, enough: impl Fn(&State) -> bool) {
        while self.base < sequence && !enough(self) {
            let Some(item) = self.items.pop_front() else { break };
            self.bytes -= item.bytes();
            self.base += 1;
        }
    }

    /// Frees what it may and tells whether `needed` more bytes fit.
    fn make_room(&mut self, needed: usize, limit: usize) -> bool {
        let fits = |state: &State| state.bytes + needed <= limit;
        self.drop_below(self.lowest(|cursor| cursor.checkpoint), |_| false);
        self.drop_below(self.lowest(|cursor| cursor.next), fits);
        // an item larger than the limit goes in alone
        fits(self) || self.items.is_empty()
    }

    fn push(&mut self, item: Item) {
        self.bytes += item.bytes();
        self.items.push_back(item);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // every change of the state is complete before anything can panic
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spool {
    /// A spool of at most `limit` bytes (one larger frame is let in when it is empty) and its readers.
    pub fn new(limit: usize, readers: usize) -> (Spool, Vec<Reader>) {
        let cursor = Cursor::at(0);
        let state = State {
            items: VecDeque::new(),
            base: 0,
            bytes: 0,
            cursors: vec![cursor; readers],
            end: Lsn::INVALID,
            received: Lsn::INVALID,
            open: false,
            more: false,
            rewind: false,
            unreadable: None,
            closed: false,
        };
        let (news, _) = watch::channel(());
        let (room, room_receiver) = watch::channel(());
        let shared = Arc::new(Shared { state: Mutex::new(state), limit, news, room });
        let readers = (0..readers)
            .map(|index| {
                let (shared, news) = (shared.clone(), shared.news.subscribe());
                Reader { shared, index, news, reading: None }
            })
            .collect();
        (Spool { shared, room: room_receiver }, readers)
    }

    /// Appends a frame, waiting for room. Cancel-safe: dropped before it is ready, nothing happened.
    ///
    /// # Errors
    /// [`Kind::Frame`] when the frame does not continue what came before.
    pub async fn append(&mut self, frame: &Frame) -> Result<()> {
        if !frame.has_messages() {
            return Ok(());
        }
        let end = self.check(frame)?;
        let item = Item::Frame(frame.clone());
        loop {
            self.room.mark_unchanged();
            {
                let mut state = self.shared.lock();
                if state.make_room(item.bytes(), self.shared.limit) {
                    state.push(item);
                    state.open = (state.open || frame.begins()) && end.is_none();
                    state.end = end.unwrap_or(state.end);
                    state.received = state.received.max(state.end);
                    break;
                }
            }
            // the sender lives in `shared`, so this cannot fail
            let _ = self.room.changed().await;
        }
        self.shared.news.send_replace(());
        Ok(())
    }

    /// Appends a transaction that was streamed and has committed. It takes no room in memory.
    ///
    /// # Errors
    /// [`Kind::Frame`] when a transaction is under way.
    pub fn append_streamed(&mut self, streamed: Streamed) -> Result<()> {
        let mut state = self.shared.lock();
        if state.open {
            let message = format!(
                "the change stream is out of order: transaction {} commits inside another",
                streamed.begin.xid
            );
            return Err(Error::new(Kind::Frame, message).at(streamed.begin.final_lsn));
        }
        state.end = streamed.begin.end_lsn;
        state.received = state.received.max(state.end);
        state.push(Item::Streamed(Arc::new(streamed)));
        drop(state);
        self.shared.news.send_replace(());
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
        let nobody_read_it = state.cursors.iter().all(|cursor| cursor.next <= unread);
        match state.items.back_mut() {
            // one entry is enough however long the source is idle
            Some(last @ Item::Progress { .. }) if nobody_read_it => *last = item,
            _ => state.push(item),
        }
        drop(state);
        self.shared.news.send_replace(());
    }

    /// The connection to the source broke: a transaction under way will come again.
    pub fn cut(&mut self) {
        let mut state = self.shared.lock();
        state.more = false;
        if state.open {
            state.open = false;
            state.push(Item::Cut);
            drop(state);
            self.shared.news.send_replace(());
        }
    }

    /// The source sends what ends after `lsn`. While it reads again the WAL before it, its keepalives
    /// speak of positions there; they are not where to go on.
    pub fn starts_behind(&mut self, lsn: Lsn) {
        let mut state = self.shared.lock();
        state.end = state.end.max(lsn);
        state.received = state.received.max(state.end);
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
        self.shared.news.send_replace(());
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
    }

    /// Nothing more will be appended: readers get what is there and then `None`.
    pub fn close(&mut self) {
        self.shared.lock().closed = true;
        self.shared.news.send_replace(());
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.close();
    }
}

impl Reader {
    /// The next entry with its sequence number, if there is one.
    pub fn try_next(&mut self) -> Option<(u64, Item)> {
        if self.reading.is_none() {
            let state = self.shared.lock();
            let cursor = *state.cursors.get(self.index)?;
            if cursor.waits_for_rewind {
                return None;
            }
            let item = state.get(cursor.next)?.clone();
            drop(state);
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

    /// The transaction that has begun is not wanted: when it was streamed, only its end is still given out.
    pub fn skip(&mut self) {
        if let Some(reading) = &mut self.reading {
            reading.skip();
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
        self.shared.room.send_replace(());
    }

    /// Goes back to the checkpoint. When that is [`Evicted`] a rewind is asked for, and the reader
    /// goes on behind it.
    pub fn restart(&mut self) -> std::result::Result<(), Evicted> {
        self.reading = None;
        {
            let mut state = self.shared.lock();
            let base = state.base;
            if let Some(cursor) = state.cursors.get_mut(self.index)
                && cursor.checkpoint >= base
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

    /// What is here is of no use (it cannot be decoded): have it sent again.
    pub fn ask_for_rewind(&mut self) {
        self.reading = None;
        let mut state = self.shared.lock();
        state.rewind = true;
        if let Some(cursor) = state.cursors.get_mut(self.index) {
            cursor.waits_for_rewind = true;
        }
        drop(state);
        self.shared.room.send_replace(());
    }
}

impl View {
    /// Bytes in the spool.
    pub fn bytes(&self) -> usize {
        self.shared.lock().bytes
    }

    /// End of the last complete transaction or progress received.
    pub fn received(&self) -> Lsn {
        self.shared.lock().received
    }

    /// What target `index` has yet to apply.
    pub fn first_pending(&self, index: usize) -> Pending {
        let state = self.shared.lock();
        let Some(cursor) = state.cursors.get(index) else { return Pending::Nothing };
        if cursor.waits_for_rewind || cursor.applied < state.base {
            return Pending::Evicted;
        }
        let skip = usize::try_from(cursor.applied - state.base).unwrap_or(usize::MAX);
        let mut pending = state.items.iter().skip(skip);
        let first = pending.find_map(|item| match item {
            Item::Frame(frame) if frame.begins() => Some(Pending::Frame(frame.clone())),
            Item::Streamed(streamed) => Some(Pending::Since(streamed.begin.commit_time)),
            _ => None,
        });
        first.unwrap_or(Pending::Nothing)
    }
}

/// What a target has yet to apply; see [`View::first_pending`].
#[derive(Debug)]
pub enum Pending {
    Nothing,
    /// The first frame of the oldest transaction not yet applied.
    Frame(Frame),
    /// A streamed transaction, which committed then: microseconds since 2000-01-01.
    Since(i64),
    /// There is something, but it is no longer here.
    Evicted,
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
