//! One row as one prepared statement and its parameters.

use rsrepl_wire::{OldRow, OldRowKind, Row};

use super::catalog::TargetColumn;
use super::pipeline::Param;
use super::sql::Shape;
use super::table::{StatementKey, Table};
use crate::batch::{Change, Operation};
use crate::plan::{Cell, Image, NetUpdate};

/// Why a change cannot become a statement.
pub enum Unusable {
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

/// A statement and its parameters; `None` when there is nothing to change.
pub type Prepared = Option<(StatementKey, Vec<Param>)>;

/// The statement for one change of the stream.
pub fn of_change(table: &Table, change: &Change) -> Result<Prepared, Unusable> {
    let relation = &*table.relation;
    match &change.operation {
        Operation::Insert { new } => insert(table, &Cell::of_row(new, relation)?).map(Some),
        Operation::Delete { old } if table.fit.keyed => {
            let params = key_params(table, &Cell::of_row(&old.row, relation)?)?;
            Ok(Some((StatementKey::DeleteRow, params)))
        }
        Operation::Delete { old } => {
            let (known, params) = image(table, &whole(table, old)?);
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
            Ok(update_image(table, &whole(table, old)?, &Cell::of_row(new, relation)?))
        }
        Operation::Truncate { .. } | Operation::Schema(_) => {
            Err(Unusable::Because("a change of the table came among its rows"))
        }
    }
}

fn insert(table: &Table, cells: &[Cell]) -> Result<(StatementKey, Vec<Param>), Unusable> {
    let mut params = Vec::with_capacity(cells.len());
    push(&mut params, table.fit.written(), cells);
    match params.len() == table.fit.written().count() {
        true => Ok((StatementKey::InsertRow, params)),
        false => Err(Unusable::Because(
            "a row enters a row filter by an UPDATE that did not touch a large value of it, which is not in \
             the stream",
        )),
    }
}

/// The statement that inserts a row of a set.
pub fn of_insert(table: &Table, image: &Image<'_>) -> Result<Prepared, Unusable> {
    insert(table, &image.cells(&table.relation)?).map(Some)
}

/// The statement that deletes a row of a set, by the key that it had before the batch.
pub fn of_delete(table: &Table, locator: &Row) -> Result<Prepared, Unusable> {
    let params = key_params(table, &Cell::of_row(locator, &table.relation)?)?;
    Ok(Some((StatementKey::DeleteRow, params)))
}

/// The statement that updates a row of a set, by the key that it had before the batch.
pub fn of_update(table: &Table, net: &NetUpdate<'_>) -> Result<Prepared, Unusable> {
    let relation = &table.relation;
    update(table, &Cell::of_row(net.locator, relation)?, &net.image.cells(relation)?)
}

/// The statement that turns the row with the key of `old` into `new`.
fn update(table: &Table, old: &[Cell], new: &[Cell]) -> Result<Prepared, Unusable> {
    let mut params = key_params(table, old)?;
    let shape = Shape { present: present(new), key_changed: key_changed(table, old, new) };
    let named = params.len();
    push(&mut params, shape.given(&table.fit), new);
    Ok((params.len() > named).then_some((StatementKey::UpdateRow(shape), params)))
}

/// The statement that turns one of the rows `old` of a table without a key into `new`.
fn update_image(table: &Table, old: &[Cell], new: &[Cell]) -> Prepared {
    let (known, mut params) = image(table, old);
    let shape = Shape { present: present(new), key_changed: true };
    if shape.compared(&table.fit).any(|(i, _)| old.get(i) != new.get(i)) {
        push(&mut params, shape.given(&table.fit), new);
        return Some((StatementKey::ReplaceImage(known, shape), params));
    }
    let named = params.len();
    push(&mut params, shape.set(&table.fit), new);
    (params.len() > named).then_some((StatementKey::UpdateImage(known, shape), params))
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
    columns: impl Iterator<Item = (usize, &'a TargetColumn)>,
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

/// A whole old row.
fn whole(table: &Table, old: &OldRow) -> Result<Vec<Cell>, Unusable> {
    match old.kind {
        OldRowKind::Full => Ok(Cell::of_row(&old.row, &table.relation)?),
        _ => Err(NO_IDENTITY),
    }
}

/// The known columns of a whole old row, and their values.
fn image(table: &Table, old: &[Cell]) -> (Vec<bool>, Vec<Param>) {
    let mut params = Vec::with_capacity(old.len());
    push(&mut params, table.fit.columns.iter().enumerate(), old);
    (present(old), params)
}
