//! Memory of one callback, and room for large values.

use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys;

use super::report;

/// The memory context that was current before.
pub(super) struct Scratch(pg_sys::MemoryContext);

impl Scratch {
    /// Empties `context` and switches to it.
    ///
    /// # Safety
    /// It is a valid context, and nothing in it is used any more.
    pub(super) unsafe fn enter(context: pg_sys::MemoryContext) -> Self {
        // SAFETY: as promised by the caller
        unsafe {
            if !(*context).isReset || !(*context).firstchild.is_null() {
                pg_sys::MemoryContextReset(context);
            }
            Scratch(pg_sys::MemoryContextSwitchTo(context))
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: it was current when the callback began, and is PostgreSQL's
        unsafe { pg_sys::MemoryContextSwitchTo(self.0) };
    }
}

/// Content from this size on is not written before there is room for it: where a failed allocation of
/// PostgreSQL is an ERROR, one of Rust would abort the backend, and with it the server.
const LARGE: usize = 1024 * 1024;

/// Bytes that content takes beside its own.
const OVERHEAD: usize = 1024;

/// Asks for room where it may be refused.
#[inline]
#[track_caller]
pub(super) fn make_room<E>(len: usize, reserve: impl FnOnce(usize) -> Result<(), E>) {
    if len >= LARGE && reserve(len.saturating_add(OVERHEAD)).is_err() {
        let text = format!("out of memory for a value of {len} bytes");
        report::fail(Code::ERRCODE_OUT_OF_MEMORY, text, "");
    }
}
