//! Where in a batch a table becomes another one. Pure code; `evolve` does what follows from it.
//!
//! A schema change is work of its own, in the same transaction of the target as the rows before and
//! behind it. What was committed on the source before that transaction is committed before it here as well:
//! a target that cannot make the change stops there.

use std::collections::HashMap;
use std::sync::Arc;

use rsrepl_wire::{Lsn, Relation};

use super::order::Work;
use super::positions;
use crate::batch::{Batch, Change, Operation, Position};
use crate::plan::Plan;
use crate::schema::{self, Table};

/// How a table was changed.
#[derive(Clone, Debug)]
pub enum Step {
    /// As the source's event trigger says.
    Told { message: Arc<schema::Message>, lsn: Lsn, end_lsn: Lsn },
    /// As the description before its next row shows.
    Shown { relation: Arc<Relation>, lsn: Lsn, end_lsn: Lsn },
}

/// The tables of the source as they are at the end of what was handed over.
pub struct Schemas {
    known: HashMap<u32, Known>,
    /// Of the last row: changes of one table come in runs.
    last: Option<Arc<Relation>>,
    /// Rises with each schema change.
    epoch: u64,
}

struct Known {
    table: Table,
    /// The description that said nothing new.
    relation: Option<Arc<Relation>>,
}

/// What a row's description says.
enum Look {
    Nothing,
    /// A table that is not recorded yet.
    Unknown,
    Changed,
}

impl Schemas {
    /// `recorded`: as the target's tables are.
    pub fn new(recorded: impl IntoIterator<Item = Table>) -> Schemas {
        let known = |table: Table| (table.oid, Known { table, relation: None });
        Schemas { known: recorded.into_iter().map(known).collect(), last: None, epoch: 0 }
    }

    /// The works that a batch comes to, in their order; the last of them ends as the batch does.
    pub fn works(&mut self, mut batch: Batch, mut from: Lsn) -> Vec<Work> {
        for oid in &batch.anew {
            // its next row has it looked up
            self.known.remove(oid);
            self.last = None;
            self.epoch += 1;
        }
        let mut pieces = Pieces { done: Vec::new(), open: Piece::new(self.epoch), ends_at: None };
        pieces.open.changes.reserve(batch.changes.len()); // mostly all of them go there
        for change in std::mem::take(&mut batch.changes) {
            if positions::is_ours(&change.relation) {
                continue;
            }
            pieces.reach(change.end_lsn);
            if let Operation::Schema(message) = change.operation {
                self.note(&message);
                let step = Step::Told { message, lsn: change.lsn, end_lsn: change.end_lsn };
                self.change(&mut pieces, step, change.end_lsn);
                continue;
            }
            match self.look(&change.relation) {
                Look::Nothing => {}
                Look::Unknown => pieces.open.seeds.push(Arc::clone(&change.relation)),
                Look::Changed => {
                    let relation = Arc::clone(&change.relation);
                    let step = Step::Shown { relation, lsn: change.lsn, end_lsn: change.end_lsn };
                    self.change(&mut pieces, step, change.end_lsn);
                }
            }
            pieces.open.changes.push(change);
        }
        let mut works = pieces.finish();
        let last = works.len().saturating_sub(1);
        if last > 0 {
            // a batch with a schema change is a rare one
            works.iter_mut().take(last).for_each(|work| work.transactions.clone_from(&batch.ends));
        }
        for (at, work) in works.iter_mut().enumerate() {
            (work.from, work.last, work.full) = (from, at == last, batch.full);
            if at == last {
                work.commit = batch.commit;
                work.transactions = std::mem::take(&mut batch.ends);
            }
            from = work.commit.map_or(from, |commit| commit.lsn);
        }
        works
    }

    fn change(&mut self, pieces: &mut Pieces, step: Step, end_lsn: Lsn) {
        pieces.cut(end_lsn);
        self.epoch += 1;
        pieces.open = Piece::new(self.epoch);
        pieces.open.schema = Some(step);
        pieces.close(None);
        pieces.ends_at = Some(end_lsn);
    }

    fn note(&mut self, message: &schema::Message) {
        match &message.what {
            schema::What::Is(table) => {
                self.known.insert(table.oid, Known { table: table.clone(), relation: None });
            }
            schema::What::Dropped(table) => drop(self.known.remove(&table.oid)),
        }
    }

    fn look(&mut self, relation: &Arc<Relation>) -> Look {
        if self.last.as_ref().is_some_and(|last| Arc::ptr_eq(last, relation)) {
            return Look::Nothing;
        }
        self.last = Some(Arc::clone(relation));
        let shown = || Table::of_relation(relation);
        let Some(known) = self.known.get_mut(&relation.oid) else {
            let known = Known { table: shown(), relation: Some(Arc::clone(relation)) };
            self.known.insert(relation.oid, known);
            return Look::Unknown;
        };
        if known.relation.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, relation)) {
            return Look::Nothing;
        }
        let shown = shown().completed_by(&known.table);
        known.relation = Some(Arc::clone(relation));
        let name = |table: &Table| (table.schema.clone(), table.name.clone());
        let same = name(&known.table) == name(&shown) && known.table.columns == shown.columns;
        known.table = shown;
        if same { Look::Nothing } else { Look::Changed }
    }
}

struct Piece {
    changes: Vec<Change>,
    schema: Option<Step>,
    seeds: Vec<Arc<Relation>>,
    epoch: u64,
}

impl Piece {
    fn new(epoch: u64) -> Piece {
        Piece { changes: Vec::new(), schema: None, seeds: Vec::new(), epoch }
    }

    fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.schema.is_none() && self.seeds.is_empty()
    }
}

struct Pieces {
    done: Vec<Work>,
    open: Piece,
    /// The end of the transaction under way, when there is a schema change in it.
    ends_at: Option<Lsn>,
}

impl Pieces {
    /// A change of the transaction that ends there is next.
    fn reach(&mut self, end_lsn: Lsn) {
        if let Some(lsn) = self.ends_at.filter(|end| *end < end_lsn) {
            self.ends_at = None;
            self.close(Some(lsn));
        }
    }

    /// Ends what came before the transaction that ends there, and what came of it so far.
    fn cut(&mut self, end_lsn: Lsn) {
        let before = self.open.changes.partition_point(|change| change.end_lsn < end_lsn);
        if before > 0 {
            let rest = self.open.changes.split_off(before);
            let last = self.open.changes.last().map(|change| change.end_lsn);
            let epoch = self.open.epoch;
            self.close(last);
            self.open = Piece { changes: rest, ..Piece::new(epoch) };
        }
        self.close(None);
    }

    fn close(&mut self, commit: Option<Lsn>) {
        // its time and xid are not known here, and not needed: those of the next are written soon
        let commit = commit.map(|lsn| Position { lsn, ..Position::default() });
        let epoch = self.open.epoch;
        let piece = std::mem::replace(&mut self.open, Piece::new(epoch));
        match self.done.last_mut() {
            Some(last) if piece.is_empty() && last.commit.is_none() => last.commit = commit,
            _ if piece.is_empty() => {}
            _ => self.done.push(Work {
                plan: Plan::new(piece.changes),
                schema: piece.schema,
                seeds: piece.seeds,
                epoch: piece.epoch,
                commit,
                ..Work::default()
            }),
        }
    }

    fn finish(mut self) -> Vec<Work> {
        self.close(None);
        if self.done.is_empty() {
            self.done.push(Work { epoch: self.open.epoch, ..Work::default() });
        }
        self.done
    }
}

#[cfg(test)]
#[path = "schemas_tests.rs"]
mod tests;
