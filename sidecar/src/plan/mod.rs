//! What a batch comes to: which tables are emptied, and per table the net effect on each key.
//!
//! Pure code, no I/O. A target that applies [`Plan::truncates`] first and then each of
//! [`Plan::tables`], in this order, ends where the changes in stream order would have ended: changes
//! before a table's last TRUNCATE are gone from the plan, and what is left of one table never depends
//! on another table.
//!
//! [`net`] reduces the changes of one table to three sets that are applied one after the other:
//! deletes, updates, inserts. Rows are told apart by the bytes of their key, which is how the source
//! tells them apart as well: an old key is the stored one, byte for byte. When sets cannot say it
//! (no key, a key that moves onto another row's old key), the answer is [`Effect::InOrder`].
//!
//! | module | subject |
//! |---|---|
//! | `footprint` | which two batches may be written side by side |
//! | `image` | a row to be written, possibly put together from several updates |
//! | `key` | what a row is told by |
//! | `net` | the net effect of the changes of one table |

mod footprint;
mod image;
mod key;
mod net;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use rsrepl_wire::{Lsn, Relation};

pub use self::image::{Cell, Image};
pub use self::net::{Effect, Net, NetUpdate, net};

use crate::batch::{Change, Operation};

/// A batch by table.
#[derive(Debug, Default)]
pub struct Plan {
    /// To be done before anything else, in this order.
    pub truncates: Vec<Truncation>,
    /// In the order of their first change.
    pub tables: Vec<TableChanges>,
}

/// The tables of one TRUNCATE command: foreign keys between them let them only be emptied together.
#[derive(Debug)]
pub struct Truncation {
    pub lsn: Lsn,
    pub restart_identity: bool,
    /// Another stream has the rest of it.
    pub parted: bool,
    pub relations: Vec<Arc<Relation>>,
}

/// The changes of one table, in stream order, none of them a TRUNCATE.
#[derive(Debug)]
pub struct TableChanges {
    pub relation: Arc<Relation>,
    pub changes: Vec<Change>,
    /// Nothing but INSERTs.
    inserts_only: bool,
    /// See [`Plan::is_independent_of`], which is seldom asked.
    key_hashes: OnceLock<Option<Vec<u64>>>,
}

impl Plan {
    /// Sorts changes by table; none of them is a schema change.
    pub fn new(changes: Vec<Change>) -> Plan {
        let mut plan = Plan::default();
        let mut index = TableIndex::default();
        for change in changes {
            match change.operation {
                Operation::Truncate { restart_identity, parted } => {
                    plan.forget(&change.relation);
                    plan.truncate(change.lsn, (restart_identity, parted), change.relation);
                }
                // a place where a plan ends: targets take it out before
                Operation::Schema(_) => {}
                _ => {
                    let at = index.table(&mut plan.tables, &change.relation);
                    if let Some(table) = plan.tables.get_mut(at) {
                        table.inserts_only &= matches!(change.operation, Operation::Insert { .. });
                        table.changes.push(change);
                    }
                }
            }
        }
        plan.tables.retain(|table| !table.changes.is_empty());
        plan
    }

    /// What was done to a table before it is emptied need not be done.
    fn forget(&mut self, relation: &Relation) {
        for table in &mut self.tables {
            if table.relation.schema == relation.schema && table.relation.name == relation.name {
                table.changes.clear();
                table.inserts_only = true;
            }
        }
    }

    fn truncate(&mut self, lsn: Lsn, how: (bool, bool), relation: Arc<Relation>) {
        let (restart_identity, parted) = how;
        match self.truncates.last_mut() {
            Some(last) if last.lsn == lsn && last.restart_identity == restart_identity => {
                last.parted |= parted;
                last.relations.push(relation);
            }
            _ => {
                let relations = vec![relation];
                self.truncates.push(Truncation { lsn, restart_identity, parted, relations });
            }
        }
    }
}

/// Finds the entry that a change goes on with. An entry is never gone back to once another
/// description of the same table (it was altered, or another took its name) has an entry of its own.
#[derive(Default)]
struct TableIndex {
    /// By address; the `Arc` is kept so that the address stays taken.
    by_arc: HashMap<*const Relation, (Arc<Relation>, usize)>,
    by_name: HashMap<(String, String), usize>,
    /// The last answer: changes of one table come in runs.
    last: Option<(*const Relation, usize)>,
}

impl TableIndex {
    fn table(&mut self, tables: &mut Vec<TableChanges>, relation: &Arc<Relation>) -> usize {
        let address = Arc::as_ptr(relation);
        if let Some((last, at)) = self.last
            && last == address
        {
            return at;
        }
        let at = self.look_up(tables, relation, address);
        self.last = Some((address, at));
        at
    }

    fn look_up(
        &mut self,
        tables: &mut Vec<TableChanges>,
        relation: &Arc<Relation>,
        address: *const Relation,
    ) -> usize {
        if let Some((_, at)) = self.by_arc.get(&address) {
            return *at;
        }
        let name = (relation.schema.clone(), relation.name.clone());
        let at = match self.by_name.get(&name) {
            Some(at) if tables.get(*at).is_some_and(|t| t.relation == *relation) => *at,
            older => {
                if let Some(older) = older {
                    self.by_arc.retain(|_, (_, at)| at != older);
                }
                tables.push(TableChanges {
                    relation: Arc::clone(relation),
                    changes: Vec::new(),
                    inserts_only: true,
                    key_hashes: OnceLock::new(),
                });
                tables.len() - 1
            }
        };
        self.by_name.insert(name, at);
        self.by_arc.insert(address, (Arc::clone(relation), at));
        at
    }
}
