//! Tuples of a partition in the form of the partitioned table that they are published as.

use pgrx::pg_sys;

use super::memory::{TableMemory, Within};

/// From a partition's attributes to those of a table above it: of another order, or with other dropped
/// ones among them.
pub(super) struct Conversion(*mut pg_sys::TupleConversionMap);

impl Conversion {
    /// `None` when the tuples of both have the same form.
    ///
    /// # Safety
    /// Both are open; the result is not used after `memory` is gone.
    pub(super) unsafe fn between(
        partition: pg_sys::Relation,
        above: pg_sys::Relation,
        memory: &mut TableMemory,
    ) -> Option<Conversion> {
        // SAFETY: as promised by the caller
        unsafe {
            if (*partition).rd_id == (*above).rd_id {
                return None;
            }
            let (from, to) = ((*partition).rd_att, (*above).rd_att);
            if pg_sys::convert_tuples_by_name(from, to).is_null() {
                return None;
            }
            // again with descriptors that stay
            let (from, to) = (copy(from, memory), copy(to, memory));
            let _within = Within::context(memory.context());
            Some(Conversion(pg_sys::convert_tuples_by_name(from, to)))
        }
    }

    /// The descriptor of converted tuples.
    pub(super) fn desc(&self) -> pg_sys::TupleDesc {
        // SAFETY: made by `between`
        unsafe { (*self.0).outdesc }
    }

    /// A converted tuple in the current memory context. Values out of line stay where they are.
    ///
    /// # Safety
    /// The tuple is null or one of the partition.
    pub(super) unsafe fn convert(&self, tuple: pg_sys::HeapTuple) -> pg_sys::HeapTuple {
        if tuple.is_null() {
            return tuple;
        }
        // SAFETY: as promised by the caller
        unsafe { pg_sys::execute_attr_map_tuple(tuple, self.0) }
    }
}

/// A descriptor's copy in the memory of the table, with the values of columns that older rows lack.
///
/// # Safety
/// `desc` is valid.
pub(super) unsafe fn copy(desc: pg_sys::TupleDesc, memory: &mut TableMemory) -> pg_sys::TupleDesc {
    // SAFETY: as promised by the caller
    unsafe {
        let _within = Within::context(memory.context());
        pg_sys::CreateTupleDescCopyConstr(desc)
    }
}
