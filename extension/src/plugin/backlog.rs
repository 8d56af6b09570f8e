//! Whether the walsender is behind: what allows it to hold a frame back.
//!
//! A frame may be held only if it is certain that it can be sent before the walsender waits, however
//! long nothing is written to the WAL from now on. For logical decoding a walsender waits in two places:
//! for WAL inside of the reader's `page_read`, and for the socket while something is not sent yet. The
//! second ends when the receiver reads. For the first we stand before `page_read`, and hold a frame only
//! while there is flushed WAL **behind the page that is being read**: then the reader has to ask for
//! another page before it can come to the end of the WAL, and the question comes to us first.
//!
//! That a walsender shuts down or reports itself as caught up needs the end of the WAL too.

use std::ffi::{c_char, c_int};

use pgrx::pg_guard;
use pgrx::pg_sys;
use rsrepl_wire::Lsn;

use super::report;
use super::session::Session;
use crate::compat;

/// The page that is being read, and how far there is WAL.
#[derive(Default)]
pub(super) struct Backlog {
    /// PostgreSQL's own, while ours stands in its place.
    page_read: pg_sys::XLogPageReadCB,
    /// Where the page ends that was asked for last; zero before the first.
    page_end: Lsn,
    /// The WAL was flushed up to here when we looked.
    flushed: Lsn,
}

impl Backlog {
    /// Puts our `page_read` before PostgreSQL's, where frames may be held: in a walsender that
    /// streams from a primary. (The SQL functions have read all they want to when they stop asking.)
    ///
    /// # Safety
    /// `ctx` is valid and about to decode; its private data is a session as soon as it does.
    pub(super) unsafe fn watch(&mut self, ctx: *mut pg_sys::LogicalDecodingContext) {
        // SAFETY: as promised by the caller; the globals are this process's own
        unsafe {
            // who streams is outside of a transaction; a query of a walsender is inside of one
            let streams = pg_sys::am_walsender && !pg_sys::IsTransactionOrTransactionBlock();
            if streams && !pg_sys::RecoveryInProgress() && !compat::waits_for_standbys(ctx) {
                let routine = &mut (*(*ctx).reader).routine;
                self.page_read = routine.page_read;
                routine.page_read = Some(page_read);
            }
        }
    }

    /// Puts PostgreSQL's own back.
    ///
    /// # Safety
    /// `ctx` is that of [`Self::watch`].
    pub(super) unsafe fn leave(&mut self, ctx: *mut pg_sys::LogicalDecodingContext) {
        if let Some(own) = self.page_read.take() {
            // SAFETY: as promised by the caller; the reader lives as long as the context
            unsafe { (*(*ctx).reader).routine.page_read = Some(own) };
        }
        self.page_end = Lsn::INVALID;
    }

    /// The reader asks for the page that begins here.
    pub(super) fn turn_to(&mut self, page: pg_sys::XLogRecPtr) {
        self.page_end = Lsn(page.saturating_add(pg_sys::XLOG_BLCKSZ.into()));
    }

    /// There is WAL behind the page that is being read: another one will be asked for before the
    /// walsender waits.
    #[inline]
    pub(super) fn is_behind(&mut self) -> bool {
        if self.page_end == Lsn::INVALID {
            return false;
        }
        if self.flushed <= self.page_end {
            // SAFETY: only in a walsender of a primary; the timeline is not asked for
            self.flushed = Lsn(unsafe { pg_sys::GetFlushRecPtr(std::ptr::null_mut()) });
        }
        self.flushed > self.page_end
    }
}

/// Stands before the walsender's own: what is held goes out before it may wait.
#[pg_guard]
unsafe extern "C-unwind" fn page_read(
    reader: *mut pg_sys::XLogReaderState,
    page: pg_sys::XLogRecPtr,
    len: c_int,
    record: pg_sys::XLogRecPtr,
    into: *mut c_char,
) -> c_int {
    // SAFETY: in logical decoding a reader's private data is the context, which has a session;
    // pages are not read inside of callbacks, so nobody else borrows it
    let own = unsafe {
        let ctx: *mut pg_sys::LogicalDecodingContext = (*reader).private_data.cast();
        let stream = Session::of(ctx).stream();
        stream.before_page(ctx, page);
        stream.backlog().page_read
    };
    let Some(own) = own else { report::internal("there is no page_read".into()) };
    // SAFETY: PostgreSQL's function with its own arguments; only it runs inside of the guard
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| own(reader, page, len, record, into)) }
}
