//! Makes the target's table follow the source's: within the transaction of the rows around the change.

use std::collections::BTreeMap;
use std::sync::Arc;

use rsrepl_wire::{Lsn, Relation};
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row};

use super::alter::{self, Actual, ActualColumn, How, Planned};
use super::records::{self, Record};
use super::schemas::Step;
use super::sql::{self, ident};
use super::{ddl, errors};
use crate::error::{Error, Kind, Result};
use crate::schema::{Operation, Policy, Table, Verdict, What};

const BY_OID: &str = "\
SELECT c.oid, n.nspname, c.relname,
       EXISTS (SELECT FROM pg_catalog.pg_constraint AS k
                WHERE k.confrelid = c.oid AND k.contype = 'f' AND k.conrelid <> c.oid),
       c.relkind = 'p'
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND c.oid = $1";

const OID: &str = "\
SELECT c.oid FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND n.nspname = $1 AND c.relname = $2";

const COLUMNS: &str = "\
SELECT a.attnum, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull,
       pg_catalog.pg_get_expr(d.adbin, d.adrelid), a.attgenerated <> '', a.attidentity <> ''
  FROM pg_catalog.pg_attribute AS a
  LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

const POSITION: &str = "SELECT applied_lsn FROM rsrepl.positions WHERE slot = $1";

const HAS_SCHEMA: &str = "SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1";

/// What schema changes are followed by.
pub struct Follows {
    pub slot: String,
    pub policy: Policy,
    /// Of a sync: the slot of the stream beside it, and the LSN that the source is looked at.
    pub main: Option<(String, Lsn)>,
}

/// See the module's documentation.
pub struct Evolution<'a> {
    pub target: &'a str,
    pub client: &'a Client,
    pub follows: &'a Follows,
}

/// How an attempt ends.
enum Failure {
    Server(tokio_postgres::Error),
    /// While this was run.
    Statement(String, tokio_postgres::Error),
    Asks(Vec<(String, Vec<String>)>),
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Failure::Server(error)
    }
}

impl Evolution<'_> {
    /// Records a table that is not known yet, and makes it when it is missing.
    pub async fn seed(&self, relation: &Arc<Relation>) -> Result<()> {
        let to = Table::of_relation(relation);
        let done = self.change(to, How { command: None, rewrite: false }).await;
        done.map_err(|failure| self.error(failure, relation.to_string()))
    }

    /// The same of a table that is known; `whole`: what is not described is gone from the source.
    pub async fn fit(&self, relation: &Arc<Relation>, whole: bool) -> Result<()> {
        let to = Table::of_relation(relation);
        let done = async {
            let record = records::read(self.client, &self.follows.slot, to.oid).await?;
            let (to, command) = match record.filter(|record| !record.dropped) {
                Some(record) => (to.completed_by(&record.table), whole.then_some("ALTER TABLE")),
                None => (to, None),
            };
            self.change(to, How { command, rewrite: false }).await
        };
        done.await.map_err(|failure| self.error(failure, relation.to_string()))
    }

    /// The statement that empties the target's table of a relation; `None`: there is none.
    pub async fn place(&self, relation: &Arc<Relation>) -> Result<Option<String>> {
        let to = Table::of_relation(relation);
        let found = async {
            let record = records::read(self.client, &self.follows.slot, to.oid).await?;
            let record = record.filter(|record| !record.dropped);
            self.find(record.as_ref(), &to).await
        };
        let found = found.await.map_err(|error| self.error(error.into(), relation.to_string()))?;
        if let Some(actual) = &found {
            self.check_owner(relation, actual).await?;
        }
        Ok(found.map(|actual| {
            let name = sql::qualified(&actual.schema, &actual.name);
            let only = if actual.partitioned { "" } else { "ONLY " };
            // foreign keys of other tables refuse a TRUNCATE
            let verb = if actual.referenced { "DELETE FROM" } else { "TRUNCATE" };
            format!("{verb} {only}{name}")
        }))
    }

    /// A table of the target may still be that of one which the source has dropped or renamed since: the main stream
    /// has yet to get there.
    ///
    /// # Errors
    /// [`Kind::Server`]: it is looked at again.
    async fn check_owner(&self, relation: &Relation, actual: &Actual) -> Result<()> {
        let Some((main, at)) = &self.follows.main else { return Ok(()) };
        let found = async {
            let owner = records::owner(self.client, main, actual.oid, relation.oid).await?;
            let row = self.client.query_opt(POSITION, &[main]).await?;
            let position: Option<PgLsn> = row.map(|row| row.try_get(0)).transpose()?;
            // what it makes of the other one is made
            let is_there = position.is_some_and(|position| u64::from(position) >= at.0);
            Ok(owner.filter(|record| !record.dropped && !is_there))
        };
        let owner = found.await.map_err(|error: tokio_postgres::Error| {
            self.error(error.into(), relation.to_string())
        })?;
        let Some(owner) = owner else { return Ok(()) };
        let (target, found) = (self.target, sql::qualified(&actual.schema, &actual.name));
        Err(Error::new(
            Kind::Server,
            format!(
                "target {target}: {relation} (oid {}) is to be copied anew, and {found} is still that of {} (oid {})",
                relation.oid, owner.table, owner.table.oid
            ),
        )
        .hint("it goes on when the stream has brought what became of that one"))
    }

    pub async fn follow(&self, step: &Step) -> Result<()> {
        let (done, name, (lsn, end)) = match step {
            Step::Shown { relation, lsn, end_lsn } => {
                let how = How { command: None, rewrite: false };
                (
                    self.change(Table::of_relation(relation), how).await,
                    relation.to_string(),
                    (lsn, end_lsn),
                )
            }
            Step::Told { message, lsn, end_lsn } => {
                let table = message.table();
                let how = How { command: Some(&message.command), rewrite: message.rewrite };
                let done = match &message.what {
                    What::Is(table) => self.change(table.clone(), how).await,
                    What::Dropped(table) => self.drop(table).await,
                };
                (done, table.to_string(), (lsn, end_lsn))
            }
        };
        done.map_err(|failure| self.error(failure, name).at(*lsn).of_end(*end))
    }

    async fn change(&self, to: Table, how: How<'_>) -> Result<(), Failure> {
        let Follows { slot, policy, .. } = self.follows;
        let record =
            records::read(self.client, slot, to.oid).await?.filter(|record| !record.dropped);
        let to = match (&record, how.command) {
            (Some(record), None) => to.completed_by(&record.table),
            _ => to,
        };
        let actual = self.find(record.as_ref(), &to).await?;
        let mut owner = None;
        if let (None, Some(actual)) = (&record, &actual) {
            owner = records::owner(self.client, slot, actual.oid, to.oid).await?;
        }
        let planned =
            alter::plan(record.as_ref(), &to, actual.as_ref(), owner.as_ref(), how, *policy);
        self.run(&to, planned).await?;
        self.record(record, to).await
    }

    /// The source dropped it. What is not known is none of ours.
    async fn drop(&self, table: &Table) -> Result<(), Failure> {
        let Follows { slot, policy, .. } = self.follows;
        let Some(record) = records::read(self.client, slot, table.oid).await? else {
            return Ok(());
        };
        if policy.verdict(&Operation::DropTable) != Verdict::Apply {
            return Ok(
                records::write(self.client, slot, &Record { dropped: true, ..record }).await?
            );
        }
        // the oid alone may be another table's, in a database that was loaded from a dump
        let is_it = |actual: &Actual| {
            (&actual.schema, &actual.name) == (&record.table.schema, &record.table.name)
        };
        if let Some(actual) = self.look(record.target_oid).await?.filter(is_it) {
            let at = (actual.schema.as_str(), actual.name.as_str());
            let statements = ddl::statements(at, &Operation::DropTable, table, false);
            self.run(table, Planned { statements, asks: Vec::new() }).await?;
        }
        Ok(records::forget(self.client, slot, table.oid).await?)
    }

    async fn run(&self, to: &Table, planned: Planned) -> Result<(), Failure> {
        let Planned { mut statements, mut asks } = planned;
        let has_schema = !self.client.query(HAS_SCHEMA, &[&to.schema]).await?.is_empty();
        let schema = (!has_schema).then(|| format!("CREATE SCHEMA {}", ident(&to.schema)));
        if let Some((_, first)) = asks.first_mut() {
            first.splice(0..0, schema);
            return Err(Failure::Asks(asks));
        }
        if !statements.is_empty() {
            statements.splice(0..0, schema);
        }
        for statement in statements {
            tracing::info!(target_name = self.target, table = %to, statement, "the schema changes");
            // prepared, so that it is one statement whatever is in it
            if let Err(error) = self.client.execute(&statement, &[]).await {
                return Err(Failure::Statement(statement, error));
            }
        }
        Ok(())
    }

    /// Writes down what the table is now.
    async fn record(&self, before: Option<Record>, to: Table) -> Result<(), Failure> {
        let now = self.find(before.as_ref(), &to).await?;
        let known = before.as_ref().map(|record| record.had_rows);
        let mut places = BTreeMap::new();
        if let Some(now) = &now {
            let same = before.filter(|record| record.target_oid == now.oid);
            let still = |number: &i16| now.columns.iter().any(|column| column.number == *number);
            places.extend(same.into_iter().flat_map(|r| r.places).filter(|(_, n)| still(n)));
            for column in &to.columns {
                let found = now.columns.iter().find(|found| found.name == column.name);
                if let Some(found) = found {
                    places.entry(column.number).or_insert(found.number);
                }
            }
        }
        let target_oid = now.as_ref().map_or(0, |now| now.oid);
        let had_rows = match (known, &now) {
            (Some(had_rows), _) => had_rows,
            (None, Some(now)) => {
                Some(has_rows(self.client, &sql::qualified(&now.schema, &now.name)).await?)
            }
            (None, None) => Some(false),
        };
        let record = Record { table: to, dropped: false, had_rows, places, target_oid };
        Ok(records::write(self.client, &self.follows.slot, &record).await?)
    }

    /// The target's table: the one that it was, or else by its name, as it was or as it is to be. (In a
    /// database that was loaded from a dump, numbers are those of others.)
    async fn find(
        &self,
        record: Option<&Record>,
        to: &Table,
    ) -> Result<Option<Actual>, tokio_postgres::Error> {
        let known = self.look(record.map_or(0, |record| record.target_oid)).await?;
        let names = || record.map(|record| &record.table).into_iter().chain([to]);
        let is_name = |actual: &Actual| {
            names().any(|table| (&table.schema, &table.name) == (&actual.schema, &actual.name))
        };
        if known.as_ref().is_some_and(is_name) {
            return Ok(known);
        }
        for table in names() {
            if let Some(row) = self.client.query_opt(OID, &[&table.schema, &table.name]).await? {
                return self.look(row.try_get(0)?).await;
            }
        }
        Ok(known)
    }

    async fn look(&self, oid: u32) -> Result<Option<Actual>, tokio_postgres::Error> {
        let Some(row) = self.client.query_opt(BY_OID, &[&oid]).await? else { return Ok(None) };
        let column = |row: &Row| {
            Ok(ActualColumn {
                number: row.try_get(0)?,
                name: row.try_get(1)?,
                type_name: row.try_get(2)?,
                not_null: row.try_get(3)?,
                default: row.try_get(4)?,
                generated: row.try_get(5)?,
                identity: row.try_get(6)?,
            })
        };
        let columns = self.client.query(COLUMNS, &[&oid]).await?;
        Ok(Some(Actual {
            oid: row.try_get(0)?,
            schema: row.try_get(1)?,
            name: row.try_get(2)?,
            referenced: row.try_get(3)?,
            partitioned: row.try_get(4)?,
            columns: columns.iter().map(column).collect::<Result<_, tokio_postgres::Error>>()?,
        }))
    }

    fn error(&self, failure: Failure, table: String) -> Error {
        let Evolution { target, follows, .. } = self;
        match failure {
            Failure::Server(error) => errors::of_server(target, "following a schema change", error),
            Failure::Statement(statement, error) => {
                let error = errors::of_server(target, &format!("changing {table}"), error);
                // whatever the refusal is about, it is not about a row of the stream
                Error::new(
                    if error.kind() == Kind::Row { Kind::Setup } else { error.kind() },
                    error.what(),
                )
                .hint(format!(
                    "mend what it says{}; the statement was {statement}",
                    error.advice().map(|hint| format!(" ({hint})")).unwrap_or_default()
                ))
            }
            Failure::Asks(asks) => {
                let (what, run): (Vec<_>, Vec<_>) = asks.into_iter().unzip();
                let policy = follows.policy;
                Error::new(Kind::Setup, format!(
                    "target {target}: {table} was changed on the source ({}), which schema_changes = \"{policy}\" leaves to you",
                    what.join("; ")
                ))
                .hint(format!("on the target: {}", run.concat().join("; ")))
            }
        }
    }
}

/// Whether there is a row in a table, or in what belongs to it.
pub(super) async fn has_rows(client: &Client, table: &str) -> Result<bool, tokio_postgres::Error> {
    let sql = format!("SELECT EXISTS (SELECT FROM {table})");
    client.query_one(&sql, &[]).await?.try_get(0)
}
