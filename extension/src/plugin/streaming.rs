//! Transactions that are sent while they run (option `streaming`).
//!
//! PostgreSQL gives out a transaction in *parts*, each between a start and a stop, whenever what it
//! holds in memory passes `logical_decoding_work_mem`; whole transactions and parts of others come in
//! between. When a subtransaction aborts, what was sent of it has to be taken back: it is the end of
//! what was sent (see `rsrepl_wire::streamed`), so its first place is all that must be known.
//!
//! # What is remembered, and where
//!
//! Only numbers, and in PostgreSQL's own records of the transactions, which live as long as they do: a
//! pointer's worth in `ReorderBufferTXN.output_plugin_private`. For a top-level transaction of which
//! something was sent it is one more than the bytes sent, for a subtransaction the place of its first
//! message. So nothing here grows with transactions or savepoints, and nothing has to be freed.
//!
//! # When a part fails
//!
//! A transaction that aborts while a part of it is given out has its catalogs vanish: any look at them
//! is an ERROR, which PostgreSQL catches. It stops the part and goes on with other transactions, and so
//! does the session. What was half written is cut off by the [`FrameWriter`]; what was written goes out,
//! and is taken back when the abort itself is decoded.

use std::collections::VecDeque;

use pgrx::pg_sys;
use rsrepl_wire::{
    FrameWriter, Lsn, STREAM_FRAME_OVERHEAD, StreamAbort, StreamCommit, StreamPlace,
};

use super::output::Output;
use super::stream::{Stream, begin_of};

/// Replication origins whose names are remembered from parts for their commits; with more, a commit
/// has the number of its origin, as if it had been dropped.
const ORIGINS_MAX: usize = 64;

/// Bits of [`Mark`] that hold an offset: a message begins below `FRAME_TARGET`.
const OFFSET_BITS: u32 = 16;

type Txn = *mut pg_sys::ReorderBufferTXN;

/// The streamed transactions of a session.
#[derive(Default)]
pub(super) struct Streaming {
    /// A part is being given out.
    running: bool,
    /// Parts so far, the running one included: tells descriptions of one from those of another.
    parts: u64,
    frame: FrameWriter,
    /// A frame is started and not sent.
    open: bool,
    /// Bytes laid down of the transaction of the running part, and whether something was sent of it.
    sent: Option<u64>,
    origins: VecDeque<(pg_sys::RepOriginId, String)>,
}

impl Streaming {
    /// The number of the part that is being given out.
    #[inline]
    pub(super) fn part(&self) -> Option<u64> {
        self.running.then_some(self.parts)
    }

    /// A part begins. `origin`: asked for the name of the transaction's origin when it has one.
    ///
    /// # Safety
    /// `txn` is a top-level transaction.
    pub(super) unsafe fn start(&mut self, txn: Txn, origin: impl FnOnce() -> String) {
        self.running = true;
        self.parts += 1;
        self.open = false;
        // SAFETY: as promised by the caller
        let id = unsafe {
            self.sent = sent(txn);
            (*txn).origin_id
        };
        if id != pg_sys::InvalidRepOriginId as pg_sys::RepOriginId {
            self.origins.retain(|(known, _)| *known != id);
            self.origins.truncate(ORIGINS_MAX - 1);
            self.origins.push_front((id, origin()));
        }
    }

    /// The part ends; also after an ERROR in it.
    ///
    /// # Safety
    /// `txn` is that of [`Self::start`].
    pub(super) unsafe fn stop(&mut self, out: &Output, txn: Txn, before: &mut Stream) {
        self.send(out, before);
        self.running = false;
        // SAFETY: as promised by the caller
        unsafe { set_sent(txn, self.sent) };
    }

    /// The frame for the next message of `txn`.
    #[inline]
    pub(super) fn frame(&mut self, txn: &pg_sys::ReorderBufferTXN, lsn: Lsn) -> &mut FrameWriter {
        if !self.open {
            self.frame.start_stream(lsn, txn.xid.into());
            self.open = true;
        }
        &mut self.frame
    }

    /// The frame for the next change of `txn`, which `writer` made: itself or a subtransaction.
    ///
    /// # Safety
    /// `writer` is a transaction of PostgreSQL's.
    #[inline]
    pub(super) unsafe fn frame_of(
        &mut self,
        txn: &pg_sys::ReorderBufferTXN,
        writer: Txn,
        lsn: Lsn,
    ) -> &mut FrameWriter {
        let laid_down = self.sent.unwrap_or(0);
        let frame = self.frame(txn, lsn);
        if !std::ptr::eq(writer, txn) {
            // FRAME_MAX is under u32::MAX
            let place = StreamPlace { frame: laid_down, offset: frame.len() as u32 };
            // SAFETY: as promised by the caller, and not `txn`, which is borrowed
            unsafe { mark_first(writer, place) };
        }
        frame
    }

    /// Sends the frame when it has reached its size. `before`: what must not be overtaken.
    #[inline]
    pub(super) fn send_if_full(&mut self, out: &Output, before: &mut Stream) {
        if self.frame.is_full() {
            self.send(out, before);
        }
    }

    fn send(&mut self, out: &Output, before: &mut Stream) {
        if std::mem::take(&mut self.open) && !self.frame.is_empty() {
            let size = self.frame.len() as u64 + STREAM_FRAME_OVERHEAD;
            self.sent = Some(self.sent.unwrap_or(0) + size);
            before.send_held(out);
            out.write(self.frame.finish());
        }
    }

    /// The transaction has committed. False when nothing was sent of it.
    ///
    /// # Safety
    /// `txn` is a top-level transaction, all parts of which have been given out.
    pub(super) unsafe fn commit(&mut self, out: &Output, txn: Txn, before: &mut Stream) -> bool {
        // SAFETY: as promised by the caller
        let (Some(size), txn) = (unsafe { (sent(txn), &*txn) }) else { return false };
        let begin = begin_of(txn, |id| self.origin(id));
        self.frame.start_stream(begin.final_lsn, begin.xid);
        self.frame.stream_commit(&StreamCommit { size, begin });
        self.close(out, before);
        true
    }

    /// A transaction or a subtransaction was rolled back.
    ///
    /// # Safety
    /// `txn` is a transaction of PostgreSQL's, and no part is running.
    pub(super) unsafe fn abort(&mut self, out: &Output, txn: Txn, lsn: Lsn, before: &mut Stream) {
        // SAFETY: as promised by the caller; the top-level transaction outlives its subtransactions
        let (top, xid, place) = unsafe {
            match (*txn).toptxn.is_null() {
                true => (txn, (*txn).xid, Some(StreamPlace::default())),
                false => ((*txn).toptxn, (*txn).xid, first_place(txn)),
            }
        };
        // SAFETY: as above
        let (Some(size), Some(place)) = (unsafe { sent(top) }, place) else { return };
        let whole = std::ptr::eq(top, txn);
        if !whole && place.size() >= size {
            return; // cut off already, with the one around it
        }
        // SAFETY: as above
        unsafe {
            set_sent(top, (!whole).then_some(place.size()));
            self.frame.start_stream(lsn, (*top).xid.into());
        }
        self.frame.stream_abort(&StreamAbort { xid: xid.into(), lsn, place });
        self.close(out, before);
    }

    fn close(&mut self, out: &Output, before: &mut Stream) {
        before.send_held(out);
        out.write(self.frame.finish());
    }

    /// A commit comes outside of PostgreSQL transactions: the catalog cannot be asked then.
    fn origin(&self, id: pg_sys::RepOriginId) -> String {
        let known = self.origins.iter().find(|(known, _)| *known == id);
        known.map_or_else(|| format!("#{id}"), |(_, name)| name.clone())
    }
}

/// Bytes sent of a top-level transaction; none when nothing was.
unsafe fn sent(txn: Txn) -> Option<u64> {
    // SAFETY: a transaction of PostgreSQL's, whose private field is ours
    unsafe { ((*txn).output_plugin_private as u64).checked_sub(1) }
}

unsafe fn set_sent(txn: Txn, bytes: Option<u64>) {
    // SAFETY: as above; a number, which nobody takes for an address
    unsafe { (*txn).output_plugin_private = bytes.map_or(0, |bytes| bytes + 1) as *mut _ };
}

/// Notes where the first message of a subtransaction is.
///
/// The reorder buffer tells of a rollback only those whose flag says that they were streamed, and it forgets
/// to set it for one that was spilled and read back in several runs (`ReorderBufferTruncateTXN` looks at the
/// changes in memory): what was sent of it would stay.
#[inline]
unsafe fn mark_first(txn: Txn, place: StreamPlace) {
    // SAFETY: as above; the flag is what the reorder buffer itself sets at the end of the part
    unsafe {
        if (*txn).output_plugin_private.is_null() {
            let mark = place.frame << OFFSET_BITS | u64::from(place.offset);
            (*txn).output_plugin_private = mark as *mut _;
            (*txn).txn_flags |= pg_sys::RBTXN_IS_STREAMED;
        }
    }
}

unsafe fn first_place(txn: Txn) -> Option<StreamPlace> {
    // SAFETY: as above
    let mark = unsafe { (*txn).output_plugin_private as u64 };
    // an offset is never 0: a frame has a header
    let offset = (mark & ((1 << OFFSET_BITS) - 1)) as u32;
    (mark != 0).then_some(StreamPlace { frame: mark >> OFFSET_BITS, offset })
}

// Offsets fit their bits, as a frame with FRAME_TARGET bytes is sent before another message; and marks
// a pointer.
const _: () = assert!(rsrepl_wire::limits::FRAME_TARGET <= 1 << OFFSET_BITS);
const _: () = assert!(size_of::<*mut ()>() == size_of::<u64>());
