//! What differs between PostgreSQL's major versions, or is missing from the bindings: the only file
//! with `cfg(feature = "pgNN")`.

use pgrx::pg_sys;

#[cfg(target_endian = "big")]
compile_error!("values go onto the wire as they are on disk, which must be little-endian");

/// From 16 on, PostgreSQL itself reports progress after so many changes without output.
pub(crate) const CORE_REPORTS_PROGRESS: bool =
    cfg!(any(feature = "pg16", feature = "pg17", feature = "pg18"));

/// From 18 on a publication that does not exist is left out, with a warning.
pub(crate) const SKIPS_MISSING_PUBLICATIONS: bool = cfg!(feature = "pg18");

/// The old and new tuple of a change; null when there is none.
///
/// # Safety
/// `change` is an insert, update or delete as PostgreSQL gives it to the change callback.
pub(crate) unsafe fn tuples(
    change: &pg_sys::ReorderBufferChange,
) -> (pg_sys::HeapTuple, pg_sys::HeapTuple) {
    // SAFETY: of these kinds of change `tp` is the member of the union that is set
    let (old, new) = unsafe { (change.data.tp.oldtuple, change.data.tp.newtuple) };
    (tuple(old), tuple(new))
}

#[cfg(any(feature = "pg15", feature = "pg16"))]
fn tuple(buffer: *mut pg_sys::ReorderBufferTupleBuf) -> pg_sys::HeapTuple {
    if buffer.is_null() {
        return std::ptr::null_mut();
    }
    // SAFETY: the reorder buffer keeps the tuple in the buffer until the change is done
    unsafe { &raw mut (*buffer).tuple }
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
fn tuple(tuple: pg_sys::HeapTuple) -> pg_sys::HeapTuple {
    tuple
}

/// Decoding may wait for other standbys although there is WAL (`synchronized_standby_slots`).
///
/// # Safety
/// `ctx` is valid and has a slot.
pub(crate) unsafe fn waits_for_standbys(ctx: *mut pg_sys::LogicalDecodingContext) -> bool {
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    {
        _ = ctx;
        false
    }
    // SAFETY: as promised by the caller
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    unsafe {
        (*(*ctx).slot).data.failover
    }
}

/// The physical attributes of a table, dropped ones included.
///
/// # Safety
/// `desc` is valid for `'a`.
pub(crate) unsafe fn attributes<'a>(
    desc: pg_sys::TupleDesc,
) -> &'a [pg_sys::FormData_pg_attribute] {
    // SAFETY: a descriptor has `natts` attributes, from 18 on after as many compact ones
    unsafe {
        let count = (*desc).natts as usize;
        #[cfg(not(feature = "pg18"))]
        let first = (*desc).attrs.as_ptr();
        #[cfg(feature = "pg18")]
        let first = (*desc).compact_attrs.as_ptr().add(count).cast();
        std::slice::from_raw_parts(first, count)
    }
}

/// The table's primary key index, `InvalidOid` when there is none that is checked at once.
///
/// # Safety
/// `relation` is open.
pub(crate) unsafe fn primary_key_index(relation: pg_sys::Relation) -> pg_sys::Oid {
    // SAFETY: as promised by the caller
    unsafe {
        #[cfg(not(feature = "pg18"))]
        return pg_sys::RelationGetPrimaryKeyIndex(relation);
        #[cfg(feature = "pg18")]
        return pg_sys::RelationGetPrimaryKeyIndex(relation, false);
    }
}

/// The partitioned tables above a partition, as a list of oids, nearest first.
///
/// # Safety
/// Needs a snapshot for catalogs; `relation` is a partition.
pub(crate) unsafe fn partition_ancestors(relation: pg_sys::Oid) -> *mut pg_sys::List {
    unsafe extern "C-unwind" {
        // catalog/partition.h, the same in all versions
        fn get_partition_ancestors(relation: pg_sys::Oid) -> *mut pg_sys::List;
    }
    // SAFETY: only the C function runs inside of the guard
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| get_partition_ancestors(relation)) }
}

/// Whether a publication has stored generated columns of tables for which it has no column list.
pub(crate) fn publishes_generated(publication: &pg_sys::Publication) -> bool {
    #[cfg(not(feature = "pg18"))]
    {
        _ = publication;
        false
    }
    #[cfg(feature = "pg18")]
    {
        publication.pubgencols_type == pg_sys::PublishGencolsType::PUBLISH_GENCOLS_STORED
    }
}

/// Whether a column list counts as none because it has every column. `generated`: those are the stored
/// generated ones, too.
pub(crate) fn is_every_column(
    list: &[i16],
    attributes: &[pg_sys::FormData_pg_attribute],
    generated: bool,
) -> bool {
    // 15 compares numbers, and counts dropped columns
    #[cfg(feature = "pg15")]
    {
        _ = generated;
        list.len() == attributes.len()
    }
    #[cfg(not(feature = "pg15"))]
    {
        let published = |attribute: &&pg_sys::FormData_pg_attribute| {
            let kind = attribute.attgenerated as u8;
            !attribute.attisdropped && (kind == 0 || generated && kind == b's')
        };
        attributes
            .iter()
            .filter(published)
            .map(|attribute| attribute.attnum)
            .eq(list.iter().copied())
    }
}

/// The value of an expression; in the current memory context.
///
/// # Safety
/// The expression is compiled, and the context has what it needs.
pub(crate) unsafe fn evaluate(
    expression: *mut pg_sys::ExprState,
    context: *mut pg_sys::ExprContext,
    is_null: &mut bool,
) -> pg_sys::Datum {
    // SAFETY: only the C function runs inside of the guard; a compiled expression has one
    unsafe {
        let evaluate = (*expression).evalfunc.unwrap_unchecked();
        pg_sys::ffi::pg_guard_ffi_boundary(|| evaluate(expression, context, is_null))
    }
}

/// An expression over the first table of a range table, with what virtual generated columns stand for.
///
/// # Safety
/// `relation` is that table, and open.
pub(crate) unsafe fn without_virtual_columns(
    expression: *mut pg_sys::Node,
    relation: pg_sys::Relation,
) -> *mut pg_sys::Node {
    #[cfg(not(feature = "pg18"))]
    {
        _ = relation;
        expression
    }
    // SAFETY: as promised by the caller
    #[cfg(feature = "pg18")]
    unsafe {
        pg_sys::expand_generated_columns_in_expr(expression, relation, 1)
    }
}
