//! Errors and warnings as PostgreSQL reports them: code, message, and a hint that tells the way out.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};

use super::text;

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
    let report = ErrorReport::new(code, in_any_encoding(message), "rsrepl");
    if hint.is_empty() { report } else { report.set_hint(hint) }.report(level);
}

/// PostgreSQL takes a message for text of the database's encoding and converts it for the client:
/// UTF-8 in another encoding would make an ERROR of a WARNING, and stop the slot for good.
fn in_any_encoding(message: String) -> String {
    if message.is_ascii() || text::database_is_utf8() {
        return message;
    }
    let escaped = |char: char| match char.is_ascii() {
        true => char.to_string(),
        false => char.escape_unicode().to_string(),
    };
    message.chars().map(escaped).collect()
}
