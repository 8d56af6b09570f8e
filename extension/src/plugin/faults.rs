//! Faults for tests: a logical message with one of these prefixes breaks the callback.

use std::ffi::CStr;

use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys;

use super::report;

/// A Rust panic.
const PANIC: &CStr = c"rsrepl.test.panic";
/// An ERROR that PostgreSQL raises while Rust is on the stack.
const ERROR: &CStr = c"rsrepl.test.error";

/// The ERROR of a transaction that aborts while it is streamed.
const ROLLBACK: &CStr = c"rsrepl.test.rollback";

pub(super) fn provoke(prefix: &CStr) {
    if prefix == PANIC {
        panic!("provoked by a test");
    }
    if prefix == ERROR {
        // SAFETY: refused before anything is allocated
        unsafe { pg_sys::palloc(usize::MAX / 2) };
    }
    if prefix == ROLLBACK {
        report::fail(Code::ERRCODE_TRANSACTION_ROLLBACK, "provoked by a test".into(), "");
    }
}
