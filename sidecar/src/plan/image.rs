//! A row to be written: as it came, or put together from several updates of it.

use bytes::Bytes;
use rsrepl_wire::{DecodeError, Relation, Row, Value};

/// A row to be written: as received, or put together from several updates of it.
#[derive(Clone, Debug)]
pub enum Image<'c> {
    Row(&'c Row),
    /// One per column of the relation.
    Merged(Vec<Cell>),
}

/// One column of a merged row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    Null,
    Unchanged,
    Data(Bytes),
}

impl Cell {
    fn new(row: &Row, value: Value<'_>) -> Cell {
        match value {
            Value::Null => Cell::Null,
            Value::Unchanged => Cell::Unchanged,
            Value::Data(data) => Cell::Data(row.0.slice_ref(data)),
        }
    }

    /// Every column of `row`.
    pub fn of_row(row: &Row, relation: &Relation) -> Result<Vec<Cell>, DecodeError> {
        row.values(relation)?.map(|value| Ok(Cell::new(row, value?))).collect()
    }

    /// The cell as the value of a row.
    pub fn value(&self) -> Value<'_> {
        match self {
            Cell::Null => Value::Null,
            Cell::Unchanged => Value::Unchanged,
            Cell::Data(data) => Value::Data(data),
        }
    }
}

impl Image<'_> {
    /// Every column.
    pub fn cells(&self, relation: &Relation) -> Result<Vec<Cell>, DecodeError> {
        match self {
            Image::Row(row) => Cell::of_row(row, relation),
            Image::Merged(cells) => Ok(cells.clone()),
        }
    }

    /// Whether a value may be unchanged; cheap to ask of rows that have none.
    pub fn may_have_unchanged(&self) -> bool {
        match self {
            Image::Row(row) => row.may_have_unchanged(),
            Image::Merged(_) => true,
        }
    }

    /// How many bytes its values take, roughly.
    pub fn size(&self) -> usize {
        let of_cell = |cell: &Cell| match cell {
            Cell::Data(data) => data.len(),
            Cell::Null | Cell::Unchanged => 0,
        };
        match self {
            Image::Row(row) => row.0.len(),
            Image::Merged(cells) => cells.iter().map(of_cell).sum(),
        }
    }

    /// Calls `each` with every column's index and value, in attribute order.
    pub fn for_each<E: From<DecodeError>>(
        &self,
        relation: &Relation,
        mut each: impl FnMut(usize, Value<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Image::Row(row) => {
                for (index, value) in row.values(relation)?.enumerate() {
                    each(index, value?)?;
                }
            }
            Image::Merged(cells) => {
                for (index, cell) in cells.iter().enumerate() {
                    each(index, cell.value())?;
                }
            }
        }
        Ok(())
    }

    /// Puts `newer` on top: what it left unchanged keeps this image's value.
    pub(super) fn updated(self, relation: &Relation, newer: &Row) -> Result<Self, DecodeError> {
        let mut cells = Cell::of_row(newer, relation)?;
        self.for_each(relation, |index, older| {
            if let Some(cell) = cells.get_mut(index)
                && *cell == Cell::Unchanged
            {
                *cell = match (&self, older) {
                    (Image::Row(row), older) => Cell::new(row, older),
                    (Image::Merged(cells), _) => {
                        cells.get(index).cloned().unwrap_or(Cell::Unchanged)
                    }
                };
            }
            Ok::<(), DecodeError>(())
        })?;
        Ok(Image::Merged(cells))
    }
}
