//! `rsrepl.control` on the target: a pause, and transactions that are to be skipped.

use std::time::SystemTime;

use rsrepl_wire::Lsn;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row};

use super::sql::ident;
use super::{PostgresOptions, errors, positions, session};
use crate::control::rules::{from_stream_time, stream_time};
use crate::control::{ControlTarget, Record, RecordKind};
use crate::copy::Promise;
use crate::error::{Error, Kind, Result};

/// What the database's owner may have to run by hand. Without a key: a place is an LSN or a time.
const CREATE: &str = "\
CREATE TABLE IF NOT EXISTS rsrepl.control (slot text NOT NULL, kind text NOT NULL, lsn pg_catalog.pg_lsn NOT NULL, \
until_time timestamptz, note text NOT NULL DEFAULT '', \
recorded timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp())";

const EXISTS: &str = "SELECT pg_catalog.to_regclass($1) IS NOT NULL";

const READ: &str =
    "SELECT kind, lsn, until_time, note FROM rsrepl.control WHERE slot = $1 ORDER BY recorded";

const REMOVE: &str = "\
DELETE FROM rsrepl.control
 WHERE slot = $1 AND kind = $2 AND lsn = $3 AND until_time IS NOT DISTINCT FROM $4";

const ADD: &str = "\
INSERT INTO rsrepl.control (slot, kind, lsn, until_time, note) VALUES ($1, $2, $3, $4, $5)";

const POSITION: &str = "SELECT applied_lsn FROM rsrepl.positions WHERE slot = $1";

/// See the module's documentation.
pub struct PostgresControl {
    options: PostgresOptions,
    slot: String,
    client: Option<Client>,
}

impl PostgresControl {
    /// No connection is made before [`open`](ControlTarget::open).
    pub fn new(options: PostgresOptions, slot: &str) -> Self {
        PostgresControl { options, slot: slot.to_owned(), client: None }
    }

    fn opened(&self) -> Result<&Client> {
        let name = &self.options.name;
        self.client
            .as_ref()
            .ok_or_else(|| Error::new(Kind::Internal, format!("target {name} is not open")))
    }

    fn server(&self, error: tokio_postgres::Error) -> Error {
        errors::of_server(&self.options.name, "looking after rsrepl.control", error)
    }

    async fn connect(&mut self) -> Result<()> {
        self.client = None;
        let client = session::open(&self.options.name, &self.options.connection).await?;
        self.client = Some(client);
        Ok(())
    }

    async fn exists(&self, table: &str) -> Result<bool> {
        let found = self.opened()?.query_one(EXISTS, &[&format!("rsrepl.{table}")]).await;
        found.and_then(|row| row.try_get(0)).map_err(|error| self.server(error))
    }

    async fn all(&self) -> Result<Vec<Record>> {
        if !self.exists("control").await? {
            return Ok(Vec::new());
        }
        let rows = self.opened()?.query(READ, &[&self.slot]).await;
        let rows = rows.map_err(|error| self.server(error))?;
        rows.iter()
            .map(|row| {
                record(row).ok_or_else(|| {
                    let what =
                        format!("target {}: rsrepl.control cannot be read", self.options.name);
                    Error::new(Kind::Setup, what)
                        .hint("it was written by a later version of rsrepl: use that one")
                })
            })
            .collect()
    }

    async fn create(&self) -> Result<()> {
        let client = self.opened()?;
        let (name, user) = (&self.options.name, self.options.connection.user());
        positions::create(name, user, client).await?;
        if self.exists("control").await? {
            return Ok(());
        }
        let Err(refused) = client.batch_execute(CREATE).await else { return Ok(()) };
        match refused.as_db_error().map(|db| db.code().code()) {
            // another one was faster
            Some("42P07" | "23505") => Ok(()),
            Some("42501") => {
                let what = format!("target {name}: {user} may not create rsrepl.control");
                Err(Error::new(Kind::Setup, what)
                    .hint(format!("as the database's owner: {}", create_for(user))))
            }
            _ => Err(self.server(refused)),
        }
    }

    async fn write(&self, remove: &[Record], add: &[Record]) -> Result<()> {
        self.create().await?;
        let server = |error| self.server(error);
        let client = self.opened()?;
        client.batch_execute("BEGIN READ WRITE").await.map_err(server)?;
        // two that change the same record do so one after the other
        let done = async {
            client.batch_execute("LOCK TABLE rsrepl.control IN SHARE ROW EXCLUSIVE MODE").await?;
            for record in remove.iter().chain(add) {
                let (kind, lsn, time) = columns(record);
                client.execute(REMOVE, &[&self.slot, &kind, &lsn, &time]).await?;
            }
            for record in add {
                let (kind, lsn, time) = columns(record);
                client.execute(ADD, &[&self.slot, &kind, &lsn, &time, &record.note]).await?;
            }
            Ok(())
        };
        let done: Result<(), tokio_postgres::Error> = done.await;
        // a pause that a person relies on is on disk
        let end = match &done {
            Ok(()) => "SET LOCAL synchronous_commit = local; COMMIT",
            Err(_) => "ROLLBACK",
        };
        client.batch_execute(end).await.map_err(server)?;
        done.map_err(server)
    }

    async fn stored(&self) -> Result<Option<Lsn>> {
        if !self.exists("positions").await? {
            return Ok(None);
        }
        let row = self.opened()?.query_opt(POSITION, &[&self.slot]).await;
        let Some(row) = row.map_err(|error| self.server(error))? else { return Ok(None) };
        let applied: PgLsn = row.try_get(0).map_err(|error| self.server(error))?;
        Ok(Some(Lsn(applied.into())).filter(|lsn| *lsn != Lsn::INVALID))
    }
}

/// The statements with which the database's owner makes the table for `user`.
fn create_for(user: &str) -> String {
    format!("{CREATE}; GRANT SELECT, INSERT, UPDATE, DELETE ON rsrepl.control TO {}", ident(user))
}

fn columns(record: &Record) -> (&'static str, PgLsn, Option<SystemTime>) {
    (record.kind.as_str(), PgLsn::from(record.lsn.0), record.time.map(from_stream_time))
}

fn record(row: &Row) -> Option<Record> {
    let lsn: PgLsn = row.try_get(1).ok()?;
    let time: Option<SystemTime> = row.try_get(2).ok()?;
    Some(Record {
        kind: RecordKind::parse(row.try_get(0).ok()?)?,
        lsn: Lsn(lsn.into()),
        time: time.map(stream_time),
        note: row.try_get(3).ok()?,
    })
}

impl ControlTarget for PostgresControl {
    fn open(&mut self) -> Promise<'_, ()> {
        Box::pin(self.connect())
    }

    fn read(&mut self) -> Promise<'_, Vec<Record>> {
        Box::pin(self.all())
    }

    fn change<'a>(&'a mut self, remove: &'a [Record], add: &'a [Record]) -> Promise<'a, ()> {
        Box::pin(self.write(remove, add))
    }

    fn position(&mut self) -> Promise<'_, Option<Lsn>> {
        Box::pin(self.stored())
    }
}
