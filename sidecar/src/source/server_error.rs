//! What an error of the source means: the one place that reads its SQLSTATE.

use std::fmt;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorFields;

use crate::error::{Error, Kind};
use crate::tls::{hint_of_code, kind_of_code};

/// Bytes of a field that are kept.
const FIELD_MAX: usize = 4096;

/// An ErrorResponse or NoticeResponse.
#[derive(Clone, Debug, Default)]
pub(super) struct ServerError {
    severity: String,
    code: String,
    message: String,
    detail: String,
    hint: String,
}

const RESYNC: &str = "the targets cannot go on from this slot: drop it, let the sidecar create a new \
                      one, and load the targets anew";

impl ServerError {
    /// Takes what can be read; a field that cannot ends the list.
    pub(super) fn parse(mut fields: ErrorFields<'_>) -> Self {
        let mut found = ServerError::default();
        while let Ok(Some(field)) = fields.next() {
            let value = field.value_bytes();
            let value = value.get(..FIELD_MAX).unwrap_or(value);
            let value = String::from_utf8_lossy(value).into_owned();
            match field.type_() {
                // 'V' is the severity that is not translated
                b'V' => found.severity = value,
                b'C' => found.code = value,
                b'M' => found.message = value,
                b'D' => found.detail = value,
                b'H' => found.hint = value,
                _ => {}
            }
        }
        found
    }

    pub(super) fn log_notice(&self) {
        match self.severity.as_str() {
            "WARNING" => tracing::warn!(code = self.code, "source: {self}"),
            _ => tracing::debug!(code = self.code, "source: {self}"),
        }
    }

    /// `context` says what was tried.
    pub(super) fn into_error(self, context: &str) -> Error {
        let (kind, way_out) = self.meaning();
        let error = Error::new(kind, format!("{context}: {self} (SQLSTATE {})", self.code));
        match (way_out, self.hint.as_str()) {
            (Some(way_out), _) => error.hint(way_out),
            (None, "") => error,
            (None, hint) => error.hint(hint),
        }
    }

    /// The texts are compared only where PostgreSQL has one code for what a person must and what a
    /// retry can mend; a translated text then is the milder of the two.
    fn meaning(&self) -> (Kind, Option<&'static str>) {
        let says = |part| self.message.contains(part) || self.detail.contains(part);
        match self.code.as_str() {
            // object in use: the walsender of a connection that broke needs a moment to notice
            "55006" => {
                (Kind::Connection, Some("end that consumer, or give the sidecar another slot"))
            }
            "42704" if says("replication slot") => (Kind::Identity, Some(RESYNC)),
            "58P01" if says("WAL segment") => (Kind::Identity, Some(RESYNC)),
            "55000" if says("can no longer get changes") || says("invalidated") => {
                (Kind::Identity, Some(RESYNC))
            }
            "55000" if says("wal_level") => {
                (Kind::Setup, Some("set wal_level = logical on the source and restart it"))
            }
            // object not in prerequisite state, configuration limit, undefined file or object
            "55000" | "58P01" | "42704" => (Kind::Setup, None),
            "53400" => (Kind::Setup, Some("raise max_replication_slots, or drop an unused slot")),
            "42501" if says("output plugin") => (
                Kind::Setup,
                Some(
                    "add rsrepl to the list on the source, for example: ALTER SYSTEM SET \
                     output_plugin_libraries = pgoutput, test_decoding, rsrepl; \
                     SELECT pg_reload_conf();",
                ),
            ),
            "42501" if says("replication") || says("walsender") || says("WAL sender") => {
                (Kind::Setup, Some("ALTER ROLE … REPLICATION"))
            }
            code => (kind_of_code(code), hint_of_code(code)),
        }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use postgres_protocol::message::backend::Message;

    fn error(fields: &[(u8, &[u8])]) -> Error {
        let mut body = Vec::new();
        for (tag, value) in fields {
            body.push(*tag);
            body.extend_from_slice(value);
            body.push(0);
        }
        body.push(0);
        let mut bytes = BytesMut::from(&b"E"[..]);
        bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        bytes.extend_from_slice(&body);
        match Message::parse(&mut bytes) {
            Ok(Some(Message::ErrorResponse(body))) => {
                ServerError::parse(body.fields()).into_error("it failed")
            }
            _ => panic!("an error was put in"),
        }
    }

    #[test]
    fn codes_have_kinds() {
        let removed = "requested WAL segment 000000010000000000000003 has already been removed";
        let lost = "can no longer get changes from replication slot \"s\"";
        for (code, message, kind) in [
            ("55006", "replication slot \"s\" is active for PID 77", Kind::Connection),
            ("42704", "replication slot \"s\" does not exist", Kind::Identity),
            ("58P01", removed, Kind::Identity),
            ("58P01", "could not access file \"rsrepl\": No such file or directory", Kind::Setup),
            ("55000", lost, Kind::Identity),
            ("55000", "logical decoding requires wal_level >= logical", Kind::Setup),
            ("53400", "all replication slots are in use", Kind::Setup),
            ("28P01", "password authentication failed", Kind::Setup),
            ("57P01", "terminating connection due to administrator command", Kind::Connection),
            ("XX000", "cache lookup failed", Kind::Server),
            ("22023", "unknown option", Kind::Server),
        ] {
            let error = error(&[(b'C', code.as_bytes()), (b'M', message.as_bytes())]);
            assert_eq!(error.kind(), kind, "{code} {message}");
            assert!(error.to_string().contains(message), "{error}");
        }
    }

    #[test]
    fn detail_and_hint_of_the_server_are_shown() {
        let error = error(&[
            (b'S', b"FEHLER"),
            (b'V', b"ERROR"),
            (b'C', b"22023"),
            (b'M', b"bad \xff option"),
            (b'D', b"the detail"),
            (b'H', b"the hint"),
        ]);
        let text = error.to_string();
        assert_eq!(text, "it failed: bad \u{fffd} option (the detail) (SQLSTATE 22023); the hint");
    }
}
