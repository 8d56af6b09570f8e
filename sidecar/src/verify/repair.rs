//! Sends rows again that differ, beside the stream that goes on.
//!
//! A row may be written only when it is what the stream would have left: the source's row as of the target's
//! position. It is read, the stream comes to the target up to there, and it is read again: the same version, so
//! nothing that the stream has brought or will bring up to now changes it. What comes later goes over it.
//!
//! - **PostgreSQL**: the second look is taken while the row of `rsrepl.positions` is locked, so that the target
//!   stays where it is until the repair is committed; and the target's row must be the version that was called
//!   different. So a row that the stream itself has just brought is never touched.
//! - **ClickHouse**: the row's version is the end of the source's WAL at the first look, with the highest lower
//!   half: newer than what the stream brought up to there, and older than every transaction behind it.
//!
//! What has changed meanwhile is left out, and looked at again with the others afterwards.

use rsrepl_wire::Lsn;
use tokio_postgres::{Client, Row};

use super::clickhouse::{self, Mirror};
use super::differences::Difference;
use super::key::{self, Key};
use super::postgres::{self, failed, wal_end};
use super::tables::{Table, TargetTable};
use super::target::{PgSession, Session, Target};
use super::view::{Found, View};
use crate::error::{Error, Kind, Result};
use crate::quote::{identifier, literal};
use crate::target::clickhouse::{ColumnType, version_at};
use crate::target::postgres::open_to_repair;

/// Rows in one transaction, during which the stream waits.
const POSTGRES_MAX: usize = 50;
/// Rows in one INSERT.
const CLICKHOUSE_MAX: usize = 100;
/// How often a lock is tried for that the stream has.
const ATTEMPTS: u32 = 20;
/// SQLSTATEs of a lock that was not to be had, and of a deadlock.
const LOCKED: [&str; 2] = ["55P03", "40P01"];

/// Writes the rows of a table that differ on a target.
pub(crate) async fn repair(
    source: &Client,
    table: &Table,
    target: &Target,
    number: usize,
    differences: &[Difference],
) -> Result<()> {
    let Some(Ok(there)) = table.there.get(number) else { return Ok(()) };
    match (&target.session, &there.table) {
        (Ok(Session::Postgres(session)), TargetTable::Postgres(there)) => {
            let writer = open_to_repair(&target.name, &session.connection, &session.slot).await?;
            let columns = Columns::read(&writer, table, there).await?;
            for some in differences.chunks(POSTGRES_MAX) {
                let work = Postgres { source, table, target, there, session, columns: &columns };
                work.repair(&writer, some).await?;
            }
            Ok(())
        }
        (Ok(Session::ClickHouse(mirror)), TargetTable::ClickHouse(there)) => {
            for some in differences.chunks(CLICKHOUSE_MAX) {
                let work = ClickHouse { source, table, target, there, mirror };
                work.repair(some).await?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn keys(differences: &[Difference]) -> Vec<&Key> {
    differences.iter().map(|difference| &difference.key).collect()
}

fn version(found: &Option<Found>) -> Option<&str> {
    found.as_ref().map(|found| found.version.as_str())
}

/// Rows of the source with their values, by the numbers of the keys.
async fn read(
    source: &Client,
    table: &Table,
    keys: &[&Key],
    values: &[String],
) -> Result<Vec<Option<Row>>> {
    let filter = table.scope.filter.as_deref().unwrap_or("true");
    let sql = format!(
        "SELECT _rsrepl_n, t.tableoid || ' ' || t.ctid || ' ' || t.xmin, {} FROM {} WHERE {filter}",
        values.join(", "),
        table.source.join_keys(),
    );
    let columns = key::columns_of(keys, table.source.key.len());
    let parameters: Vec<_> = columns.iter().map(|column| column as _).collect();
    let rows = source.query(&sql, &parameters).await;
    let mut found: Vec<Option<Row>> = keys.iter().map(|_| None).collect();
    for row in rows.map_err(|error| failed(&table.source.who, error))? {
        let place = usize::try_from(row.get::<_, i64>(0) - 1).unwrap_or(usize::MAX);
        if let Some(place) = found.get_mut(place) {
            *place = Some(row);
        }
    }
    Ok(found)
}

/// The columns of a PostgreSQL target that are written.
struct Columns(Vec<String>);

impl Columns {
    async fn read(writer: &Client, table: &Table, there: &postgres::Table) -> Result<Columns> {
        let sql = "SELECT a.attname::text FROM pg_catalog.pg_attribute AS a
                   WHERE a.attrelid = pg_catalog.to_regclass($1) AND a.attnum > 0
                     AND NOT a.attisdropped AND a.attgenerated = ''";
        let rows = writer.query(sql, &[&name(there)]).await;
        let rows = rows.map_err(|error| failed(&there.who, error))?;
        let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let columns = table.scope.relation.columns.iter().filter(|c| names.contains(&c.name));
        Ok(Columns(columns.map(|column| identifier(&column.name)).collect()))
    }
}

fn name(there: &postgres::Table) -> &str {
    there.from.trim_start_matches("ONLY ")
}

struct Postgres<'a> {
    source: &'a Client,
    table: &'a Table,
    target: &'a Target,
    there: &'a postgres::Table,
    session: &'a PgSession,
    columns: &'a Columns,
}

impl Postgres<'_> {
    async fn repair(&self, writer: &Client, differences: &[Difference]) -> Result<()> {
        let keys = keys(differences);
        let values: Vec<String> = self
            .columns
            .0
            .iter()
            .map(|name| format!("CASE WHEN num_nonnulls({name}) = 1 THEN concat({name}) END"))
            .collect();
        for _ in 0..ATTEMPTS {
            let rows = read(self.source, self.table, &keys, &values).await?;
            let lsn = wal_end(self.source).await?;
            self.target.wait_for(lsn, async || Ok(false)).await?;
            match self.write(writer, differences, &keys, &rows).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    let _ = writer.batch_execute("ROLLBACK").await;
                    let locked = error.code().is_some_and(|code| LOCKED.contains(&code.code()));
                    if !locked {
                        return Err(failed(&format!("{}: repairing", self.there.who), error));
                    }
                }
            }
        }
        Err(Error::new(Kind::Server, format!("{}: rows stay locked", self.there.who))
            .hint("look who writes to them, and run it again"))
    }

    /// One transaction, while the position stands still. It waits shorter than what finds deadlocks, so
    /// that it is never the stream that gives way.
    async fn write(
        &self,
        writer: &Client,
        differences: &[Difference],
        keys: &[&Key],
        rows: &[Option<Row>],
    ) -> Result<(), tokio_postgres::Error> {
        writer.batch_execute("BEGIN; SET LOCAL lock_timeout = '300ms'").await?;
        let lock = "SELECT FROM rsrepl.positions WHERE slot = $1 FOR UPDATE";
        writer.query(lock, &[&self.session.slot]).await?;
        let source = View::Postgres(self.source, &self.table.source);
        let here = source.look_up(keys).await;
        let there = View::Postgres(writer, self.there).look_up(keys).await;
        let (Ok(here), Ok(there)) = (here, there) else {
            // nothing is known, so nothing is written
            return writer.batch_execute("ROLLBACK").await;
        };
        let mut statements = Vec::new();
        for (((difference, row), here), there) in
            differences.iter().zip(rows).zip(&here).zip(&there)
        {
            let read: Option<&str> = row.as_ref().map(|row| row.get(1));
            let called = difference.look.target.as_ref().map(|seen| seen.version.as_str());
            if read == version(here) && called == version(there) {
                statements.extend(self.statement(&difference.key, row.as_ref(), there.is_some()));
            }
        }
        for statement in statements {
            writer.batch_execute(&statement).await?;
        }
        writer.batch_execute("COMMIT").await
    }

    fn statement(&self, key: &Key, row: Option<&Row>, is_there: bool) -> Option<String> {
        let from = &self.there.from;
        let columns = self.there.key.iter().zip(key);
        let equal = columns.map(|(column, value)| {
            format!("{} = {}::{}", column.name, literal(value), column.type_name)
        });
        let equal = equal.collect::<Vec<_>>().join(" AND ");
        let value = |row: &Row, n: usize| match row.get::<_, Option<&str>>(n + 2) {
            Some(text) => literal(text),
            None => "NULL".to_owned(),
        };
        let is_key = |name: &String| self.there.key.iter().any(|column| column.name == *name);
        match (row, is_there) {
            (None, false) => None,
            (None, true) => Some(format!("DELETE FROM {from} WHERE {equal}")),
            (Some(row), true) => {
                let columns = self.columns.0.iter().enumerate();
                let set: Vec<String> = columns
                    .filter(|(_, name)| !is_key(name))
                    .map(|(n, name)| format!("{name} = {}", value(row, n)))
                    .collect();
                let set = set.join(", ");
                (!set.is_empty()).then(|| format!("UPDATE {from} SET {set} WHERE {equal}"))
            }
            (Some(row), false) => {
                let values: Vec<String> =
                    (0..self.columns.0.len()).map(|n| value(row, n)).collect();
                Some(format!(
                    "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})",
                    name(self.there),
                    self.columns.0.join(", "),
                    values.join(", ")
                ))
            }
        }
    }
}

struct ClickHouse<'a> {
    source: &'a Client,
    table: &'a Table,
    target: &'a Target,
    there: &'a clickhouse::Table,
    mirror: &'a Mirror,
}

impl ClickHouse<'_> {
    async fn repair(&self, differences: &[Difference]) -> Result<()> {
        let columns = &self.there.columns;
        let is_point = |ty: &ColumnType| matches!(ty, ColumnType::Point(_));
        if columns.len() < self.table.scope.relation.columns.len()
            || columns.iter().any(|column| is_point(&column.ty))
        {
            return Err(Error::new(
                Kind::Setup,
                format!("{} has columns that rows are not repaired with", self.there.name),
            )
            .hint("write to these rows on the source, so that the stream brings them"));
        }
        let keys = keys(differences);
        let values: Vec<String> =
            columns.iter().map(|column| column.form.value_in_postgres(&column.source)).collect();
        let rows = read(self.source, self.table, &keys, &values).await?;
        let lsn = wal_end(self.source).await?;
        self.target.wait_for(lsn, async || Ok(false)).await?;
        let here = View::Postgres(self.source, &self.table.source).look_up(&keys).await?;
        let there = View::ClickHouse(self.mirror, self.there).look_up(&keys).await?;
        let (mut tuples, mut gone) = (Vec::new(), Vec::new());
        for (((key, row), here), there) in keys.iter().zip(&rows).zip(&here).zip(&there) {
            let read: Option<&str> = row.as_ref().map(|row| row.get(1));
            if read != version(here) || !is_older(there, lsn) {
                continue;
            }
            match (row, there) {
                (Some(row), _) => tuples.push(self.tuple(row, lsn)),
                (None, Some(_)) => gone.push(*key),
                (None, None) => {}
            }
        }
        self.insert(&tuples).await?;
        self.delete(&gone, lsn).await
    }

    fn tuple(&self, row: &Row, lsn: Lsn) -> String {
        let values = self.there.columns.iter().enumerate().map(|(n, column)| match &column.ty {
            ColumnType::Array(scalar) | ColumnType::Matrix(scalar) => {
                let form = match &column.form {
                    super::form::Form::Array(element, _) => element.as_ref(),
                    form => form,
                };
                let elements: Option<Vec<Option<String>>> = row.get(n + 2);
                let element = |text: Option<String>| {
                    text.map_or("NULL".to_owned(), |text| form.literal(&text, scalar))
                };
                let elements: Vec<_> =
                    elements.unwrap_or_default().into_iter().map(element).collect();
                let ty = crate::target::clickhouse::literal(&column.ty.to_string());
                format!("CAST([{}], {ty})", elements.join(", "))
            }
            ColumnType::Plain(scalar) | ColumnType::Nullable(scalar) => {
                let text: Option<String> = row.get(n + 2);
                text.map_or("NULL".to_owned(), |text| column.form.literal(&text, scalar))
            }
            ColumnType::Point(_) => "NULL".to_owned(),
        });
        let values: Vec<String> = values.collect();
        format!("({}, {}, 0)", values.join(", "), number(lsn))
    }

    async fn insert(&self, tuples: &[String]) -> Result<()> {
        if tuples.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = self.there.columns.iter().map(|c| c.name.as_str()).collect();
        let sql = format!(
            "INSERT INTO {} ({}, `_rsrepl_version`, `_rsrepl_deleted`) \
             SETTINGS async_insert = 0 VALUES {}",
            self.there.name,
            names.join(", "),
            tuples.join(", ")
        );
        self.mirror.execute(&self.there.name, &sql).await
    }

    async fn delete(&self, keys: &[&Key], lsn: Lsn) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = self.there.key.iter().map(|c| c.name.as_str()).collect();
        let names = names.join(", ");
        let sql = format!(
            "INSERT INTO {table} ({names}, `_rsrepl_version`, `_rsrepl_deleted`) \
             SELECT {names}, {}, 1 FROM {table} FINAL WHERE {}",
            number(lsn),
            key::keys_in_clickhouse(&self.there.key, keys),
            table = self.there.name,
        );
        self.mirror.execute(&self.there.name, &sql).await
    }
}

/// The version as a literal: numbers are read as 64 bits.
fn number(lsn: Lsn) -> String {
    format!("toUInt128('{}')", version_at(lsn))
}

/// One that is newer would win.
fn is_older(there: &Option<Found>, lsn: Lsn) -> bool {
    version(there).is_none_or(|text| text.parse().is_ok_and(|there: u128| there <= version_at(lsn)))
}
