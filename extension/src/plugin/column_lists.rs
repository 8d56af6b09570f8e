//! The column lists of publications.

use std::ffi::CStr;

use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys;

use super::publications::Publication;
use super::report;
use crate::compat;

/// Column of `pg_publication_rel`; null when all columns are published.
const COLUMN_LIST: pg_sys::AttrNumber = 5;

/// Numbers of the attributes that `publications` publish of `relation`; `None`: all of them.
///
/// Lists that differ are an ERROR. One that has every column is as good as none.
///
/// # Safety
/// `relation` is open, and there is a snapshot for catalogs.
pub(super) unsafe fn combined(
    publications: &[&Publication],
    relation: pg_sys::Relation,
) -> Option<Vec<i16>> {
    // SAFETY: as promised by the caller
    match unsafe { agreed(publications, relation) } {
        Ok(columns) => columns,
        Err(what) => refuse(relation, what),
    }
}

/// As [`combined`]; what the publications disagree about is no ERROR.
///
/// # Safety
/// As [`combined`].
pub(super) unsafe fn agreed(
    publications: &[&Publication],
    relation: pg_sys::Relation,
) -> Result<Option<Vec<i16>>, &'static str> {
    // SAFETY: as promised by the caller
    let (oid, attributes) = unsafe { ((*relation).rd_id, compat::attributes((*relation).rd_att)) };
    let lists: Vec<Option<Vec<i16>>> = publications
        .iter()
        // SAFETY: as promised by the caller
        .map(|publication| unsafe { list(publication, oid) })
        .collect();
    let mut without_list = publications.iter().zip(&lists).filter(|(_, list)| list.is_none());
    let generated = without_list.next().is_some_and(|(publication, _)| publication.generated);
    if has_generated(attributes) && without_list.any(|(other, _)| other.generated != generated) {
        return Err("different values of publish_generated_columns");
    }
    let part = |list: &&Vec<i16>| !compat::is_every_column(list, attributes, generated);
    let mut parts = lists.iter().map(|list| list.as_ref().filter(part));
    let first = parts.next().flatten();
    if parts.any(|other| other != first) {
        return Err("different column lists");
    }
    // all of them are equal, or at least have every column
    Ok(lists.into_iter().collect::<Option<Vec<_>>>().and_then(|lists| lists.into_iter().next()))
}

fn has_generated(attributes: &[pg_sys::FormData_pg_attribute]) -> bool {
    attributes.iter().any(|attribute| !attribute.attisdropped && attribute.attgenerated != 0)
}

/// The list of one publication, in ascending order.
unsafe fn list(publication: &Publication, table: pg_sys::Oid) -> Option<Vec<i16>> {
    if publication.all_tables {
        return None;
    }
    // SAFETY: the value is an int2vector, which has as many elements as it says
    unsafe {
        let value = publication.of_table(table, COLUMN_LIST)?;
        let vector = pg_sys::pg_detoast_datum(value.cast_mut_ptr()).cast::<pg_sys::int2vector>();
        let mut list = (*vector).values.as_slice((*vector).dim1 as usize).to_vec();
        list.sort_unstable();
        Some(list)
    }
}

fn refuse(relation: pg_sys::Relation, what: &str) -> ! {
    // SAFETY: the name of an open table
    let table = unsafe { CStr::from_ptr((*(*relation).rd_rel).relname.data.as_ptr()) };
    report::fail(
        Code::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!(
            "cannot use {what} for table \"{}\" in different publications",
            table.to_string_lossy()
        ),
        "Publications are looked up as of the change that is decoded. Name only publications that agree \
         about the table in the option publications.",
    )
}
