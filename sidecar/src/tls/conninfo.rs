//! Splits what tokio-postgres does not parse off a connection string.

use std::path::PathBuf;

use tokio_postgres::config::{Host, SslMode as PgSslMode};

use super::{
    CONNECT_TIMEOUT, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_RETRIES, PgConnect, SslMode,
    TCP_USER_TIMEOUT, TlsOptions,
};
use crate::error::{Error, Kind, Result};
use crate::quote;

/// tokio-postgres's default, which nobody writes down on purpose.
const DEFAULT_KEEPALIVE_IDLE: std::time::Duration = std::time::Duration::from_secs(2 * 60 * 60);

/// Options of libpq that have no meaning here; naming them in an error cannot show a secret.
const KNOWN_TO_LIBPQ: [&str; 12] = [
    "client_encoding",
    "fallback_application_name",
    "gssdelegation",
    "krbsrvname",
    "passfile",
    "require_auth",
    "service",
    "sslcompression",
    "sslcrl",
    "sslpassword",
    "sslsni",
    "ssl_min_protocol_version",
];

/// Reads a connection string in either of libpq's forms: `postgres://user:password@host:5432/db?…`
/// or `host=… user=…`.
///
/// # Errors
/// [`Kind::Config`], in words that repeat no value of the string.
pub fn parse(text: &str) -> Result<PgConnect> {
    let mut ours = Ours::default();
    let rest = match text.strip_prefix("postgres://").or(text.strip_prefix("postgresql://")) {
        Some(url) => split_url(url, &mut ours)?,
        None => split_pairs(text, &mut ours)?,
    };
    let mut config: tokio_postgres::Config = rest.parse().map_err(|e| not_understood(&e))?;
    let tls = ours.resolve()?;
    complete(&mut config, tls.mode)?;
    Ok(PgConnect { config, tls })
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::Config, message)
}

/// The parser's message can repeat a part of the string, for example of an unquoted password.
fn not_understood(error: &tokio_postgres::Error) -> Error {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    let named = KNOWN_TO_LIBPQ.iter().any(|name| cause == format!("unknown option `{name}`"));
    if named || cause.starts_with("invalid value for option") {
        return invalid(format!("the connection string cannot be used: {cause}"));
    }
    invalid("the connection string cannot be read").hint(
        "write postgres://user:password@host:5432/database with special characters percent-encoded, \
         or host=… port=… user=… password='…' dbname=… with blanks inside quotes",
    )
}

/// Fills in what a session needs and the string left out.
fn complete(config: &mut tokio_postgres::Config, mode: SslMode) -> Result<()> {
    if config.get_user().is_none() {
        let user = std::env::var("PGUSER")
            .or_else(|_| std::env::var("USER"))
            .map_err(|_| invalid("the connection string names no user").hint("add user=… to it"))?;
        config.user(user);
    }
    if config.get_hosts().is_empty() {
        let addresses: Vec<String> =
            config.get_hostaddrs().iter().map(ToString::to_string).collect();
        if addresses.is_empty() {
            return Err(invalid("the connection string names no host").hint("add host=… to it"));
        }
        // a certificate is compared with the host, which then is the address
        for address in addresses {
            config.host(address);
        }
    }
    let (hosts, addresses, ports) =
        (config.get_hosts().len(), config.get_hostaddrs().len(), config.get_ports().len());
    if addresses != 0 && addresses != hosts {
        return Err(invalid(format!("{addresses} hostaddr for {hosts} host")));
    }
    if ports > 1 && ports != hosts {
        return Err(invalid(format!("{ports} ports for {hosts} hosts")));
    }
    let local = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
    config.ssl_mode(match mode {
        _ if local => PgSslMode::Disable,
        SslMode::Disable => PgSslMode::Disable,
        SslMode::Prefer => PgSslMode::Prefer,
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => PgSslMode::Require,
    });
    if config.get_application_name().is_none() {
        config.application_name("rsrepl");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    if config.get_keepalives_idle() == DEFAULT_KEEPALIVE_IDLE {
        config.keepalives_idle(KEEPALIVE_IDLE);
    }
    if config.get_keepalives_interval().is_none() {
        config.keepalives_interval(KEEPALIVE_INTERVAL);
    }
    if config.get_keepalives_retries().is_none() {
        config.keepalives_retries(KEEPALIVE_RETRIES);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(TCP_USER_TIMEOUT);
    }
    Ok(())
}

/// The options that we read ourselves, as written.
#[derive(Default)]
struct Ours {
    mode: Option<SslMode>,
    root_cert: Option<String>,
    cert: Option<String>,
    key: Option<String>,
}

/// What becomes of an option.
enum Taken {
    /// It is ours, or means nothing here.
    Yes,
    /// It goes on to tokio-postgres under this name.
    No(&'static str),
    /// It goes on as it is.
    Unchanged,
}

impl Ours {
    fn take(&mut self, key: &str, value: &str) -> Result<Taken> {
        match key {
            "sslmode" => self.mode = Some(ssl_mode(value)?),
            "sslrootcert" => self.root_cert = Some(value.to_owned()),
            "sslcert" => self.cert = Some(value.to_owned()),
            "sslkey" => self.key = Some(value.to_owned()),
            "gssencmode" if matches!(value, "disable" | "prefer") => {}
            "gssencmode" => {
                return Err(invalid("gssencmode=require cannot be met: there is no GSS here"));
            }
            // libpq's name for what tokio-postgres calls retries
            "keepalives_count" => return Ok(Taken::No("keepalives_retries")),
            _ => return Ok(Taken::Unchanged),
        }
        Ok(Taken::Yes)
    }

    fn resolve(self) -> Result<TlsOptions> {
        let system = self.root_cert.as_deref() == Some("system");
        let mode = match self.mode {
            None if system => SslMode::VerifyFull,
            mode => mode.unwrap_or_default(),
        };
        if system && !matches!(mode, SslMode::VerifyFull | SslMode::Disable) {
            return Err(invalid("sslrootcert=system needs sslmode=verify-full")
                .hint("anybody can get a certificate from a public authority for some name"));
        }
        let root_cert = self.root_cert.filter(|path| !system && !path.is_empty());
        if mode == SslMode::VerifyCa && root_cert.is_none() {
            return Err(invalid("sslmode=verify-ca needs sslrootcert")
                .hint("name the file of your authority, or use sslmode=verify-full"));
        }
        let client_cert = match (self.cert, self.key) {
            (Some(cert), Some(key)) => Some((PathBuf::from(cert), PathBuf::from(key))),
            (None, None) => None,
            _ => return Err(invalid("sslcert and sslkey are only of use together")),
        };
        Ok(TlsOptions { mode, root_cert: root_cert.map(PathBuf::from), client_cert })
    }
}

fn ssl_mode(value: &str) -> Result<SslMode> {
    Ok(match value {
        "disable" => SslMode::Disable,
        "allow" | "prefer" => SslMode::Prefer,
        "require" => SslMode::Require,
        "verify-ca" => SslMode::VerifyCa,
        "verify-full" => SslMode::VerifyFull,
        _ => {
            return Err(invalid("unknown sslmode")
                .hint("it is one of disable, prefer, require, verify-ca, verify-full"));
        }
    })
}

/// `url` is what follows the scheme. Cut as tokio-postgres does: credentials up to the first `@`, then
/// parameters after the first `?`.
fn split_url(url: &str, ours: &mut Ours) -> Result<String> {
    let authority = url.find('@').map_or(0, |at| at + 1);
    let Some(mark) = url.get(authority..).and_then(|rest| rest.find('?')) else {
        return Ok(format!("postgres://{url}"));
    };
    let (head, query) = url.split_at(authority + mark);
    let mut kept = Vec::new();
    for pair in query.trim_start_matches('?').split('&').filter(|pair| !pair.is_empty()) {
        let (raw, value) = pair
            .split_once('=')
            .ok_or_else(|| invalid("a parameter of the connection string has no value"))?;
        match ours.take(&percent_decode(raw)?, &percent_decode(value)?)? {
            Taken::Yes => {}
            Taken::No(name) => kept.push(format!("{name}={value}")),
            Taken::Unchanged => kept.push(pair.to_owned()),
        }
    }
    Ok(format!("postgres://{head}?{}", kept.join("&")))
}

fn percent_decode(text: &str) -> Result<String> {
    quote::percent_decode(text)
        .ok_or_else(|| invalid("a parameter of the connection string is not percent-encoded UTF-8"))
}

/// `key = value` pairs, a value quoted or up to a blank, with backslash escapes, as libpq reads them.
fn split_pairs(text: &str, ours: &mut Ours) -> Result<String> {
    let mut kept = String::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or_else(|| {
            invalid("the connection string cannot be read: a word has no “=” after it")
                .hint("put values with blanks inside single quotes")
        })?;
        let (value, after) = read_value(after.trim_start())?;
        let key = key.trim_end();
        let key = match ours.take(key, &value)? {
            Taken::Yes => None,
            Taken::No(name) => Some(name),
            Taken::Unchanged => Some(key),
        };
        if let Some(key) = key {
            let value = value.replace('\\', r"\\").replace('\'', r"\'");
            kept.push_str(&format!("{key}='{value}' "));
        }
        rest = after.trim_start();
    }
    Ok(kept)
}

/// The value at the start of `text`, and what comes after it.
fn read_value(text: &str) -> Result<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, text.get(at + 1..).unwrap_or_default())),
            c if !quoted && c.is_whitespace() => {
                return Ok((value, text.get(at..).unwrap_or_default()));
            }
            c => value.push(c),
        }
    }
    if quoted {
        return Err(invalid("the connection string cannot be read: a quote is not closed"));
    }
    Ok((value, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let url = parse(
            "postgresql://u:p%40s@h1:1,h2:2/d?sslmode=verify-full&sslrootcert=%2Fca%20x.pem\
             &connect_timeout=3&keepalives_count=7",
        )
        .unwrap();
        let pairs = parse(
            r"host=h1,h2 port=1,2 user=u password='p@s' dbname = d sslmode=verify-full
              sslrootcert='/ca x.pem' connect_timeout=3 keepalives_count=7",
        )
        .unwrap();
        assert_eq!(url, pairs);
        assert_eq!(url.tls().mode, SslMode::VerifyFull);
        assert_eq!(url.tls().root_cert.as_deref(), Some("/ca x.pem".as_ref()));
        assert_eq!(url.config().get_password(), Some(&b"p@s"[..]));
        assert_eq!(url.config().get_ssl_mode(), PgSslMode::Require);
        assert_eq!(url.config().get_keepalives_retries(), Some(7));
        assert_eq!(url.endpoint(), "h1:1,h2:2/d");
        assert_eq!(url.connect_timeout().as_secs(), 3);
    }

    #[test]
    fn values_survive_quotes_and_backslashes() {
        let connect = parse(r"host=h user=u password='a\'b\\c d' dbname=d\ e").unwrap();
        assert_eq!(connect.config().get_password(), Some(&br"a'b\c d"[..]));
        assert_eq!(connect.database(), "d e");
    }

    #[test]
    fn a_unix_socket_has_no_tls() {
        for text in ["host=/run/pg user=u sslmode=require", "postgres://u@%2Frun%2Fpg/d"] {
            let connect = parse(text).unwrap();
            assert_eq!(connect.config().get_ssl_mode(), PgSslMode::Disable, "{text}");
            assert!(connect.endpoint().starts_with("/run/pg:5432/"), "{}", connect.endpoint());
        }
    }

    #[test]
    fn an_address_without_a_host_is_the_host() {
        let connect = parse("hostaddr=127.0.0.1 user=u").unwrap();
        assert_eq!(connect.config().get_hosts(), [Host::Tcp("127.0.0.1".into())]);
        assert_eq!(connect.database(), "u");
    }

    #[test]
    fn modes_that_would_verify_nothing_are_refused() {
        let mode = |text: &str| parse(&format!("host=h user=u {text}")).map(|c| c.tls().mode);
        assert_eq!(mode("").unwrap(), SslMode::Prefer);
        assert_eq!(mode("sslrootcert=system").unwrap(), SslMode::VerifyFull);
        assert_eq!(mode("sslmode=verify-ca sslrootcert=/ca").unwrap(), SslMode::VerifyCa);
        for bad in [
            "sslmode=verify-ca",
            "sslmode=require sslrootcert=system",
            "sslmode=verify_full",
            "sslcert=/c",
            "gssencmode=require",
        ] {
            assert_eq!(mode(bad).unwrap_err().kind(), Kind::Config, "{bad}");
        }
    }

    #[test]
    fn no_error_and_no_debug_repeats_a_password() {
        let shown = format!("{:?}", parse("host=h user=u password=hunter2").unwrap());
        assert!(!shown.contains("hunter2") && shown.contains("h:5432/u"), "{shown}");
        for bad in [
            "host=h user=u password=x hunter2",
            "host=h user=u password=x hunter2=y",
            "host=h user=u password='hunter2",
            "host=h port=hunter2 user=u",
            "postgres://u:x@hunter2:hunter2/d",
            "postgres://u:x/hunter2?hunter2",
            "postgres://u@h/d?hunter2=1",
            "postgres://u@h/d?password=%hunter2",
            "password=hunter2",
        ] {
            let error = parse(bad).unwrap_err();
            assert_eq!(error.kind(), Kind::Config);
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{bad}: {error:?}");
        }
    }
}
