//! A target while it is compared: its sessions, and how far the stream is there.

use std::time::Duration;

use rsrepl_wire::Lsn;
use tokio::time::Instant;
use tokio_postgres::Client;

use super::clickhouse::Mirror;
use super::postgres;
use super::sides::LANES;
use super::tables::{TargetTable, There};
use super::view::View;
use crate::config::{self, TargetOptions};
use crate::error::{Error, Kind, Result};
use crate::target::SourceIdentity;
use crate::target::clickhouse::ClickHouseOptions;
use crate::target::postgres::look_up_position;
use crate::tls::PgConnect;

/// Between two looks at a position.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How long a position may stay where it is. A sidecar whose source is idle stores one every 5 s.
const STANDSTILL_MAX: Duration = Duration::from_secs(60);

/// Of WAL: what an end may be told too low by.
const PAGE: u64 = 8192;

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
    /// Of the target.
    name: String,
    pub(crate) connection: PgConnect,
    /// For parts of tables, one for each lane.
    lanes: Vec<Client>,
    /// For single rows and positions.
    pub(crate) look: Client,
    pub(crate) utf8: bool,
    pub(crate) source: SourceIdentity,
}

impl Target {
    /// `end`: of the source's WAL, at some time after this was called.
    pub(crate) async fn open(
        target: &config::Target,
        source: &SourceIdentity,
        end: impl AsyncFn() -> Result<Lsn>,
    ) -> Target {
        let (name, kind) = (target.name.clone(), target.kind().as_str());
        let session = Session::open(target, source).await.map_err(|error| error.to_string());
        let mut target = Target { name, kind, session };
        if let Err(error) = target.is_behind(end).await {
            target.session = Err(error.to_string());
        }
        target
    }

    /// A position that the source has not reached is not of its own history, whatever it says.
    async fn is_behind(&self, end: impl AsyncFn() -> Result<Lsn>) -> Result<()> {
        let Some(position) = self.position().await? else { return Ok(()) };
        let end = end().await?;
        if position.0 <= end.0 + PAGE {
            return Ok(());
        }
        Err(Error::new(
            Kind::Identity,
            format!(
                "target {}: it is at {position}, and the source has only come to {end}: the source was                  restored from a backup, or is another one",
                self.name
            ),
        )
        .hint("connect to the source that the target follows"))
    }

    /// To read parts of a table.
    pub(crate) fn scan<'a>(&'a self, there: &'a There, lane: usize) -> Option<View<'a>> {
        self.view(there, |session| session.lanes.get(lane).unwrap_or(&session.look))
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
    async fn open(target: &config::Target, source: &SourceIdentity) -> Result<Session> {
        match &target.options {
            TargetOptions::Postgres(options) => {
                let who = format!("target {}", target.name);
                let (look, utf8) = postgres::open(&who, &options.connection).await?;
                let mut lanes = Vec::with_capacity(LANES);
                for _ in 0..LANES {
                    lanes.push(postgres::open(&who, &options.connection).await?.0);
                }
                let (connection, source) = (options.connection.clone(), source.clone());
                let name = target.name.clone();
                let session = PgSession { name, connection, lanes, look, utf8, source };
                Ok(Session::Postgres(Box::new(session)))
            }
            TargetOptions::ClickHouse(options) => {
                let options = ClickHouseOptions::from_config(&target.name, options)?;
                Ok(Session::ClickHouse(Box::new(Mirror::open(options, source).await?)))
            }
        }
    }
}

impl PgSession {
    async fn position(&self) -> Result<Option<Lsn>> {
        self.position_by(&self.look).await
    }

    /// As this session sees it; that of another source is an error.
    pub(crate) async fn position_by(&self, client: &Client) -> Result<Option<Lsn>> {
        look_up_position(&self.name, client, &self.source).await
    }
}
