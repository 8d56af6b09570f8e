//! How much memory the tables take that the source has described. It describes each once, and again when it has changed;
//! so all of them are remembered, and a source that goes on describing would fill the memory.

use std::collections::HashMap;

use rsrepl_wire::{Column, Relation};

use crate::error::{Error, Kind, Result};

/// Bytes of descriptions at a time, wherever they are remembered: some 100,000 tables of ten columns. (Few in tests.)
pub(crate) const DESCRIBED_MAX: usize = if cfg!(test) { 64 << 10 } else { 256 << 20 };

/// The sizes of what is remembered, by oid.
#[derive(Debug, Default)]
pub(crate) struct Described {
    sizes: HashMap<u32, usize>,
    bytes: usize,
}

impl Described {
    /// Of these tables.
    pub(crate) fn of<'a>(relations: impl Iterator<Item = &'a Relation>) -> Self {
        let sizes: HashMap<_, _> = relations.map(|table| (table.oid, memory(table))).collect();
        Described { bytes: sizes.values().sum(), sizes }
    }

    /// Counts a description, in the place of the one before of the same table.
    ///
    /// # Errors
    /// [`Kind::Frame`] beyond [`DESCRIBED_MAX`]; it is not counted then.
    pub(crate) fn add(&mut self, relation: &Relation) -> Result<()> {
        let (before, now) = (self.sizes.get(&relation.oid).copied(), memory(relation));
        let bytes = self.bytes - before.unwrap_or_default() + now;
        if bytes > DESCRIBED_MAX {
            let message = format!("the source describes tables of more than {DESCRIBED_MAX} bytes");
            return Err(Error::new(Kind::Frame, message)
                .hint("have each sidecar replicate fewer of them, by publications"));
        }
        self.sizes.insert(relation.oid, now);
        self.bytes = bytes;
        Ok(())
    }

    /// They are described anew.
    pub(crate) fn clear(&mut self) {
        *self = Described::default();
    }
}

/// Bytes that a description takes.
fn memory(relation: &Relation) -> usize {
    let column = |column: &Column| {
        size_of::<Column>() + column.name.len() + column.type_schema.len() + column.type_name.len()
    };
    let names = relation.schema.len() + relation.name.len();
    size_of::<Relation>() + names + relation.columns.iter().map(column).sum::<usize>()
}
