//! What a batch touches, and whether two batches may be written side by side.

use std::collections::BTreeMap;

use super::Plan;
use crate::batch::Operation;

/// The tables of a batch, and what is done to them. Pure.
#[derive(Clone, Debug, Default)]
pub struct Footprint {
    /// By schema and name: whether there is anything but INSERTs.
    tables: BTreeMap<(String, String), bool>,
    /// Tables are emptied.
    truncates: bool,
}

impl Footprint {
    pub fn of(plan: &Plan) -> Footprint {
        let mut tables = BTreeMap::new();
        for table in &plan.tables {
            let name = (table.relation.schema.clone(), table.relation.name.clone());
            let inserts = |change: &crate::batch::Change| {
                matches!(change.operation, Operation::Insert { .. })
            };
            *tables.entry(name).or_default() |= !table.changes.iter().all(inserts);
        }
        Footprint { tables, truncates: !plan.truncates.is_empty() }
    }

    /// Whether neither batch can see what the other does, so that they may be written in any order and
    /// at the same time: no table is in both, unless both only insert into it. (Rows that are inserted
    /// by both never have a unique value in common: on the source they are there together.) Constraints
    /// that reach from one table or row to another are not looked at; the target has them, and refuses
    /// or waits.
    pub fn is_independent_of(&self, other: &Footprint) -> bool {
        let (few, many) = if self.tables.len() <= other.tables.len() {
            (&self.tables, &other.tables)
        } else {
            (&other.tables, &self.tables)
        };
        let apart = few.iter().all(|(table, changed)| match many.get(table) {
            Some(also_changed) => !changed && !also_changed,
            None => true,
        });
        apart && !self.truncates && !other.truncates
    }
}
