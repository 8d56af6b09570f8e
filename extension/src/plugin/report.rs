//! Errors and warnings as PostgreSQL reports them: code, message, and a hint that tells the way out.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};

/// Raises a PostgreSQL ERROR.
#[track_caller]
pub(super) fn fail(code: PgSqlErrorCode, message: String, hint: &str) -> ! {
    report(PgLogLevel::ERROR, code, message, hint);
    unreachable!("an ERROR unwinds")
}

/// Something is wrong with what PostgreSQL handed over; not the user's fault.
#[track_caller]
pub(super) fn internal(message: String) -> ! {
    fail(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, format!("rsrepl: {message}"), "")
}

/// Leaves a WARNING in the server log and with the client.
#[track_caller]
pub(super) fn warn(code: PgSqlErrorCode, message: String, hint: &str) {
    report(PgLogLevel::WARNING, code, message, hint);
}

#[track_caller]
fn report(level: PgLogLevel, code: PgSqlErrorCode, message: String, hint: &str) {
    let report = ErrorReport::new(code, message, "rsrepl");
    if hint.is_empty() { report } else { report.set_hint(hint) }.report(level);
}
