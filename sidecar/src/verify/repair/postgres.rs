//! Repairs a table of a PostgreSQL target, some rows in a transaction, during which the stream waits.
//!
//! In a transaction everything is deleted first and then inserted, so that a unique value may go from one
//! row to another, and keys and identity columns are set too. Where the target has columns of its own, which
//! would be lost, rows are updated instead. Rows that cannot be written are set aside, and the others go on.

use std::time::Duration;

use tokio_postgres::Client;

use super::super::differences::{Difference, Kind as What};
use super::super::key::Key;
use super::super::postgres::{self, failed, wal_end};
use super::super::sides::Source;
use super::super::tables::Table;
use super::super::target::{PgSession, Target};
use super::super::view::{Found, View};
use super::super::visible;
use super::{Values, read, version};
use crate::error::{Error, Kind, Result};
use crate::quote::{identifier, literal};
use crate::target::postgres::open_to_repair;

/// Rows in one transaction.
const ROWS_MAX: usize = 50;
/// How often a lock is tried for that the stream has.
const ATTEMPTS: u32 = 20;
/// Rows that are named which cannot be written.
const NAMED_MAX: usize = 5;
/// SQLSTATEs of a lock that was not to be had, and of a deadlock.
const LOCKED: [&str; 2] = ["55P03", "40P01"];
/// For all that is asked of the source while the stream waits.
const SOURCE_LIMIT: Duration = Duration::from_secs(2);

/// It waits shorter for locks than what finds deadlocks, so that it is never the stream that gives way; and it
/// ends when nothing comes any more, whatever has become of this process.
const BEGIN: &str = "BEGIN; SET LOCAL lock_timeout = '300ms'; SET LOCAL statement_timeout = '2s'; \
                     SET LOCAL idle_in_transaction_session_timeout = '4s'";

/// The columns of the target that are written.
struct Columns {
    names: Vec<String>,
    /// Those that UPDATE can set.
    settable: Vec<bool>,
    /// It has others, that the source knows nothing of.
    has_own: bool,
}

impl Columns {
    async fn read(writer: &Client, table: &Table, there: &postgres::Table) -> Result<Columns> {
        let sql = "SELECT a.attname::text, a.attidentity = 'a' FROM pg_catalog.pg_attribute AS a
                   WHERE a.attrelid = pg_catalog.to_regclass($1) AND a.attnum > 0
                     AND NOT a.attisdropped AND a.attgenerated = ''";
        let rows = writer.query(sql, &[&name(there)]).await;
        let rows = rows.map_err(|error| failed(&there.who, error))?;
        let mut columns = Columns { names: Vec::new(), settable: Vec::new(), has_own: false };
        for row in &rows {
            let name: String = row.get(0);
            if table.scope.relation.columns.iter().any(|column| column.name == name) {
                columns.names.push(identifier(&name));
                columns.settable.push(!row.get::<_, bool>(1));
            } else {
                columns.has_own = true;
            }
        }
        Ok(columns)
    }
}

fn name(there: &postgres::Table) -> &str {
    there.from.trim_start_matches("ONLY ")
}

/// Why a transaction was not committed.
enum Fault {
    /// Somebody has a lock, or a transaction of the source is not shown yet.
    Locked,
    /// What is in the rows.
    Row(tokio_postgres::Error),
    Other(Error),
}

impl Fault {
    fn of(who: &str, error: tokio_postgres::Error) -> Fault {
        let code = error.code().map_or("", |code| code.code());
        let of_row = ["22", "23", "44", "P0"].iter().any(|class| code.starts_with(class));
        match code {
            code if LOCKED.contains(&code) => Fault::Locked,
            "428C9" => Fault::Row(error),
            _ if of_row => Fault::Row(error),
            _ => Fault::Other(failed(&format!("{who}: repairing"), error)),
        }
    }
}

struct Repair<'a> {
    /// For what nobody waits for.
    source: &'a Source,
    /// For what is asked while the stream waits.
    impatient: Client,
    writer: Client,
    columns: Columns,
    table: &'a Table,
    target: &'a Target,
    session: &'a PgSession,
    there: &'a postgres::Table,
}

/// Why rows are left.
pub(super) async fn repair(
    source: &Source,
    table: &Table,
    target: &Target,
    session: &PgSession,
    there: &postgres::Table,
    differences: &[Difference],
) -> Result<Vec<String>> {
    let slot = &session.source.slot;
    let writer = open_to_repair(&target.name, &session.connection, slot).await?;
    let columns = Columns::read(&writer, table, there).await?;
    let impatient = postgres::open_impatient("the source", &source.connection).await?;
    let work = Repair { source, impatient, writer, columns, table, target, session, there };
    work.all(differences).await
}

impl Repair<'_> {
    /// In parts; one that has a row that cannot be written is divided until it is alone.
    async fn all(&self, differences: &[Difference]) -> Result<Vec<String>> {
        let all: Vec<&Difference> = differences.iter().collect();
        let mut parts: Vec<Vec<&Difference>> = all.chunks(ROWS_MAX).map(<[_]>::to_vec).collect();
        parts.reverse();
        let mut left = Vec::new();
        while let Some(part) = parts.pop() {
            match (self.part(&part).await?, part.as_slice()) {
                (None, _) => {}
                (Some(error), [only]) => left.push((*only, error)),
                (Some(_), part) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second.to_vec(), first.to_vec()]);
                }
            }
        }
        // they may have been in each other's way
        let again: Vec<&Difference> = left.iter().map(|(difference, _)| *difference).collect();
        if (2..=ROWS_MAX).contains(&again.len()) && self.part(&again).await?.is_none() {
            left.clear();
        }
        let named = left.iter().take(NAMED_MAX);
        let mut why: Vec<String> =
            named.map(|(row, error)| format!("{}: {error}", row.key.join(" "))).collect();
        if left.len() > NAMED_MAX {
            why.push(format!("and {} more", left.len() - NAMED_MAX));
        }
        Ok(why)
    }

    /// What is in the rows that keeps them from being written.
    async fn part(&self, differences: &[&Difference]) -> Result<Option<String>> {
        let keys: Vec<&Key> = differences.iter().map(|difference| &difference.key).collect();
        let value = |name| format!("CASE WHEN num_nonnulls({name}) = 1 THEN concat({name}) END");
        let values: Vec<String> = self.columns.names.iter().map(value).collect();
        for _ in 0..ATTEMPTS {
            let source = &self.source.look;
            let rows = read(source, self.table, &keys, &values).await?;
            let lsn = wal_end(source).await?;
            self.target.wait_for(lsn, async || Ok(false)).await?;
            let Err(fault) = self.write(differences, &keys, &rows).await else { return Ok(None) };
            let _ = self.writer.batch_execute("ROLLBACK").await;
            match fault {
                Fault::Locked => tokio::time::sleep(Duration::from_millis(50)).await,
                Fault::Row(error) => return Ok(Some(message(&error))),
                Fault::Other(error) => return Err(error),
            }
        }
        Err(Error::new(
            Kind::Server,
            format!("{}: rows stay locked, or a transaction waits on the source", self.there.who),
        )
        .hint("look who writes to them, and run it again"))
    }

    /// One transaction, while the position stands still.
    async fn write(
        &self,
        differences: &[&Difference],
        keys: &[&Key],
        rows: &[Option<Values>],
    ) -> Result<(), Fault> {
        let fault = |error| Fault::of(&self.there.who, error);
        self.writer.batch_execute(BEGIN).await.map_err(fault)?;
        let lock = "SELECT FROM rsrepl.positions WHERE slot = $1 FOR UPDATE";
        self.writer.query(lock, &[&self.session.source.slot]).await.map_err(fault)?;
        self.session.position_by(&self.writer).await.map_err(Fault::Other)?;
        if self.is_synced().await.map_err(fault)? {
            let what = format!("{} is being copied anew", self.there.who);
            return Err(Fault::Other(Error::new(Kind::Server, what)));
        }
        let here = tokio::time::timeout(SOURCE_LIMIT, self.look_again(keys)).await;
        let here = here.map_err(|_| {
            Fault::Other(Error::new(Kind::Connection, "the source does not answer"))
        })??;
        let there = View::Postgres(&self.writer, self.there).look_up(keys).await;
        let there = there.map_err(Fault::Other)?;
        let mut statements = Statements::default();
        for (((difference, row), here), there) in
            differences.iter().zip(rows).zip(&here).zip(&there)
        {
            let called = difference.look.target.as_ref().map(|seen| seen.version.as_str());
            let read = row.as_ref().map(|row| row.version.as_str());
            if read == version(here) && called == version(there) {
                let row = row.as_ref();
                self.add(&mut statements, difference, row).map_err(Fault::Other)?;
            }
        }
        let Statements { deletes, inserts } = statements;
        let all: Vec<String> = deletes.into_iter().chain(inserts).collect();
        let text = format!("{}; COMMIT", all.join("; "));
        self.writer.batch_execute(&text).await.map_err(fault)
    }

    /// Another stream has the table: that the main stream's position stands still says nothing of it.
    async fn is_synced(&self) -> std::result::Result<bool, tokio_postgres::Error> {
        const EXISTS: &str = "SELECT pg_catalog.to_regclass('rsrepl.syncs') IS NOT NULL";
        const SYNCED: &str = "SELECT EXISTS (SELECT FROM rsrepl.syncs \
             WHERE slot = $1 AND source_oid = $2 AND (sync_slot <> '' OR stage IN ('given up', 'requested again')))";
        if !self.writer.query_one(EXISTS, &[]).await?.try_get::<_, bool>(0)? {
            return Ok(false);
        }
        let oid = i64::from(self.table.scope.relation.oid);
        let row = self.writer.query_one(SYNCED, &[&self.session.source.slot, &oid]).await?;
        row.try_get(0)
    }

    /// The source's rows, once they show all that the target has.
    async fn look_again(&self, keys: &[&Key]) -> Result<Vec<Option<Found>>, Fault> {
        let work = async {
            let horizon = visible::horizon(&self.impatient).await?;
            let visibility = &self.source.visibility;
            if !visibility.reaches_at_once(&self.impatient, horizon).await? {
                return Ok(None);
            }
            let source = View::Postgres(&self.impatient, &self.table.source);
            source.look_up(keys).await.map(Some)
        };
        work.await.map_err(Fault::Other)?.ok_or(Fault::Locked)
    }

    fn add(
        &self,
        statements: &mut Statements,
        difference: &Difference,
        row: Option<&Values>,
    ) -> Result<()> {
        let columns = self.there.key.iter().zip(&difference.key);
        let equal = columns.map(|(column, value)| {
            format!("{} = {}::{}", column.name, literal(value), column.type_name)
        });
        let equal = equal.collect::<Vec<_>>().join(" AND ");
        let from = &self.there.from;
        let delete = format!("DELETE FROM {from} WHERE {equal}");
        match (difference.kind, row) {
            (What::Surplus, None) => statements.deletes.push(delete),
            (What::Missing, Some(row)) => statements.inserts.push(self.insert(row)?),
            (What::Changed, Some(row)) if self.columns.has_own => {
                let values = self.values(row)?;
                let columns = self.columns.names.iter().zip(&self.columns.settable).zip(values);
                let set = columns.filter(|((_, settable), _)| **settable);
                let set: Vec<String> =
                    set.map(|((name, _), value)| format!("{name} = {value}")).collect();
                if !set.is_empty() {
                    let set = set.join(", ");
                    statements.inserts.push(format!("UPDATE {from} SET {set} WHERE {equal}"));
                }
            }
            (What::Changed, Some(row)) => {
                statements.deletes.push(delete);
                statements.inserts.push(self.insert(row)?);
            }
            // it has changed on the source since
            _ => {}
        }
        Ok(())
    }

    fn insert(&self, row: &Values) -> Result<String> {
        Ok(format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})",
            name(self.there),
            self.columns.names.join(", "),
            self.values(row)?.join(", ")
        ))
    }

    fn values(&self, row: &Values) -> Result<Vec<String>> {
        let value = |n| {
            let text: Option<&str> = row.get(n)?;
            Ok(text.map_or_else(|| "NULL".to_owned(), literal))
        };
        (0..self.columns.names.len()).map(value).collect()
    }
}

#[derive(Default)]
struct Statements {
    deletes: Vec<String>,
    /// And updates.
    inserts: Vec<String>,
}

fn message(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned())
}
