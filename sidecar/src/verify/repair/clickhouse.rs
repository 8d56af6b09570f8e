//! Repairs a table of a ClickHouse target.

use rsrepl_wire::Lsn;

use super::super::clickhouse::{self, Mirror};
use super::super::differences::{Difference, Kind as What};
use super::super::form::Form;
use super::super::key::{self, Key};
use super::super::postgres::wal_end;
use super::super::sides::Source;
use super::super::tables::Table;
use super::super::target::Target;
use super::super::view::{Found, View};
use super::super::visible;
use super::{Values, read, version};
use crate::error::{Error, Kind, Result};
use crate::target::clickhouse::{ColumnType, literal, version_at};

/// Rows in one INSERT.
const ROWS_MAX: usize = 100;

struct Repair<'a> {
    source: &'a Source,
    table: &'a Table,
    target: &'a Target,
    mirror: &'a Mirror,
    there: &'a clickhouse::Table,
}

/// Why rows are left.
pub(super) async fn repair(
    source: &Source,
    table: &Table,
    target: &Target,
    mirror: &Mirror,
    there: &clickhouse::Table,
    differences: &[Difference],
) -> Result<Vec<String>> {
    let columns = &there.columns;
    let is_point = |ty: &ColumnType| matches!(ty, ColumnType::Point(_));
    if columns.len() < table.scope.relation.columns.len()
        || columns.iter().any(|column| is_point(&column.ty))
    {
        return Err(Error::new(
            Kind::Setup,
            format!("{} has columns that rows are not repaired with", there.name),
        )
        .hint("write to these rows on the source, so that the stream brings them"));
    }
    let work = Repair { source, table, target, mirror, there };
    let mut unsure = 0;
    for some in differences.chunks(ROWS_MAX) {
        if !work.part(some).await? {
            unsure += some.len();
        }
    }
    Ok(match unsure {
        0 => Vec::new(),
        n => vec![format!("{n} rows, as a commit waits on the source")],
    })
}

impl Repair<'_> {
    /// `false`: the source does not show all that the target may have.
    async fn part(&self, differences: &[Difference]) -> Result<bool> {
        let source = &self.source.look;
        let keys: Vec<&Key> = differences.iter().map(|difference| &difference.key).collect();
        let values = self.there.columns.iter();
        let values: Vec<String> = values.map(|c| c.form.value_in_postgres(&c.source)).collect();
        let rows = read(source, self.table, &keys, &values).await?;
        let lsn = wal_end(source).await?;
        self.target.wait_for(lsn, async || Ok(false)).await?;
        let truncated = self.mirror.truncated(&self.table.scope.relation).await?;
        if self.mirror.is_synced(&self.table.scope.relation).await? {
            let what = format!("{} is being copied anew", self.there.name);
            return Err(Error::new(Kind::Server, what));
        }
        let horizon = visible::horizon(source).await?;
        if !self.source.visibility.reaches(source, horizon).await? {
            return Ok(false);
        }
        let here = View::Postgres(source, &self.table.source).look_up(&keys).await?;
        let there = View::ClickHouse(self.mirror, self.there).look_up(&keys).await?;
        let (mut tuples, mut sent, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for (((difference, row), here), there) in
            differences.iter().zip(&rows).zip(&here).zip(&there)
        {
            let read = row.as_ref().map(|row| row.version.as_str());
            if read != version(here) || !is_older(there, lsn) {
                continue;
            }
            match (row, there) {
                (Some(row), _) => {
                    tuples.push(self.tuple(row, lsn)?);
                    sent.push(&difference.key);
                }
                (None, Some(_)) if difference.kind == What::Surplus => gone.push(&difference.key),
                (None, _) => {}
            }
        }
        self.insert(&tuples).await?;
        // a TRUNCATE leaves nothing behind that would be newer than what was sent
        if self.mirror.truncated(&self.table.scope.relation).await? != truncated {
            gone.extend(sent);
        }
        self.delete(&gone, lsn).await?;
        Ok(true)
    }

    fn tuple(&self, row: &Values, lsn: Lsn) -> Result<String> {
        let value = |(n, column): (usize, &clickhouse::ImageValues)| {
            let null = || "NULL".to_owned();
            Ok(match &column.ty {
                ColumnType::Array(scalar) | ColumnType::Matrix(scalar) => {
                    let form = match &column.form {
                        Form::Array(element, _) => element.as_ref(),
                        form => form,
                    };
                    let elements: Option<Vec<Option<String>>> = row.get(n)?;
                    let element =
                        |text: Option<String>| text.map_or_else(null, |t| form.literal(&t, scalar));
                    let elements: Vec<String> =
                        elements.unwrap_or_default().into_iter().map(element).collect();
                    let ty = literal(&column.ty.to_string());
                    format!("CAST([{}], {ty})", elements.join(", "))
                }
                ColumnType::Plain(scalar) | ColumnType::Nullable(scalar) => {
                    let text: Option<String> = row.get(n)?;
                    text.map_or_else(null, |text| column.form.literal(&text, scalar))
                }
                ColumnType::Point(_) => null(),
            })
        };
        let values = self.there.columns.iter().enumerate().map(value);
        let values: Vec<String> = values.collect::<Result<_>>()?;
        Ok(format!("({}, {}, 0)", values.join(", "), number(lsn)))
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
    let is_older = |text: &str| text.parse().is_ok_and(|there: u128| there <= version_at(lsn));
    version(there).is_none_or(|versions| {
        versions.split(';').filter(|version| !version.is_empty()).all(is_older)
    })
}
