//! When a frame is begun, filled and sent.
//!
//! BEGIN waits for the first change, so that a transaction of which nothing is wanted costs nothing.
//! A frame goes out when it is full and at commit, so that packing costs no latency.

use std::ffi::CStr;

use pgrx::pg_sys;
use rsrepl_wire::{Begin, Commit, FrameWriter, Lsn};

use super::output::Output;
use super::text::ServerText;

/// The frames of one transaction after the other.
#[derive(Default)]
pub(super) struct Stream {
    frame: FrameWriter,
    /// A frame is started and not sent.
    open: bool,
    /// BEGIN of the current transaction is written.
    begun: bool,
}

impl Stream {
    /// A transaction starts; whatever an earlier one left behind is gone.
    pub(super) fn begin(&mut self) {
        self.open = false;
        self.begun = false;
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
        if self.frame.is_full() {
            self.send(out);
        }
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
        self.send(out);
        self.begun = false;
    }

    /// Sends what is held back, so that something else can go out behind it.
    pub(super) fn send_held(&mut self, _out: &Output) {}

    fn send(&mut self, out: &Output) {
        self.open = false;
        out.write(self.frame.finish());
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
