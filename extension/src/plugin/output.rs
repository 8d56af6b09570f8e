//! PostgreSQL's side of writing.

use pgrx::pg_sys;
use rsrepl_wire::Lsn;

/// The decoding context during one callback.
pub(super) struct Output(pub(super) *mut pg_sys::LogicalDecodingContext);

impl Output {
    /// Sends one frame.
    pub(super) fn write(&self, frame: &[u8]) {
        // FRAME_MAX is under i32::MAX, and PostgreSQL refuses larger buffers with an ERROR
        let len = i32::try_from(frame.len()).unwrap_or(i32::MAX);
        // SAFETY: the context is valid during the callback; `out` is its buffer, empty after prepare
        unsafe {
            pg_sys::OutputPluginPrepareWrite(self.0, true);
            pg_sys::appendBinaryStringInfo((*self.0).out, frame.as_ptr().cast(), len);
            pg_sys::OutputPluginWrite(self.0, true);
        }
    }

    /// Calls `send` where PostgreSQL expects no output: between two transactions, of which the last one
    /// sent ends at `end`.
    ///
    /// # Safety
    /// `ctx` is valid, and no callback of it is being called.
    pub(super) unsafe fn between_callbacks(
        ctx: *mut pg_sys::LogicalDecodingContext,
        end: Lsn,
        send: impl FnOnce(&Output),
    ) {
        // SAFETY: as promised by the caller. What the callbacks' wrappers set, and leave set but for the
        // first; after an ERROR nobody uses the context.
        unsafe {
            (*ctx).accept_writes = true;
            (*ctx).write_xid = pg_sys::InvalidTransactionId;
            (*ctx).write_location = end.0;
            send(&Output(ctx));
            (*ctx).accept_writes = false;
        }
    }

    /// Lets the walsender send a keepalive where one is due. `skipped`: this is the end of a
    /// transaction of which nothing was written.
    pub(super) fn progress(&self, skipped: bool) {
        // SAFETY: the context is valid during the callback
        unsafe { pg_sys::OutputPluginUpdateProgress(self.0, skipped) }
    }
}
