//! What writer and readers of the spool share: the entries in memory, and where everybody is.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rsrepl_wire::Lsn;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Item;
use super::log::{Files, Segment};
use crate::error::Error;

#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) limit: usize,
    pub(super) news: watch::Sender<()>,
    pub(super) room: watch::Sender<()>,
    /// The spool on disk cannot be written to any more.
    pub(super) broken: CancellationToken,
    /// For the thread that writes files.
    work: Condvar,
    has_files: bool,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) items: VecDeque<Item>,
    /// Sequence number of `items[0]`; numbers are never used twice.
    pub(super) base: u64,
    pub(super) bytes: usize,
    pub(super) cursors: Vec<Cursor>,
    /// End of the last complete transaction or progress appended.
    pub(super) end: Lsn,
    /// The highest `end` so far.
    pub(super) received: Lsn,
    /// A transaction has begun and not ended.
    pub(super) open: bool,
    /// The source may hold back transactions after the last frame: what it says of its position does
    /// not mean that everything before it is here.
    pub(super) more: bool,
    pub(super) rewind: bool,
    /// Why a streamed transaction could not be read back from the disk.
    pub(super) unreadable: Option<Arc<Error>>,
    pub(super) closed: bool,
    /// The entries before it are in files, too, and need not be in memory for a reader. Without files
    /// everything is as if it were.
    pub(super) written: u64,
    /// The log on disk; `None`: it is in memory alone.
    pub(super) files: Option<Files>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    pub(super) next: u64,
    pub(super) checkpoint: u64,
    /// Everything before is on the target, durable or not; never below `checkpoint`.
    pub(super) applied: u64,
    /// Has asked for a rewind and takes nothing before it.
    pub(super) waits_for_rewind: bool,
    /// The last transaction that was read from a file: its entry, and when it committed (microseconds since
    /// 2000-01-01).
    pub(super) since: Option<(u64, i64)>,
}

impl Cursor {
    pub(super) fn at(sequence: u64) -> Cursor {
        let (next, checkpoint, applied) = (sequence, sequence, sequence);
        Cursor { next, checkpoint, applied, waits_for_rewind: false, since: None }
    }
}

impl State {
    /// Empty, in memory alone.
    pub(super) fn new(readers: usize) -> State {
        State {
            items: VecDeque::new(),
            base: 0,
            bytes: 0,
            cursors: vec![Cursor::at(0); readers],
            end: Lsn::INVALID,
            received: Lsn::INVALID,
            open: false,
            more: false,
            rewind: false,
            unreadable: None,
            closed: false,
            written: u64::MAX,
            files: None,
        }
    }

    pub(super) fn end_sequence(&self) -> u64 {
        self.base + self.items.len() as u64
    }

    pub(super) fn get(&self, sequence: u64) -> Option<&Item> {
        let offset = usize::try_from(sequence.checked_sub(self.base)?).ok()?;
        self.items.get(offset)
    }

    pub(super) fn lowest(&self, place: impl Fn(&Cursor) -> u64) -> u64 {
        let readers = self.cursors.iter().filter(|cursor| !cursor.waits_for_rewind);
        readers.map(place).min().unwrap_or_else(|| self.end_sequence())
    }

    /// The first entry that a reader may come back to.
    pub(super) fn needed(&self) -> u64 {
        self.lowest(|cursor| cursor.checkpoint)
    }

    pub(super) fn drop_below(&mut self, sequence: u64, enough: impl Fn(&State) -> bool) {
        let sequence = sequence.min(self.written);
        while self.base < sequence && !enough(self) {
            let Some(item) = self.items.pop_front() else { break };
            self.bytes -= item.bytes();
            self.base += 1;
        }
    }

    /// Frees what it may and tells whether `needed` more bytes fit.
    pub(super) fn make_room(&mut self, needed: usize, limit: usize) -> bool {
        let fits = |state: &State| state.bytes + needed <= limit;
        self.drop_below(self.needed(), |_| false);
        self.drop_below(self.lowest(|cursor| cursor.next), fits);
        if self.files.is_some() {
            // those who lag read the files
            self.drop_below(self.written, fits);
        }
        // an item larger than the limit goes in alone
        fits(self) || self.items.is_empty()
    }

    /// Whether anything may go to the disk with less than `limit` bytes there. Of a transaction that has begun
    /// everything may, however much it is: to wait in its middle would be to wait for ever when it is larger than
    /// the limit.
    pub(super) fn has_room_on_disk(&self, limit: impl Fn(u64) -> u64) -> bool {
        let Some(files) = &self.files else { return true };
        // the last segment, which cannot be freed, is far smaller: a new one begins when it has its size
        self.open || files.bytes() < limit(files.limit)
    }

    pub(super) fn push(&mut self, item: Item) {
        self.bytes += item.bytes();
        if let Some(files) = &mut self.files {
            files.unwritten += item.bytes_on_disk();
            files.due |= !matches!(item, Item::Progress { urgent: false, .. });
        }
        self.items.push_back(item);
    }

    /// The entries before `next` are in files; `streamed`: what they are a copy of need not be kept.
    pub(super) fn set_written(&mut self, next: u64, streamed: bool) {
        let entries = (self.written..next).filter_map(|sequence| self.get(sequence));
        let bytes: u64 = entries.map(Item::bytes_on_disk).sum();
        if let Some(files) = &mut self.files {
            files.unwritten = files.unwritten.saturating_sub(bytes);
        }
        self.written = next;
        if streamed {
            self.drop_below(next, |_| false);
        }
    }

    /// The last segment is of another size.
    pub(super) fn resized(&mut self, segment: Segment) {
        if let Some(last) = self.files.as_mut().and_then(|files| files.segments.back_mut()) {
            *last = segment;
        }
    }

    pub(super) fn tell_stuck(&mut self, why: Option<String>) {
        if let Some(files) = &mut self.files {
            files.stuck = why;
        }
    }
}

impl Shared {
    pub(super) fn new(state: State, limit: usize) -> Shared {
        let (news, room) = (watch::channel(()).0, watch::channel(()).0);
        let has_files = state.files.is_some();
        let (broken, work) = (CancellationToken::new(), Condvar::new());
        Shared { state: Mutex::new(state), limit, news, room, broken, work, has_files }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // every change of the state is complete before anything can panic
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until [`appended`](Self::appended) or [`moved`](Self::moved), for a while.
    pub(super) fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        limit: Duration,
    ) -> MutexGuard<'a, State> {
        self.work.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner).0
    }

    /// There is something new for readers, and to be written.
    pub(super) fn appended(&self) {
        self.news.send_replace(());
        self.wake();
    }

    /// There may be room, or a file that is not needed any more.
    pub(super) fn moved(&self) {
        self.room.send_replace(());
        self.wake();
    }

    /// A system call, also when nobody waits.
    fn wake(&self) {
        if self.has_files {
            self.work.notify_one();
        }
    }
}
