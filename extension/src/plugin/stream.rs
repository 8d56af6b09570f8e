//! When a frame is begun, filled and sent.
//!
//! BEGIN waits for the first change, so that a transaction of which nothing is wanted costs nothing.
//! A frame goes out when it is full and at commit, so that packing costs no latency. Only while the
//! walsender is behind, as [`Backlog`] says, it is held at commit and goes on with the next
//! transaction: there each frame costs more than a small transaction does. The receiver is told so
//! before, since keepalives do not mean then what they say: MORE of `rsrepl_wire::frame`.

use std::ffi::CStr;
use std::time::{Duration, Instant};

use pgrx::pg_sys;
use rsrepl_wire::{Begin, Commit, FrameWriter, Lsn};

use super::backlog::Backlog;
use super::output::Output;
use super::report;
use super::text::ServerText;

/// In which time after a frame with MORE there comes another one: looked at for each page of WAL, and now
/// and then in a transaction of which nothing is wanted.
const HOLD_MAX: Duration = Duration::from_millis(5);

/// The frames of one transaction after the other.
#[derive(Default)]
pub(super) struct Stream {
    frame: FrameWriter,
    /// A frame is started and not sent. Between transactions: it is held.
    open: bool,
    /// BEGIN of the current transaction is written.
    begun: bool,
    backlog: Backlog,
    /// The last frame sent has MORE: transactions may be held. When it was sent, by a clock that nobody
    /// sets back.
    more: Option<Instant>,
    /// End of the last transaction written.
    end: Lsn,
}

impl Stream {
    pub(super) fn backlog(&mut self) -> &mut Backlog {
        &mut self.backlog
    }

    /// A transaction starts.
    pub(super) fn begin(&mut self) {
        if self.begun {
            // after an ERROR there is a new session
            report::internal("a transaction begins inside another".into());
        }
    }

    /// Something of the current transaction was written.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// The frame for the next message of `txn`, after its BEGIN.
    #[inline]
    pub(super) fn frame(
        &mut self,
        txn: &pg_sys::ReorderBufferTXN,
        lsn: Lsn,
        text: ServerText,
    ) -> &mut FrameWriter {
        if !self.open {
            self.frame.start(lsn, txn.xid.into());
            self.open = true;
        }
        if !self.begun {
            self.frame.begin(&begin_of(txn, |origin| origin_name(origin, text)));
            self.begun = true;
        }
        &mut self.frame
    }

    /// Sends the frame when it has reached its size.
    #[inline]
    pub(super) fn send_if_full(&mut self, out: &Output) {
        while self.open && self.frame.is_full() {
            self.send(out);
        }
    }

    /// Sends what is held for too long already.
    pub(super) fn send_if_overdue(&mut self, out: &Output) {
        if self.open && self.is_overdue() {
            self.send(out);
        }
    }

    fn is_overdue(&self) -> bool {
        self.more.is_some_and(|sent_at| sent_at.elapsed() >= HOLD_MAX)
    }

    /// Before the reader gets its next page, for which it may have to wait.
    ///
    /// # Safety
    /// `ctx` is valid, and no callback of it is being called.
    pub(super) unsafe fn before_page(
        &mut self,
        ctx: *mut pg_sys::LogicalDecodingContext,
        page: pg_sys::XLogRecPtr,
    ) {
        self.backlog.turn_to(page);
        // without it nothing is held
        if self.more.is_none() || (self.backlog.is_behind() && !self.is_overdue()) {
            return;
        }
        // SAFETY: as promised by the caller
        unsafe { Output::between_callbacks(ctx, self.end, |out| self.send_or_take_back(out)) };
    }

    /// Sends what is held; when nothing is, takes MORE back.
    fn send_or_take_back(&mut self, out: &Output) {
        if self.open {
            return self.send(out);
        }
        self.frame.start(self.end, 0);
        out.write(self.frame.finish());
        self.more = None;
    }

    /// Sends what is held, so that something else can go out behind it: a frame without MORE.
    pub(super) fn send_held(&mut self, out: &Output) {
        if self.open {
            self.send(out);
        }
        self.more = None;
    }

    /// Ends a transaction that has begun.
    pub(super) fn commit(
        &mut self,
        out: &Output,
        txn: &pg_sys::ReorderBufferTXN,
        text: ServerText,
    ) {
        let commit = commit_of(txn);
        self.frame(txn, commit.final_lsn, text).commit(&commit);
        self.begun = false;
        self.end = commit.end_lsn;
        if self.frame.is_full() || self.more.is_none() || !self.backlog.is_behind() {
            self.send(out);
        }
    }

    /// Sends the frame up to the end of its last transaction; if none ends in it, all of it.
    fn send(&mut self, out: &Output) {
        self.more = self.backlog.is_behind().then(Instant::now);
        self.frame.set_more(self.more.is_some());
        out.write(self.frame.finish());
        self.open = self.frame.go_on();
    }
}

fn commit_of(txn: &pg_sys::ReorderBufferTXN) -> Commit {
    Commit {
        final_lsn: Lsn(txn.final_lsn),
        end_lsn: Lsn(txn.end_lsn),
        // SAFETY: of a transaction that is not prepared the commit time is set when it commits
        commit_time: unsafe { txn.xact_time.commit_time },
    }
}

/// `origin`: gives the name of a replication origin.
pub(super) fn begin_of(
    txn: &pg_sys::ReorderBufferTXN,
    origin: impl FnOnce(pg_sys::RepOriginId) -> String,
) -> Begin {
    let commit = commit_of(txn);
    let local = txn.origin_id == pg_sys::InvalidRepOriginId as pg_sys::RepOriginId;
    Begin {
        xid: txn.xid.into(),
        final_lsn: commit.final_lsn,
        end_lsn: commit.end_lsn,
        commit_time: commit.commit_time,
        origin: if local { String::new() } else { origin(txn.origin_id) },
    }
}

/// One without a name (dropped before the transaction ended) must not look like a local one: `#` and its
/// number. Inside of a PostgreSQL transaction only.
pub(super) fn origin_name(origin: pg_sys::RepOriginId, text: ServerText) -> String {
    let mut name = std::ptr::null_mut();
    // SAFETY: the name is a copy in the current memory context
    unsafe {
        if pg_sys::replorigin_by_oid(origin, true, &mut name) && !name.is_null() {
            text.string(CStr::from_ptr(name))
        } else {
            format!("#{origin}")
        }
    }
}
