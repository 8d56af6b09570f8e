//! A target while it is compared: its sessions, and how far the stream is there.

use std::time::Duration;

use rsrepl_wire::Lsn;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

use super::clickhouse::Mirror;
use super::postgres::{self, failed};
use super::tables::{TargetTable, There};
use super::view::View;
use crate::config::{self, TargetOptions};
use crate::error::{Error, Kind, Result};
use crate::target::clickhouse::ClickHouseOptions;
use crate::tls::PgConnect;

/// Between two looks at a position.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How long a position may stay where it is. A sidecar whose source is idle stores one every 5 s.
const STANDSTILL_MAX: Duration = Duration::from_secs(60);

/// See the module's documentation.
pub(crate) struct Target {
    pub(crate) name: String,
    /// `postgres` or `clickhouse`.
    pub(crate) kind: &'static str,
    /// An error: why it cannot be used.
    pub(crate) session: std::result::Result<Session, String>,
}

pub(crate) enum Session {
    Postgres(Box<PgSession>),
    ClickHouse(Box<Mirror>),
}

pub(crate) struct PgSession {
    pub(crate) connection: PgConnect,
    /// For ranges, and for single rows and positions.
    pub(crate) scan: Client,
    pub(crate) look: Client,
    pub(crate) utf8: bool,
    pub(crate) slot: String,
}

impl Target {
    pub(crate) async fn open(target: &config::Target, slot: &str) -> Target {
        let session = Session::open(target, slot).await.map_err(|error| error.to_string());
        Target { name: target.name.clone(), kind: target.kind().as_str(), session }
    }

    /// To scan a table.
    pub(crate) fn scan<'a>(&'a self, there: &'a There) -> Option<View<'a>> {
        self.view(there, |session| &session.scan)
    }

    /// To look up single rows.
    pub(crate) fn look<'a>(&'a self, there: &'a There) -> Option<View<'a>> {
        self.view(there, |session| &session.look)
    }

    fn view<'a>(
        &'a self,
        there: &'a There,
        client: impl Fn(&'a PgSession) -> &'a Client,
    ) -> Option<View<'a>> {
        match (self.session.as_ref().ok()?, &there.table) {
            (Session::Postgres(session), TargetTable::Postgres(table)) => {
                Some(View::Postgres(client(session), table))
            }
            (Session::ClickHouse(mirror), TargetTable::ClickHouse(table)) => {
                Some(View::ClickHouse(mirror, table))
            }
            _ => None,
        }
    }

    /// How far the stream is there.
    pub(crate) async fn position(&self) -> Result<Option<Lsn>> {
        match &self.session {
            Ok(Session::Postgres(session)) => session.position().await,
            Ok(Session::ClickHouse(mirror)) => mirror.position().await,
            Err(why) => Err(Error::new(Kind::Connection, why.clone())),
        }
    }

    /// Waits until the stream is there, and does `meanwhile` again and again.
    ///
    /// # Errors
    /// It does not get on.
    pub(crate) async fn wait_for(
        &self,
        lsn: Lsn,
        mut meanwhile: impl AsyncFnMut() -> Result<bool>,
    ) -> Result<()> {
        let (mut last, mut moved) = (None, Instant::now());
        loop {
            let position = self.position().await?;
            if position.is_some_and(|position| position >= lsn) {
                return Ok(());
            }
            if position != last {
                (last, moved) = (position, Instant::now());
            }
            if moved.elapsed() > STANDSTILL_MAX {
                let at = position.map_or("nowhere".to_owned(), |position| position.to_string());
                return Err(Error::new(
                    Kind::Server,
                    format!("target {}: the stream stays at {at}, before {lsn}", self.name),
                )
                .hint(
                    "what differs can only be told from what has not arrived while rsrepl runs",
                ));
            }
            if !meanwhile().await? {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        }
    }
}

impl Session {
    async fn open(target: &config::Target, slot: &str) -> Result<Session> {
        match &target.options {
            TargetOptions::Postgres(options) => {
                let who = format!("target {}", target.name);
                let (scan, utf8) = postgres::open(&who, &options.connection).await?;
                let (look, _) = postgres::open(&who, &options.connection).await?;
                let (connection, slot) = (options.connection.clone(), slot.to_owned());
                let session = PgSession { connection, scan, look, utf8, slot };
                Ok(Session::Postgres(Box::new(session)))
            }
            TargetOptions::ClickHouse(options) => {
                let options = ClickHouseOptions::from_config(&target.name, options)?;
                Ok(Session::ClickHouse(Box::new(Mirror::open(options, slot).await?)))
            }
        }
    }
}

impl PgSession {
    async fn position(&self) -> Result<Option<Lsn>> {
        let sql = "SELECT applied_lsn FROM rsrepl.positions WHERE slot = $1";
        let row = self.look.query_opt(sql, &[&self.slot]).await;
        let row = row.map_err(|error| failed("reading rsrepl.positions", error))?;
        Ok(row.map(|row| Lsn(row.get::<_, PgLsn>(0).into())))
    }
}
