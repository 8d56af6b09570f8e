//! The row filters of publications: compiled once per table, evaluated by PostgreSQL's executor.
//!
//! For each operation the filters of the publications that publish it are combined by OR; one without
//! a filter lets every row pass. NULL is no. An UPDATE is looked at before and after: what enters the
//! filter is an INSERT for those who read the stream, what leaves it is a DELETE.

use std::ffi::{CString, c_int};

use pg_sys::ReorderBufferChangeType as Kind;
use pg_sys::SysCacheIdentifier::{PUBLICATIONNAMESPACEMAP, PUBLICATIONRELMAP};
use pgrx::pg_sys;

use super::memory::{TableMemory, Within};
use super::publications::{Operations, Publication};
use super::tuple::is_unchanged;
use crate::compat;

/// Column of `pg_publication_rel`; null when all rows are published.
const ROW_FILTER: pg_sys::AttrNumber = 4;

/// The filters of one operation as `pg_node_tree`, any of which a row has to pass; empty: every row does.
type AnyOf = Vec<CString>;

/// The filters of a table by operation.
#[derive(Debug, Default)]
pub(super) struct Filters {
    insert: AnyOf,
    update: AnyOf,
    delete: AnyOf,
}

impl Filters {
    /// # Safety
    /// `relation` is open, and there is a snapshot for catalogs.
    pub(super) unsafe fn of(publications: &[&Publication], relation: pg_sys::Relation) -> Self {
        let filters: Vec<(Operations, Option<CString>)> = publications
            .iter()
            // SAFETY: as promised by the caller
            .map(|publication| (publication.operations, unsafe { filter(publication, relation) }))
            .collect();
        let any_of = |publishes: fn(&Operations) -> bool| -> AnyOf {
            let those = filters.iter().filter(|(operations, _)| publishes(operations));
            // none at all when one of them has none
            those.map(|(_, filter)| filter.clone()).collect::<Option<_>>().unwrap_or_default()
        };
        Filters {
            insert: any_of(|operations| operations.insert),
            update: any_of(|operations| operations.update),
            delete: any_of(|operations| operations.delete),
        }
    }

    fn any(&self) -> bool {
        !(self.insert.is_empty() && self.update.is_empty() && self.delete.is_empty())
    }
}

unsafe fn filter(publication: &Publication, relation: pg_sys::Relation) -> Option<CString> {
    let cache = PUBLICATIONNAMESPACEMAP as c_int;
    let none = pg_sys::Datum::from(0);
    // SAFETY: the cache has these two keys; the value is a text
    unsafe {
        let schema = (*(*relation).rd_rel).relnamespace;
        if publication.all_tables
            || pg_sys::SearchSysCacheExists(
                cache,
                schema.into(),
                publication.oid.into(),
                none,
                none,
            )
        {
            return None;
        }
        let value = publication.of_table((*relation).rd_id, ROW_FILTER)?;
        let text = pg_sys::pg_detoast_datum_packed(value.cast_mut_ptr());
        let text = std::ffi::CStr::from_ptr(pg_sys::text_to_cstring(text));
        Some(text.to_owned())
    }
}

impl Publication {
    /// A value of the publication's row of a table in `pg_publication_rel`, if there is such a row and the
    /// value is not null; a copy.
    ///
    /// # Safety
    /// There is a snapshot for catalogs, and the column is a varlena.
    pub(super) unsafe fn of_table(
        &self,
        table: pg_sys::Oid,
        column: pg_sys::AttrNumber,
    ) -> Option<pg_sys::Datum> {
        let cache = PUBLICATIONRELMAP as c_int;
        // SAFETY: the cache has these two keys; the row is released after its value was copied
        unsafe {
            let row = pg_sys::SearchSysCache2(cache, table.into(), self.oid.into());
            if row.is_null() {
                return None;
            }
            let mut is_null = true;
            let value = pg_sys::SysCacheGetAttr(cache, row, column, &mut is_null);
            let copy = (!is_null).then(|| pg_sys::pg_detoast_datum_copy(value.cast_mut_ptr()));
            pg_sys::ReleaseSysCache(row);
            copy.map(pg_sys::Datum::from)
        }
    }
}

type Expression = *mut pg_sys::ExprState;

/// The compiled filters of a table. All of it lives in the table's memory context.
pub(super) struct RowFilter {
    /// By operation; null when every row passes.
    insert: Expression,
    update: Expression,
    delete: Expression,
    context: *mut pg_sys::ExprContext,
    slot: *mut pg_sys::TupleTableSlot,
    desc: pg_sys::TupleDesc,
}

/// What becomes of a change.
pub(super) struct Passed {
    pub(super) action: Kind::Type,
    pub(super) new: pg_sys::HeapTuple,
}

impl RowFilter {
    /// `None`: every row passes.
    ///
    /// # Safety
    /// The filters are those of `relation`, which is open; tuples will have `desc`, which is in `memory`.
    pub(super) unsafe fn compile(
        filters: &Filters,
        relation: pg_sys::Relation,
        desc: impl FnOnce(&mut TableMemory) -> pg_sys::TupleDesc,
        memory: &mut TableMemory,
    ) -> Option<RowFilter> {
        if !filters.any() {
            return None;
        }
        let desc = desc(memory);
        // SAFETY: as promised by the caller; all is made in the table's memory context
        unsafe {
            let _within = Within::context(memory.context());
            let insert = compile(&filters.insert, relation);
            let same = |filters: &AnyOf, known: &AnyOf, compiled| match filters == known {
                true => compiled,
                false => compile(filters, relation),
            };
            let update = same(&filters.update, &filters.insert, insert);
            let delete = same(&filters.delete, &filters.update, update);
            let context = pg_sys::CreateStandaloneExprContext();
            let slot = pg_sys::MakeSingleTupleTableSlot(desc, &raw const pg_sys::TTSOpsHeapTuple);
            Some(RowFilter { insert, update, delete, context, slot, desc })
        }
    }

    /// What becomes of a change with these tuples, of which one may be missing; `None`: nothing.
    ///
    /// # Safety
    /// The tuples are null, or have the descriptor of [`Self::compile`]; they outlive the result.
    pub(super) unsafe fn pass(
        &self,
        action: Kind::Type,
        old: pg_sys::HeapTuple,
        new: pg_sys::HeapTuple,
    ) -> Option<Passed> {
        let filter = match action {
            Kind::REORDER_BUFFER_CHANGE_INSERT => self.insert,
            Kind::REORDER_BUFFER_CHANGE_UPDATE => self.update,
            _ => self.delete,
        };
        let as_it_is = Passed { action, new };
        if filter.is_null() {
            return Some(as_it_is);
        }
        // SAFETY: as promised by the caller
        unsafe {
            match (old.is_null(), new.is_null()) {
                // a deleted row that nothing identifies: the target has to say so
                (true, true) => Some(as_it_is),
                (true, false) => self.holds(filter, new).then_some(as_it_is),
                (false, true) => self.holds(filter, old).then_some(as_it_is),
                (false, false) => {
                    let filled = self.filled(old, new);
                    match (self.holds(filter, old), self.holds(filter, filled)) {
                        (false, false) => None,
                        (true, true) => Some(as_it_is),
                        (false, true) => {
                            let action = Kind::REORDER_BUFFER_CHANGE_INSERT;
                            Some(Passed { action, new: filled })
                        }
                        (true, false) => {
                            let action = Kind::REORDER_BUFFER_CHANGE_DELETE;
                            Some(Passed { action, new: std::ptr::null_mut() })
                        }
                    }
                }
            }
        }
    }

    /// Whether the expression is true of a row; after that its memory is empty again.
    unsafe fn holds(&self, filter: Expression, tuple: pg_sys::HeapTuple) -> bool {
        // SAFETY: made by `compile`; the tuple is there
        unsafe {
            let context = self.context;
            let _within = Within::emptied((*context).ecxt_per_tuple_memory);
            (*context).ecxt_scantuple = pg_sys::ExecStoreHeapTuple(tuple, self.slot, false);
            #[cfg(any(test, feature = "pg_test"))]
            super::faults::in_filter();
            let mut is_null = false;
            let result = compat::evaluate(filter, context, &mut is_null);
            !is_null && result.value() != 0
        }
    }

    /// The new tuple, with what is missing of the replica identity: TOASTed values that did not change
    /// are in the old tuple only.
    unsafe fn filled(&self, old: pg_sys::HeapTuple, new: pg_sys::HeapTuple) -> pg_sys::HeapTuple {
        // SAFETY: the tuples are there and have this descriptor
        unsafe {
            if (*(*new).t_data).t_infomask & pg_sys::HEAP_HASEXTERNAL as u16 == 0 {
                return new;
            }
            let ((from, from_nulls), (mut values, mut nulls)) =
                (deform(old, self.desc), deform(new, self.desc));
            let mut found = false;
            let olds = from.into_iter().zip(from_nulls);
            let news = values.iter_mut().zip(&nulls);
            for ((attribute, (value, null)), (old, old_null)) in
                compat::attributes(self.desc).iter().zip(news).zip(olds)
            {
                let missing = |value: pg_sys::Datum| is_unchanged(value.cast_mut_ptr());
                if attribute.attlen == -1 && !null && !old_null && missing(*value) && !missing(old)
                {
                    *value = old;
                    found = true;
                }
            }
            match found {
                true => pg_sys::heap_form_tuple(self.desc, values.as_mut_ptr(), nulls.as_mut_ptr()),
                false => new,
            }
        }
    }
}

/// The values of a tuple, and which of them are null.
unsafe fn deform(
    tuple: pg_sys::HeapTuple,
    desc: pg_sys::TupleDesc,
) -> (Vec<pg_sys::Datum>, Vec<bool>) {
    // SAFETY: as many places as the descriptor has attributes
    unsafe {
        let count = compat::attributes(desc).len();
        let (mut values, mut nulls) = (vec![pg_sys::Datum::from(0); count], vec![true; count]);
        pg_sys::heap_deform_tuple(tuple, desc, values.as_mut_ptr(), nulls.as_mut_ptr());
        (values, nulls)
    }
}

/// Null when there is nothing to compile. Like all that this calls, in the current memory context.
unsafe fn compile(any_of: &AnyOf, relation: pg_sys::Relation) -> Expression {
    if any_of.is_empty() {
        return std::ptr::null_mut();
    }
    // SAFETY: filters of this table as its catalogs have them
    unsafe {
        let mut list = std::ptr::null_mut();
        for filter in any_of {
            let node = pg_sys::stringToNode(filter.as_ptr());
            let node = compat::without_virtual_columns(node.cast(), relation);
            list = pg_sys::lappend(list, node.cast());
        }
        let expression = pg_sys::expression_planner(pg_sys::make_orclause(list));
        pg_sys::ExecInitExpr(expression, std::ptr::null_mut())
    }
}
