//! A replication connection before the stream: simple queries, one after the other.

use std::time::Duration;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;
use rsrepl_wire::Lsn;
use tokio::time::timeout;
use tokio_postgres::config::TargetSessionAttrs;

use super::framing::violation;
use super::server_error::ServerError;
use super::slot::{lsn, start_command};
use super::socket;
use super::startup::{self, Session};
use super::stream::ReplicationStream;
use crate::error::{Error, Kind, Result};
use crate::target::SourceIdentity;
use crate::tls::{Endpoint, PgConnect};

/// How long an answer to a query may take that only looks at something.
const QUERY_TIMEOUT: Duration = Duration::from_secs(30);

/// Rows of the largest answer, and bytes that they take in memory.
const ROWS_MAX: usize = 10_000;
const ANSWER_MAX: usize = 16 << 20;

/// CopyBothResponse, which postgres-protocol does not know.
const COPY_BOTH_TAG: u8 = b'W';

/// A row of a simple query: text, or null.
pub(super) type Row = Vec<Option<String>>;

/// A session with a walsender. After an error of [`Kind::Connection`] it can only be dropped.
pub struct ReplicationClient {
    session: Session,
}

/// What the source says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceInfo {
    pub identity: SourceIdentity,
    /// End of the WAL that is flushed there.
    pub wal_end: Lsn,
    /// `15.4 (Debian …)`.
    pub server_version: String,
}

impl SourceInfo {
    /// PostgreSQL gives the plugin every row of a transaction in progress. 16.14 and 18.4 were seen to leave
    /// out rows behind a savepoint that changed a table and was rolled back (`pgoutput` has no more); 15.20
    /// does not. No version from 16 on was seen to be without that fault.
    pub fn streams_whole(&self) -> bool {
        let major = self.server_version.split(|c: char| !c.is_ascii_digit()).next();
        major.and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major <= 15)
    }
}

impl ReplicationClient {
    /// Connects to the first host that lets us in.
    ///
    /// # Errors
    /// As [`PgConnect::connect`]: [`Kind::Connection`] when none answers, [`Kind::Setup`] when
    /// somebody must act first. Those of the last host are returned.
    pub async fn connect(connect: &PgConnect) -> Result<Self> {
        connect.first_host(|endpoint| Self::connect_one(connect, endpoint)).await
    }

    async fn connect_one(connect: &PgConnect, endpoint: Endpoint) -> Result<Self> {
        let socket = socket::open(connect, &endpoint).await?;
        let session = startup::start(connect, &endpoint, socket).await?;
        let mut client = ReplicationClient { session };
        let wanted = match connect.config().get_target_session_attrs() {
            TargetSessionAttrs::ReadWrite => "off",
            TargetSessionAttrs::ReadOnly => "on",
            _ => return Ok(client),
        };
        if client.show("transaction_read_only").await? != wanted {
            let text =
                format!("the server at {endpoint} is not what target_session_attrs asks for");
            return Err(Error::new(Kind::Connection, text));
        }
        Ok(client)
    }

    /// PID of the walsender.
    pub fn backend_pid(&self) -> i32 {
        self.session.backend_pid
    }

    /// `15.4 (Debian …)`.
    pub fn server_version(&self) -> &str {
        &self.session.server_version
    }

    /// The value of a setting.
    pub async fn show(&mut self, setting: &'static str) -> Result<String> {
        let rows = self.query("reading a setting failed", &format!("SHOW {setting}")).await?;
        rows.into_iter()
            .next()
            .and_then(|row| row.into_iter().next().flatten())
            .ok_or_else(|| violation("SHOW returned nothing"))
    }

    /// Starts the stream. `start` is the end of what was received before, or
    /// [`Lsn::INVALID`] for the slot's own position; see [`verify_position`](super::verify_position).
    ///
    /// # Errors
    /// [`Kind::Connection`] also when the slot is in use, [`Kind::Identity`] when it is gone or its
    /// WAL is, [`Kind::Server`] when the plugin does not accept its options.
    pub async fn start(
        mut self,
        slot: &str,
        start: Lsn,
        options: &[(String, String)],
    ) -> Result<ReplicationStream> {
        let sql = start_command(slot, start, options);
        let starting = async {
            self.session.writer.send(|buf| frontend::query(&sql, buf)).await?;
            loop {
                let raw = self.session.reader.next().await?;
                if raw.tag() == COPY_BOTH_TAG {
                    return Ok(());
                }
                match raw.parse()? {
                    Message::NoticeResponse(body) => ServerError::parse(body.fields()).log_notice(),
                    Message::ParameterStatus(_) => {}
                    Message::ErrorResponse(body) => {
                        let context = format!("the stream of slot \"{slot}\" did not start");
                        return Err(ServerError::parse(body.fields()).into_error(&context));
                    }
                    _ => return Err(violation("an unexpected answer to START_REPLICATION")),
                }
            }
        };
        timeout(QUERY_TIMEOUT, starting).await.map_err(|_| no_answer())??;
        Ok(ReplicationStream::new(self.session.reader, self.session.writer))
    }

    /// Ends the session in good order.
    pub async fn close(mut self) {
        frontend::terminate(self.session.writer.queue());
        // the session ends either way
        let _ = timeout(QUERY_TIMEOUT, self.session.writer.flush()).await;
        self.session.writer.shutdown().await;
    }

    pub(super) async fn query(&mut self, context: &str, sql: &str) -> Result<Vec<Row>> {
        timeout(QUERY_TIMEOUT, self.query_unbounded(context, sql)).await.map_err(|_| no_answer())?
    }

    /// [`query`](Self::query) for what may wait for others.
    pub(super) async fn query_unbounded(&mut self, context: &str, sql: &str) -> Result<Vec<Row>> {
        self.session.writer.send(|buf| frontend::query(sql, buf)).await?;
        let mut rows = Vec::new();
        let mut bytes = 0;
        let mut failed = None;
        loop {
            match self.session.message().await? {
                Message::DataRow(_) if rows.len() >= ROWS_MAX => {
                    return Err(violation("an answer has too many rows"));
                }
                Message::DataRow(body) => {
                    let row = read_row(&body)?;
                    bytes += size_of_row(&row);
                    if bytes > ANSWER_MAX {
                        return Err(violation("an answer is too large"));
                    }
                    rows.push(row);
                }
                Message::ErrorResponse(body) => {
                    failed = Some(ServerError::parse(body.fields()).into_error(context));
                }
                Message::ReadyForQuery(_) => return failed.map_or(Ok(rows), Err),
                Message::RowDescription(_)
                | Message::CommandComplete(_)
                | Message::EmptyQueryResponse
                | Message::ParameterStatus(_) => {}
                // a FATAL error is followed by the end of the connection
                _ => return Err(violation("an unexpected answer to a query")),
            }
        }
    }
}

fn no_answer() -> Error {
    Error::new(Kind::Connection, format!("the source gave no answer within {QUERY_TIMEOUT:?}"))
}

/// Bytes that it takes in memory.
fn size_of_row(row: &Row) -> usize {
    let text = |field: &Option<String>| field.as_ref().map_or(0, String::capacity);
    size_of::<Row>()
        + row.iter().map(|field| size_of::<Option<String>>() + text(field)).sum::<usize>()
}

pub(super) fn read_row(body: &DataRowBody) -> Result<Row> {
    let unreadable = |error| violation("a row cannot be read").because(error);
    let ranges: Vec<_> = body.ranges().collect().map_err(unreadable)?;
    let text = |range: Option<std::ops::Range<usize>>| {
        let bytes = range.map(|range| body.buffer().get(range).unwrap_or_default());
        bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    };
    Ok(ranges.into_iter().map(text).collect())
}

/// Who the source is, for [`Target::open`](crate::target::Target::open) and
/// [`verify_position`](super::verify_position).
pub async fn identify(client: &mut ReplicationClient, slot: &str) -> Result<SourceInfo> {
    let rows = client.query("IDENTIFY_SYSTEM failed", "IDENTIFY_SYSTEM").await?;
    let row = rows.first().ok_or_else(|| violation("IDENTIFY_SYSTEM returned nothing"))?;
    let text = |i: usize| row.get(i).and_then(Option::as_deref).unwrap_or_default();
    let unreadable = || violation("IDENTIFY_SYSTEM returned what cannot be read");
    let timeline = text(1).parse().map_err(|_| unreadable())?;
    Ok(SourceInfo {
        identity: SourceIdentity {
            system_id: text(0).parse().map_err(|_| unreadable())?,
            timeline,
            database: text(3).to_owned(),
            slot: slot.to_owned(),
            ancestors: Some(client.ancestors(timeline).await?),
        },
        wal_end: lsn(row.get(2))?.ok_or_else(unreadable)?,
        server_version: client.server_version().to_owned(),
    })
}
