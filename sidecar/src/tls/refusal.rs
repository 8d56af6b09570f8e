//! What it means when a server lets no session begin, in one place for both clients.

use std::error::Error as StdError;

use rustls::CertificateError;

use crate::error::{Error, Kind};

/// The kind of a server's refusal by its SQLSTATE. What is not known to need its owner is
/// [`Kind::Server`], and retried as everything unknown is.
pub(crate) fn kind_of_code(code: &str) -> Kind {
    match code {
        // invalid authorization, no such database, insufficient privilege
        "42501" | "3D000" => Kind::Setup,
        // too many connections, cannot connect now, shutdowns
        "53300" | "57P01" | "57P02" | "57P03" | "57P05" => Kind::Connection,
        _ if code.starts_with("28") => Kind::Setup,
        _ if code.starts_with("08") => Kind::Connection,
        _ => Kind::Server,
    }
}

/// What a user can do about it, when the SQLSTATE tells.
pub(crate) fn hint_of_code(code: &str) -> Option<&'static str> {
    Some(match code {
        "28P01" => "check user and password of the connection string",
        "28000" => "let this user in from this address in the server's pg_hba.conf, and reload",
        "3D000" => "check the database name of the connection string",
        "53300" => "raise max_connections or max_wal_senders, or end other sessions",
        "57P03" => "the server is starting or stopping",
        _ => return None,
    })
}

pub(crate) fn password_missing(endpoint: &str) -> Error {
    Error::new(Kind::Setup, format!("PostgreSQL at {endpoint} asks for a password"))
        .hint("add password=… to the connection string")
}

pub(crate) fn no_channel_binding(endpoint: &str) -> Error {
    let text = format!("channel_binding=require, but PostgreSQL at {endpoint} used none");
    Error::new(Kind::Setup, text).hint(
        "channel binding needs TLS and scram-sha-256 in the server's pg_hba.conf; \
         or set channel_binding=prefer",
    )
}

pub(crate) fn unknown_authentication(endpoint: &str) -> Error {
    let text = format!("PostgreSQL at {endpoint} asks for an authentication that rsrepl lacks");
    Error::new(Kind::Setup, text)
        .hint("let its pg_hba.conf use scram-sha-256, md5, password, cert or trust")
}

pub(crate) fn tls_not_offered(endpoint: &str) -> Error {
    Error::new(Kind::Setup, format!("PostgreSQL at {endpoint} offers no TLS"))
        .hint("set ssl = on there, or sslmode=prefer or disable in the connection string")
}

/// A failed handshake; `error` holds a rustls error somewhere when the certificate was the reason.
pub(crate) fn tls_failed(
    endpoint: &str,
    error: impl Into<Box<dyn StdError + Send + Sync>>,
) -> Error {
    let error = error.into();
    let failed = format!("the TLS handshake with PostgreSQL at {endpoint} failed");
    match find_rustls(error.as_ref()).and_then(hint_of_rustls) {
        Some(hint) => Error::new(Kind::Setup, failed).hint(hint),
        None => Error::new(Kind::Connection, failed),
    }
    .because(error)
}

/// rustls errors travel inside of io::Errors, which do not show them as a source.
pub(crate) fn find_rustls<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

fn hint_of_rustls(error: &rustls::Error) -> Option<&'static str> {
    let rustls::Error::InvalidCertificate(reason) = error else {
        // the server does not like ours, or sends alerts that a retry will not change
        return matches!(error, rustls::Error::AlertReceived(_))
            .then_some("the server refused the handshake: check sslcert and sslkey");
    };
    Some(match reason {
        CertificateError::UnknownIssuer => {
            "its certificate is not signed by an authority of sslrootcert: name the right file"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another name: connect by a name in its subjectAltName, \
             or use sslmode=verify-ca"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired"
        }
        _ => "its certificate cannot be verified",
    })
}

/// A failed [`connect`](super::PgConnect::connect).
pub(super) fn from_tokio_postgres(error: tokio_postgres::Error, endpoint: &str) -> Error {
    if let Some(refused) = error.as_db_error() {
        let code = refused.code().code();
        let text = format!(
            "PostgreSQL at {endpoint} refused the session: {} (SQLSTATE {code})",
            refused.message()
        );
        let error = Error::new(kind_of_code(code), text);
        return match hint_of_code(code) {
            Some(hint) => error.hint(hint),
            None => error,
        };
    }
    let cause = StdError::source(&error).map(ToString::to_string).unwrap_or_default();
    match cause.as_str() {
        "password missing" => password_missing(endpoint),
        "server did not use channel binding" => no_channel_binding(endpoint),
        "unsupported authentication method" | "unsupported SASL mechanism" => {
            unknown_authentication(endpoint)
        }
        "server does not support TLS" => tls_not_offered(endpoint),
        _ if find_rustls(&error).is_some() => tls_failed(endpoint, error),
        _ => Error::new(Kind::Connection, format!("cannot connect to PostgreSQL at {endpoint}"))
            .because(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Decision;

    #[test]
    fn who_must_act_is_told_by_the_code() {
        for (code, kind) in [
            ("28P01", Kind::Setup),
            ("28000", Kind::Setup),
            ("3D000", Kind::Setup),
            ("42501", Kind::Setup),
            ("53300", Kind::Connection),
            ("57P03", Kind::Connection),
            ("08006", Kind::Connection),
            ("XX000", Kind::Server),
        ] {
            assert_eq!(kind_of_code(code), kind, "{code}");
        }
    }

    #[test]
    fn a_certificate_error_is_found_inside_of_io_errors() {
        let name = rustls::Error::InvalidCertificate(CertificateError::NotValidForName);
        let io = std::io::Error::new(std::io::ErrorKind::InvalidData, name);
        let error = tls_failed("h:5432/d", io);
        assert_eq!(error.kind(), Kind::Setup);
        assert!(error.to_string().contains("another name"), "{error}");
        assert_eq!(error.decision(), Decision::Retry);
        let io = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert_eq!(tls_failed("h:5432/d", io).kind(), Kind::Connection);
    }
}
