//! Connecting to PostgreSQL: connection strings with libpq's TLS settings, and sessions over them.
//!
//! tokio-postgres parses everything but `sslmode=verify-*`, `sslrootcert`, `sslcert` and `sslkey`;
//! [`parse`] takes those out first. The same [`PgConnect`] serves tokio-postgres (targets, reports,
//! preflight) and our own replication client.
//!
//! | `sslmode` | without `sslrootcert` | with `sslrootcert` |
//! |---|---|---|
//! | `disable` | no TLS | no TLS |
//! | `prefer` (default) | TLS when offered, unverified | TLS when offered, chain verified |
//! | `require` | TLS, unverified | TLS, chain verified |
//! | `verify-ca` | refused: name a CA | chain verified |
//! | `verify-full` | chain (system CAs) and host name | chain and host name |
//!
//! Over Unix sockets there is no TLS whatever the mode is. Unlike libpq, `prefer` does not fall back
//! to plain text after a failed handshake.
//!
//! | module | subject |
//! |---|---|
//! | `conninfo` | splits our settings off a connection string |
//! | `endpoint` | its hosts, one by one |
//! | `verify` | the rustls configuration: roots, client certificate, what is verified |
//! | `refusal` | what it means when a session is refused |

mod conninfo;
mod endpoint;
mod refusal;
mod verify;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::{Error, Kind, Result};

pub use conninfo::parse;
pub(crate) use endpoint::Endpoint;
pub(crate) use refusal::{
    find_rustls, hint_of_code, kind_of_code, no_channel_binding, password_missing, tls_failed,
    tls_not_offered, unknown_authentication,
};
pub(crate) use verify::verify_full;

/// How long each address may take to accept a connection, when the connection string has no
/// `connect_timeout`.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How many times `connect_timeout` a host may take until a session has begun: an IPv6 address that
/// leads nowhere, an IPv4 one, and the server's part.
const HOST_TIMEOUTS: u32 = 3;

/// Idle time after which TCP asks whether the peer is there, when the connection string keeps the
/// default of two hours.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// Time between unanswered TCP keepalives.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Unanswered TCP keepalives after which the connection is given up.
pub const KEEPALIVE_RETRIES: u32 = 3;

/// How long sent data may stay unacknowledged before TCP gives the connection up.
pub const TCP_USER_TIMEOUT: Duration = Duration::from_secs(60);

/// libpq's `sslmode`; `allow` is read as `prefer`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SslMode {
    Disable,
    #[default]
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// What tokio-postgres does not parse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    pub mode: SslMode,
    /// PEM file of certificate authorities; `None` means the system's.
    pub root_cert: Option<PathBuf>,
    /// PEM files of the client's certificate chain and key.
    pub client_cert: Option<(PathBuf, PathBuf)>,
}

/// A server to connect to. `Debug` shows no password.
#[derive(Clone, PartialEq, Eq)]
pub struct PgConnect {
    config: tokio_postgres::Config,
    tls: TlsOptions,
}

impl PgConnect {
    /// Hosts, user, database and timeouts. [`SslMode`] is in [`tls`](Self::tls).
    pub fn config(&self) -> &tokio_postgres::Config {
        &self.config
    }

    pub fn tls(&self) -> &TlsOptions {
        &self.tls
    }

    /// The same server under another `application_name`.
    #[must_use]
    pub fn application_name(mut self, name: &str) -> Self {
        self.config.application_name(name);
        self
    }

    /// User name; [`parse`] has made sure that there is one.
    pub fn user(&self) -> &str {
        self.config.get_user().unwrap_or_default()
    }

    /// Database name; PostgreSQL's default is the user's name.
    pub fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or_else(|| self.user())
    }

    pub fn connect_timeout(&self) -> Duration {
        self.config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT)
    }

    /// All hosts and the database, `host:port,…/database`; for people.
    pub fn endpoint(&self) -> String {
        let hosts: Vec<String> = self.endpoints().iter().map(ToString::to_string).collect();
        format!("{}/{}", hosts.join(","), self.database())
    }

    /// The hosts in the order they are to be tried.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        Endpoint::all(&self.config)
    }

    /// Opens a session; the connection's task ends when the client is dropped. Hosts are tried in
    /// order until one lets us in.
    ///
    /// # Errors
    /// [`Kind::Connection`] when no server answers in time; [`Kind::Setup`] when its owner or ours
    /// must act first: credentials, `pg_hba.conf`, a missing database, certificates. Those of the last
    /// host are returned.
    pub async fn connect(&self) -> Result<tokio_postgres::Client> {
        let tls = MakeRustlsConnect::new(self.rustls_config().await?);
        let open = |endpoint: Endpoint| {
            let (config, tls) = (endpoint.only(&self.config), tls.clone());
            async move {
                let (client, connection) = config
                    .connect(tls)
                    .await
                    .map_err(|error| refusal::from_tokio_postgres(error, &endpoint.to_string()))?;
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        // whoever uses the client gets the error too
                        tracing::debug!(error = &error as &dyn std::error::Error, "session ended");
                    }
                });
                Ok(client)
            }
        };
        self.first_host(open).await
    }

    /// Goes through the hosts until `open` succeeds, each within its time.
    // not an AsyncFn: of that nobody could say that its future is Send
    pub(crate) async fn first_host<T, F>(&self, open: impl Fn(Endpoint) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let limit = self.connect_timeout().saturating_mul(HOST_TIMEOUTS);
        let mut last = Error::new(Kind::Config, "the connection string names no host");
        for endpoint in self.endpoints() {
            let attempt = tokio::time::timeout(limit, open(endpoint.clone())).await;
            last = match attempt.unwrap_or_else(|_| Err(timed_out(&endpoint, limit))) {
                Ok(session) => return Ok(session),
                Err(error) => error,
            };
        }
        Err(last)
    }

    /// Reads the certificate files anew each time, so that renewed ones are seen.
    pub(crate) async fn rustls_config(&self) -> Result<rustls::ClientConfig> {
        let options = self.tls.clone();
        tokio::task::spawn_blocking(move || verify::client_config(&options)).await.map_err(
            |error| Error::new(Kind::Internal, "reading certificates failed").because(error),
        )?
    }
}

fn timed_out(endpoint: &Endpoint, limit: Duration) -> Error {
    let text = format!("PostgreSQL at {endpoint} let no session begin within {limit:?}");
    Error::new(Kind::Connection, text)
}

impl fmt::Debug for PgConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgConnect")
            .field("endpoint", &self.endpoint())
            .field("user", &self.user())
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}
