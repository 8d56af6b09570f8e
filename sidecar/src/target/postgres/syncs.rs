//! `rsrepl.syncs` on the target: which tables are copied anew beside the stream, and how far that is; and what is
//! recorded under the names of their slots, as long as they run.

pub(super) mod statements;

use rsrepl_wire::Lsn;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row};

use self::statements::*;
use super::evolve::{Evolution, Follows, has_rows};
use super::sql::ident;
use super::{PostgresOptions, errors, origin, positions, records, session};
use crate::copy::{CopiedTable, Promise};
use crate::error::{Error, Kind, Result};
use crate::sync::{CANCEL, Complete, Stage, SyncTarget, Table};
use crate::target::SourceIdentity;

/// See the module's documentation.
pub struct PostgresSyncs {
    options: PostgresOptions,
    open: Option<Open>,
}

struct Open {
    client: Client,
    source: SourceIdentity,
    /// Of the main stream.
    slot: String,
    /// When something was asked for, as the server's clock says.
    asked: Option<String>,
}

impl PostgresSyncs {
    /// No connection is made before [`open`](SyncTarget::open).
    pub fn new(options: PostgresOptions) -> Self {
        PostgresSyncs { options, open: None }
    }

    fn opened(&self) -> Result<&Open> {
        let name = &self.options.name;
        self.open
            .as_ref()
            .ok_or_else(|| Error::new(Kind::Internal, format!("target {name} is not open")))
    }

    fn server(&self, error: tokio_postgres::Error) -> Error {
        let refused = error.as_db_error().is_some_and(|db| db.code().code() == "42501");
        let error = errors::of_server(&self.options.name, "looking after rsrepl.syncs", error);
        match refused {
            true => error.hint(format!(
                "as the database's owner: GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA rsrepl TO {}",
                self.user()
            )),
            false => error,
        }
    }

    async fn connect(&mut self, source: &SourceIdentity) -> Result<()> {
        self.open = None;
        let client = session::open(&self.options.name, &self.options.connection).await?;
        self.open =
            Some(Open { client, source: source.clone(), slot: source.slot.clone(), asked: None });
        Ok(())
    }

    fn user(&self) -> String {
        ident(self.options.connection.user())
    }

    /// Makes a table that is not there; who makes it may be an administrator, and not the role of the sidecar.
    async fn create(&self, table: &str, statement: &str) -> Result<()> {
        let Open { client, .. } = self.opened()?;
        let (name, user) = (&self.options.name, self.options.connection.user());
        positions::create(name, user, client).await?;
        if exists(client, table).await.map_err(|error| self.server(error))? {
            return Ok(());
        }
        let writers = client.query(WRITERS, &[]).await.map_err(|error| self.server(error))?;
        let writers = writers.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>();
        let writers = writers.map_err(|error| self.server(error))?;
        let grants = writers.iter().map(|writer| format!("; {}", grant(table, writer)));
        // one transaction
        let statements = format!("{statement}{}", grants.collect::<String>());
        let Err(refused) = client.batch_execute(&statements).await else { return Ok(()) };
        match refused.as_db_error().map(|db| db.code().code()) {
            // another one was faster
            Some("42P07" | "23505") => Ok(()),
            Some("42501") => {
                let what = format!("target {name}: {user} may not create rsrepl.{table}");
                let grant = grant(table, &self.user());
                let mend = format!("as the database's owner: {statement}; {grant}");
                Err(Error::new(Kind::Setup, what).hint(mend))
            }
            _ => Err(self.server(refused)),
        }
    }

    async fn all(&mut self) -> Result<Vec<Table>> {
        let Open { client, slot, .. } = self.opened()?;
        if !exists(client, "syncs").await.map_err(|error| self.server(error))? {
            return Ok(Vec::new());
        }
        let rows = client.query(READ, &[slot]).await.map_err(|error| self.server(error))?;
        rows.iter().map(|row| table(row).ok_or_else(|| self.unreadable())).collect()
    }

    fn unreadable(&self) -> Error {
        let what = format!("target {}: rsrepl.syncs cannot be read", self.options.name);
        Error::new(Kind::Setup, what)
            .hint("it was written by a later version of rsrepl: use that one")
    }

    /// In one transaction.
    async fn in_one<T>(&self, work: impl AsyncFnOnce(&Open) -> Result<T>) -> Result<T> {
        let open = self.opened()?;
        let server = |error| self.server(error);
        open.client.batch_execute("BEGIN READ WRITE").await.map_err(server)?;
        let done = work(open).await;
        let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
        open.client.batch_execute(end).await.map_err(server)?;
        done
    }

    async fn record(&self, open: &Open, tables: &[Table]) -> Result<()> {
        for Table { oid, name, stage, slot, hand_over, error } in tables {
            let (oid, hand_over) = (i64::from(*oid), PgLsn::from(hand_over.0));
            let stage = stage.as_str();
            open.client
                .execute(WRITE, &[&open.slot, &oid, name, &stage, slot, &hand_over, error])
                .await
                .map_err(|error| self.server(error))?;
        }
        Ok(())
    }

    async fn forget(&self, open: &Open, slot: &str) -> Result<()> {
        for table in OF_SLOT {
            if exists(&open.client, table).await.map_err(|error| self.server(error))? {
                let delete = format!("DELETE FROM rsrepl.{} WHERE slot = $1", ident(table));
                open.client.execute(&delete, &[&slot]).await.map_err(|error| self.server(error))?;
            }
        }
        Ok(())
    }

    async fn begun(&mut self, slot: &str) -> Result<bool> {
        let Open { client, source, .. } = self.opened()?;
        if exists(client, "positions").await.map_err(|error| self.server(error))? {
            let source = SourceIdentity { slot: slot.to_owned(), ..source.clone() };
            let position = positions::look_up(&self.options.name, client, &source).await?;
            if position.is_some_and(|lsn| lsn != Lsn::INVALID) {
                return Ok(true);
            }
        }
        if !exists(client, "copies").await.map_err(|error| self.server(error))? {
            return Ok(false);
        }
        let row = client.query_one(HAS_COPY, &[&slot]).await;
        row.and_then(|row| row.try_get(0)).map_err(|error| self.server(error))
    }

    async fn take_shapes(&mut self, slot: &str, tables: &[Table]) -> Result<()> {
        self.in_one(async |open| {
            self.forget(open, slot).await?;
            if exists(&open.client, "tables").await.map_err(|error| self.server(error))? {
                open.client
                    .execute(TAKE_SHAPES, &[&slot, &open.slot, &oids(tables)])
                    .await
                    .map_err(|error| self.server(error))?;
            }
            Ok(())
        })
        .await
    }

    /// `all`: also of tables of which nothing is known any more.
    async fn give_back(&mut self, slot: &str, tables: &[Table], all: bool) -> Result<()> {
        self.in_one(async |open| {
            let server = |error| self.server(error);
            if exists(&open.client, "tables").await.map_err(server)? {
                let (client, to, oids) = (&open.client, &open.slot, oids(tables));
                let forgotten = match all {
                    true => client.execute(FORGET_SHAPES, &[to, &oids]).await,
                    false => client.execute(FORGET_KNOWN, &[to, &oids, &slot]).await,
                };
                forgotten.map_err(server)?;
                client.execute(TAKE_SHAPES, &[to, &slot, &oids]).await.map_err(server)?;
            }
            self.record(open, tables).await
        })
        .await
    }

    async fn stop(&mut self, tables: &[Table]) -> Result<()> {
        if !exists(&self.opened()?.client, "syncs").await.map_err(|error| self.server(error))? {
            return Ok(());
        }
        self.in_one(async |open| {
            let (server, oids) = (|error| self.server(error), oids(tables));
            let Open { client, slot, .. } = open;
            client.execute(WITHDRAW, &[slot, &oids]).await.map_err(server)?;
            client.execute(HOLD_AGAIN, &[slot, &oids]).await.map_err(server)?;
            let begun = client.execute(CANCEL_BEGUN, &[slot, &oids, &CANCEL]).await;
            begun.map(drop).map_err(server)
        })
        .await
    }

    async fn stopped(&mut self, slot: &str) -> Result<Vec<u32>> {
        let Open { client, .. } = self.opened()?;
        let rows = client.query(CANCELLED, &[&slot, &CANCEL]).await;
        let rows = rows.map_err(|error| self.server(error))?;
        let oid = |row: &Row| u32::try_from(row.try_get::<_, i64>(0).ok()?).ok();
        rows.iter().map(|row| oid(row).ok_or_else(|| self.unreadable())).collect()
    }

    async fn handed_over(&mut self, oid: u32) -> Result<bool> {
        let Open { client, slot, asked, .. } = self.opened()?;
        let Some(asked) = asked else { return Ok(false) };
        let server = |error| self.server(error);
        if !exists(client, "tables").await.map_err(server)? {
            return Ok(false);
        }
        let row = client.query_one(HANDED_OVER, &[slot, &i64::from(oid), asked]).await;
        row.and_then(|row| row.try_get(0)).map_err(server)
    }

    async fn list(&mut self) -> Result<Option<Complete>> {
        let Open { client, slot, .. } = self.opened()?;
        if !exists(client, "complete").await.map_err(|error| self.server(error))? {
            return Ok(None);
        }
        let sql = "SELECT list FROM rsrepl.complete WHERE slot = $1";
        let row = client.query_opt(sql, &[slot]).await.map_err(|error| self.server(error))?;
        let Some(row) = row else { return Ok(None) };
        let text: String = row.try_get(0).map_err(|error| self.server(error))?;
        serde_json::from_str(&text).map(Some).map_err(|_| self.unreadable())
    }

    async fn set_list(&mut self, list: &Complete) -> Result<()> {
        self.create("complete", CREATE_COMPLETE).await?;
        let Open { client, slot, .. } = self.opened()?;
        let text = serde_json::to_string(list).unwrap_or_default();
        let set = client.execute(SET_COMPLETE, &[slot, &text]).await;
        set.map(drop).map_err(|error| self.server(error))
    }

    async fn ask(&mut self, tables: &[Table]) -> Result<()> {
        self.create("syncs", CREATE).await?;
        let now = self.opened()?.client.query_one(NOW, &[]).await;
        let now = now.and_then(|row| row.try_get(0)).map_err(|error| self.server(error))?;
        if let Some(open) = &mut self.open {
            open.asked = Some(now);
        }
        self.in_one(async |open| {
            for Table { oid, name, stage, error, .. } in tables {
                let (oid, stage) = (i64::from(*oid), stage.as_str());
                open.client
                    .execute(REQUEST, &[&open.slot, &oid, name, &stage, error])
                    .await
                    .map_err(|error| self.server(error))?;
            }
            Ok(())
        })
        .await
    }

    async fn take_back(&mut self, tables: &[Table]) -> Result<()> {
        let Open { client, slot, .. } = self.opened()?;
        let taken = client.execute(WITHDRAW, &[slot, &oids(tables)]).await;
        taken.map(drop).map_err(|error| self.server(error))
    }

    async fn find_strange(&mut self, tables: &[Table]) -> Result<Vec<u32>> {
        let Open { client, slot, .. } = self.opened()?;
        let server = |error| self.server(error);
        let recorded = exists(client, "tables").await.map_err(server)?;
        let mut strange = Vec::new();
        for table in tables {
            let record = match recorded {
                true => records::read(client, slot, table.oid).await.map_err(server)?,
                false => None,
            };
            let record = record.filter(|record| !record.dropped);
            let had_rows = match record.and_then(|record| record.had_rows) {
                Some(had_rows) => had_rows,
                None => {
                    let found = client.query_opt(FIND, &[&table.name]).await.map_err(server)?;
                    match found {
                        Some(row) => {
                            let name: String = row.try_get(0).map_err(server)?;
                            has_rows(client, &name).await.map_err(server)?
                        }
                        None => false,
                    }
                }
            };
            if had_rows {
                strange.push(table.oid);
            }
        }
        Ok(strange)
    }

    async fn finish(&mut self, slot: &str, tables: &[Table]) -> Result<()> {
        let name = self.options.name.clone();
        origin::drop_all(&name, &self.opened()?.client, slot).await;
        self.in_one(async |open| {
            self.forget(open, slot).await?;
            let asked = open.client.execute(FORGET_CANCELLED, &[&slot]).await;
            asked.map_err(|error| self.server(error))?;
            let removed = open.client.execute(REMOVE, &[&open.slot, &oids(tables)]).await;
            removed.map(drop).map_err(|error| self.server(error))
        })
        .await
    }
}

/// The statements with which the database's owner makes the tables for `user`.
pub(super) fn create_for(user: &str) -> String {
    let tables = [("complete", CREATE_COMPLETE), ("syncs", CREATE)];
    tables.map(|(table, create)| format!("{create}; {}", grant(table, &ident(user)))).join("; ")
}

fn grant(table: &str, role: &str) -> String {
    format!("GRANT SELECT, INSERT, UPDATE, DELETE ON rsrepl.{table} TO {role}")
}

async fn exists(client: &Client, table: &str) -> Result<bool, tokio_postgres::Error> {
    let name = format!("rsrepl.{table}");
    client.query_one(EXISTS, &[&name]).await?.try_get(0)
}

fn oids(tables: &[Table]) -> Vec<i64> {
    tables.iter().map(|table| i64::from(table.oid)).collect()
}

fn table(row: &Row) -> Option<Table> {
    let hand_over: PgLsn = row.try_get(4).ok()?;
    Some(Table {
        oid: u32::try_from(row.try_get::<_, i64>(0).ok()?).ok()?,
        name: row.try_get(1).ok()?,
        stage: Stage::parse(row.try_get(2).ok()?)?,
        slot: row.try_get(3).ok()?,
        hand_over: Lsn(hand_over.into()),
        error: row.try_get(5).ok()?,
    })
}

impl SyncTarget for PostgresSyncs {
    fn open<'a>(&'a mut self, source: &'a SourceIdentity) -> Promise<'a, ()> {
        Box::pin(self.connect(source))
    }

    fn read(&mut self) -> Promise<'_, Vec<Table>> {
        Box::pin(self.all())
    }

    fn write<'a>(&'a mut self, tables: &'a [Table]) -> Promise<'a, ()> {
        Box::pin(async move {
            self.create("syncs", CREATE).await?;
            self.in_one(async |open| self.record(open, tables).await).await
        })
    }

    fn request<'a>(&'a mut self, tables: &'a [Table]) -> Promise<'a, ()> {
        Box::pin(self.ask(tables))
    }

    fn withdraw<'a>(&'a mut self, tables: &'a [Table]) -> Promise<'a, ()> {
        Box::pin(self.take_back(tables))
    }

    fn cancel<'a>(&'a mut self, tables: &'a [Table]) -> Promise<'a, ()> {
        Box::pin(self.stop(tables))
    }

    fn cancelled<'a>(&'a mut self, slot: &'a str) -> Promise<'a, Vec<u32>> {
        Box::pin(self.stopped(slot))
    }

    fn strange<'a>(&'a mut self, tables: &'a [Table]) -> Promise<'a, Vec<u32>> {
        Box::pin(self.find_strange(tables))
    }

    fn has_begun<'a>(&'a mut self, slot: &'a str) -> Promise<'a, bool> {
        Box::pin(self.begun(slot))
    }

    fn begin<'a>(&'a mut self, slot: &'a str, tables: &'a [Table]) -> Promise<'a, ()> {
        Box::pin(self.take_shapes(slot, tables))
    }

    fn hand_over<'a>(&'a mut self, slot: &'a str, tables: &'a [Table]) -> Promise<'a, ()> {
        Box::pin(self.give_back(slot, tables, true))
    }

    fn give_up<'a>(&'a mut self, slot: &'a str, tables: &'a [Table]) -> Promise<'a, ()> {
        Box::pin(self.give_back(slot, tables, false))
    }

    /// A table and its columns are told by their numbers here: what the main stream knows of them will do.
    fn rename<'a>(&'a mut self, _: &'a str, _: &'a str, _: &'a [Table]) -> Promise<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn was_handed_over(&mut self, oid: u32) -> Promise<'_, bool> {
        Box::pin(self.handed_over(oid))
    }

    fn end<'a>(&'a mut self, slot: &'a str, tables: &'a [Table]) -> Promise<'a, ()> {
        Box::pin(self.finish(slot, tables))
    }

    fn complete(&mut self) -> Promise<'_, Option<Complete>> {
        Box::pin(self.list())
    }

    fn set_complete<'a>(&'a mut self, list: &'a Complete) -> Promise<'a, ()> {
        Box::pin(self.set_list(list))
    }
}

/// Before a table is copied that is there already: empties it, and makes its columns what they are on the source by now.
pub(super) async fn prepare(
    target: &str,
    client: &Client,
    follows: &Follows,
    table: &CopiedTable,
) -> Result<()> {
    let evolution = Evolution { target, client, follows };
    let relation = &table.relation;
    if let Some(empties) = evolution.place(relation).await? {
        client
            .batch_execute(&empties)
            .await
            .map_err(|error| errors::of_server(target, &format!("emptying {relation}"), error))?;
    }
    evolution.fit(relation, table.whole).await
}
