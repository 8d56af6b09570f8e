//! Changes applied one by one, in the order of the stream, by prepared statements sent without
//! waiting. The way of small batches, of tables without a key, and of what sets cannot do; and the way
//! to the row that a target refuses.

use std::sync::Arc;

use rsrepl_wire::{Relation, Row};
use tokio_postgres::Client;

use super::catalog::TargetTable;
use super::errors;
use super::pipeline::{Answered, Param, Pipeline};
use super::rows::{self, Unusable};
use super::table::Table;
use crate::batch::{Change, Operation};
use crate::config::MissingRows;
use crate::error::{Error, Kind, Result};
use crate::plan::Cell;

/// Characters of a key value that go into a message.
const KEY_TEXT_MAX: usize = 100;

/// Applies the changes of one table. Every change must hit exactly one row, or may hit none by
/// [`MissingRows`].
///
/// # Errors
/// [`Kind::Row`] with target, table, key, column if it is one, and LSN, when the target refuses a row or does not have it.
pub async fn apply(
    target: &str,
    client: &Client,
    table: &mut Table,
    changes: &[Change],
) -> Result<()> {
    let mut pipeline = Pipeline::new(client);
    let (fit, missing_rows) = (Arc::clone(&table.fit), table.missing_rows);
    let judge = Judge { target, client, fit, missing_rows, changes };
    for (number, change) in changes.iter().enumerate() {
        let (key, params) = match rows::of_change(table, change) {
            Ok(Some(prepared)) => prepared,
            Ok(None) => continue,
            Err(why) => {
                // an earlier row that the target refuses is the one to be told of
                judge.rest(&mut pipeline).await?;
                return Err(judge.refuse(change, why));
            }
        };
        let statement = match pipeline.beside(table.statement(client, key)).await {
            Ok(statement) => statement,
            Err(error) => {
                // an earlier statement may have failed, and this is what followed from it
                judge.rest(&mut pipeline).await?;
                return Err(errors::of_server(target, "preparing a statement", error));
            }
        };
        judge.answer(pipeline.send(number, statement, params).await).await?;
    }
    judge.rest(&mut pipeline).await
}

/// Turns answers into errors that name the row.
struct Judge<'a> {
    target: &'a str,
    client: &'a Client,
    fit: Arc<TargetTable>,
    missing_rows: MissingRows,
    changes: &'a [Change],
}

impl Judge<'_> {
    async fn rest(&self, pipeline: &mut Pipeline<'_>) -> Result<()> {
        while let Some(answered) = pipeline.next().await {
            self.answer(Some(answered)).await?;
        }
        Ok(())
    }

    async fn answer(&self, answered: Option<Answered>) -> Result<()> {
        let Some((number, result)) = answered else { return Ok(()) };
        let Some(change) = self.changes.get(number) else { return Ok(()) };
        let error = match result {
            Ok(1) => return Ok(()),
            Ok(0)
                if self.missing_rows == MissingRows::Skip
                    && !matches!(change.operation, Operation::Insert { .. }) =>
            {
                tracing::debug!(target_name = self.target, "no row for the {}", what(change));
                return Ok(());
            }
            Ok(rows) => {
                return Err(self
                    .row(change, &format!("{rows} rows are there where 1 is expected"))
                    .hint(
                        "the target differs from the source: compare the table, and copy it anew; or \
                         missing_rows = \"skip\", if publications leave rows out",
                    ));
            }
            Err(error) => error,
        };
        match error.as_db_error() {
            Some(db) if errors::kind_of_code(db.code().code()) == Kind::Row => {
                let mut why = errors::describe(db);
                if db.column().is_none()
                    && errors::is_about_a_value(db.code().code())
                    && let Some(column) = self.culprit(change).await
                {
                    why = format!("column {column}: {why}");
                }
                Err(self.row(change, &why))
            }
            _ => Err(errors::of_server(self.target, &what(change), error)
                .at(change.lsn)
                .of_end(change.end_lsn)),
        }
    }

    /// The column whose value the server does not accept, found by offering it each one alone. Ends
    /// the transaction, which the error has ended anyway.
    async fn culprit<'c>(&self, change: &'c Change) -> Option<&'c str> {
        let (Operation::Insert { new: row } | Operation::Update { new: row, .. }) =
            &change.operation
        else {
            return None;
        };
        let cells = Cell::of_row(row, &change.relation).ok()?;
        self.client.batch_execute("ROLLBACK").await.ok()?;
        for (index, column) in self.fit.written() {
            let Some(param) = cells.get(index).and_then(|cell| Param::new(column.codec, cell))
            else {
                continue;
            };
            let query = self.client.prepare(&format!("SELECT {}", column.param(1))).await.ok()?;
            let refused = self.client.execute_raw(&query, [param]).await.err();
            if refused.is_some_and(|error| error.as_db_error().is_some()) {
                return change.relation.columns.get(index).map(|column| column.name.as_str());
            }
        }
        None
    }

    fn refuse(&self, change: &Change, why: Unusable) -> Error {
        match why {
            Unusable::Decode(error) => Error::from(error).at(change.lsn),
            Unusable::Because(why) => self.row(change, why).hint(format!(
                "on the source: ALTER TABLE {} REPLICA IDENTITY FULL, or give it a primary key",
                change.relation
            )),
        }
    }

    fn row(&self, change: &Change, why: &str) -> Error {
        let target = self.target;
        Error::new(Kind::Row, format!("target {target}: {}: {why}", what(change)))
            .at(change.lsn)
            .of_end(change.end_lsn)
    }
}

/// `update of public.t (id)=(5)`.
fn what(change: &Change) -> String {
    let (verb, row) = match &change.operation {
        Operation::Insert { new } => ("insert into", Some(new)),
        Operation::Update { old, new } => {
            ("update of", Some(old.as_ref().map_or(new, |old| &old.row)))
        }
        Operation::Delete { old } => ("delete from", Some(&old.row)),
        Operation::Truncate { .. } => ("truncate of", None),
        Operation::Schema(_) => ("schema change of", None),
    };
    let key = row.and_then(|row| key_text(&change.relation, row)).unwrap_or_default();
    format!("{verb} {}{key}", change.relation)
}

/// ` (id)=(5)`; `None` without a key.
fn key_text(relation: &Relation, row: &Row) -> Option<String> {
    let cells = Cell::of_row(row, relation).ok()?;
    let (names, values): (Vec<&str>, Vec<String>) = relation
        .columns
        .iter()
        .zip(&cells)
        .filter(|(column, _)| column.key)
        .map(|(column, cell)| (column.name.as_str(), value_text(column, cell)))
        .unzip();
    (!names.is_empty()).then(|| format!(" ({})=({})", names.join(", "), values.join(", ")))
}

fn value_text(column: &rsrepl_wire::Column, cell: &Cell) -> String {
    let Cell::Data(data) = cell else { return "null".to_owned() };
    let mut text = Vec::new();
    match rsrepl_wire::text::write(&mut text, column, data) {
        Ok(()) => String::from_utf8_lossy(&text).chars().take(KEY_TEXT_MAX).collect(),
        Err(_) => format!("<{} bytes>", data.len()),
    }
}
