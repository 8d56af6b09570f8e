//! Which operations of which tables are wanted, as `pgoutput` decides it.
//!
//! Row filters, column lists and `publish_via_partition_root` are refused by an ERROR that names the
//! publication and the table: to ignore them would send rows that must not leave.

use std::ffi::{CStr, CString, c_int};

use pg_sys::SysCacheIdentifier::PUBLICATIONRELMAP;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys;

use super::options::elements;
use super::report;
use crate::compat;

/// Columns of `pg_publication_rel` that are null when the whole table is published.
const ROW_FILTER: pg_sys::AttrNumber = 4;
const COLUMN_LIST: pg_sys::AttrNumber = 5;

/// The operations of a table that are sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Operations {
    pub(super) insert: bool,
    pub(super) update: bool,
    pub(super) delete: bool,
    pub(super) truncate: bool,
}

impl Operations {
    pub(super) const ALL: Operations =
        Operations { insert: true, update: true, delete: true, truncate: true };
    pub(super) const NONE: Operations =
        Operations { insert: false, update: false, delete: false, truncate: false };

    pub(super) fn any(self) -> bool {
        self.insert || self.update || self.delete || self.truncate
    }

    fn add(&mut self, other: Operations) {
        self.insert |= other.insert;
        self.update |= other.update;
        self.delete |= other.delete;
        self.truncate |= other.truncate;
    }
}

struct Publication {
    oid: pg_sys::Oid,
    name: CString,
    all_tables: bool,
    via_root: bool,
    operations: Operations,
}

/// The publications of a session, read when first needed and again after they changed.
pub(super) struct Publications {
    names: Option<Vec<CString>>,
    loaded: Option<Vec<Publication>>,
}

impl Publications {
    /// `None`: every operation of every table.
    pub(super) fn new(names: Option<Vec<CString>>) -> Self {
        Publications { names, loaded: None }
    }

    /// Something changed in the catalogs of publications.
    pub(super) fn forget(&mut self) {
        self.loaded = None;
    }

    /// What is wanted of a table.
    ///
    /// # Safety
    /// `relation` is open, and there is a snapshot for catalogs.
    pub(super) unsafe fn wanted(&mut self, relation: pg_sys::Relation) -> Operations {
        // SAFETY: as promised by the caller; reads the open table
        if !unsafe { replicates(relation) } {
            return Operations::NONE;
        }
        let Some(names) = &self.names else { return Operations::ALL };
        let publications = self.loaded.get_or_insert_with(|| names.iter().map(load).collect());
        // SAFETY: as promised by the caller
        let table = unsafe { Table::of(relation) };
        let mut operations = Operations::default();
        for publication in publications {
            if table.is_in(publication) {
                operations.add(publication.operations);
            }
        }
        operations
    }
}

/// Ordinary permanent tables that are no catalogs: changes of partitions come under their own name,
/// and those of a materialized view are not changes that a target could repeat.
unsafe fn replicates(relation: pg_sys::Relation) -> bool {
    // SAFETY: `relation` is open
    unsafe {
        (*(*relation).rd_rel).relkind as u8 == pg_sys::RELKIND_RELATION
            && pg_sys::is_publishable_relation(relation)
    }
}

fn load(name: &CString) -> Publication {
    // SAFETY: the result is a copy in the current memory context, or null
    let found = unsafe { pg_sys::GetPublicationByName(name.as_ptr(), true).as_ref() };
    let Some(found) = found else {
        report::fail(
            Code::ERRCODE_UNDEFINED_OBJECT,
            format!("publication \"{}\" does not exist", name.to_string_lossy()),
            "A publication is looked up as of the change that is decoded: it must have been created \
             before the slot, or before the first change that the slot still has to send.",
        )
    };
    Publication {
        oid: found.oid,
        name: name.clone(),
        all_tables: found.alltables,
        via_root: found.pubviaroot,
        operations: Operations {
            insert: found.pubactions.pubinsert,
            update: found.pubactions.pubupdate,
            delete: found.pubactions.pubdelete,
            truncate: found.pubactions.pubtruncate,
        },
    }
}

/// A table, and through which publications it may be reached.
struct Table {
    relation: pg_sys::Relation,
    oid: pg_sys::Oid,

    publications: *const pg_sys::List,
    schema_publications: *const pg_sys::List,
    /// For a partition: the tables above it.
    ancestors: *const pg_sys::List,
}

impl Table {
    unsafe fn of(relation: pg_sys::Relation) -> Table {
        // SAFETY: `relation` is open; the lists are made in the current memory context
        unsafe {
            let oid = (*relation).rd_id;
            let class = &*(*relation).rd_rel;
            let ancestors = if class.relispartition {
                compat::partition_ancestors(oid).cast_const()
            } else {
                std::ptr::null()
            };
            Table {
                relation,
                oid,

                publications: pg_sys::GetRelationPublications(oid),
                schema_publications: pg_sys::GetSchemaPublications(class.relnamespace),
                ancestors,
            }
        }
    }

    fn is_in(&self, publication: &Publication) -> bool {
        // SAFETY: lists of oids made by `of`
        let (itself, schema, partition) = unsafe {
            (
                pg_sys::list_member_oid(self.publications, publication.oid),
                pg_sys::list_member_oid(self.schema_publications, publication.oid),
                !self.ancestors.is_null(),
            )
        };
        if itself && !schema {
            self.refuse_parts(publication);
        }
        let above = partition && (publication.all_tables || self.ancestor_is_in(publication));
        if above && publication.via_root {
            self.refuse(
                publication,
                "is published through its partitioned table",
                "publish_via_partition_root is",
            );
        }
        publication.all_tables || itself || schema || above
    }

    fn ancestor_is_in(&self, publication: &Publication) -> bool {
        // SAFETY: a list of oids; the others are made in the current memory context
        unsafe {
            elements(self.ancestors).iter().any(|ancestor| {
                let oid = ancestor.oid_value;
                let schema = pg_sys::get_rel_namespace(oid);
                pg_sys::list_member_oid(pg_sys::GetRelationPublications(oid), publication.oid)
                    || pg_sys::list_member_oid(
                        pg_sys::GetSchemaPublications(schema),
                        publication.oid,
                    )
            })
        }
    }

    /// A row filter or a column list.
    fn refuse_parts(&self, publication: &Publication) {
        let cache = PUBLICATIONRELMAP as c_int;
        // SAFETY: the cache has these two keys; the row is released before anything else happens
        let (filter, columns) = unsafe {
            let row = pg_sys::SearchSysCache2(cache, self.oid.into(), publication.oid.into());
            if row.is_null() {
                return;
            }
            let has = |column| {
                let mut is_null = true;
                pg_sys::SysCacheGetAttr(cache, row, column, &mut is_null);
                !is_null
            };
            let found = (has(ROW_FILTER), has(COLUMN_LIST));
            pg_sys::ReleaseSysCache(row);
            found
        };
        if filter {
            self.refuse(publication, "has a row filter", "row filters are");
        }
        if columns {
            self.refuse(publication, "has a column list", "column lists are");
        }
    }

    fn refuse(&self, publication: &Publication, what: &str, feature: &str) -> ! {
        // SAFETY: the name of an open table
        let table = unsafe { CStr::from_ptr((*(*self.relation).rd_rel).relname.data.as_ptr()) };
        report::fail(
            Code::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!(
                "table \"{}\" {what} in publication \"{}\"; {feature} not supported yet by rsrepl",
                table.to_string_lossy(),
                publication.name.to_string_lossy(),
            ),
            "Name another publication in the option publications, or leave the option out to \
             replicate all tables.",
        )
    }
}
