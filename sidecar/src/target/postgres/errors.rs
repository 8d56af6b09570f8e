//! What a target server's errors mean: the one place that maps SQLSTATE to a kind of error.

use std::error::Error as StdError;

use tokio_postgres::error::DbError;

use super::codec::CodecError;
use crate::error::{Error, Kind};

/// Characters of a server's DETAIL that go into a message; a failing row may be long.
const DETAIL_MAX: usize = 300;

/// The kind of a statement's failure by its SQLSTATE. What is not known to need its owner, and is not
/// about one row, is [`Kind::Server`]: retried, as everything unknown is.
pub(super) fn kind_of_code(code: &str) -> Kind {
    match code {
        // too many connections, shutdowns, cannot connect now, idle session ended
        "53300" | "57P01" | "57P02" | "57P03" | "57P05" => Kind::Connection,
        // a failed transaction is never the first error of it
        "25P02" => Kind::Internal,
        _ => match code.get(..2) {
            Some("08") => Kind::Connection,
            // data, integrity constraint, view check, and index rows past their limit
            Some("22" | "23" | "44" | "54") => Kind::Row,
            // authorization, no such database or schema, not supported, missing or wrong objects
            Some("28" | "3D" | "3F" | "0A" | "42") => Kind::Setup,
            _ => Kind::Server,
        },
    }
}

/// Whether the server did not accept a value by itself, whatever else is in its row.
pub(super) fn is_about_a_value(code: &str) -> bool {
    code.starts_with("22")
}

/// The server's words in one line, with the column and SQLSTATE where it names them.
pub(super) fn describe(error: &DbError) -> String {
    let mut text = error.message().replace('\n', " ");
    if let Some(detail) = error.detail() {
        let mut short: String = detail.chars().take(DETAIL_MAX).collect();
        if short.len() < detail.len() {
            short.push('…');
        }
        text.push_str(&format!(" ({})", short.replace('\n', " ")));
    }
    if let Some(column) = error.column() {
        text.push_str(&format!(", column {column}"));
    }
    text.push_str(&format!(" (SQLSTATE {})", error.code().code()));
    text
}

fn hint_of_code(code: &str) -> Option<&'static str> {
    Some(match code {
        "42501" => "grant what is missing to the target's user",
        "25006" => "the target is read-only: is it a standby?",
        "53100" => "the target's disk is full",
        "53400" => {
            "raise max_active_replication_origins (max_replication_slots before PostgreSQL 18): \
             each worker has an origin"
        }
        "55P03" => "another session holds a lock on what is being written",
        "0A000" => "tables that reference a truncated table must be truncated with it",
        _ => return None,
    })
}

/// An error of tokio-postgres while doing `what` on `target`, not bound to one row.
pub(super) fn of_server(target: &str, what: &str, error: tokio_postgres::Error) -> Error {
    if let Some(db) = error.as_db_error() {
        let code = db.code().code();
        let text = format!("target {target}: {what}: {}", describe(db));
        let error = Error::new(kind_of_code(code), text);
        return match hint_of_code(code) {
            Some(hint) => error.hint(hint),
            None => error,
        };
    }
    if let Some(codec) = codec_error(&error) {
        return of_codec(target, what, codec);
    }
    Error::new(Kind::Connection, format!("target {target}: {what}: the connection broke"))
        .because(error)
}

/// A value that does not have the shape its relation promises: the frame is at fault.
pub(super) fn of_codec(target: &str, what: &str, error: CodecError) -> Error {
    Error::new(Kind::Frame, format!("target {target}: {what}")).because(error)
}

/// A parameter's conversion error travels inside of the driver's.
fn codec_error(error: &tokio_postgres::Error) -> Option<CodecError> {
    error.source()?.downcast_ref::<CodecError>().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Decision;

    #[test]
    fn one_row_stops_and_the_unknown_is_retried() {
        for (code, kind, decision) in [
            ("23505", Kind::Row, Decision::Stop),
            ("22003", Kind::Row, Decision::Stop),
            ("54000", Kind::Row, Decision::Stop),
            ("42P01", Kind::Setup, Decision::Retry),
            ("42501", Kind::Setup, Decision::Retry),
            ("0A000", Kind::Setup, Decision::Retry),
            ("40001", Kind::Server, Decision::Retry),
            ("40P01", Kind::Server, Decision::Retry),
            ("55P03", Kind::Server, Decision::Retry),
            ("53100", Kind::Server, Decision::Retry),
            ("57P01", Kind::Connection, Decision::Retry),
            ("53300", Kind::Connection, Decision::Retry),
            ("08006", Kind::Connection, Decision::Retry),
            ("XX000", Kind::Server, Decision::Retry),
            ("", Kind::Server, Decision::Retry),
        ] {
            assert_eq!(kind_of_code(code), kind, "{code}");
            assert_eq!(Error::new(kind, "").decision(), decision, "{code}");
        }
    }
}
