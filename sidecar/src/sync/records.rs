//! What a target has recorded of syncs, in the form that is common to all kinds.

use std::collections::BTreeMap;

use rsrepl_wire::Lsn;

use super::complete::Complete;
use super::share::Hold;
use crate::copy::Promise;
use crate::target::SourceIdentity;

/// How far a table is; see the table in the module's documentation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// It may lack rows, and is not emptied before somebody asks for that: [`Table::error`] says more.
    ToDecide,
    /// Its sync was given up, and it is half copied: the main stream leaves it out until somebody asks for it again.
    /// As long as a slot is recorded, something of the sync is left.
    GivenUp,
    #[default]
    Requested,
    /// The same of a table that was given up.
    RequestedAgain,
    Copying,
    HandingOver,
    HandedOver,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Stage; 7] = [
        Stage::ToDecide,
        Stage::GivenUp,
        Stage::Requested,
        Stage::RequestedAgain,
        Stage::Copying,
        Stage::HandingOver,
        Stage::HandedOver,
    ];

    /// As it is recorded.
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::ToDecide => "to be decided",
            Stage::GivenUp => "given up",
            Stage::Requested => "requested",
            Stage::RequestedAgain => "requested again",
            Stage::Copying => "copying",
            Stage::HandingOver => "handing over",
            Stage::HandedOver => "handed over",
        }
    }

    /// A sync has the table, and will give it back.
    pub const fn has_begun(self) -> bool {
        matches!(self, Stage::Copying | Stage::HandingOver | Stage::HandedOver)
    }

    /// It may be given up: the main stream has nothing of it yet.
    pub const fn may_end(self) -> bool {
        matches!(self, Stage::Copying | Stage::HandingOver)
    }

    pub fn parse(text: &str) -> Option<Stage> {
        Stage::ALL.into_iter().find(|stage| stage.as_str() == text)
    }
}

/// The stage, in a target's records, of what is recorded under the name of a sync's slot: that somebody wants the sync
/// of this table given up. Such a name is used once, and goes with its sync.
pub const CANCEL: &str = "cancel";

/// A table that is synced, or is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// On the source.
    pub oid: u32,
    /// `schema.name` on the source when it was asked for.
    pub name: String,
    pub stage: Stage,
    /// Of the sync; empty while it is requested.
    pub slot: String,
    /// From where on the table is the main stream's again; 0 while that is not known.
    pub hand_over: Lsn,
    /// What keeps it from getting on, for who asked; empty: nothing.
    pub error: String,
}

impl Table {
    /// Something is to be done for it.
    pub(super) fn is_work(&self) -> bool {
        match self.stage {
            Stage::ToDecide => false,
            Stage::GivenUp => !self.slot.is_empty(),
            _ => true,
        }
    }
}

/// What the main stream is told.
pub(super) fn holds(tables: &[Table]) -> BTreeMap<u32, Hold> {
    let hold = |table: &Table| {
        let at = table.hand_over;
        let hold = match table.stage {
            Stage::ToDecide | Stage::Requested => return None,
            // half a table with all changes from some moment on would be wrong for good
            Stage::GivenUp | Stage::RequestedAgain | Stage::Copying => Hold::Held,
            Stage::HandingOver => Hold::From { at, there: false },
            Stage::HandedOver => Hold::From { at, there: true },
        };
        Some((table.oid, hold))
    };
    tables.iter().filter_map(hold).collect()
}

/// The names of those whose sync the main stream can wait for.
pub(super) fn names_held(tables: &[Table]) -> BTreeMap<u32, String> {
    let held = tables.iter().filter(|table| table.stage.has_begun());
    held.map(|table| (table.oid, table.name.clone())).collect()
}

/// A target's records of syncs. After an error the next call is `open`. What a method has returned `Ok` for is
/// there after any crash.
pub trait SyncTarget: Send + Sync {
    /// Connects (anew). `source`: of the main stream.
    fn open<'a>(&'a mut self, source: &'a SourceIdentity) -> Promise<'a, ()>;

    /// All that are recorded, by oid; nothing when nothing was ever recorded.
    fn read(&mut self) -> Promise<'_, Vec<Table>>;

    /// Records tables, in the place of what is recorded of them. Makes what it needs for that.
    fn write<'a>(&'a mut self, tables: &'a [Table]) -> Promise<'a, ()>;

    /// Records tables that are not being synced: where something is recorded that has begun, it stays. Makes what it
    /// needs for that.
    fn request<'a>(&'a mut self, tables: &'a [Table]) -> Promise<'a, ()>;

    /// Takes records of tables back of which nothing has begun.
    fn withdraw<'a>(&'a mut self, tables: &'a [Table]) -> Promise<'a, ()>;

    /// Asks for the syncs of tables to be given up: what is to be decided or requested is withdrawn; of what has begun it
    /// is recorded, for who looks after it ([`cancelled`](SyncTarget::cancelled)). To be asked again until it is so, as a
    /// sync may begin at the same moment.
    fn cancel<'a>(&'a mut self, tables: &'a [Table]) -> Promise<'a, ()>;

    /// The tables, by oid, whose sync of this slot is to be given up.
    fn cancelled<'a>(&'a mut self, slot: &'a str) -> Promise<'a, Vec<u32>>;

    /// Those of the tables, by oid, that have rows on the target which the main stream did not bring.
    fn strange<'a>(&'a mut self, tables: &'a [Table]) -> Promise<'a, Vec<u32>>;

    /// Whether a position or a copy of that slot's name is recorded. An error of [`Kind::Identity`](crate::error::Kind)
    /// when the position is of a past that the source does not have.
    fn has_begun<'a>(&'a mut self, slot: &'a str) -> Promise<'a, bool>;

    /// Begins, or begins anew: nothing is left of that slot's name, but what the main stream knows of the shapes of these
    /// tables is known under it, too.
    fn begin<'a>(&'a mut self, slot: &'a str, tables: &'a [Table]) -> Promise<'a, ()>;

    /// What is known of the shapes under the slot's name becomes what the main stream knows; with it, in one where the
    /// target has transactions, the tables are recorded as given.
    fn hand_over<'a>(&'a mut self, slot: &'a str, tables: &'a [Table]) -> Promise<'a, ()>;

    /// The same of syncs that are given up: what the target's tables have become is known to the main stream, as far as
    /// anything is known under the slot's name.
    fn give_up<'a>(&'a mut self, slot: &'a str, tables: &'a [Table]) -> Promise<'a, ()>;

    /// Before a sync begins anew under another name: what the target's tables have become is known there, too, where
    /// nothing but that tells what they are called.
    fn rename<'a>(
        &'a mut self,
        slot: &'a str,
        anew: &'a str,
        tables: &'a [Table],
    ) -> Promise<'a, ()>;

    /// Of a table that is recorded no more: a sync has ended with it since it was asked for here.
    fn was_handed_over(&mut self, oid: u32) -> Promise<'_, bool>;

    /// Nothing is left of that slot's name, nor is anything under way of it, nor is anything of these tables in the
    /// records.
    fn end<'a>(&'a mut self, slot: &'a str, tables: &'a [Table]) -> Promise<'a, ()>;

    /// The list of tables that are complete; `None`: none was ever recorded.
    fn complete(&mut self) -> Promise<'_, Option<Complete>>;

    /// Records another one in its place. Makes what it needs for that.
    fn set_complete<'a>(&'a mut self, list: &'a Complete) -> Promise<'a, ()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_table_is_held_and_nobody_waits_for_it() {
        let table = |(oid, stage): (usize, &Stage)| Table {
            oid: u32::try_from(oid).unwrap_or_default(),
            name: stage.as_str().to_owned(),
            stage: *stage,
            hand_over: Lsn(9),
            ..Table::default()
        };
        let tables: Vec<Table> = Stage::ALL.iter().enumerate().map(table).collect();
        let of = |oids: Vec<&u32>| -> Vec<&str> {
            let stage = |oid: &&u32| tables.iter().find(|table| table.oid == **oid);
            oids.iter().filter_map(stage).map(|table| table.stage.as_str()).collect()
        };
        let held = holds(&tables);
        assert_eq!(
            of(held.keys().collect()),
            ["given up", "requested again", "copying", "handing over", "handed over"]
        );
        let from = held.values().filter(|hold| **hold != Hold::Held).count();
        assert_eq!(from, 2, "what was given up has no place where the main stream goes on");
        let names = names_held(&tables);
        assert_eq!(of(names.keys().collect()), ["copying", "handing over", "handed over"]);
        for stage in Stage::ALL {
            assert_eq!(Stage::parse(stage.as_str()), Some(stage));
        }
        assert_eq!(Stage::parse(CANCEL), None);
    }
}
