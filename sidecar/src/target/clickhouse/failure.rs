//! What an error of ClickHouse means: the one place where its codes are read.

use clickhouse::error::Error as Cause;

use crate::error::{Error, Kind};
use crate::redact::scrub;
use crate::tls::find_rustls;

/// Characters of a server's message that are shown; it may hold a whole query.
const MESSAGE_MAX: usize = 500;

/// What was being done, for the message.
#[derive(Clone, Copy, Debug)]
pub(super) enum Attempt<'a> {
    Connect,
    Prepare,
    ReadPosition,
    WritePosition,
    Create(&'a str),
    Describe(&'a str),
    Insert(&'a str),
    Truncate(&'a str),
    Alter(&'a str),
    ReadBack(&'a str),
}

impl std::fmt::Display for Attempt<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Attempt::Connect => f.write_str("cannot use ClickHouse"),
            Attempt::Prepare => f.write_str("cannot prepare the database"),
            Attempt::ReadPosition => f.write_str("cannot read the position"),
            Attempt::WritePosition => f.write_str("cannot write the position"),
            Attempt::Create(table) => write!(f, "cannot create table {table}"),
            Attempt::Describe(table) => write!(f, "cannot look at table {table}"),
            Attempt::Insert(table) => write!(f, "cannot insert into table {table}"),
            Attempt::Truncate(table) => write!(f, "cannot truncate table {table}"),
            Attempt::Alter(table) => write!(f, "cannot alter table {table}"),
            Attempt::ReadBack(table) => write!(f, "cannot read rows of table {table}"),
        }
    }
}

/// Error codes of `src/Common/ErrorCodes.cpp` whose mend is known.
fn known(code: u32) -> Option<&'static str> {
    Some(match code {
        // UNKNOWN_USER, WRONG_PASSWORD, REQUIRED_PASSWORD, AUTHENTICATION_FAILED
        192 | 193 | 194 | 516 => "check user and password in the target's connection_string",
        // ACCESS_DENIED
        497 => {
            "GRANT what the message names to the target's user; docs/operations.md lists all that it \
             needs"
        }
        // UNKNOWN_DATABASE, UNKNOWN_TABLE
        81 | 60 => "create it, or set create_tables = true for this target",
        // NO_SUCH_COLUMN_IN_TABLE, UNKNOWN_IDENTIFIER, ILLEGAL_COLUMN, BAD_TYPE_OF_FIELD
        16 | 47 | 44 | 169 => "compare the table with docs/type-mapping.md",
        // UNKNOWN_SETTING
        115 => "use a ClickHouse of version 23.3 or later",
        // TABLE_SIZE_EXCEEDS_MAX_DROP_SIZE_LIMIT
        359 => "raise max_table_size_to_drop on the server: the source truncated the table",
        _ => return None,
    })
}

/// Turns an error of the client into ours. Whatever is not known is the server's, and is retried.
pub(super) fn explain(target: &str, attempt: Attempt<'_>, cause: Cause) -> Error {
    let what = format!("target {target}: {attempt}");
    match &cause {
        Cause::TimedOut => Error::new(Kind::Connection, format!("{what}: no answer in time")),
        Cause::Network(_) => match find_rustls(&cause).and_then(mend_of_tls) {
            Some(mend) => Error::new(Kind::Setup, what).because(cause).hint(mend),
            None => Error::new(Kind::Connection, what).because(cause),
        },
        Cause::BadResponse(message) => {
            let code = code_of(message);
            let message = format!("{what}: {}", shortened(message));
            match code.and_then(known) {
                Some(mend) => Error::new(Kind::Setup, message).hint(mend),
                None => Error::new(Kind::Server, message),
            }
        }
        _ => Error::new(Kind::Server, what).because(cause),
    }
}

/// What a user can do about a failed handshake; none where another attempt may succeed.
fn mend_of_tls(error: &rustls::Error) -> Option<&'static str> {
    use rustls::CertificateError as Reason;
    Some(match error {
        rustls::Error::InvalidCertificate(Reason::UnknownIssuer) => {
            "its certificate is not signed by an authority that is known here: add \
             ?sslrootcert=FILE with the right one to the target's connection_string"
        }
        rustls::Error::InvalidCertificate(
            Reason::NotValidForName | Reason::NotValidForNameContext { .. },
        ) => {
            "its certificate is for another name: use a name of its subjectAltName in the target's \
             connection_string"
        }
        rustls::Error::InvalidCertificate(Reason::Expired | Reason::ExpiredContext { .. }) => {
            "its certificate has expired"
        }
        rustls::Error::InvalidCertificate(_) => "its certificate cannot be verified",
        // the first bytes are no TLS record
        rustls::Error::InvalidMessage(_) => {
            "no TLS is spoken there: name the HTTPS port (8443), or write http:// in the target's \
             connection_string"
        }
        _ => return None,
    })
}

/// Whether a RENAME COLUMN was refused, having changed nothing, for a mutation of that column that has not ended.
pub(super) fn is_behind_a_mutation(error: &Error) -> bool {
    error.to_string().contains("affected by mutation")
}

/// Of `Code: 252. DB::Exception: …`.
fn code_of(message: &str) -> Option<u32> {
    let digits = message.split_once("Code: ")?.1;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits.get(..end)?.parse().ok()
}

fn shortened(message: &str) -> String {
    let message = scrub(message);
    let end = message.char_indices().nth(MESSAGE_MAX).map_or(message.len(), |(at, _)| at);
    message.get(..end).unwrap_or_default().replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Decision;

    fn explained(message: &str) -> Error {
        explain("ch", Attempt::Insert("t"), Cause::BadResponse(message.to_owned()))
    }

    #[test]
    fn codes_have_their_kinds() {
        for (message, kind) in [
            ("Code: 252. DB::Exception: Too many parts (600).", Kind::Server),
            ("Code: 241. DB::Exception: Memory limit exceeded", Kind::Server),
            ("Code: 516. DB::Exception: me: Authentication failed", Kind::Setup),
            ("Code: 60. DB::Exception: Table x.y does not exist", Kind::Setup),
            ("502 Bad Gateway", Kind::Server),
        ] {
            let error = explained(message);
            assert_eq!(error.kind(), kind, "{message}");
            assert_eq!(error.decision(), Decision::Retry, "{message}");
            assert!(error.to_string().starts_with("target ch: cannot insert into table t"));
        }
        assert_eq!(explain("ch", Attempt::Connect, Cause::TimedOut).kind(), Kind::Connection);
    }

    #[test]
    fn messages_are_short_and_clean() {
        let error = explained(&format!("Code: 1. http://u:hunter2@h/ {}", "ä".repeat(10_000)));
        assert!(error.to_string().len() < 2 * MESSAGE_MAX + 100);
        assert!(!error.to_string().contains("hunter2"));
    }
}
