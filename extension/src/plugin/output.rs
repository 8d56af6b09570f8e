//! PostgreSQL's side of writing.

use pgrx::pg_sys;

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

    /// Lets the walsender send a keepalive where one is due. `skipped`: this is the end of a
    /// transaction of which nothing was written.
    pub(super) fn progress(&self, skipped: bool) {
        // SAFETY: the context is valid during the callback
        unsafe { pg_sys::OutputPluginUpdateProgress(self.0, skipped) }
    }
}
