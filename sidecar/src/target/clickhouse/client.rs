//! HTTP to the server: every request has a time-out, settings of our own, and an error that says what
//! it means.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clickhouse::insert_formatted::InsertFormatted;
use clickhouse::{Client, Compression};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::encode;
use super::failure::{self, Attempt};
use super::options::ClickHouseOptions;
use super::types::take_varint;
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::tls;

/// For a TCP connection to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For one piece of an INSERT to be taken.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// For the server to write an INSERT, with all materialized views that hang on it.
const INSERT_TIMEOUT: Duration = Duration::from_secs(300);
/// For any other statement.
const QUERY_TIMEOUT: Duration = Duration::from_secs(120);
/// Idle connections are closed before the server's `keep_alive_timeout` (3 s in its defaults) does it.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(2);
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);
/// How long an INSERT may be idle before the server is told that there is more to come: it gives up after
/// 30 s (`http_receive_timeout`).
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Bytes of an INSERT that are compressed and sent at a time.
const PIECE: usize = 256 * 1024;
/// Rows of one INSERT, looked at between blocks of ours: fewer than [`BLOCK_ROWS`] in all, so that each
/// INSERT is one block.
pub(super) const INSERT_ROWS_MAX: usize = 1_000_000;
/// Bytes of one INSERT, looked at between blocks of ours. The server holds it in memory until it ends; a few
/// frames can be gigabytes when values that the stream leaves out are read back for many updates of a row.
pub(super) const INSERT_BYTES_MAX: usize = 128 << 20;
/// Rows of one block of a table.
const BLOCK_ROWS: &str = "1048576";
const _: () = assert!(INSERT_ROWS_MAX + encode::BLOCK_ROWS + 1000 < 1_048_576);
/// Bytes of a statement; that of a TOAST look-up holds its keys.
const STATEMENT_MAX: &str = "16777216";

/// A server, as one user.
#[derive(Clone)]
pub(super) struct Server {
    client: Client,
    /// `target name`, as in messages.
    name: String,
    /// What the ids of our queries begin with; ours alone as long as one sidecar serves the slot.
    prefix: String,
    /// See [`Self::in_flight`].
    in_flight: TaskTracker,
}

/// Numbers the queries of this process.
static QUERIES: AtomicU64 = AtomicU64::new(0);

impl Server {
    pub(super) fn new(options: &ClickHouseOptions, prefix: String) -> Result<Self> {
        let mut http = HttpConnector::new();
        // Nagle's algorithm and delayed acknowledgements cost 40 ms an INSERT; the crate leaves it on
        http.set_nodelay(true);
        http.set_keepalive(Some(TCP_KEEPALIVE));
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        http.enforce_http(false);
        let https = match &options.root_cert {
            Some(path) => {
                let tls = tls::verify_full(path).map_err(|error| {
                    let text = format!("target {}: TLS cannot be set up", options.name);
                    Error::new(error.kind(), text).because(error)
                })?;
                hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls)
            }
            None => system_authorities()?,
        };
        let https = https.https_or_http().enable_http1().wrap_connector(http);
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .build(https);
        let compression = match options.compression {
            config::Compression::Auto if options.is_local() => Compression::None,
            config::Compression::Auto | config::Compression::Lz4 => Compression::Lz4,
            config::Compression::None => Compression::None,
        };
        let client = Client::with_http_client(http)
            .with_url(&options.url)
            .with_user(&options.user)
            .with_password(options.password.expose())
            .with_compression(compression);
        Ok(Server { client, name: options.name.clone(), prefix, in_flight: TaskTracker::new() })
    }

    /// A client whose next query has an id of its own.
    fn next(&self) -> Client {
        let number = QUERIES.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}{}-{number}", self.prefix, std::process::id());
        self.client.clone().with_setting("query_id", id)
    }

    fn failed(&self, attempt: Attempt<'_>, error: clickhouse::error::Error) -> Error {
        failure::explain(&self.name, attempt, error)
    }

    fn timed_out(&self, attempt: Attempt<'_>) -> Error {
        self.failed(attempt, clickhouse::error::Error::TimedOut)
    }

    /// Runs a statement that returns nothing.
    pub(super) async fn execute(&self, attempt: Attempt<'_>, sql: &str) -> Result<()> {
        let query = self.next().query_raw(sql).with_setting("max_query_size", STATEMENT_MAX);
        match self.see_through(tokio::time::timeout(QUERY_TIMEOUT, query.execute())).await? {
            Ok(done) => done.map_err(|error| self.failed(attempt, error)),
            Err(_) => Err(self.timed_out(attempt)),
        }
    }

    /// Waits for what changes the server; when nobody waits any more, it still goes on to its end. See
    /// [`Self::in_flight`].
    async fn see_through<T: Send + 'static>(
        &self,
        request: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        self.in_flight.spawn(request).await.map_err(|error| self.lost().because(error))
    }

    #[cold]
    fn lost(&self) -> Error {
        Error::new(Kind::Internal, format!("target {}: a request failed", self.name))
    }

    /// The requests that are to change something, and the tasks that may begin more of them. A request that
    /// was given up on its way may come to the server late, when nobody looks for it any more: who begins
    /// anew waits for these.
    pub(super) fn in_flight(&self) -> &TaskTracker {
        &self.in_flight
    }

    /// Runs a query and returns its rows in `RowBinary`.
    pub(super) async fn rows(&self, attempt: Attempt<'_>, sql: &str) -> Result<Bytes> {
        self.rows_within(attempt, sql, QUERY_TIMEOUT).await
    }

    /// The same of one that may take longer.
    pub(super) async fn rows_within(
        &self,
        attempt: Attempt<'_>,
        sql: &str,
        limit: Duration,
    ) -> Result<Bytes> {
        let query = self.next().query_raw(sql).with_setting("max_query_size", STATEMENT_MAX);
        let answer = async { query.fetch_bytes("RowBinary")?.collect().await };
        match tokio::time::timeout(limit, answer).await {
            Ok(rows) => rows.map_err(|error| self.failed(attempt, error)),
            Err(_) => Err(self.timed_out(attempt)),
        }
    }

    /// Runs a query whose columns are all strings, and returns its rows.
    pub(super) async fn strings<const N: usize>(
        &self,
        attempt: Attempt<'_>,
        sql: &str,
    ) -> Result<Vec<[String; N]>> {
        let bytes = self.rows(attempt, sql).await?;
        let mut rest = bytes.as_ref();
        let mut rows = Vec::new();
        while !rest.is_empty() {
            let mut row = [const { String::new() }; N];
            for field in &mut row {
                *field = take_text(&mut rest).ok_or_else(|| {
                    Error::new(
                        Kind::Server,
                        format!("target {}: cannot read the answer of ClickHouse", self.name),
                    )
                })?;
            }
            rows.push(row);
        }
        Ok(rows)
    }

    /// An INSERT that rows are sent to as they come. However many blocks they are, it is one for the
    /// table, which is there as a whole or not at all: see [`INSERT_ROWS_MAX`]. `sql` is
    /// `INSERT INTO … (…) FORMAT …`; `nothing` is sent while there are no rows to send.
    pub(super) fn begin_insert(&self, sql: &str, nothing: Bytes) -> Insert {
        let insert = self.request(sql);
        // one at a time: what waits to be sent is in memory
        let (feed, fed) = mpsc::channel(1);
        let given_up = CancellationToken::new();
        let guard = given_up.clone().drop_guard();
        let (told, outcome) = oneshot::channel();
        self.in_flight.spawn(async move {
            let fed = given_up.run_until_cancelled(send_all(insert, fed, nothing)).await;
            let _ = match fed {
                Some(Ok(insert)) => told.send(insert.end().await),
                Some(Err(error)) => told.send(Err(error)),
                None => return,
            };
        });
        Insert { server: self.clone(), feed, outcome, _guard: guard }
    }

    fn request(&self, sql: &str) -> InsertFormatted {
        let client = self
            .next()
            // the answer must mean that the rows are written, and a dropped block that they are not
            .with_setting("async_insert", "0")
            .with_setting("insert_deduplicate", "0")
            // all blocks of an INSERT go together, up to a number of rows that it does not have
            .with_setting("input_format_parallel_parsing", "0")
            .with_setting("max_insert_block_size", BLOCK_ROWS)
            .with_setting("min_insert_block_size_rows", BLOCK_ROWS)
            .with_setting("min_insert_block_size_bytes", "0")
            .with_setting("max_insert_threads", "1")
            // a column that no longer takes NULL must not make a default of it
            .with_setting("input_format_null_as_default", "0")
            // versions of a row meet in merges and FINAL; looking for them here costs as much as the rest
            .with_setting("optimize_on_insert", "0");
        client.insert_formatted_with(sql).with_timeouts(Some(SEND_TIMEOUT), Some(INSERT_TIMEOUT))
    }

    /// Inserts a few rows.
    pub(super) async fn insert(&self, attempt: Attempt<'_>, sql: &str, rows: Bytes) -> Result<()> {
        let mut insert = self.request(sql);
        insert.send(rows).await.map_err(|error| self.failed(attempt, error))?;
        self.see_through(insert.end()).await?.map_err(|error| self.failed(attempt, error))
    }

    /// What the ids of our queries begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The target's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

type Connector = hyper_rustls::HttpsConnectorBuilder<hyper_rustls::builderstates::WantsSchemes>;

/// Certificates and names are verified against the system's authorities; where there are none, those of the web's.
fn system_authorities() -> Result<Connector> {
    let ring = rustls::crypto::ring::default_provider;
    hyper_rustls::HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(ring())
        .or_else(|_| {
            hyper_rustls::HttpsConnectorBuilder::new().with_provider_and_webpki_roots(ring())
        })
        .map_err(|error| {
            Error::new(Kind::Internal, "cannot set up TLS for ClickHouse").because(error)
        })
}

/// An INSERT under way. Dropped before its end, it is as if it had not been.
pub(super) struct Insert {
    server: Server,
    feed: mpsc::Sender<Feed>,
    outcome: oneshot::Receiver<clickhouse::error::Result<()>>,
    _guard: DropGuard,
}

enum Feed {
    Rows(Bytes),
    /// There is no more; without it the INSERT is given up.
    End,
}

impl Insert {
    /// Sends a part of the rows; waits while the server has enough to do.
    pub(super) async fn send(&mut self, attempt: Attempt<'_>, mut rows: Bytes) -> Result<()> {
        while !rows.is_empty() {
            let piece = rows.split_to(rows.len().min(PIECE));
            if self.feed.send(Feed::Rows(piece)).await.is_err() {
                return self.outcome(attempt).await;
            }
        }
        Ok(())
    }

    /// Waits until all rows are written.
    pub(super) async fn end(mut self, attempt: Attempt<'_>) -> Result<()> {
        // when it has failed already, the outcome says so
        let _ = self.feed.send(Feed::End).await;
        self.outcome(attempt).await
    }

    async fn outcome(&mut self, attempt: Attempt<'_>) -> Result<()> {
        match (&mut self.outcome).await {
            Ok(outcome) => outcome.map_err(|error| self.server.failed(attempt, error)),
            Err(_) => Err(self.server.lost()),
        }
    }
}

/// Sends what it is fed, to the end of it.
async fn send_all(
    mut insert: InsertFormatted,
    mut fed: mpsc::Receiver<Feed>,
    nothing: Bytes,
) -> clickhouse::error::Result<InsertFormatted> {
    loop {
        match tokio::time::timeout(KEEP_ALIVE, fed.recv()).await {
            Ok(Some(Feed::Rows(rows))) => insert.send(rows).await?,
            Ok(Some(Feed::End)) => return Ok(insert),
            // it is being given up
            Ok(None) => std::future::pending().await,
            Err(_) => insert.send(nothing.clone()).await?,
        }
    }
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    let len = usize::try_from(take_varint(rest)?).ok()?;
    let (text, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(String::from_utf8_lossy(text).into_owned())
}
