//! Sends rows again that differ, beside the stream that goes on.
//!
//! A row may be written only when it is what the stream would have left: the source's row as of the target's
//! position. It is read, the stream comes to the target up to there, and it is read again, when it shows [all that
//! the target may have](super::visible): the same version, so nothing that the stream has brought or will
//! bring up to now changes it. What comes later goes over it.
//!
//! - **[PostgreSQL](postgres)**: the second look is taken while the row of `rsrepl.positions` is locked, so that the
//!   target stays where it is until the repair is committed; and the target's row must be the version that was
//!   called different. So a row that the stream itself has just brought is never touched.
//! - **[ClickHouse](clickhouse)**: the row's version is the end of the source's WAL at the first look, with the
//!   highest lower half: newer than what the stream brought up to there, and older than every transaction behind it.
//!
//! Rows that only the target has are deleted when that is asked for by name: they may be of another source, or kept
//! on purpose. What has changed meanwhile is left out, and looked at again with the others afterwards.

mod clickhouse;
mod postgres;

use tokio_postgres::{Client, Row};

use super::differences::{Desk, Difference, Kind as What};
use super::key::{self, Key};
use super::postgres::failed;
use super::sides::Source;
use super::tables::{Table, TargetTable};
use super::target::{Session, Target};
use super::view::Found;
use crate::error::Result;

/// What is the same for all targets.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    pub(super) source: &'a Source,
    pub(super) tables: &'a [Table],
    /// Rows too that the source does not have.
    pub(super) delete: bool,
}

impl Work<'_> {
    /// Repairs a target; all that differed are suspects again. How many these were, by table.
    pub(super) async fn repair(self, target: &Target, desk: &mut Desk) -> Vec<u64> {
        let mut before = Vec::with_capacity(self.tables.len());
        for (number, table) in self.tables.iter().enumerate() {
            let mut differences = desk.take(number);
            before.push(differences.len() as u64);
            let all = differences.len();
            differences.retain(|d| self.delete || d.kind != What::Surplus);
            let mut left = match all - differences.len() {
                0 => Vec::new(),
                n => vec![format!("{n} rows that the source does not have: --delete deletes them")],
            };
            if !differences.is_empty() {
                match self.repair_table(table, target, desk.target, &differences).await {
                    Ok(more) => left.extend(more),
                    Err(error) => left.push(error.to_string()),
                }
            }
            desk.tally(number, |tally| tally.left = left);
        }
        before
    }

    /// Why rows are left.
    async fn repair_table(
        self,
        table: &Table,
        target: &Target,
        number: usize,
        differences: &[Difference],
    ) -> Result<Vec<String>> {
        let Some(there) = table.on(number) else { return Ok(Vec::new()) };
        match (&target.session, &there.table) {
            (Ok(Session::Postgres(session)), TargetTable::Postgres(there)) => {
                postgres::repair(self.source, table, target, session, there, differences).await
            }
            (Ok(Session::ClickHouse(mirror)), TargetTable::ClickHouse(there)) => {
                clickhouse::repair(self.source, table, target, mirror, there, differences).await
            }
            _ => Ok(Vec::new()),
        }
    }
}

fn version(found: &Option<Found>) -> Option<&str> {
    found.as_ref().map(|found| found.version.as_str())
}

/// A row of the source with its values.
struct Values {
    row: Row,
    /// As [`Found`] has it.
    version: String,
}

impl Values {
    /// The text of a value; the second may be NULL.
    fn get<'a, T: tokio_postgres::types::FromSql<'a>>(&'a self, n: usize) -> Result<T> {
        self.row.try_get(n + 2).map_err(|error| failed("the source", error))
    }
}

/// Rows of the source with their values, in the order of the keys.
async fn read(
    source: &Client,
    table: &Table,
    keys: &[&Key],
    values: &[String],
) -> Result<Vec<Option<Values>>> {
    let filter = table.scope.filter.as_deref().unwrap_or("true");
    let sql = format!(
        "SELECT _rsrepl_n, t.tableoid || ' ' || t.ctid || ' ' || t.xmin, {} FROM {} WHERE {filter}",
        values.join(", "),
        table.source.join_keys(),
    );
    let columns = key::columns_of(keys, table.source.key.len());
    let parameters: Vec<_> = columns.iter().map(|column| column as _).collect();
    let rows = source.query(&sql, &parameters).await;
    let mut found: Vec<Option<Values>> = keys.iter().map(|_| None).collect();
    for row in rows.map_err(|error| failed(&table.source.who, error))? {
        let place = usize::try_from(row.get::<_, i64>(0) - 1).unwrap_or(usize::MAX);
        let mut version = Found::default();
        version.add(row.get(1), &[]);
        if let Some(place) = found.get_mut(place) {
            *place = Some(Values { row, version: version.version });
        }
    }
    Ok(found)
}
