//! One change of a row: what of it is to be sent, and how it gets into a frame.

use pg_sys::ReorderBufferChangeType as Kind;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys;
use rsrepl_wire::{FrameWriter, Lsn, OldRowKind, RowShape};

use super::describe::Table;
use super::report;
use super::row_filter::Passed;
use super::text::ServerText;
use super::tuple::Tuple;
use crate::compat;

/// A change that is to be sent, with its tuples in the form of [`Table::attributes`].
pub(super) struct Selected {
    action: Kind::Type,
    /// Null when there is none.
    old: pg_sys::HeapTuple,
    /// Null in a DELETE.
    new: pg_sys::HeapTuple,
    desc: pg_sys::TupleDesc,
}

/// What of a change is to be sent: `None` when a row filter holds it back.
///
/// # Safety
/// `relation` is open and the one that `table` describes; `change` is one of its rows, and outlives the
/// result.
#[inline]
pub(super) unsafe fn select(
    table: &Table,
    relation: pg_sys::Relation,
    change: &pg_sys::ReorderBufferChange,
) -> Option<Selected> {
    // SAFETY: as promised by the caller
    unsafe {
        let (mut old, mut new) = compat::tuples(change);
        let mut desc = (*relation).rd_att;
        if let Some(conversion) = &table.conversion {
            (old, new, desc) =
                (conversion.convert(old), conversion.convert(new), conversion.desc());
        }
        let passed = match &table.filter {
            None => Passed { action: change.action, new },
            Some(filter) => filter.pass(change.action, old, new)?,
        };
        Some(Selected { action: passed.action, old, new: passed.new, desc })
    }
}

impl Selected {
    /// False when nothing identifies the row.
    ///
    /// # Safety
    /// What the change came from is still there.
    #[inline]
    pub(super) unsafe fn write(
        &self,
        frame: &mut FrameWriter,
        table: &Table,
        lsn: Lsn,
        text: ServerText,
    ) -> bool {
        // SAFETY: as promised by the caller
        let read = |tuple: pg_sys::HeapTuple| unsafe {
            (!tuple.is_null()).then(|| Tuple::new(tuple, self.desc, &table.attributes, text))
        };
        match (self.action, read(self.old), read(self.new)) {
            (Kind::REORDER_BUFFER_CHANGE_INSERT, _, Some(new)) => insert(frame, table, lsn, &new),
            (Kind::REORDER_BUFFER_CHANGE_UPDATE, old, Some(new)) => {
                update(frame, table, lsn, old.as_ref(), &new)
            }
            (Kind::REORDER_BUFFER_CHANGE_DELETE, old, _) => delete(frame, table, lsn, old.as_ref()),
            _ => report::internal("a change has no new row".into()),
        }
    }
}

fn insert(frame: &mut FrameWriter, table: &Table, lsn: Lsn, new: &Tuple<'_>) -> bool {
    let relation = &table.relation;
    frame.insert(lsn, relation.oid, new.shape(relation.columns.len()), |w| new.write(w));
    true
}

fn update(
    frame: &mut FrameWriter,
    table: &Table,
    lsn: Lsn,
    old: Option<&Tuple<'_>>,
    new: &Tuple<'_>,
) -> bool {
    let relation = &table.relation;
    let columns = relation.columns.len();
    match old {
        Some(old) => {
            let (old_shape, new_shape) = (old.shape(columns), new.shape(columns));
            frame.update_with_old(
                lsn,
                relation.oid,
                table.old_rows,
                old_shape,
                |w| old.write(w),
                new_shape,
                |w| new.write(w),
            );
            true
        }
        None => {
            frame.update(lsn, relation.oid, new.shape(columns), |w| new.write(w));
            relation.identifies_rows()
        }
    }
}

fn delete(frame: &mut FrameWriter, table: &Table, lsn: Lsn, old: Option<&Tuple<'_>>) -> bool {
    let relation = &table.relation;
    let columns = relation.columns.len();
    match old {
        Some(old) => {
            let shape = old.shape(columns);
            frame.delete(lsn, relation.oid, table.old_rows, shape, |w| old.write(w));
            true
        }
        None => {
            // not left out: a target that misses a delete differs from the source for ever
            let shape = RowShape { columns, nulls: true, unchanged: false };
            frame.delete(lsn, relation.oid, OldRowKind::None, shape, |w| {
                (0..columns).for_each(|_| w.null());
            });
            false
        }
    }
}

/// PostgreSQL refuses such a statement only if a publication has the table. Here it is done already:
/// an ERROR would stop the slot for good, so the log says it, and the targets see it in the stream.
pub(super) fn warn_unidentified(table: &Table, action: Kind::Type) {
    let (did, mend) = match action {
        Kind::REORDER_BUFFER_CHANGE_UPDATE => ("update", "updating"),
        _ => ("delete from", "deleting from"),
    };
    report::warn(
        Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!(
            "targets cannot {did} table \"{}\" because it does not have a replica identity",
            table.relation
        ),
        &format!("To enable {mend} the table, set REPLICA IDENTITY using ALTER TABLE."),
    );
}
