//! Changes applied one by one, in the order of the stream, by prepared statements sent without
//! waiting. The way of small batches, of tables without a key, and of what sets cannot do; and the way
//! to the row that a target refuses.

use rsrepl_wire::{OldRow, OldRowKind, Relation, Row};
use tokio_postgres::Client;

use super::errors;
use super::pipeline::{Answered, Param, Pipeline};
use super::sql::Shape;
use super::table::{StatementKey, Table};
use crate::batch::{Change, Operation};
use crate::error::{Error, Kind, Result};
use crate::plan::Cell;

/// Applies the changes of one table. Every change must hit exactly one row.
///
/// # Errors
/// [`Kind::Row`] with target, table, key and LSN when the target refuses a row or does not have it.
pub async fn apply(
    target: &str,
    client: &Client,
    table: &mut Table,
    changes: &[Change],
) -> Result<()> {
    let mut pipeline = Pipeline::new(client);
    let judge = Judge { target, changes };
    for (number, change) in changes.iter().enumerate() {
        let Some((key, params)) =
            statement(table, change).map_err(|why| judge.refuse(change, why))?
        else {
            continue;
        };
        let statement = match table.statement(client, key).await {
            Ok(statement) => statement,
            Err(error) => {
                // an earlier statement may have failed, and this is what followed from it
                judge.rest(&mut pipeline).await?;
                return Err(errors::of_server(target, "preparing a statement", error));
            }
        };
        judge.answer(pipeline.send(number, statement, params).await)?;
    }
    judge.rest(&mut pipeline).await
}

/// Why a change cannot become a statement.
enum Unusable {
    Decode(rsrepl_wire::DecodeError),
    Because(&'static str),
}

impl From<rsrepl_wire::DecodeError> for Unusable {
    fn from(error: rsrepl_wire::DecodeError) -> Self {
        Unusable::Decode(error)
    }
}

const NO_IDENTITY: Unusable = Unusable::Because(
    "nothing in the stream identifies the row: the table has no replica identity",
);

type Prepared = Option<(StatementKey, Vec<Param>)>;

/// The statement for one change and its parameters; `None` when there is nothing to change.
fn statement(table: &Table, change: &Change) -> Result<Prepared, Unusable> {
    let relation = &*table.relation;
    match &change.operation {
        Operation::Insert { new } => insert(table, &Cell::of_row(new, relation)?).map(Some),
        Operation::Delete { old } if table.fit.keyed => {
            let params = key_params(table, &Cell::of_row(&old.row, relation)?)?;
            Ok(Some((StatementKey::DeleteRow, params)))
        }
        Operation::Delete { old } => {
            let (known, params) = image(table, old)?;
            Ok(Some((StatementKey::DeleteImage(known), params)))
        }
        Operation::Update { old, new } if table.fit.keyed => {
            let new = Cell::of_row(new, relation)?;
            let old = match old {
                Some(old) => Cell::of_row(&old.row, relation)?,
                None => new.clone(),
            };
            update(table, &old, &new)
        }
        Operation::Update { old, new } => {
            let old = old.as_ref().ok_or(NO_IDENTITY)?;
            let new = Cell::of_row(new, relation)?;
            let (known, mut params) = image(table, old)?;
            let shape = Shape { present: present(&new), key_changed: true };
            let given = params.len();
            push(&mut params, shape.set(&table.fit), &new);
            let unchanged = params.len() == given;
            Ok((!unchanged).then_some((StatementKey::UpdateImage(known, shape), params)))
        }
        Operation::Truncate { .. } => Err(Unusable::Because("a TRUNCATE came among the rows")),
    }
}

fn insert(table: &Table, cells: &[Cell]) -> Result<(StatementKey, Vec<Param>), Unusable> {
    let mut params = Vec::with_capacity(cells.len());
    push(&mut params, table.fit.written(), cells);
    match params.len() == table.fit.written().count() {
        true => Ok((StatementKey::InsertRow, params)),
        false => Err(Unusable::Because("an inserted row came without all of its values")),
    }
}

/// The statement that turns the row with the key of `old` into `new`.
fn update(table: &Table, old: &[Cell], new: &[Cell]) -> Result<Prepared, Unusable> {
    let mut params = key_params(table, old)?;
    let shape = Shape { present: present(new), key_changed: key_changed(table, old, new) };
    push(&mut params, shape.compared(&table.fit), new);
    let before = params.len();
    match shape.replaces(&table.fit) {
        true => push(&mut params, table.fit.replaced(&shape), new),
        false => push(&mut params, shape.set(&table.fit), new),
    }
    Ok((params.len() > before).then_some((StatementKey::UpdateRow(shape), params)))
}

fn present(new: &[Cell]) -> Vec<bool> {
    new.iter().map(|cell| *cell != Cell::Unchanged).collect()
}

fn key_changed(table: &Table, old: &[Cell], new: &[Cell]) -> bool {
    table.fit.keys().any(|(i, _)| match new.get(i) {
        Some(Cell::Unchanged) => false,
        cell => cell != old.get(i),
    })
}

fn push<'a>(
    params: &mut Vec<Param>,
    columns: impl Iterator<Item = (usize, &'a super::catalog::TargetColumn)>,
    cells: &[Cell],
) {
    params.extend(columns.filter_map(|(i, c)| Param::new(c.codec, cells.get(i)?)));
}

/// The parameters that name a row by its key. A key is never null.
fn key_params(table: &Table, cells: &[Cell]) -> Result<Vec<Param>, Unusable> {
    table
        .fit
        .keys()
        .map(|(i, column)| match cells.get(i) {
            Some(cell @ Cell::Data(_)) => Param::new(column.codec, cell).ok_or(NO_IDENTITY),
            _ => Err(NO_IDENTITY),
        })
        .collect()
}

/// The known columns of a whole old row, and their values.
fn image(table: &Table, old: &OldRow) -> Result<(Vec<bool>, Vec<Param>), Unusable> {
    if old.kind != OldRowKind::Full {
        return Err(NO_IDENTITY);
    }
    let cells = Cell::of_row(&old.row, &table.relation)?;
    let mut params = Vec::with_capacity(cells.len());
    push(&mut params, table.fit.columns.iter().enumerate(), &cells);
    Ok((present(&cells), params))
}

/// Turns answers into errors that name the row.
struct Judge<'a> {
    target: &'a str,
    changes: &'a [Change],
}

impl Judge<'_> {
    async fn rest(&self, pipeline: &mut Pipeline<'_>) -> Result<()> {
        while let Some(answered) = pipeline.next().await {
            self.answer(Some(answered))?;
        }
        Ok(())
    }

    fn answer(&self, answered: Option<Answered>) -> Result<()> {
        let Some((number, result)) = answered else { return Ok(()) };
        let Some(change) = self.changes.get(number) else { return Ok(()) };
        match result {
            Ok(1) => Ok(()),
            Ok(rows) => Err(self
                .row(change, &format!("{rows} rows are there where 1 is expected"))
                .hint("the target differs from the source: compare the table, and copy it anew")),
            Err(error) => match error.as_db_error() {
                Some(db) if errors::kind_of_code(db.code().code()) == Kind::Row => {
                    Err(self.row(change, &errors::describe(db)))
                }
                _ => Err(errors::of_server(self.target, &what(change), error).at(change.lsn)),
            },
        }
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
        Error::new(Kind::Row, format!("target {target}: {}: {why}", what(change))).at(change.lsn)
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
        Ok(()) => String::from_utf8_lossy(&text).into_owned(),
        Err(_) => format!("<{} bytes>", data.len()),
    }
}
