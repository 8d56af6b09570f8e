//! Faults for tests: a logical message with one of these prefixes breaks the callback.

use std::cell::Cell;
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

/// The same, in the next row filter.
const IN_FILTER: &CStr = c"rsrepl.test.filter";

thread_local! {
    static NEXT_FILTER_FAILS: Cell<bool> = const { Cell::new(false) };
}

/// Called while a row filter is evaluated.
pub(super) fn in_filter() {
    if NEXT_FILTER_FAILS.take() {
        report::fail(Code::ERRCODE_TRANSACTION_ROLLBACK, "provoked by a test".into(), "");
    }
}

pub(super) fn provoke(prefix: &CStr) {
    if prefix == IN_FILTER {
        NEXT_FILTER_FAILS.set(true);
    }
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
