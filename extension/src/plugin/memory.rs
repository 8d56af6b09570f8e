//! Memory of one callback, memory of one table, and room for large values.

use std::ffi::CStr;

use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys;

use super::report;

/// Another memory context is current until this is dropped, also by an ERROR.
pub(super) struct Within {
    before: pg_sys::MemoryContext,
}

impl Within {
    /// Switches to `context`.
    ///
    /// # Safety
    /// It is a valid context, and stays one until this is dropped.
    pub(super) unsafe fn context(context: pg_sys::MemoryContext) -> Self {
        // SAFETY: as promised by the caller
        Within { before: unsafe { pg_sys::MemoryContextSwitchTo(context) } }
    }

    /// Empties `context` and switches to it.
    ///
    /// # Safety
    /// As [`Self::context`], and nothing in it is used any more.
    pub(super) unsafe fn emptied(context: pg_sys::MemoryContext) -> Self {
        // SAFETY: as promised by the caller
        unsafe {
            if !(*context).isReset || !(*context).firstchild.is_null() {
                pg_sys::MemoryContextReset(context);
            }
            Self::context(context)
        }
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        // SAFETY: it was current before, and is PostgreSQL's or the session's
        unsafe { pg_sys::MemoryContextSwitchTo(self.before) };
    }
}

/// What PostgreSQL keeps for one table: a memory context of its own, made when it is first needed. Until
/// [`Self::keep`] it goes with this, so that an ERROR in the middle of a description leaves nothing
/// behind: the session may go on (see `streaming`).
pub(super) struct TableMemory {
    parent: pg_sys::MemoryContext,
    context: pg_sys::MemoryContext,
}

impl TableMemory {
    const NAME: &CStr = c"rsrepl table";

    /// `parent` lives longer than the table.
    pub(super) fn below(parent: pg_sys::MemoryContext) -> Self {
        TableMemory { parent, context: std::ptr::null_mut() }
    }

    pub(super) fn context(&mut self) -> pg_sys::MemoryContext {
        if self.context.is_null() {
            // SAFETY: as promised by the caller of `below`
            self.context = unsafe {
                pg_sys::AllocSetContextCreateExtended(
                    self.parent,
                    Self::NAME.as_ptr(),
                    pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
                    pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
                    pg_sys::ALLOCSET_SMALL_MAXSIZE as usize,
                )
            };
        }
        self.context
    }

    /// The context, now somebody else's; null when it was never needed.
    pub(super) fn keep(mut self) -> pg_sys::MemoryContext {
        std::mem::replace(&mut self.context, std::ptr::null_mut())
    }
}

impl Drop for TableMemory {
    fn drop(&mut self) {
        if !self.context.is_null() {
            // SAFETY: made by `context`, below one that is still there; nothing points into it
            unsafe { pg_sys::MemoryContextDelete(self.context) };
        }
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
