//! Faults for tests: a logical message with one of these prefixes breaks the callback.

use std::ffi::CStr;

use pgrx::pg_sys;

/// A Rust panic.
const PANIC: &CStr = c"rsrepl.test.panic";
/// An ERROR that PostgreSQL raises while Rust is on the stack.
const ERROR: &CStr = c"rsrepl.test.error";

pub(super) fn provoke(prefix: &CStr) {
    if prefix == PANIC {
        panic!("provoked by a test");
    }
    if prefix == ERROR {
        // SAFETY: refused before anything is allocated
        unsafe { pg_sys::palloc(usize::MAX / 2) };
    }
}
